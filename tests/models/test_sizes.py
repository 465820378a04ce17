"""Layers and widths of students: exact counts, and laws of the pairing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrcompress.errors import AsrCompressError
from asrcompress.models.sizes import paired_layers, require_multiple, shrink_layers, shrink_width

COUNTS = st.integers(1, 60)


@pytest.mark.parametrize(
    ("num_student", "num_teacher", "expected"),
    [
        (3, 6, [0, 2, 4]),
        (6, 12, [0, 2, 4, 6, 8, 10]),
        (2, 3, [0, 1]),
        (1, 4, [0]),
        (4, 12, [0, 3, 6, 9]),
        (3, 1, [0, 0, 0]),
    ],
)
def test_layers_are_paired(num_student: int, num_teacher: int, expected: list[int]) -> None:
    assert paired_layers(num_student, num_teacher) == expected


@given(COUNTS, COUNTS)
def test_pairs_ascend_start_with_the_first_and_are_spread_evenly(num_student: int, num_teacher: int) -> None:
    pairs = paired_layers(num_student, num_teacher)
    assert len(pairs) == num_student and pairs[0] == 0
    assert all(0 <= place < num_teacher for place in pairs) and pairs == sorted(pairs)
    if num_student <= num_teacher:
        gaps = {after - before for before, after in zip(pairs, [*pairs[1:], num_teacher], strict=True)}
        assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("layers", "factor", "expected"), [(6, 0.5, 3), (3, 0.5, 2), (5, 0.5, 3), (12, 0.1, 1), (2, 0.1, 1), (4, 1.0, 4)]
)
def test_layers_shrink_to_the_nearest(layers: int, factor: float, expected: int) -> None:
    assert shrink_layers(layers, factor) == expected
    assert shrink_layers(layers, None) == layers


@pytest.mark.parametrize(
    ("width", "factor", "multiple", "expected"),
    [(144, 0.5, 4, 72), (144, 0.3, 4, 44), (64, 0.01, 4, 4), (8, 0.5, 1, 4), (144, 1.0, 4, 144)],
)
def test_widths_shrink_to_the_nearest_multiple(width: int, factor: float, multiple: int, expected: int) -> None:
    assert shrink_width(width, factor, multiple) == expected
    assert shrink_width(width, None, multiple) == width


def test_a_width_that_does_not_divide_is_told_its_neighbours() -> None:
    require_multiple("dim", 96, 4, "the number of heads")
    with pytest.raises(AsrCompressError, match=r"^dim=98: is no multiple of 4, the number of heads; use 96 or 100$"):
        require_multiple("dim", 98, 4, "the number of heads")
    with pytest.raises(AsrCompressError, match="use 4$"):
        require_multiple("dim", 3, 4, "the number of heads")
