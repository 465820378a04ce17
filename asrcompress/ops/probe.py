"""The exact effect of a change: loss, divergence from the float model, and WER or AU FA-FR of the model with it in.

A probe builds the float model once and records it on the data. A trial puts changes in, runs what comes after the first of
them (modules/prefix.py), and takes them out again: the model is as it was, and no trial depends on another.
Changed weights are what their codes stand for, as at level stored; changed activations are what a static grid leaves of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.grids import QuantizedWeight
from asrcompress.integers.grid import Grid
from asrcompress.integers.sites import WITHOUT_GRID, Sites, is_operand, kind_of
from asrcompress.metrics.detection import detection_curve
from asrcompress.metrics.error_rate import score
from asrcompress.metrics.normalizers import get_normalizer
from asrcompress.models.criterion import left_out, negative_log_likelihood
from asrcompress.modules.prefix import LIMIT_BYTES, find_blocks
from asrcompress.modules.swap import swappable_modules
from asrcompress.ops.load import Source, build_model
from asrcompress.ops.observe import Alteration, Ranges, build_observed, float_source, require_alterable
from asrcompress.ops.probe_data import ProbeData, read_probe_data, require_loss
from asrcompress.ops.probe_rig import Rig
from asrcompress.ops.speech_choice import NORMALIZER
from asrcompress.ops.units import Option, Unit

__all__ = ["Measurement", "Probe", "ProbeData", "read_probe_data"]

Candidate = Callable[[Unit, Option], QuantizedWeight]


@dataclass(frozen=True)
class Measurement:
    """What a model makes of the data.

    loss: negative log-likelihood of the references, in nats a token. kl: divergence of the model's output from the float
    model's, KL(float || this), in nats a token or frame, references being told to decoders. num_errors: words wrong
    of num_reference in greedy search. au_fa_fr: of keyword models. None where it was not asked for, or does not apply.
    num_left_out: utterances that have no part in the loss: without a frame, or with a reference too long for CTC.
    """

    loss: float
    kl: float
    num_errors: int | None = None
    num_reference: int | None = None
    au_fa_fr: float | None = None
    num_left_out: int = 0

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
        source: of the float model; packed weights of an artifact count as what they stand for.
        units: what can be changed.
        candidate: the codes that an option gives a weight.
        data: what is measured on.
        batch_size: of utterances that run together.
        cache_bytes: of outputs kept from the recorded run; as much again where activations are changed.

    Raises:
        AsrCompressError: the float model's loss is no number, or there is none.
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
        self.source, self.data = float_source(source), data
        self.units = {unit.name: unit for unit in units}
        self.model: nn.Module = build_model(self.source).module.requires_grad_(False)
        self._candidate, self._cache_bytes = candidate, cache_bytes
        self._modules = _modules_of_weights(self.model)
        self._blocks = find_blocks(self.model)
        self._rig = Rig(self.source, self.model, data, cache_bytes=cache_bytes, blocks=self._blocks)
        self._batches = self._rig.batches(batch_size)
        self._sites, self._ranges = Sites(), Ranges()
        self._observed: Rig | None = None
        self._errors: dict[tuple[int, str], tuple[int, int]] = {}
        self._reference: dict[int, Tensor] = {}  # log-probabilities of the float model, by position
        self._baseline = self._measure(self._rig, None, decode=False)

    @property
    def baseline(self) -> Measurement:
        """The float model, searched too; its divergence from itself is 0."""
        self._record_search(self._rig)
        return self._baseline

    def measure(self, changes: Mapping[str, Option], *, decode: bool) -> Measurement:
        """The model with these units changed, by name; `decode` adds errors of greedy search, or AU FA-FR.

        Raises:
            AsrCompressError: no such unit, an option that its unit cannot have, or a result that is no number.
        """
        units = [self._unit(name, option) for name, option in changes.items()]
        sites = {site: changes[unit.name].num_bits for unit in units for site in unit.sites}
        rig = self._observer() if sites else self._rig
        if decode:
            self._record_search(rig)
        alteration = None
        if sites:
            require_alterable(sites, self._ranges.observers)
            alteration = Alteration(sites, self._ranges)
        weights = [unit for unit in units if unit.target == "weight"]
        changed = [module for unit in weights for module in self._modules[unit.name]]
        changed += [site.rpartition(":")[0] for site in sites]
        with self._written({unit.name: self._candidate(unit, changes[unit.name]) for unit in weights}):
            self._sites.alter = alteration
            try:
                found = self._measure(rig, changed, decode=decode)
            finally:
                self._sites.alter = None
        if not (math.isfinite(found.loss) and math.isfinite(found.kl)):
            raise AsrCompressError(
                f"{self.source.path}: {', '.join(changes)}: gives a loss of {found.loss} and a divergence of {found.kl}"
            )
        return found

    def activation_sites(self) -> list[str]:
        """The sites that a run passes, in order, for `units.activation_units`; then `add_units`."""
        self._observer()
        return list(self._ranges.observers)

    def grids(self) -> dict[str, Grid]:
        """The grids that level integer-only gives the sites of the float model, by its widths where no rule says otherwise."""
        sites = [site for site in self.activation_sites() if kind_of(site) not in WITHOUT_GRID]
        return {site: self._ranges.grid(site, 8 if is_operand(site) else 16) for site in sites}

    def add_units(self, units: Iterable[Unit]) -> None:
        """More that can be changed."""
        self.units |= {unit.name: unit for unit in units}

    def _unit(self, name: str, option: Option) -> Unit:
        unit = self.units.get(name)
        if unit is None:
            raise AsrCompressError(
                f"{name}: is no unit of {self.source.path}; the first are {', '.join([*self.units][:3])}"
            )
        if not unit.allows(option):
            raise AsrCompressError(
                f"{name}: cannot have {option}; choose an option "
                + ("without this pattern" if option.pattern else "of more bits")
            )
        return unit

    def _record_search(self, rig: Rig) -> None:
        """Record a rig once more, with a search."""
        if not rig.has_search:
            found = self._measure(rig, None, decode=True)
            self._baseline = found if rig is self._rig else self._baseline

    def _observer(self) -> Rig:
        """The observed twin, recorded; its parameters are the float model's own."""
        if self._observed is None:
            module = build_observed(self.source, self._sites, share=self.model)
            rig = Rig(self.source, module, self.data, cache_bytes=self._cache_bytes, blocks=self._blocks)
            self._sites.alter = self._ranges
            try:
                self._measure(rig, None, decode=False)
            finally:
                self._sites.alter = None
            self._observed = rig
        return self._observed

    @contextmanager
    def _written(self, weights: Mapping[str, QuantizedWeight]) -> Iterator[None]:
        """What codes stand for in the place of parameters, tied ones included, which are as they were afterwards."""
        kept = []
        try:
            with torch.no_grad():
                for name, weight in weights.items():
                    parameter = self.model.get_parameter(name)
                    kept.append((parameter, parameter.clone()))
                    parameter.copy_(weight.dequantize())
            yield
        finally:
            with torch.no_grad():
                for parameter, values in reversed(kept):
                    parameter.copy_(values)

    def _measure(self, rig: Rig, changed: Collection[str] | None, *, decode: bool) -> Measurement:
        """One run over the data; recorded where `changed` is None. The float model's first outputs are the reference."""
        data, size = self.data, len(self.data.features)
        sums, counts, divergences, steps = [0.0] * size, 0, [0.0] * size, 0
        missing = sum(1 for frames in data.features if not len(frames))
        hypotheses, scores = [""] * size, [0.0] * size
        for ran in rig.run(self._batches, changed, search=decode):
            targets = [data.targets[position] for position in ran.positions]
            losses, tokens = negative_log_likelihood(self.source.family, self.source.spec, ran.log_probs, targets)
            counts += int(tokens.sum())
            missing += len(left_out(tokens, targets))
            for position, log_probs, loss in zip(ran.positions, ran.log_probs, losses.tolist(), strict=True):
                sums[position] = loss
                divergences[position] = divergence(self._reference.setdefault(position, log_probs), log_probs)
                steps += len(log_probs)
            for position, result in zip(ran.positions, ran.results or (), strict=False):
                (hypotheses if data.labels is None else scores)[position] = result
        if changed is None:
            require_loss(self.source, data, math.fsum(sums), counts)
        found = Measurement(
            math.fsum(sums) / max(counts, 1), math.fsum(divergences) / max(steps, 1), num_left_out=missing
        )
        if not decode:
            return found
        if data.labels is not None:
            return replace(found, au_fa_fr=detection_curve(scores, list(data.labels)).au_fa_fr)
        num_errors, num_reference = self._count_errors(hypotheses)
        return replace(found, num_errors=num_errors, num_reference=num_reference)

    def _count_errors(self, hypotheses: Sequence[str]) -> tuple[int, int]:
        """Words wrong, and words of the references; texts that came up before are not aligned again."""
        references = self.data.references or ()
        new = [pair for pair in enumerate(hypotheses) if pair not in self._errors]
        rates = score(
            [references[position] for position, _ in new],
            [text for _, text in new],
            normalizer=get_normalizer(NORMALIZER),
        )
        for pair, errors in zip(new, rates.per_utterance, strict=True):
            self._errors[pair] = (errors.words.num_errors, errors.words.num_reference)
        found = [self._errors[pair] for pair in enumerate(hypotheses)]
        return sum(errors for errors, _ in found), sum(words for _, words in found)


def divergence(expected: Tensor, found: Tensor) -> float:
    """KL(expected || found) of log-probabilities (steps, vocabulary), in nats, summed over steps.

    In float64 and normalised anew: what float32 leaves of normalisation is more than small divergences are.
    """
    p, q = expected.double().log_softmax(dim=-1), found.double().log_softmax(dim=-1)
    return float(torch.where(p > -math.inf, p.exp() * (p - q), 0.0).sum())


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
