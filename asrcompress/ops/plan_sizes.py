"""What a file will take, option by option and as a whole, before anything is packed.

A weight that is not packed yet is outlined: its rows, columns, bits and pattern follow from the option, whether it has zero
points from what its method does to a small example, the type of its scales from the weight's largest magnitudes. The rest is
what `quantize` would write, by the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from asrcompress.artifact_size import artifact_size_bytes, tensor_size_bytes, weight_size_bytes
from asrcompress.grids import Granularity, QuantizedWeight, as_rows, max_abs, narrow_scale, quant_max
from asrcompress.integers.grid import Grid
from asrcompress.modules.swap import find_weights
from asrcompress.ops.calibrate import CalibrationData
from asrcompress.ops.content import assemble, carried_sparse, left_in_float
from asrcompress.ops.load import Source, build_float
from asrcompress.ops.masks import Kept, kept_of
from asrcompress.ops.plan_file import plan_config
from asrcompress.ops.quantize import quantize_source
from asrcompress.ops.recipe import QuantizeConfig
from asrcompress.ops.units import Option
from asrcompress.patterns import UNSTRUCTURED
from asrcompress.quantizers import get_quantizer
from asrcompress.quantizers.statistics import InputStatistics

Choice = Mapping[str, Option | None]
# Calibration of packed weights gives scales whose texts differ a little in length from those that another choice had:
# so many bytes are kept free for each grid.
GRID_SLACK = 0.5


class FileSizes:
    """Sizes of the files that a source gives under one set of options and any choice for its weights.

    Args:
        source: what is quantized.
        config: the options besides the choice: granularity, method, level, ...
        calibration: what `CalibrationData.describe` gives, where something is calibrated: the recipe records it.
        grids: at level integer-only, the grids of a calibration with any choice, such as `calibrated_grids` gives.
        sparsifier: of weights with a pattern, as for `plan_config`.
        outline: how an option stores a weight, where it is known; by default as `outline_weight` says.
    """

    def __init__(
        self,
        source: Source,
        config: QuantizeConfig,
        *,
        calibration: dict[str, Any] | None = None,
        grids: dict[str, Grid] | None = None,
        sparsifier: str | None = None,
        outline: Callable[[str, Option], QuantizedWeight] | None = None,
    ) -> None:
        if config.is_static and not grids:
            raise ValueError("level integer-only stores grids; their sizes cannot be said without any")
        self.source, self.config, self.calibration, self.grids = source, config, calibration, grids or {}
        self.sparsifier = sparsifier
        with torch.device("meta"):
            model = build_float(source)
        self.sites = find_weights(model)
        self._outline = outline or self._default_outline
        self._outlines: dict[tuple[str, Option], QuantizedWeight] = {}
        self._magnitudes: dict[str, Tensor] = {}
        self._before = source.content.quantized if source.content else {}
        self._floats = {
            name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in source.tensors.items()
        }
        # Offsets of a file that is about an eighth of the floats: only how many digits they have counts.
        elements = sum(tensor.numel() for tensor in self._floats.values())
        elements += sum(weight.codes.numel() for weight in self._before.values())
        self._offset_digits = len(str(max(elements // 2, 1)))

    def option(self, name: str, option: Option | None) -> int:
        """Bytes that a weight adds to the file: codes, group codes, scales, zero points, and its entries in header and JSON.

        None: in float. Right up to a digit or two of the offsets in the header, and its padding.
        """
        if option is None:
            shape = self.outline(name, Option(8)).shape
            stored = tensor_size_bytes(name, ("F32", shape), offset_digits=self._offset_digits)
            return stored + len(name) + 3  # and a place in the rule that has it so
        return weight_size_bytes(name, self.outline(name, option), offset_digits=self._offset_digits)

    def total(self, choice: Choice) -> int:
        """Bytes of the whole file with these options, weight by weight; what is not named stays as it is.

        Exact where types of scales are; at level integer-only `GRID_SLACK` is added for each grid.
        """
        chosen = {site.name for site in self.sites if choice.get(site.name) is not None and not site.tied_to}
        quantized = {
            site.name: self.outline(site.name, choice[site.name]) if site.name in chosen else self._before[site.name]  # type: ignore[arg-type]
            for site in self.sites
            if site.name in chosen or site.name in self._before
        }
        config = plan_config(self.config, choice, sparsifier=self.sparsifier)
        sparse = carried_sparse(self.source, chosen)
        floats = left_in_float(self._floats, {*quantized, *sparse}, self.sites)
        content = assemble(self.source, config, self.sites, quantized, floats, self.calibration, sparse)
        slack = round(GRID_SLACK * len(self.grids))
        return artifact_size_bytes(replace(content, grids=self.grids)) + slack

    def outline(self, name: str, option: Option) -> QuantizedWeight:
        """How an option stores a weight; no values."""
        found = self._outlines.get((name, option))
        if found is None:
            found = self._outlines[name, option] = without_values(self._outline(name, option))
        return found

    def _default_outline(self, name: str, option: Option) -> QuantizedWeight:
        weight = self._floats[name] if name in self._floats else self._before[name].dequantize()
        config = plan_config(self.config, {name: option}, sparsifier=self.sparsifier)
        _, granularity, method = config.of_weight(name)
        found = outline_weight(weight, option, Granularity.parse(granularity), method)
        kept = kept_of(self.source.content, name) if option.pattern is None and config.keeps_mask_of(name) else None
        return found if kept is None else _with_mask(found, kept)


def calibrated_grids(source: Source, config: QuantizeConfig, data: CalibrationData) -> dict[str, Grid]:
    """The grids of activations at level integer-only, with weights of 8 bits: where a file's grids are, and about how long their texts."""
    plain = replace(config, num_bits=8, method="rtn", pattern=None, sparsifier=None, bias_correction=False)
    return quantize_source(source, plain, data=data).grids


def outline_weight(weight: Tensor, option: Option, granularity: Granularity, method: str) -> QuantizedWeight:
    """How a method stores a weight of shape (out, ...), as far as can be said without packing it.

    Scales are float16 where round-to-nearest's would be. `auto` is given what takes most: zero points, and a name beside each weight.
    """
    rows = as_rows(weight)
    largest = max_abs(rows, granularity) / max(quant_max(option.num_bits), 1)
    has_zero_points, picked = _form(method, option.num_bits)
    return QuantizedWeight(
        torch.empty(rows.shape, dtype=torch.int8, device="meta"),
        torch.empty(largest.shape, dtype=narrow_scale(largest).dtype, device="meta"),
        option.num_bits,
        granularity,
        tuple(weight.shape),
        torch.empty(largest.shape, dtype=torch.int8, device="meta") if has_zero_points else None,
        picked,
        option.pattern,
    )


def _with_mask(weight: QuantizedWeight, kept: Kept) -> QuantizedWeight:
    """The outline of a weight that keeps its zeros. Unstructured, its codes are real, since the kept ones are counted: what
    rounds to 0 besides makes the file smaller than said."""
    mask, pattern = kept
    if pattern != UNSTRUCTURED:
        return replace(weight, pattern=pattern)
    zero_point = None if weight.zero_point is None else torch.zeros(weight.scale.shape, dtype=torch.int8)
    return replace(weight, codes=mask.to(torch.int8), zero_point=zero_point, pattern=pattern)


def without_values(weight: QuantizedWeight) -> QuantizedWeight:
    """The weight on device meta, which takes no memory; but not where its size depends on what is 0."""
    if weight.pattern == UNSTRUCTURED:
        return weight
    zero_point = None if weight.zero_point is None else weight.zero_point.to("meta")
    return replace(weight, codes=weight.codes.to("meta"), scale=weight.scale.to("meta"), zero_point=zero_point)


@lru_cache
def _form(method: str, num_bits: int) -> tuple[bool, str | None]:
    """Whether a method stores zero points at these bits, and the name of a method that it writes beside a weight."""
    if method == "auto":
        from asrcompress.quantizers.auto import candidates

        names = candidates(num_bits)
        return any(_form(name, num_bits)[0] for name in names), max(names, key=len)
    example = torch.linspace(-1.0, 2.0, 8).reshape(1, 8)
    packed = get_quantizer(method)(
        example,
        num_bits=num_bits,
        granularity=Granularity("per_channel"),
        name="example",
        statistics=InputStatistics.unknown(8),
    )
    return packed.zero_point is not None, packed.method
