"""Quantizers on weights of which a fraction is 0, wherever: the mask stays, and methods that look at data make up for it."""

from __future__ import annotations

import pytest
import torch

from asrcompress.grids import Granularity, code_range, zero_codes
from asrcompress.patterns import UNSTRUCTURED
from asrcompress.quantizers import QUANTIZERS, get_quantizer, supported_bits
from asrcompress.quantizers.statistics import InputStatistics, output_error
from asrcompress.sparsifiers import prune


def make(seed=0, rows=8, columns=48):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.eye(columns) + 0.3 * torch.randn(columns, columns, generator=generator)
    statistics = InputStatistics.empty(1, columns)
    statistics.add(torch.randn(600, columns, generator=generator) @ mix + 0.2)
    return torch.randn(rows, columns, generator=generator), statistics


@pytest.mark.parametrize("sparsifier", ["magnitude", "sparsegpt"])
@pytest.mark.parametrize("granularity", ["per_channel", "per_group:8"])
@pytest.mark.parametrize(("method", "num_bits"), [(m, b) for m in sorted(QUANTIZERS) for b in supported_bits(m)])
def test_what_is_dropped_is_the_code_of_zero_whatever_the_method(method, num_bits, granularity, sparsifier):
    weight, statistics = make(num_bits)
    pruned = prune(weight, 0.6, sparsifier=sparsifier, statistics=statistics)
    packed = get_quantizer(method)(
        weight.reshape(8, 12, 4),
        num_bits=num_bits,
        granularity=Granularity.parse(granularity),
        statistics=statistics,
        pruned=pruned,
    )
    assert (packed.pattern, packed.shape) == (UNSTRUCTURED, (8, 12, 4))
    low, high = code_range(num_bits, symmetric=packed.zero_point is None)
    assert low <= int(packed.codes.min()) <= int(packed.codes.max()) <= high
    nonzero = packed.codes != zero_codes(packed.zero_point, *packed.codes.shape)
    assert not nonzero[~pruned.mask].any()
    assert num_bits > 1 or torch.equal(nonzero, pruned.mask)


def test_gptq_makes_up_for_what_is_dropped():
    weight, statistics = make(1, rows=32)
    pruned = prune(weight, 0.5, sparsifier="wanda", statistics=statistics)
    errors = {}
    for method in ("rtn", "gptq", "gptq_ls"):
        packed = get_quantizer(method)(
            weight, num_bits=4, granularity=Granularity("per_channel"), statistics=statistics, pruned=pruned
        )
        errors[method] = output_error(weight, packed.dequantize(), statistics)
    assert errors["gptq"] < 0.8 * errors["rtn"]
    assert errors["gptq_ls"] < 0.9 * errors["rtn"]
