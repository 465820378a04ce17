"""The exact effect of a change: loss, divergence from the float model, and WER or AU FA-FR of the model with it in.

A probe builds the float model once and records it on the data. A trial puts changes in, runs what comes after the first of
them (modules/prefix.py), and takes them out again: the model is as it was, and no trial depends on another.
Changed weights are what their codes stand for, as at level stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.grids import QuantizedWeight
from asrcompress.metrics.detection import detection_curve
from asrcompress.metrics.error_rate import score
from asrcompress.metrics.normalizers import get_normalizer
from asrcompress.models.criterion import negative_log_likelihood
from asrcompress.modules.prefix import LIMIT_BYTES, PrefixCache
from asrcompress.modules.swap import swappable_modules
from asrcompress.ops.load import Source, build_model
from asrcompress.ops.probe_data import NORMALIZER, ProbeData, read_probe_data
from asrcompress.ops.units import Option, Unit

__all__ = ["Measurement", "Probe", "ProbeData", "read_probe_data"]

Candidate = Callable[[Unit, Option], QuantizedWeight]


@dataclass(frozen=True)
class Measurement:
    """What a model makes of the data.

    loss: negative log-likelihood of the references, in nats a token. kl: divergence of the model's output from the float
    model's, KL(float || this), in nats a token or frame, references being told to decoders. num_errors: words wrong
    of num_reference in greedy search. au_fa_fr: of keyword models. None where it was not asked for, or does not apply.
    """

    loss: float
    kl: float
    num_errors: int | None = None
    num_reference: int | None = None
    au_fa_fr: float | None = None

    @property
    def wer(self) -> float | None:
        """Word error rate, a fraction."""
        return None if self.num_errors is None or not self.num_reference else self.num_errors / self.num_reference

    def to_json(self) -> dict[str, Any]:
        """Plain numbers; floats keep every bit through JSON."""
        return asdict(self)


class Probe:
    """Measures a model with some units changed.

    Args:
        source: of the float model (packed weights of an artifact count as what they stand for).
        units: what can be changed.
        candidate: the codes that an option gives a weight.
        data: what is measured on.
        batch_size: of utterances of the same length, which run together.
        cache_bytes: of outputs kept from the recorded run.
    """

    def __init__(
        self,
        source: Source,
        units: Sequence[Unit],
        candidate: Candidate,
        data: ProbeData,
        *,
        batch_size: int = 16,
        cache_bytes: int = LIMIT_BYTES,
    ) -> None:
        self.source, self.data, self._candidate = source, data, candidate
        self.units = {unit.name: unit for unit in units}
        self.model = build_model(source).module.requires_grad_(False)
        self._modules = _modules_of_weights(self.model)
        self._batches = _batches(data.features, batch_size)
        self._errors: dict[tuple[int, str], tuple[int, int]] = {}
        self._reference: list[list[Tensor]] = []  # log-probabilities of the float model, batch by batch
        self._cache = PrefixCache(self.model, limit_bytes=cache_bytes)
        self._transcribe = self._transcriber(self.model)
        self._baseline = self._measure(None, decode=False)

    @property
    def baseline(self) -> Measurement:
        """The float model, decoded; its divergence from itself is 0."""
        if self._baseline.num_errors is None and self._baseline.au_fa_fr is None:
            self._baseline = self._measure(None, decode=True)
        return self._baseline

    def measure(self, changes: Mapping[str, Option], *, decode: bool) -> Measurement:
        """The model with these units changed, by name; `decode` adds errors of greedy search, or AU FA-FR.

        Raises:
            AsrCompressError: no such unit, an option that its unit cannot have, or a result that is no number.
        """
        if decode and self._baseline.num_errors is None and self._baseline.au_fa_fr is None:
            self._baseline = self._measure(None, decode=True)
        with self._changed(changes) as modules:
            return self._measure(modules, decode=decode)

    @contextmanager
    def _changed(self, changes: Mapping[str, Option]) -> Iterator[list[str]]:
        """Changes in the model; gives the names of the modules that they change."""
        candidates = []
        for name, option in changes.items():
            unit = self.units.get(name)
            if unit is None:
                raise AsrCompressError(
                    f"{name}: is no unit of {self.source.path}; the first are {', '.join([*self.units][:3])}"
                )
            if not unit.allows(option):
                raise AsrCompressError(f"{name}: cannot have {option}; leave the pattern out")
            candidates.append((self.model.get_parameter(name), self._candidate(unit, option).dequantize()))
        kept = []
        try:
            with torch.no_grad():
                for parameter, values in candidates:
                    kept.append((parameter, parameter.clone()))
                    parameter.copy_(values)
            yield [module for name in changes for module in self._modules[name]]
        finally:
            with torch.no_grad():
                for parameter, values in reversed(kept):
                    parameter.copy_(values)

    def _measure(self, changed: list[str] | None, *, decode: bool) -> Measurement:
        """One run over the data; recorded where `changed` is None."""
        family, spec, data = self.source.family, self.source.spec, self.data
        sums, counts = [0.0] * len(data.features), [0] * len(data.features)
        divergences, steps = [0.0] * len(data.features), 0
        hypotheses, scores = [""] * len(data.features), [0.0] * len(data.features)
        if changed is None:
            self._reference = []
        for number, positions in enumerate(self._batches):
            features = [data.features[position] for position in positions]
            targets = [data.targets[position] for position in positions]
            with self._cache.batch(number, changed), torch.no_grad():
                with self._cache.run("loss"):
                    found = family.log_probs(spec, self.model, features, targets)
                if changed is None:
                    self._reference.append(found)
                losses, tokens = negative_log_likelihood(family, spec, found, targets)
                for row, position in enumerate(positions):
                    sums[position], counts[position] = float(losses[row]), int(tokens[row])
                    divergences[position] = divergence(self._reference[number][row], found[row])
                    steps += len(found[row])
                if decode:
                    with self._cache.run("decode"):
                        results: Sequence[Any] = (
                            self._transcribe(features) if self._transcribe else family.scores(self.model, features)
                        )
                    for position, result in zip(positions, results, strict=True):
                        (hypotheses if self._transcribe else scores)[position] = result
        loss, kl = math.fsum(sums) / max(sum(counts), 1), math.fsum(divergences) / max(steps, 1)
        if not (math.isfinite(loss) and math.isfinite(kl)):
            raise AsrCompressError(
                f"{self.source.path}: the loss is {loss}, the divergence {kl}; the checkpoint or the data are broken"
            )
        if not decode:
            return Measurement(loss, kl)
        if data.labels is not None:
            return Measurement(loss, kl, au_fa_fr=detection_curve(scores, list(data.labels)).au_fa_fr)
        return Measurement(loss, kl, *self._count_errors(hypotheses))

    def _count_errors(self, hypotheses: Sequence[str]) -> tuple[int, int]:
        """Words wrong, and words of the references."""
        assert self.data.references is not None  # noqa: S101 (for the type checker)
        new = [pair for pair in enumerate(hypotheses) if pair not in self._errors]
        rates = score(
            [self.data.references[position] for position, _ in new],
            [text for _, text in new],
            normalizer=get_normalizer(NORMALIZER),
        )
        for pair, errors in zip(new, rates.per_utterance, strict=True):
            self._errors[pair] = (errors.words.num_errors, errors.words.num_reference)
        found = [self._errors[pair] for pair in enumerate(hypotheses)]
        return sum(errors for errors, _ in found), sum(words for _, words in found)

    def _transcriber(self, model: nn.Module) -> Callable[[list[Tensor]], list[str]] | None:
        if self.source.family.TASK != "asr":
            return None
        transcribe: Callable[[list[Tensor]], list[str]] = self.source.family.transcriber(
            self.source.spec, model, beam=1
        )
        return transcribe


def divergence(expected: Tensor, found: Tensor) -> float:
    """KL(expected || found) of log-probabilities (steps, vocabulary), in nats, summed over steps, computed in float64."""
    p, q = expected.double(), found.double()
    return float(torch.where(p > -math.inf, p.exp() * (p - q), 0.0).sum())


def _batches(features: Sequence[Tensor], batch_size: int) -> list[list[int]]:
    """Positions of up to `batch_size` utterances of one shape, shortest first; without a frame in none.

    One shape: padding would change what some models hear, and one call a batch is what can be kept.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, frames in enumerate(features):
        if len(frames):
            groups.setdefault(tuple(frames.shape), []).append(position)
    return [
        group[start : start + batch_size]
        for _, group in sorted(groups.items())
        for start in range(0, len(group), batch_size)
    ]


def _modules_of_weights(model: nn.Module) -> dict[str, list[str]]:
    """For each parameter, under its first name, the modules that compute with it: those with a twin as a whole."""
    wholes = [name for name, _, _ in swappable_modules(model)]
    first_names: dict[int, str] = {}
    found: dict[str, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner = name.rpartition(".")[0]
        whole = next((module for module in wholes if f"{owner}.".startswith(f"{module}.")), owner)
        modules = found.setdefault(first_names.setdefault(id(parameter), name), [])
        if whole not in modules:
            modules.append(whole)
    return found
