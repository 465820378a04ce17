"""The smallest plan whose measured quality is within a limit: bisection over sizes, every step measured.

A plan's predicted cost only says which options to take at a size; whether a size will do is measured with all options in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from asrcompress.errors import AsrCompressError
from asrcompress.ops.plan import Plan, UnitChoices, size_range, solve, solve_exactly
from asrcompress.ops.units import Option

MAX_MEASUREMENTS = 8


class OutOfReach(AsrCompressError):
    """No plan is within the limit. `points`: what was measured, as in `Found`."""

    def __init__(self, message: str, points: list[tuple[Plan, float]]) -> None:
        super().__init__(message)
        self.points = points


@dataclass(frozen=True)
class Found:
    """The smallest plan that was measured to be within the limit, its measured value, and all points in the order of measuring."""

    plan: Plan
    value: float
    points: list[tuple[Plan, float]]


def smallest_within(
    units: Sequence[UnitChoices],
    fixed_bytes: int,
    measure: Callable[[Plan], float],
    limit: float,
    *,
    exact_size: Callable[[Mapping[str, Option | None]], int] | None = None,
    max_measurements: int = MAX_MEASUREMENTS,
    resolution: float = 0.005,
    clip_negative: bool = False,
    what: str = "value",
) -> Found:
    """Search for the smallest plan with `measure(plan) <= limit`.

    The plan of the least cost is measured first. If it is within the limit, the size is halved in again and again, at the
    middle of the logarithm, as if a larger plan were never worse than a smaller one; measured values are noisy, so that
    need not hold, and a smaller plan within the limit may be missed. What is returned was measured to be within it.

    Args:
        units: names, options with bytes and costs.
        fixed_bytes: what the file takes besides; not used with `exact_size`.
        measure: of a plan, such as the relative change of WER on the development set; a NaN counts as above the limit.
        limit: the largest value allowed.
        exact_size: of the file that a choice gives; plans then have exact sizes.
        max_measurements: 2 or more.
        resolution: the search ends when larger and smaller size are this close, as a fraction.
        clip_negative: as for `plan.solve`.
        what: the value's name, for messages.

    Raises:
        OutOfReach: not even the plan of the least cost is within the limit.
    """

    def planned(budget: int) -> Plan:
        if exact_size is None:
            return solve(units, budget, fixed_bytes, clip_negative=clip_negative)
        return solve_exactly(units, budget, exact_size, clip_negative=clip_negative)

    points: list[tuple[Plan, float]] = []

    def is_within(plan: Plan) -> bool:
        for known, value in points:
            if known.choice == plan.choice:
                return value <= limit
        points.append((plan, measure(plan)))
        return points[-1][1] <= limit

    if exact_size is None:
        low, high = size_range(units, fixed_bytes, clip_negative=clip_negative)
    else:
        smallest = {unit.name: min(unit.options, key=lambda p: (p.size_bytes, p.cost)).option for unit in units}
        low, high = exact_size(smallest), 2**62  # a budget that allows everything
    best = planned(high)
    if not is_within(best):
        value = points[0][1]
        allow = f"allow {value:+.4g}, or " if math.isfinite(value) else ""
        raise OutOfReach(
            f"{what} {limit:+.4g} is out of reach: the best plan, of {best.size_bytes} bytes, is measured at {value:+.4g}; "
            f"{allow}add options of more bits to --bits",
            points,
        )
    low, high = low - 1, best.size_bytes  # low: above the limit, or no plan at all
    while len(points) < max_measurements and high - low > max(1, resolution * high):
        middle = math.isqrt(max(low, 1) * high)
        plan = planned(max(middle, low + 1))
        if is_within(plan):
            best, high = plan, plan.size_bytes
        else:
            low = max(middle, low + 1)
    value = next(value for known, value in points if known.choice == best.choice)
    return Found(best, value, points)
