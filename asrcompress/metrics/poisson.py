"""The exact interval of a rate of rare events, such as false accepts per hour.

Events are taken to be independent of each other and their number Poisson distributed. Bursts, which are
not, are what debouncing in events.py is for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class RateInterval:
    """The interval of a rate, in events per unit of exposure, and how it was found."""

    low: float
    high: float
    confidence: float
    method: str = "poisson_exact"


def poisson_interval(num_events: int, exposure: float, *, confidence: float = 0.95) -> RateInterval:
    """Garwood's interval (Biometrika 28, 1936), by quantiles of chi squared.

    low = chi2(alpha/2; 2n) / 2 and high = chi2(1 - alpha/2; 2n + 2) / 2, over the exposure, where alpha = 1 - confidence.
    It covers the true rate at least as often as it says. Of no events, low is 0 and high is 3.69 at 95 %: both tails
    keep their half of alpha, so that the interval does not change its meaning at 0.

    Args:
        num_events: events that were counted.
        exposure: how long was listened, in any unit; the rate is per that unit.
        confidence: a fraction.

    Raises:
        ValueError: a negative count, no exposure, or a confidence outside (0, 1).
    """
    from scipy.stats import chi2

    if num_events < 0:
        raise ValueError(f"num_events is {num_events}; a count is 0 or more")
    if not 0 < exposure < math.inf:
        raise ValueError(f"exposure is {exposure}; there is no rate without one")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it is a fraction between 0 and 1, such as 0.95")
    tail = (1 - confidence) / 2
    low = float(chi2.ppf(tail, 2 * num_events)) / 2 if num_events else 0.0
    high = float(chi2.isf(tail, 2 * num_events + 2)) / 2
    return RateInterval(low / exposure, high / exposure, confidence)
