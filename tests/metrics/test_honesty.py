"""The audit of a run: an honest model passes, and every dishonesty planted in it is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asrcompress.integers.crossing import enter_integers, leave_integers
from asrcompress.metrics.cost import count_macs
from asrcompress.metrics.honesty import Finding, float_ops, holders, judge_run, reached
from asrcompress.metrics.trace import trace_run
from tests.metrics.honest_model import STEP, Attention, Packed, Projection, Toy, features, toy


def judge(model: nn.Module, *inputs: Tensor) -> tuple[str, list[Finding]]:
    inputs = inputs or (features(),)
    with torch.no_grad():
        findings = judge_run(model, trace_run(model, lambda: model(*inputs)))
    return reached(findings, any_packed=bool(holders(model))), findings


def lines(findings: list[Finding], level: str) -> list[str]:
    return [finding.text for finding in findings if finding.level == level]


def test_an_honest_model_is_integer_only() -> None:
    assert judge(toy()) == ("integer-only", [])


def test_a_trace_counts_what_count_macs_counts() -> None:
    model, inputs = toy(), features()
    with torch.no_grad():
        trace, counted = trace_run(model, lambda: model(inputs)), count_macs(model, lambda: model(inputs))
    assert trace.macs == counted and trace.macs.total == 2 * 24 * (2 * 16 * 16 + 24 * 16 + 24 * 8)
    assert {record.module for record in trace.ops if record.operand_bits} == {
        "attention.q_proj", "attention.k_proj", "attention", "head",
    }  # fmt: skip


def test_a_model_without_packed_weights_is_float() -> None:
    assert judge(nn.Linear(16, 8))[0] == "float"


class BypassingAttention(Attention):
    """Trap 1: hands the weight of q_proj to a function and never calls q_proj."""

    def forward(self, x: Tensor) -> Tensor:
        q = F.linear(x.float(), self.q_proj.packed.codes.float()).to(torch.int32) >> 10
        return self.product(q.clamp(-127, 127), self.k_proj(x).to(torch.int32))


def test_a_bypassed_projection_is_named_with_its_parents_float_macs() -> None:
    model = toy()
    model.attention.__class__ = BypassingAttention
    level, findings = judge(model)
    assert level == "partial"
    assert lines(findings, "stored") == [
        "attention.q_proj (Projection): is packed but never ran: no MAC and no lookup happened in it"
    ]
    assert lines(findings, "computed") == ["attention (BypassingAttention): aten.mm: 12,288 MACs on float32 x float32"]
    assert any(
        "attention (BypassingAttention): aten._to_copy: float operation" in line
        for line in lines(findings, "integer-only")
    )


class Unused(Toy):
    """Holds a swapped head and computes with another one."""

    def forward(self, features: Tensor) -> Tensor:
        codes = (
            self.attention(enter_integers(features, STEP, 0, 8))
            + self.table.codes[torch.zeros(1, dtype=torch.long), :1]
        )
        sums = torch.bmm(codes.to(torch.int32), torch.ones(2, 24, 8, dtype=torch.int32))
        return leave_integers(sums, STEP, 0)


def test_a_swapped_module_whose_forward_is_not_called_is_named() -> None:
    model = toy()
    model.__class__ = Unused
    assert lines(judge(model)[1], "stored") == [
        "head (Projection): is packed but never ran: no MAC and no lookup happened in it"
    ]


def test_a_lookup_counts_as_having_run() -> None:
    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.packed = Packed(5, 4)

        def forward(self, index: Tensor) -> Tensor:
            return self.packed.codes[index]

    class Skipping(Lookup):
        def forward(self, index: Tensor) -> Tensor:
            return index

    assert judge(Lookup(), torch.tensor([1, 2])) == ("integer-only", [])
    assert "is packed but never ran" in judge(Skipping(), torch.tensor([1, 2]))[1][0].text


class Edit(nn.Module):
    """Does something to the codes on their way into the head."""

    def __init__(self, edit: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.edit = edit

    def forward(self, x: Tensor) -> Tensor:
        return self.edit(x)


FLOATS = {
    "aten.mul": lambda x: (x * 1.0).to(torch.int8),
    "aten.empty": lambda x: (torch.empty(0), x)[1],
    "aten.ones_like": lambda x: (torch.ones_like(x, dtype=torch.float16), x)[1],
    "aten.softmax": lambda x: (torch.softmax(x.double(), -1) * 127).to(torch.int8),
    "aten.gt": lambda x: torch.where(x > 0.5, x, 0),
    "aten.view": lambda x: x.view(torch.bfloat16).view(torch.int8),
    "aten.complex": lambda x: torch.view_as_real(torch.complex(x.float(), x.float()))[..., 0].to(torch.int8),
}


@pytest.mark.parametrize("name", FLOATS)
def test_every_float_operation_left_is_listed_by_name_and_module(name: str) -> None:
    model = toy()
    model.attention.k_proj = nn.Sequential(model.attention.k_proj, Edit(FLOATS[name]))
    with torch.no_grad():
        trace = trace_run(model, lambda: model(features()))
    found = float_ops(trace)
    assert {entry["module"] for entry in found} == {"attention.k_proj.1"}
    assert name in [entry["op"].replace("_softmax", "softmax") for entry in found]
    assert reached(judge_run(model, trace), any_packed=True) == "computed"


class Reentering(nn.Module):
    """Leaves the integers and comes back."""

    def forward(self, x: Tensor) -> Tensor:
        return enter_integers(leave_integers(x, STEP, 0), STEP, 0, 8)


class EnteringConstant(nn.Module):
    """A float table that enters without any float operation."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bias", torch.ones(24, 16))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.int16) + enter_integers(self.bias, STEP, 0, 8)).clamp(-127, 127).to(torch.int8)


@pytest.mark.parametrize(
    ("inserted", "faults"),
    [
        (
            Reentering(),
            [
                "the floats that left are used again, by asrcompress.enter_integers",
                "enters again what left the integers before",
            ],
        ),
        (EnteringConstant(), ["its float input is none of the model's own inputs"]),
    ],
)
def test_only_features_enter_and_only_logits_leave(inserted: nn.Module, faults: list[str]) -> None:
    model = toy()
    model.attention.k_proj = nn.Sequential(inserted, model.attention.k_proj)
    level, findings = judge(model)
    assert level == "computed"
    for fault in faults:
        assert any(
            line.startswith("attention.k_proj.0: ") and fault in line for line in lines(findings, "integer-only")
        )


def test_a_view_of_the_features_before_the_border_is_a_float_operation() -> None:
    model = toy()
    assert judge(nn.Sequential(Edit(lambda x: x.transpose(0, 1).transpose(0, 1)), model))[0] == "computed"


def scaled(factor: int) -> Callable[[Attention, Tensor, Tensor], Tensor]:
    def product(self: Attention, q: Tensor, k: Tensor) -> Tensor:
        return (torch.bmm(q * factor, k.transpose(1, 2)) >> 10).clamp(-127, 127).to(torch.int8)

    return product


@pytest.mark.parametrize(
    ("factor", "line"),
    [
        (200, "multiplies values of 15 bits where 8 are claimed"),
        (2_000_000, "its sums may need 38 bits and are kept in 32"),
    ],
)
def test_operands_that_do_not_fit_the_claimed_bits_are_named(
    factor: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Attention, "product", scaled(factor))
    level, findings = judge(toy())
    assert level == "stored"
    assert f"attention (Attention): aten.bmm: {line}" in lines(findings, "computed")


def test_sums_that_stay_in_int8_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def product(self: Attention, q: Tensor, k: Tensor) -> Tensor:
        return torch.bmm(q.to(torch.int8), k.to(torch.int8).transpose(1, 2))

    monkeypatch.setattr(Attention, "product", product)
    assert lines(judge(toy())[1], "computed") == [
        "attention (Attention): aten.bmm: sums its products in int8, which overflows; int32 is due"
    ]


def test_codes_that_do_not_fit_the_claimed_bits_are_named() -> None:
    model = toy()
    model.head.packed.codes[3, 5] = 9
    assert lines(judge(model)[1], "stored") == ["head.packed: claims 4 bits and holds codes -7..9; 4 bits are -7..7"]


class Searching(Toy):
    """Called past its modules' __call__, as a sequence generator does it; searches outside."""

    def search(self, features: Tensor) -> Tensor:
        return torch.softmax(self.forward(features=features), -1)  # floats outside of the model are the searcher's


def test_a_forward_called_directly_is_inside_and_a_search_is_not() -> None:
    model = toy()
    model.__class__ = Searching
    with torch.no_grad():
        trace = trace_run(model, lambda: model.search(features()))
    assert judge_run(model, trace) == []
    outside = [record.op for record in trace.ops if record.floats and not record.inside]
    assert outside[-1] == "aten._softmax" and not trace.float_ops
    assert any(record.op == "aten.bmm" and record.inside for record in trace.ops)
    assert "forward" not in model.__dict__ and not model._forward_pre_hooks


def test_a_tied_weight_has_to_run_in_each_of_its_modules() -> None:
    model = toy()
    model.spare = Projection(24, 8)
    model.spare.packed = model.head.packed
    assert lines(judge(model)[1], "stored") == [
        "spare (Projection): is packed but never ran: no MAC and no lookup happened in it"
    ]
