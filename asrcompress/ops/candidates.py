"""The codes that each option gives each weight, as `quantize` would find them.

All options of a weight are made at once and kept while there is room, so that it does not matter in which order they are asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from asrcompress.grids import Granularity, QuantizedWeight
from asrcompress.modules.swap import find_weights
from asrcompress.ops.calibrate import weight_statistics
from asrcompress.ops.compress import pack_weight
from asrcompress.ops.load import Source, build_model
from asrcompress.ops.observe import float_source
from asrcompress.ops.probe_data import ProbeData
from asrcompress.ops.recipe import QuantizeConfig
from asrcompress.ops.sensitivity_config import SensitivityConfig
from asrcompress.ops.speech_choice import spread
from asrcompress.ops.units import Option, Unit
from asrcompress.patterns import pattern_name
from asrcompress.quantizers.gptq_ls import quantize_options
from asrcompress.quantizers.statistics import InputStatistics

Progress = Callable[[int, int], None]
MAX_BYTES = 2**30  # of codes that are kept


class Candidates:
    """Codes by unit and option.

    Args:
        weights: in float, by name.
        config: the options, and how codes are found.
        find_statistics: of the weights' inputs; called once, when they are needed.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        config: SensitivityConfig,
        find_statistics: Callable[[], Mapping[str, InputStatistics]],
    ) -> None:
        self.weights, self.config, self._find_statistics = weights, config, find_statistics
        self._kept: OrderedDict[str, dict[Option, QuantizedWeight]] = OrderedDict()

    @cached_property
    def statistics(self) -> Mapping[str, InputStatistics]:
        """Of the weights' inputs, where the method needs them."""
        return self._find_statistics()

    def prepare(self) -> None:
        """Look at the inputs of weights now, where they are needed, and not when codes are first asked for."""
        _ = self.statistics

    def __call__(self, unit: Unit, option: Option) -> QuantizedWeight:
        """The codes of one option."""
        return self.of(unit)[option]

    def of(self, unit: Unit) -> dict[Option, QuantizedWeight]:
        """The codes of every option that the unit allows."""
        if unit.name not in self._kept:
            self._kept[unit.name] = self._make(unit)
            while len(self._kept) > 1 and self._num_bytes() > MAX_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(unit.name)
        return self._kept[unit.name]

    def _make(self, unit: Unit) -> dict[Option, QuantizedWeight]:
        weight, statistics = self.weights[unit.name], self.statistics.get(unit.name)
        options = [option for option in self.config.options() if unit.allows(option)]
        together = [option for option in options if self._is_walked(option)]
        walked = quantize_options(
            weight,
            [(option.num_bits, option.pattern) for option in together],
            granularity=Granularity.parse(self.config.granularity),
            name=unit.name,
            statistics=statistics,
        ) if together else []  # fmt: skip
        found = dict(zip(together, walked, strict=True))
        for option in options:
            if option not in found:
                found[option] = pack_weight(unit.name, weight, self._config(option), statistics)
        return {option: found[option] for option in options}

    def _is_walked(self, option: Option) -> bool:
        """Whether its codes come from the walk over columns that all options share."""
        chosen_on_the_way = option.pattern is None or self.config.sparsifier == "sparsegpt"
        return self.config.method_of(option) == "gptq_ls" and chosen_on_the_way

    def _config(self, option: Option) -> QuantizeConfig:
        return QuantizeConfig(
            num_bits=option.num_bits,
            granularity=self.config.granularity,
            method=self.config.method_of(option),
            pattern=pattern_name(option.pattern) if option.pattern else None,
            sparsifier=self.config.sparsifier if option.pattern else None,
        )

    def _num_bytes(self) -> int:
        return sum(weight.codes.numel() for found in self._kept.values() for weight in found.values())


def input_statistics(
    source: Source, data: ProbeData, config: SensitivityConfig, progress: Progress = lambda done, total: None
) -> dict[str, InputStatistics]:
    """What each weight is multiplied by, from some utterances of the data with their references; nothing where no method asks.

    Args:
        source: of a float model.
        data: with references.
        config: says the method, the sparsifier, and how many utterances.
        progress: told of batches.
    """
    if not config.looks_at_inputs:
        return {}
    by_shape: dict[tuple[int, ...], list[int]] = {}  # padding is no input of the model
    for position in calibration_positions(data, config):
        by_shape.setdefault(tuple(data.features[position].shape), []).append(position)

    def run(module: nn.Module, progress: Progress) -> None:
        with torch.inference_mode():
            for number, positions in enumerate(by_shape.values()):
                progress(number, len(by_shape))
                features, targets = (
                    [items[position] for position in positions] for items in (data.features, data.targets)
                )
                source.family.log_probs(source.spec, module, features, targets)
            progress(len(by_shape), len(by_shape))

    model = build_model(source).module
    return weight_statistics(model, find_weights(model), run, progress)


def calibration_positions(data: ProbeData, config: SensitivityConfig) -> tuple[int, ...]:
    """The utterances whose inputs are looked at, by position, evenly spread."""
    return spread([place for place, frames in enumerate(data.features) if len(frames)], config.calibration_limit)


def find_candidates(
    source: Source, data: ProbeData, config: SensitivityConfig, stage: Callable[[str], Progress]
) -> Candidates:
    """Of a source's weights, by inputs that are looked at when codes are first asked for."""
    floats = float_source(source)
    return Candidates(
        floats.tensors, config, lambda: input_statistics(floats, data, config, stage("inputs of weights"))
    )
