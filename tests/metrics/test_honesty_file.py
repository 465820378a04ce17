"""The audit of a file's contents: every way to hide a float copy, and sizes and codes that do not fit the claim."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from asrcompress.grids import Granularity, QuantizedWeight
from asrcompress.metrics.honesty_file import code_table, hidden_copies, judge_file
from asrcompress.metrics.honesty_weight import count_weight
from asrcompress.patterns import UNSTRUCTURED, code_sizes, keep_largest
from asrcompress.quantizers.rtn import quantize
from asrcompress.sparse import SparseWeight
from asrcompress.stored_weight import data_sizes


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def packed(weight: Tensor, num_bits: int = 8, granularity: str = "per_channel") -> QuantizedWeight:
    return quantize(weight, num_bits=num_bits, granularity=Granularity.parse(granularity))


WEIGHT, CONV = random(24, 40), random(6, 5, 3, seed=1)
QUANTIZED = {"fc.weight": packed(WEIGHT), "conv.weight": packed(CONV, 4)}
HONEST = {"fc.bias": random(24, seed=2), "norm.weight": random(960, seed=3), "table": random(24, 40, seed=4)}


def judge(quantized: dict, others: dict, **changes) -> list[str]:
    ledger = [
        {"name": f"{name}_{part}", "kind": "", "size_bytes": size_bytes}
        for name, weight in quantized.items()
        for part, size_bytes in code_sizes(weight.codes.numel(), weight.num_bits, weight.pattern).items()
    ]
    total = sum(entry["size_bytes"] for entry in ledger)
    options = {"size_bytes": total, "gaps": {}, "record": {}} | changes
    return [finding.text for finding in judge_file(quantized, others, options.pop("ledger", ledger), **options)]


def test_an_honest_file_has_nothing_to_hide() -> None:
    assert judge(QUANTIZED, HONEST, record={"vocabulary": ["a"] * 9000, "grids": {"x:in": [0.1, 0, 8]}}) == []


COPIES: dict[str, Callable[[], Tensor]] = {
    "as it is": lambda: WEIGHT,
    "dequantized": lambda: QUANTIZED["fc.weight"].dequantize(),
    "transposed": lambda: WEIGHT.t().contiguous(),
    "flat": lambda: WEIGHT.flatten(),
    "reshaped": lambda: WEIGHT.reshape(48, 20),
    "negated half": lambda: (-WEIGHT).half(),
    "bfloat16": lambda: WEIGHT.bfloat16(),
    "bytes of half": lambda: WEIGHT.half().view(torch.uint8),
    "as int32": lambda: (WEIGHT * 1e6).to(torch.int32),
    "bits as int32": lambda: WEIGHT.view(torch.int32),
    "behind padding": lambda: torch.cat([torch.zeros(100), WEIGHT.flatten()]),
    "before others": lambda: torch.cat([WEIGHT.flatten(), random(50)]),
}


@pytest.mark.parametrize("way", COPIES)
def test_a_float_copy_is_found_however_it_hides(way: str) -> None:
    lines = judge(QUANTIZED, {**HONEST, "decoder.version": COPIES[way]()})
    assert len(lines) == 1
    assert lines[0].startswith("decoder.version: is a ") and "copy of the packed weight fc.weight (" in lines[0]


def test_a_convolution_with_its_axes_in_another_order_is_a_copy() -> None:
    found = list(hidden_copies(QUANTIZED, {"x": CONV.permute(2, 0, 1).contiguous()}, {}))
    assert len(found) == 1 and "copy of the packed weight conv.weight" in found[0]


def test_bytes_that_no_tensor_claims_are_named_and_read() -> None:
    hidden = WEIGHT.half().numpy().tobytes()
    assert judge(QUANTIZED, HONEST, gaps={"gap at the end": hidden}) == [
        "gap at the end: hides a float copy of the packed weight fc.weight (correlation 1.0000)",
        "gap at the end: 1,920 bytes that belong to no tensor",
    ]


def test_text_and_numbers_in_the_record_are_no_place_for_weights() -> None:
    lines = judge(QUANTIZED, HONEST, record={"config": {"note": "A" * 5000}, "parent": {"x": [0.5] * 5000}})
    assert lines == [
        "asrcompress.json: config.note: holds 5,000 characters, in which a weight could hide",
        "asrcompress.json: parent.x: holds 5,000 numbers, in which a weight could hide",
    ]


def test_a_ledger_has_to_add_up_and_codes_to_fit_their_bits() -> None:
    entries = [{"name": "fc.weight_packed", "size_bytes": 3840}, {"name": "conv.weight_packed", "size_bytes": 45}]
    assert judge(QUANTIZED, HONEST, ledger=entries, size_bytes=4000) == [
        "ledger: 3,885 bytes are accounted for, the file has 4,000",
        "fc.weight: takes 3,840 bytes where 8 bits each are 960",
    ]


def test_a_scale_for_every_weight_is_a_float_copy() -> None:
    assert judge({"fc.weight": packed(WEIGHT, 4, "per_group:1")}, {}) == [
        "fc.weight: has a scale for every weight, which is a float copy in all but name"
    ]


def test_codes_out_of_range_are_named() -> None:
    wrong = packed(WEIGHT, 4)
    wrong.codes[0, 0] = -8
    assert judge({"fc.weight": wrong}, {}) == ["fc.weight: claims 4 bits and holds codes -8..7; they end at -7..7"]


def sparse(weight: Tensor, pattern: tuple[int, int]) -> QuantizedWeight:
    return dataclasses.replace(packed(weight), pattern=pattern)


def test_one_value_too_many_in_a_claimed_pattern_is_named() -> None:
    weight = WEIGHT.clone()
    weight[:, 0::4] = weight[:, 2::4] = 0
    assert judge({"fc.weight": sparse(weight, (2, 4)), "conv.weight": packed(CONV)}, {}) == []
    weight[7, 20] = 3.0
    assert judge({"fc.weight": sparse(weight, (2, 4)), "conv.weight": packed(CONV)}, {}) == [
        "fc.weight: claims 2:4, but row 7 has 3 values in inputs 20..23"
    ]
    weight[7, 20] = 0
    assert judge({"fc.weight": sparse(weight, (1, 4))}, {})[0].startswith(
        "fc.weight: claims 1:4, but row 0 has 2 values"
    )


def test_more_bytes_than_a_pattern_keeps_are_named() -> None:
    weight = WEIGHT.clone()
    weight[:, 0::4] = weight[:, 2::4] = 0
    ledger = [
        {"name": "fc.weight_packed", "kind": "weight_packed", "size_bytes": 960},
        {"name": "fc.weight_pattern", "kind": "weight_pattern", "size_bytes": 120},
    ]
    assert judge({"fc.weight": sparse(weight, (2, 4))}, {}, ledger=ledger, size_bytes=1080) == [
        "fc.weight: takes 960 bytes where 8 bits each are 480",
        "fc.weight: its group codes take 120 bytes where 90 are due",
    ]


def test_every_group_of_a_stored_pattern_is_counted() -> None:
    codes = torch.tensor([[1, 0, 0, 1, 0, 0, 0, 0], [0, 2, 0, 0, 3, 0, -1, 0]], dtype=torch.int8)
    weight = QuantizedWeight(
        codes, torch.ones(2, 1, dtype=torch.float16), 4, Granularity("per_channel"), (2, 8), pattern=(2, 4)
    )
    (row,) = code_table({"w": weight})
    assert (row["pattern"], row["kept_per_group"]) == ("2:4", [1, 1, 2, 0, 0])
    assert row["bits_per_weight"] == 8 * (4 + 2 + 4) / 16  # kept codes, group codes, scales
    (dense,) = code_table({"w": dataclasses.replace(weight, pattern=None)})
    assert (dense["pattern"], dense["kept_per_group"]) == ("2:4", None)
    codes[0, 5:] = 1
    (wrong,) = code_table({"w": weight})
    assert (wrong["pattern"], wrong["kept_per_group"]) == (None, [0, 1, 2, 1, 0])


def test_the_code_table_counts_by_hand() -> None:
    codes = torch.tensor([[-7, 0, 0, 7], [1, 1, 1, 1]], dtype=torch.int8)
    weight = QuantizedWeight(codes, torch.ones(2, 1, dtype=torch.float16), 4, Granularity("per_channel"), (2, 4))
    (row,) = code_table({"w": weight})
    assert (row["distinct_min"], row["distinct_median"], row["distinct_max"]) == (1, 1, 3)
    assert (row["min"], row["max"]) == (-7, 7)
    assert row["histogram"] == [0, 1, 0, 0, 0, 0, 0, 0, 2, 4, 0, 0, 0, 0, 0, 1]
    assert row["bits_per_weight"] == 8.0  # 4 bytes of codes and 4 of scales for 8 weights
    assert row["pattern"] is None and sum(code_table(QUANTIZED)[0]["histogram"]) == 960


def sparse_floats(pattern: tuple[int, int] | None = None) -> SparseWeight:
    mask = WEIGHT > 0 if pattern is None else keep_largest(WEIGHT.abs(), *pattern)
    return SparseWeight(torch.where(mask, WEIGHT, 0.0), mask, (24, 40), pattern)


def judge_sparse(weight: SparseWeight, others: dict, more: dict[str, int]) -> list[str]:
    ledger = [
        {"name": f"s.weight_{part}", "kind": "", "size_bytes": size + more.get(part, 0)}
        for part, size in data_sizes(weight).items()
    ]
    options = {"size_bytes": sum(entry["size_bytes"] for entry in ledger), "gaps": {}, "record": {}}
    return [finding.text for finding in judge_file({}, others, ledger, sparse={"s.weight": weight}, **options)]


def test_sparse_floats_take_what_they_keep_and_hide_nothing() -> None:
    for weight in (sparse_floats(), sparse_floats((2, 4))):
        assert judge_sparse(weight, HONEST, {}) == []
    kept = int((WEIGHT > 0).sum()) * 4
    assert judge_sparse(sparse_floats(), {}, {"values": 8, "bitmask": 1}) == [
        f"s.weight: its kept values take {kept + 8:,} bytes where {kept:,} are due",
        "s.weight: its bitmask takes 121 bytes where 120 are due",
    ]
    assert judge_sparse(sparse_floats((2, 4)), {}, {"pattern": 1}) == [
        "s.weight: its group codes take 91 bytes where 90 are due"
    ]
    (line,) = judge_sparse(sparse_floats(), {"x": sparse_floats().dequantize().half()}, {})
    assert line == "x: is a float16 copy of the sparse weight s.weight (1,920 bytes, correlation 1.0000)"


def test_the_rows_of_sparse_weights_are_counts() -> None:
    row = count_weight("s", sparse_floats((2, 4))).row
    assert (row["pattern"], row["kept_per_group"], row["num_kept"]) == ("2:4", [0, 0, 240, 0, 0], 480)
    assert row["bits_per_weight"] == 16 + 3 / 4
    row = count_weight("s", sparse_floats()).row
    kept = int((WEIGHT > 0).sum())
    assert (row["pattern"], row["kept_per_group"], row["num_kept"]) == ("unstructured", None, kept)
    assert row["bits_per_weight"] == 32 * kept / 960 + 1
    packed_one = dataclasses.replace(packed(sparse_floats().dequantize(), 4), pattern=UNSTRUCTURED)
    row = count_weight("q", packed_one).row
    assert row["pattern"] == UNSTRUCTURED and row["num_kept"] == int((packed_one.codes != 0).sum())
