"""Counting the codes of one weight, against counting them one row after the other."""

from __future__ import annotations

import pytest
import torch

from asrcompress.grids import Granularity, QuantizedWeight
from asrcompress.metrics import honesty_weight
from asrcompress.metrics.honesty_weight import count_weight

BINS = {2: 4, 3: 8, 4: 16, 8: 16}


@pytest.mark.parametrize(("num_bits", "low", "high"), [(2, -1, 1), (3, -3, 3), (4, -7, 7), (8, -127, 127), (8, -2, 90)])
@pytest.mark.parametrize(("rows", "columns"), [(300, 40), (3, 1), (2, 700)])
def test_every_code_of_every_row_is_counted(
    num_bits: int, low: int, high: int, rows: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(honesty_weight, "COUNT_AT_ONCE", 1000)  # several parts, the last one smaller
    generator = torch.Generator().manual_seed(rows + num_bits)
    codes = torch.randint(low, high + 1, (rows, columns), dtype=torch.int8, generator=generator)
    codes[-1] = low  # a row of one code
    weight = QuantizedWeight(codes, torch.ones(rows, 1), num_bits, Granularity("per_channel"), (rows, columns))
    row = count_weight("w", weight).row
    distinct = sorted(len(set(line)) for line in codes.tolist())
    assert (row["distinct_min"], row["distinct_max"]) == (distinct[0], distinct[-1])
    assert row["distinct_median"] == distinct[(rows - 1) // 2]
    assert (row["min"], row["max"]) == (int(codes.min()), int(codes.max()))
    histogram = [0] * BINS[num_bits]
    for code in codes.flatten().tolist():
        histogram[(code + 2 ** (num_bits - 1)) * BINS[num_bits] // 2**num_bits] += 1
    assert row["histogram"] == histogram
