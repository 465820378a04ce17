"""Many exact trials: those of the journal are not run again, ranks share the others, all know every result.

A trial's result is the same whatever ran before it and whichever rank ran it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from asrcompress.ops.journal import Journal
from asrcompress.ops.probe import Measurement, Probe
from asrcompress.ops.ranks import Ranks
from asrcompress.ops.units import Option

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Trial:
    """Units changed together, by name, and whether errors are counted too. key: its name in the journal."""

    key: str
    changes: Mapping[str, Option]
    decode: bool = False


def make_trial(changes: Mapping[str, Option], *, decode: bool = False) -> Trial:
    """A trial whose key says all about it, whatever the order of its units."""
    words = [f"{name}={option}" for name, option in sorted(changes.items())]
    return Trial(" ".join([*words, "decoded"] if decode else words) or "none", dict(changes), decode)


def run_trials(
    trials: Sequence[Trial],
    probe: Probe | Callable[[], Probe],
    journal: Journal,
    ranks: Ranks,
    progress: Progress = lambda done, total: None,
) -> list[Measurement]:
    """The results of all trials, in their order, on every rank; ranks call this alike.

    Args:
        trials: without two of one key.
        probe: or what makes it, called where this rank has something to run.
        journal: results in it are taken from there, new ones are added.
        ranks: who shares the trials.
        progress: told how many are done by this rank's share, of all.

    Raises:
        AsrCompressError: a trial cannot be run, or a rank was lost.
        ValueError: two trials have one key.
    """
    wanted = {trial.key: trial for trial in trials}
    if len(wanted) < len(trials):
        raise ValueError("two trials have the same key")
    found: dict[str, dict[str, float | int | None]] = {}
    for theirs in ranks.gather({key: journal.results[key] for key in wanted if key in journal.results}):
        found |= theirs
    left = [trial for trial in trials if trial.key not in found]
    own, known = left[ranks.rank :: ranks.size], len(found)
    new: dict[str, dict[str, float | int | None]] = {}
    for trial in own:
        probe = probe if isinstance(probe, Probe) else probe()
        progress(min(known + len(new) * ranks.size, len(trials)), len(trials))
        new[trial.key] = probe.measure(trial.changes, decode=trial.decode).to_json()
        journal.add(trial.key, new[trial.key])
        ranks.beat()
    for theirs in ranks.gather(new):
        found |= theirs
    progress(len(trials), len(trials))
    return [Measurement(**found[trial.key]) for trial in trials]  # type: ignore[arg-type]
