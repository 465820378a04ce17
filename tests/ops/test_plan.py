"""The knapsack against every choice there is, and what is said when nothing fits."""

from __future__ import annotations

import ctypes
import itertools
import math
import random
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.errors import AsrCompressError
from asrcompress.ops.plan import Infeasible, Plan, Priced, UnitChoices, front, size_range, solve, solve_exactly
from asrcompress.ops.units import Option

OPTIONS = [Option(bits, pattern) for bits in (8, 4, 3, 2) for pattern in (None, (2, 4), (1, 4))]
priced = st.tuples(
    st.sampled_from([None, *OPTIONS]), st.integers(1, 10**6), st.floats(-1, 1, width=32) | st.integers(-2, 2).map(float)
)
instances = st.lists(
    st.lists(priced, min_size=1, max_size=5, unique_by=lambda item: item[0]), min_size=1, max_size=4
).map(lambda rows: [UnitChoices(f"u{index}", tuple(Priced(*item) for item in row)) for index, row in enumerate(rows)])


def all_choices(units: list[UnitChoices]) -> list[tuple[int, float]]:
    """(bytes, cost) of every choice."""
    return [
        (sum(item.size_bytes for item in chosen), math.fsum(item.cost for item in chosen))
        for chosen in itertools.product(*(unit.options for unit in units))
    ]


def total(units: list[UnitChoices], plan: Plan) -> tuple[int, float]:
    chosen = [next(p for p in unit.options if p.option == plan.choice[unit.name]) for unit in units]
    return sum(item.size_bytes for item in chosen), math.fsum(item.cost for item in chosen)


@settings(max_examples=150, deadline=None)
@given(instances, st.floats(0, 1), st.integers(0, 5000))
def test_no_choice_that_fits_costs_less(units: list[UnitChoices], share: float, fixed_bytes: int) -> None:
    choices = all_choices(units)
    low, high = min(choices)[0], max(size for size, _ in choices)
    budget = fixed_bytes + low + int((high - low) * share)
    plan = solve(units, budget, fixed_bytes)
    assert plan.choice.keys() == {unit.name for unit in units}
    size, cost = total(units, plan)
    assert (size + fixed_bytes, cost) == (plan.size_bytes, plan.cost)
    assert plan.size_bytes <= budget
    best = min(cost for size, cost in choices if fixed_bytes + size <= budget)
    assert plan.cost <= best + 1e-7


@settings(max_examples=40, deadline=None)
@given(instances, st.floats(0, 1), st.randoms(use_true_random=False))
def test_the_order_of_units_and_options_does_not_matter(
    units: list[UnitChoices], share: float, shuffler: random.Random
) -> None:
    low, high = min(all_choices(units))[0], max(size for size, _ in all_choices(units))
    budget = low + int((high - low) * share)
    shuffled = [UnitChoices(unit.name, tuple(shuffler.sample(unit.options, len(unit.options)))) for unit in units]
    shuffler.shuffle(shuffled)
    assert solve(shuffled, budget) == solve(units, budget)


def test_of_equals_the_smaller_is_taken() -> None:
    unit = UnitChoices("u", (Priced(Option(8), 80, 0.0), Priced(Option(4), 40, 0.0), Priced(Option(2), 20, 1.0)))
    assert solve([unit], 1000).choice == {"u": Option(4)}


def test_gains_pay_for_others_unless_they_are_clipped() -> None:
    units = [
        UnitChoices("lucky", (Priced(Option(8), 80, 0.0), Priced(Option(2), 90, -1.0))),
        UnitChoices("other", (Priced(Option(8), 80, 0.0), Priced(Option(2), 20, 0.5))),
    ]
    assert solve(units, 110) == Plan({"lucky": Option(2), "other": Option(2)}, 110, -0.5)
    assert solve(units, 110, clip_negative=True) == Plan({"lucky": Option(8), "other": Option(2)}, 100, 0.5)


def make_units(count: int) -> list[UnitChoices]:
    rng = random.Random(3)
    return [
        UnitChoices(
            f"u{index}",
            tuple(
                Priced(Option(bits), 100 + 1000 * bits + rng.randrange(50), scale * 4.0**-bits) for bits in (8, 4, 3, 2)
            ),
        )
        for index, scale in enumerate(rng.uniform(0.1, 10) for _ in range(count))
    ]


def test_bits_go_where_they_are_worth_most() -> None:
    units = make_units(40)
    by_need = sorted(units, key=lambda unit: unit.options[-1].cost)
    low, high = size_range(units)
    chosen = [option.num_bits for option in (solve(units, (low + high) // 3).choice[unit.name] for unit in by_need)]
    assert len(set(chosen)) > 1
    assert chosen == sorted(chosen)


@pytest.mark.parametrize("wrong", [7, -7, 400])
def test_exact_sizes_are_met_whatever_the_estimate_is_off_by(wrong: int) -> None:
    """The file has a part that depends on the choice as a whole, as a header has."""
    units = make_units(12)

    def exact(choice):
        listed = sum(p.size_bytes for unit in units for p in unit.options if p.option == choice[unit.name])
        return 500 + listed + wrong * len({option for option in choice.values()})

    for budget in range(35_000, 95_000, 4_321):
        plan = solve_exactly(units, budget, exact)
        assert plan.size_bytes == exact(plan.choice) <= budget
        best = min(
            total(units, candidate)[1]
            for candidate in (solve(units, budget, 500 + wrong * kinds) for kinds in (1, 2, 3, 4))
            if exact(candidate.choice) <= budget
        )
        assert plan.cost <= best + 1e-12


def test_a_budget_below_all_files_says_how_far_and_what_would_help() -> None:
    units = [
        UnitChoices("a.weight", (Priced(Option(8), 800, 0.0), Priced(Option(4), 400, 0.1), Priced(Option(4, (2, 4)), 300, 0.2))),
        UnitChoices("b.weight", (Priced(Option(8), 800, 0.0), Priced(Option(4), 400, 0.1))),
    ]  # fmt: skip
    with pytest.raises(Infeasible) as caught:
        solve(units, 600, 50, original_bytes=10_000)
    assert str(caught.value) == (
        "a budget of 600 bytes (ratio 0.0600) is 150 bytes below the smallest possible file, 750 bytes (ratio 0.0750), of which "
        "50 bytes are no weights; --bits 2 or --patterns 1:4 would give smaller options; no pattern divides the inputs of b.weight"
    )
    assert caught.value.smallest_bytes == 750
    assert solve(units, 750, 50).size_bytes == 750
    with pytest.raises(Infeasible, match="150 bytes below the smallest possible file, 750 bytes"):
        solve_exactly(units, 600, lambda choice: 750)


@pytest.mark.parametrize(
    ("option", "fixed_bytes", "words"),
    [
        (Option(8), 50, "; --bits 2 or --patterns 1:4 would give smaller options$"),
        (Option(2), 50, "; --bits 1 or --patterns 1:4 would give smaller options$"),
        (Option(2, (1, 4)), 50, "; --bits 1 or --patterns 1:8 would give smaller options$"),
        (Option(1, (1, 4)), 50, "are no weights; --patterns 1:8 would give smaller options$"),
        (Option(3, (1, 16)), 50, "are no weights; --bits 2 would give smaller options$"),
        (Option(1, (1, 16)), 50, "are no weights; no option of the weights helps, a larger budget is needed$"),
        (Option(8), 601, "601 bytes are no weights; no option of the weights helps, a larger budget is needed$"),
    ],
)
def test_what_would_help_is_what_the_table_lacks(option: Option, fixed_bytes: int, words: str) -> None:
    with pytest.raises(Infeasible, match=words):
        solve([UnitChoices("a", (Priced(option, 800, 0.0),))], 600, fixed_bytes)


@pytest.mark.parametrize("cost", [math.nan, math.inf])
def test_what_is_unmeasured_has_no_place_in_a_plan(cost: float) -> None:
    with pytest.raises(AsrCompressError, match=f"w: int4 costs {cost}; leave out what is unmeasured"):
        UnitChoices("w", (Priced(Option(4), 1, cost),))
    with pytest.raises(AsrCompressError, match="w: has no option"):
        UnitChoices("w", ())


def test_a_front_goes_from_smallest_to_best_and_each_step_pays() -> None:
    units = make_units(20)
    plans = front(units, 300, num_points=9)
    assert (plans[0].size_bytes, plans[-1].size_bytes) == size_range(units, 300)
    assert 5 < len(plans) <= 9
    for smaller, larger in itertools.pairwise(plans):
        assert smaller.size_bytes < larger.size_bytes and smaller.cost > larger.cost


def test_the_solver_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """HiGHS 1.12 leaves debug lines on stdout, which carries data only; this instance draws some."""
    rng = random.Random(5)
    units = []
    for index in range(100):
        params, scale = rng.choice([2e4, 8e4, 1e6]), 10 ** rng.uniform(-5, -1)
        row = []
        for option in OPTIONS:
            share, harm = {None: (1, 1), (2, 4): (0.7, 6), (1, 4): (0.4, 21)}[option.pattern]
            size = int(params * option.num_bits * share / 8) + rng.randint(0, 200)
            row.append(Priced(option, size, scale * 4.0**-option.num_bits * harm * rng.uniform(0.9, 1.1)))
        units.append(UnitChoices(f"u{index}", tuple(row)))
    low, high = size_range(units)
    solve(units, int(low + (high - low) * 0.1))
    print("data")
    sys.stdout.flush()
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr().out == "data\n"
