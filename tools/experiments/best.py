"""Which strategy is best: of all runs, the smallest file that keeps a promise, at any level and at level integer-only."""

from __future__ import annotations

from collections.abc import Callable

from experiments.results import Figures, Result, Results

# What is asked of (figures, the float model's figures), greedy on the test set.
CRITERIA: dict[str, Callable[[Figures, Figures], bool]] = {
    "WER at most 2 % above float's, relative": lambda found, own: found.wer <= 1.02 * own.wer,
    "WER at most 5 % above float's, relative": lambda found, own: found.wer <= 1.05 * own.wer,
    "paired interval holds 0": lambda found, own: not found.is_worse,
    "WER inside float's own interval": lambda found, own: found.wer <= own.high,
}
SCOPES = ("any level", "integer-only")


def winners(results: Results) -> dict[tuple[str, str], Result]:
    """The smallest file by (criterion, scope); of equal sizes the lower WER. What nothing keeps is left out."""
    own, found = results.float_model["eval"], {}
    for criterion, keeps in CRITERIA.items():
        for scope in SCOPES:
            able = [run for run in results.runs.values() if scope in (SCOPES[0], run.level) and keeps(run.test, own)]
            if able:
                found[criterion, scope] = min(able, key=lambda run: (run.size_bytes, run.test.wer, run.name))
    return found
