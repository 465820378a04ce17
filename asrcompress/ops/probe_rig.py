"""One build of a model on the data of a probe: recorded once, then run with modules changed.

Knows how to run a family for its loss and its search; what is changed, and what the outputs are worth, is probe.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from asrcompress.modules.prefix import PrefixCache
from asrcompress.ops.load import Source
from asrcompress.ops.probe_data import ProbeData


@dataclass(frozen=True)
class Ran:
    """One batch: positions of its utterances, their log-probabilities (steps, vocabulary), and texts or scores of a search."""

    positions: list[int]
    log_probs: list[Tensor]
    results: Sequence[Any] | None


class Rig:
    """A module, and what is kept of the run that recorded it.

    Args:
        source: says the family.
        module: in eval mode.
        data: what it runs on.
        cache_bytes: of outputs kept.
        blocks: whose outputs are kept, where the module's own are not found.
    """

    def __init__(
        self,
        source: Source,
        module: nn.Module,
        data: ProbeData,
        *,
        cache_bytes: int,
        blocks: Collection[str] | None = None,
    ) -> None:
        self.family, self.spec, self.module, self.data = source.family, source.spec, module, data
        self.cache = PrefixCache(module, limit_bytes=cache_bytes, blocks=blocks)
        self.has_search = False  # recorded with the loss
        self._transcribe: Callable[[list[Tensor]], list[str]] | None = None
        if self.family.TASK == "asr":
            self._transcribe = self.family.transcriber(self.spec, module, beam=1)

    def run(self, batches: Sequence[list[int]], changed: Collection[str] | None, *, search: bool) -> Iterator[Ran]:
        """Run batch by batch; recorded where `changed` is None, else with these modules changed, by name."""
        for number, positions in enumerate(batches):
            features = [self.data.features[position] for position in positions]
            targets = [self.data.targets[position] for position in positions]
            results = None
            with self.cache.batch(number, changed), torch.no_grad():
                with self.cache.run("loss"):
                    found = self.family.log_probs(self.spec, self.module, features, targets)
                if search:
                    with self.cache.run("search"):
                        results = self.search(features)
            yield Ran(positions, found, results)
        if changed is None:
            self.has_search = search

    def search(self, features: list[Tensor]) -> Sequence[Any]:
        """Texts of a greedy search, or probabilities of the keyword."""
        if self._transcribe is not None:
            return self._transcribe(features)
        scores: list[float] = self.family.scores(self.module, features)
        return scores

    def batches(self, batch_size: int) -> list[list[int]]:
        """Positions of up to `batch_size` utterances, shortest first, so that little is padded; without a frame in none.

        A family that runs utterances of different shapes one after the other gets batches of one shape, since only a
        module that is called once a batch has an output to keep.
        """
        features = self.data.features
        mixed = make_batches(features, batch_size)
        example = next((batch for batch in mixed if len({features[position].shape for position in batch}) > 1), None)
        if example is None:
            return mixed
        for _ in self.run([example], None, search=False):
            pass
        return mixed if self.cache.num_calls(0, "loss") == 1 else make_batches(features, batch_size, by_shape=True)


def make_batches(features: Sequence[Tensor], batch_size: int, *, by_shape: bool = False) -> list[list[int]]:
    """Positions of up to `batch_size` utterances, shortest first; by_shape: of one shape alone."""
    heard = sorted((tuple(frames.shape), position) for position, frames in enumerate(features) if len(frames))
    groups: list[list[int]] = []
    previous: tuple[int, ...] = ()
    for shape, position in heard:
        if not groups or len(groups[-1]) == batch_size or (by_shape and shape != previous):
            groups.append([])
        groups[-1].append(position)
        previous = shape
    return groups
