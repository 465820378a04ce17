"""A multiple-choice knapsack: one option for every unit, the least cost that fits a number of bytes.

Solved by HiGHS through scipy's `milp`. Knows names, bytes and costs; what an option does and what a file really takes is in
plan_sizes.py, how a plan is written down in plan_file.py.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from asrcompress.errors import AsrCompressError
from asrcompress.ops.units import Option

# HiGHS works to absolute tolerances of 1e-6, so the dearest change costs this much to it, and all room is this much.
COST_RANGE = 1e6
ROOM = 1e3
# Nodes of the search tree after which the best choice found is taken; models of a thousand units need a fraction of it.
NODE_LIMIT = 200_000
MAX_ROUNDS = 30
# What is offered next where nothing fits.
SMALLER_BITS, SPARSER_GROUPS = (2, 1), (4, 8, 16)


@dataclass(frozen=True)
class Priced:
    """An option for a unit with the bytes that it takes in the file and what it costs in quality; None leaves the weight in float."""

    option: Option | None
    size_bytes: int
    cost: float


@dataclass(frozen=True)
class UnitChoices:
    """What may be done to a unit."""

    name: str
    options: tuple[Priced, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise AsrCompressError(f"{self.name}: has no option to choose; give --bits that its method has a grid for")
        for priced in self.options:
            if not math.isfinite(priced.cost):
                raise AsrCompressError(
                    f"{self.name}: {priced.option} costs {priced.cost}; leave out what is unmeasured"
                )


@dataclass(frozen=True)
class Plan:
    """One option for every unit, by name; the file's bytes, and the sum of the costs."""

    choice: dict[str, Option | None]
    size_bytes: int
    cost: float


class Infeasible(AsrCompressError):
    """No choice fits. `smallest_bytes`: what the smallest possible file takes."""

    def __init__(self, message: str, smallest_bytes: int) -> None:
        super().__init__(message)
        self.smallest_bytes = smallest_bytes


def solve(
    units: Sequence[UnitChoices],
    budget_bytes: int,
    fixed_bytes: int = 0,
    *,
    clip_negative: bool = False,
    original_bytes: int | None = None,
) -> Plan:
    """The cheapest choice whose bytes, with the fixed ones, are at most the budget.

    Among equals the smaller option is taken, and neither the units' nor the options' order matters.

    Args:
        units: no name twice.
        budget_bytes: of the whole file.
        fixed_bytes: what the file takes besides the options' bytes.
        clip_negative: an option that seems to lower the loss costs nothing, rather than paying for others: such gains are
            mostly noise of the set they were measured on.
        original_bytes: the size to which ratios are, for the message.

    Raises:
        Infeasible: even the smallest options do not fit.
    """
    pruned = {unit.name: _undominated(unit, clip_negative) for unit in sorted(units, key=lambda unit: unit.name)}
    smallest = fixed_bytes + sum(options[0].size_bytes for options in pruned.values())
    room = budget_bytes - smallest
    if room < 0:
        raise Infeasible(_explain(units, budget_bytes, smallest, fixed_bytes, original_bytes), smallest)
    reachable = [
        [priced for priced in options if priced.size_bytes - options[0].size_bytes <= room]
        for options in pruned.values()
    ]
    picked = _least_cost(reachable, room)
    return Plan(
        {name: priced.option for name, priced in zip(pruned, picked, strict=True)},
        fixed_bytes + sum(priced.size_bytes for priced in picked),
        math.fsum(priced.cost for priced in picked),
    )


def solve_exactly(
    units: Sequence[UnitChoices],
    budget_bytes: int,
    exact_size: Callable[[Mapping[str, Option | None]], int],
    *,
    clip_negative: bool = False,
    original_bytes: int | None = None,
) -> Plan:
    """`solve`, with sizes that are exact for the whole file: what an option takes depends a little on the others.

    The difference between the exact size and the sum of the options' bytes is taken for fixed, and solved again until it
    holds. The plan's size is exact and never above the budget.

    Args:
        units: with sizes that are right up to a few bytes.
        budget_bytes: of the whole file.
        exact_size: of the file that a choice gives.
        clip_negative: as for `solve`.
        original_bytes: as for `solve`.

    Raises:
        Infeasible: not even the choice with the smallest options fits.
    """
    bytes_of = {(unit.name, priced.option): priced.size_bytes for unit in units for priced in unit.options}

    def fixed_in(choice: Mapping[str, Option | None]) -> int:
        return exact_size(choice) - sum(bytes_of[item] for item in choice.items())

    smallest = {unit.name: min(unit.options, key=_order).option for unit in units}
    fixed_bytes = fixed_in(smallest)
    best: Plan | None = None
    tried: set[int] = set()
    while fixed_bytes not in tried and len(tried) < MAX_ROUNDS:
        tried.add(fixed_bytes)
        try:
            plan = solve(units, budget_bytes, fixed_bytes, clip_negative=clip_negative, original_bytes=original_bytes)
        except Infeasible:
            if best is None:
                raise
            break
        found = fixed_in(plan.choice)
        size = plan.size_bytes - fixed_bytes + found
        if size <= budget_bytes and (best is None or (plan.cost, size) < (best.cost, best.size_bytes)):
            best = Plan(plan.choice, size, plan.cost)
        # Below the budget: what was thought fixed may be less. Above it: it is more.
        fixed_bytes = found if size <= budget_bytes else max(found, fixed_bytes + 1)
    if best is None:  # each choice that seemed to fit was a few bytes too large
        smallest_bytes = exact_size(smallest)
        raise Infeasible(_explain(units, budget_bytes, smallest_bytes, fixed_bytes, original_bytes), smallest_bytes)
    return best


def front(
    units: Sequence[UnitChoices], fixed_bytes: int = 0, *, num_points: int = 20, clip_negative: bool = False
) -> list[Plan]:
    """The best plans from the smallest possible file to the one that the least cost takes, at even steps of the size's logarithm."""
    low, high = size_range(units, fixed_bytes, clip_negative=clip_negative)
    budgets = [round(low * (high / low) ** (step / max(num_points - 1, 1))) for step in range(num_points)]
    plans: dict[int, Plan] = {}
    for budget in budgets:
        plan = solve(units, max(budget, low), fixed_bytes, clip_negative=clip_negative)
        plans.setdefault(plan.size_bytes, plan)
    return [plans[size] for size in sorted(plans)]


def size_range(units: Sequence[UnitChoices], fixed_bytes: int = 0, *, clip_negative: bool = False) -> tuple[int, int]:
    """Bytes of the smallest possible file, and of the smallest that has the least cost of all."""
    pruned = [_undominated(unit, clip_negative) for unit in units]
    return (
        fixed_bytes + sum(options[0].size_bytes for options in pruned),
        fixed_bytes + sum(options[-1].size_bytes for options in pruned),
    )


def _order(priced: Priced) -> tuple[int, float, str]:
    return priced.size_bytes, priced.cost, str(priced.option)


def _undominated(unit: UnitChoices, clip_negative: bool) -> list[Priced]:
    """The options that no smaller or equal one beats, by size; so costs fall strictly."""
    kept: list[Priced] = []
    for priced in sorted(unit.options, key=_order):
        cost = max(priced.cost, 0.0) if clip_negative else priced.cost
        if not kept or cost < kept[-1].cost:
            kept.append(Priced(priced.option, priced.size_bytes, cost))
    return kept


def _least_cost(options: list[list[Priced]], room: int) -> list[Priced]:
    """One of each list, the least cost whose bytes above the first ones are at most `room`."""
    last = [choices[-1] for choices in options]
    if sum(choices[-1].size_bytes - choices[0].size_bytes for choices in options) <= room:
        return last
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix

    extra = np.array([priced.size_bytes - choices[0].size_bytes for choices in options for priced in choices])
    costs = np.array([priced.cost - choices[-1].cost for choices in options for priced in choices])
    owner = np.array([index for index, choices in enumerate(options) for _ in choices])
    one_each = csr_matrix((np.ones(len(owner)), (owner, np.arange(len(owner)))), shape=(len(options), len(owner)))
    limit = room
    while True:
        fits = LinearConstraint(extra[None, :] * (ROOM / room), -np.inf, limit * (ROOM / room))
        with _quiet_stdout():
            result = milp(
                costs * (COST_RANGE / costs.max()),
                integrality=np.ones(len(owner)),
                bounds=Bounds(0, 1),
                constraints=[LinearConstraint(one_each, 1, 1), fits],
                options={"mip_rel_gap": 0.0, "node_limit": NODE_LIMIT},
            )
        if result.x is None:
            raise RuntimeError(f"HiGHS found no choice among options that fit: {result.message}")
        chosen = result.x > 0.5
        over = int(extra[chosen].sum()) - room
        if over <= 0:
            break
        limit -= over  # by the solver's tolerance
    indices = np.flatnonzero(chosen)
    flat = [priced for choices in options for priced in choices]
    return [flat[index] for index in indices]


@contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Nothing that C code prints reaches stdout, which carries data only: some versions of HiGHS leave debug lines there."""
    flush = ctypes.CDLL(None).fflush if os.name == "posix" else ctypes.cdll.msvcrt.fflush
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # closed
        yield
        return
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        flush(None)
        os.dup2(sink, 1)
        yield
    finally:
        flush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(sink)


def _explain(
    units: Sequence[UnitChoices], budget_bytes: int, smallest: int, fixed_bytes: int, original_bytes: int | None
) -> str:
    """How far the budget is out of reach, and what would help."""

    def size(num_bytes: int) -> str:
        return f"{num_bytes} bytes" + (f" (ratio {num_bytes / original_bytes:.4f})" if original_bytes else "")

    offered = {priced.option for unit in units for priced in unit.options if priced.option is not None}
    patterned = {unit.name for unit in units if any(priced.option and priced.option.pattern for priced in unit.options)}
    sparsest = min((option.pattern for option in offered if option.pattern), key=lambda p: p[0] / p[1], default=None)
    fewest, kept = (
        min((option.num_bits for option in offered), default=8),
        sparsest[0] / sparsest[1] if sparsest else 1.0,
    )
    advice = [f"--bits {bits}" for bits in SMALLER_BITS if bits < fewest][:1]
    advice += [f"--patterns 1:{group_m}" for group_m in SPARSER_GROUPS if 1 / group_m < kept][:1]
    if budget_bytes < fixed_bytes or not advice:
        helps = "; no option of the weights helps, a larger budget is needed"
    else:
        helps = f"; {' or '.join(advice)} would give smaller options"
    plain = [unit.name for unit in units if unit.name not in patterned]
    if patterned and plain:
        helps += f"; no pattern divides the inputs of {', '.join(plain[:3])}" + (
            f" and {len(plain) - 3} more" if len(plain) > 3 else ""
        )
    return (
        f"a budget of {size(budget_bytes)} is {smallest - budget_bytes} bytes below the smallest possible file, {size(smallest)}, "
        f"of which {fixed_bytes} bytes are no weights{helps}"
    )
