"""N:M patterns are counted in every group, not believed."""

from __future__ import annotations

import pytest
import torch

from asrcompress.group_codes import GROUPS_AT_ONCE
from asrcompress.metrics.honesty_nm import count_pattern, count_zeros, detect_pattern


def two_of_four() -> torch.Tensor:
    return torch.tensor([True, False, False, True]).repeat(6, 5)


def test_every_group_is_counted() -> None:
    count = count_pattern(two_of_four(), 2, 4, "w")
    assert count.histogram == (0, 0, 30, 0, 0) and count.fault == ""


def test_one_value_too_many_is_named_with_its_place() -> None:
    mask = two_of_four()
    mask[4, 13] = True
    fault = count_pattern(mask, 2, 4, "fc1.weight").fault
    assert fault == "fc1.weight: claims 2:4, but row 4 has 3 values in inputs 12..15"
    mask[5, 1] = True
    assert count_pattern(mask, 2, 4, "w").fault.endswith("inputs 12..15 (and 1 more groups)")


def test_groups_lie_along_the_input_dimension() -> None:
    """Two of four in every column and four of four in some rows is no 2:4."""
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[::2] = True
    assert "row 0 has 4 values in inputs 0..3" in count_pattern(mask, 2, 4, "w").fault
    assert count_pattern(mask.t(), 2, 4, "w").fault == ""


def test_inputs_that_do_not_divide_have_no_pattern() -> None:
    assert (
        "6 inputs do not divide into groups of 4" in count_pattern(torch.zeros(2, 6, dtype=torch.bool), 2, 4, "w").fault
    )


def test_the_sparsest_pattern_is_detected() -> None:
    mask = two_of_four()
    assert detect_pattern(mask) == "2:4"
    mask[:, 3::4] = False
    assert detect_pattern(mask) == "1:4"
    mask[0, :3] = True
    assert detect_pattern(mask) is None


@pytest.mark.parametrize(
    ("num_zeros", "sparsity", "due"), [(5, 0.5, 5), (4, 0.5, 5), (5, 0.54, 5), (9, 0.999, 9), (8, 0.96, 9)]
)
def test_zeros_are_counted_to_the_nearest_whole_and_never_all(num_zeros: int, sparsity: float, due: int) -> None:
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask.view(-1)[:num_zeros] = False
    fault = count_zeros(mask, sparsity, "w", who="the recipe ")
    assert fault == ("" if num_zeros >= due else f"w: the recipe claims {due} zeros of 10 values, but has {num_zeros}")


@pytest.mark.parametrize("group_m", [2, 3, 4, 8, 9])
def test_every_group_is_counted_by_how_many_it_keeps(group_m):
    """Against adding up, over more groups than are worked on at once."""
    mask = torch.rand(3, group_m * (GROUPS_AT_ONCE // 2 + 1), generator=torch.Generator().manual_seed(0)) < 0.5
    kept = mask.reshape(3, -1, group_m).sum(dim=2)
    found = count_pattern(mask, 1, group_m, "w")
    assert found.histogram == tuple(int((kept == count).sum()) for count in range(group_m + 1))
    row, group = (kept > 1).nonzero()[0].tolist()
    assert f"row {row} has {int(kept[row, group])} values in inputs {group * group_m}.." in found.fault
