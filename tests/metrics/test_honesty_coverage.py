"""Coverage: parameters, bytes and MACs by (weight, activation), counted by hand on a small model."""

from __future__ import annotations

import torch
from torch import nn

from asrcompress.metrics.honesty import holders
from asrcompress.metrics.honesty_coverage import Stored, coverage
from asrcompress.metrics.trace import trace_run
from tests.metrics.honest_model import Attention, features, toy


def rows(model: nn.Module, tensors: list[Stored], size_bytes: int) -> dict[tuple[str, str], dict]:
    with torch.no_grad():
        trace = trace_run(model, lambda: model(features()))
    table = coverage(tensors, trace, holders(model), size_bytes=size_bytes)
    return {(row["weight_dtype"], row["activation_dtype"]): row for row in table}


TENSORS = [
    Stored("table", "int8", 64, 64, True),
    Stored("attention.q_proj.weight", "int8", 256, 320, True),
    Stored("attention.k_proj.weight", "int8", 256, 320, True),
    Stored("attention.bias_u", "float32", 16, 64, True),
    Stored("head.weight", "int4", 192, 128, True),
    Stored("norm.bias", "float16", 8, 16, False),
]


def test_every_product_and_byte_is_in_one_row() -> None:
    found = rows(toy(), TENSORS, 1000)
    counts = {key: (row["num_params"], row["size_bytes"], row["macs"]) for key, row in found.items()}
    assert counts == {
        ("int8", "int8"): (512, 640, 2 * 2 * 24 * 16 * 16),
        ("none", "int8"): (0, 0, 2 * 24 * 24 * 16),  # scores: two activations
        ("int4", "int8"): (192, 128, 2 * 24 * 24 * 8),
        ("int8", "none"): (64, 64, 0),  # a table is looked up, not multiplied
        ("float32", "none"): (16, 64, 0),  # added to integers' queries, multiplied by nothing
        ("float16", "none"): (8, 16, 0),
        ("none", "none"): (0, 88, 0),  # header and names
    }
    assert found["int4", "int8"]["weight_bits"] == 4 and found["none", "int8"]["weight_bits"] is None
    assert sum(row["macs_share"] for row in found.values()) == 1.0


def test_wide_operands_are_reported_as_wide_as_they_are(monkeypatch) -> None:
    def product(self, q, k):
        return (torch.bmm(q * 200, k.transpose(1, 2)) >> 17).clamp(-127, 127).to(torch.int8)

    monkeypatch.setattr(Attention, "product", product)
    assert ("none", "int16") in rows(toy(), TENSORS, 1000) and ("none", "int8") not in rows(toy(), TENSORS, 1000)


def test_float_products_are_told_by_their_parameters() -> None:
    class Floating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(16, 3)

        def forward(self, x):
            y = self.fc(x)
            return y @ y.transpose(1, 2)

    found = rows(
        Floating(), [Stored("fc.weight", "float32", 48, 192, True), Stored("fc.bias", "float32", 3, 12, False)], 204
    )
    assert {key: (row["num_params"], row["macs"]) for key, row in found.items()} == {
        ("float32", "float32"): (48, 48 * 16 * 3),
        ("none", "float32"): (0, 2 * 24 * 24 * 3),
        ("float32", "none"): (3, 0),
    }
