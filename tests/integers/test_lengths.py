"""Lengths as fractions against Fairseq's own float formulas, for every length up to 5000."""

from __future__ import annotations

import pytest
import torch

from asrcompress.errors import AsrCompressError
from asrcompress.integers.lengths import LengthTensor, lengths
from asrcompress.metrics.trace import trace_run

N = torch.arange(1, 5001)

FORMULAS = {
    "Conv1dSubsampler": lambda n: ((n.float() - 1) / 2 + 1).floor().long(),
    "Conv1dSubsampler, twice": lambda n: (((((n.float() - 1) / 2 + 1).floor().long()).float() - 1) / 2 + 1).floor().long(),
    "VGGTransformer, 2": lambda n: (n.float() / 2).ceil().long(),
    "VGGTransformer, 3": lambda n: torch.ceil(n.float() / 3).long(),
    "truncating": lambda n: ((n.float() - 3) / 2 + 1).long(),
    "truncating by dtype": lambda n: ((n.float() - 3) / 2.0).to(torch.int32),
    "truncating by type_as": lambda n: ((n.to(torch.float32) - 3) / 2).type_as(n),
    "two divisions": lambda n: (n.float() / 2 / 3 + 1).floor().long(),
    "multiples": lambda n: (2 * (n.float() / 4) * 3).floor().long(),
    "whole": lambda n: torch.div(n - 5, 2, rounding_mode="floor") + 1,
    "whole of a fraction": lambda n: torch.div(n.float() / 4, 3, rounding_mode="floor").long(),
    "truncated": lambda n: torch.div(n - 5, 2, rounding_mode="trunc") + 1,
    "floor division": lambda n: (n + 1) // 2 // 3,
    "clone and detach": lambda n: n.clone().detach() + 1,
}  # fmt: skip


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=list(FORMULAS))
def test_every_length_is_what_floats_give(formula):
    found = formula(lengths(N))
    assert torch.equal(found.as_subclass(torch.Tensor), formula(N).to(torch.int64))


def test_no_float_is_there():
    class Formula(torch.nn.Module):
        def forward(self, n):
            return FORMULAS["Conv1dSubsampler"](n)

    model = Formula()
    assert not trace_run(model, lambda: model(lengths(N))).float_ops
    assert trace_run(model, lambda: model(N)).float_ops  # the trace would show it


@pytest.mark.parametrize(
    "function",
    [lambda n: n.max(), lambda n: n[1:], lambda n: n > 3, lambda n: n.tolist(), lambda n: 5 - n, lambda n: n * 0.3,
     lambda n: torch.arange(9)[None] < n[:, None], lambda n: n.sum(), lambda n: n.round()],
)  # fmt: skip
def test_a_fraction_is_never_taken_for_its_numerator(function):
    with pytest.raises(AsrCompressError, match="fractions"):
        function(lengths(torch.tensor([5, 7])) / 2)


def test_whole_lengths_are_plain_numbers_for_everything_else():
    n = lengths(torch.tensor([5, 7]))
    assert not isinstance(n.max(), LengthTensor)
    assert n.max() == 7
    assert (torch.arange(8)[None] >= n[:, None]).sum(1).tolist() == [3, 1]
    assert (n / 2).shape == (2,)
    assert len(n / 2) == 2
