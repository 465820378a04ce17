"""The smallest plan within a limit: found when quality falls with size, bounded in what it measures, honest where it fails."""

from __future__ import annotations

import math

import pytest

from asrcompress.ops.plan import Plan, size_range, solve
from asrcompress.ops.plan_search import OutOfReach, smallest_within
from tests.ops.test_plan import all_choices, make_units

UNITS = make_units(30)


def damage(plan: Plan) -> float:
    return plan.cost / 3


@pytest.mark.parametrize("limit", [1e-3, 0.02, 0.1, 0.5])
def test_it_is_as_small_as_the_resolution_allows(limit: float) -> None:
    found = smallest_within(UNITS, 700, damage, limit)
    assert found.value == damage(found.plan) <= limit
    assert (found.plan, found.value) in found.points and len(found.points) <= 8
    low, _ = size_range(UNITS, 700)
    below = solve(UNITS, max(int(found.plan.size_bytes * 0.97), low), 700)
    assert damage(below) > limit or below.choice == found.plan.choice


def test_everything_within_the_limit_gives_nearly_the_smallest_file() -> None:
    found = smallest_within(UNITS, 700, lambda plan: 0.0, 0.0, max_measurements=12)
    low, _ = size_range(UNITS, 700)
    assert low <= found.plan.size_bytes <= low * 1.02
    assert len({tuple(plan.choice.items()) for plan, _ in found.points}) == len(found.points)  # none is measured twice


def test_no_plan_is_measured_twice() -> None:
    few = make_units(2)
    for limit in (0.01, 0.05, 0.2, 0.5):
        found = smallest_within(few, 700, lambda plan: plan.cost, limit, resolution=0.0, max_measurements=100)
        measured = [tuple(plan.choice.items()) for plan, _ in found.points]
        assert len(set(measured)) == len(measured)
        within = [700 + size for size, cost in all_choices(few) if cost <= limit]
        assert found.plan.size_bytes == min(within)  # quality falls with size here, so nothing is missed


def test_sizes_are_exact_when_asked() -> None:
    def exact(choice):
        return 731 + sum(p.size_bytes for unit in UNITS for p in unit.options if p.option == choice[unit.name])

    found = smallest_within(UNITS, 0, damage, 0.01, exact_size=exact)
    assert all(plan.size_bytes == exact(plan.choice) for plan, _ in found.points)


@pytest.mark.parametrize("value", [0.2, math.nan])
def test_out_of_reach_says_how_far_the_best_is(value: float) -> None:
    with pytest.raises(OutOfReach) as caught:
        smallest_within(UNITS, 700, lambda plan: value, 0.02, what="relative WER")
    _, high = size_range(UNITS, 700)
    assert str(caught.value) == (
        f"relative WER +0.02 is out of reach: the best plan, of {high} bytes, is measured at {value:+.4g}; "
        + ("" if math.isnan(value) else f"allow {value:+.4g}, or ")
        + "add options of more bits to --bits"
    )
    assert len(caught.value.points) == 1
