"""Values at kept places, against indexing by a mask: over more than is worked on at once, for every type that is stored."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from asrcompress.gather import (
    PLACES_AT_ONCE,
    put_groups,
    put_masked,
    take_groups,
    take_masked,
    zero_where_dropped,
)

DTYPES = (torch.int8, torch.bfloat16, torch.float32)


def some(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    numbers = torch.randint(-100, 100, shape, generator=torch.Generator().manual_seed(len(shape)))
    return numbers.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("keep_n", "group_m"), [(2, 4), (1, 3)])
def test_the_kept_values_of_groups_are_those_under_their_mask(dtype: torch.dtype, keep_n: int, group_m: int) -> None:
    places = np.array(list(itertools.combinations(range(group_m), keep_n)), dtype=np.intp)
    groups = PLACES_AT_ONCE + 5
    ranks = np.random.default_rng(0).integers(0, len(places), groups, dtype=np.uint8)
    mask = torch.zeros(groups, group_m, dtype=torch.bool)
    mask[torch.arange(groups)[:, None], torch.from_numpy(places[ranks])] = True
    values = some((groups, group_m), dtype)
    kept = take_groups(values, ranks, places)
    assert kept.dtype == dtype
    assert torch.equal(kept.flatten(), values[mask])
    back = torch.zeros_like(values)
    put_groups(kept, ranks, places, back)
    assert torch.equal(back, values * mask)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_the_kept_values_of_a_mask_are_those_under_it(dtype: torch.dtype, fraction: float) -> None:
    shape = (3, PLACES_AT_ONCE // 2 + 7)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < fraction
    values = some(shape, dtype)
    kept = take_masked(values, mask)
    assert torch.equal(kept, values[mask])
    back = torch.zeros_like(values)
    put_masked(kept, mask, back)
    assert torch.equal(back, values * mask)


def test_what_is_kept_keeps_its_bits_and_what_is_dropped_is_plain_zero() -> None:
    values = torch.tensor([[-0.0, -1.0, float("inf"), 1e-45]])
    found = zero_where_dropped(values, torch.tensor([[True, False, True, True]]))
    assert (
        found.view(torch.int32).tolist() == torch.tensor([[-0.0, 0.0, float("inf"), 1e-45]]).view(torch.int32).tolist()
    )
