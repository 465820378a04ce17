"""The float model through the modules of level integer-only, with a hand on what passes between them.

Nothing is packed: values are shown at every site, and may go on as if they had been put on a grid of few bits. Weights are
those of the float model itself, shared with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.integers.crossing import enter_integers, leave_integers
from asrcompress.integers.grid import Grid
from asrcompress.integers.observers import Observer
from asrcompress.integers.sites import SHOWN_ALONE, WITHOUT_GRID, Sites, is_operand, kind_of
from asrcompress.integers.softmax import coded_weights
from asrcompress.modules.swap import find_weights, make_static, swap
from asrcompress.modules.weight import FloatWeight
from asrcompress.ops.load import Source, build_model


def float_source(source: Source) -> Source:
    """The source with packed weights as the floats that they stand for."""
    if source.content is None:
        return source
    content = source.content
    tensors = {**source.tensors, **{name: weight.dequantize() for name, weight in content.quantized.items()}}
    tensors |= {alias: tensors[name] for alias, name in content.tied.items() if name in tensors}
    return replace(source, tensors=tensors, content=None)


def build_observed(
    source: Source,
    sites: Sites,
    *,
    share: nn.Module | None = None,
    weights: Mapping[str, FloatWeight] | None = None,
) -> nn.Module:
    """The float model with a twin for every module that has one, observed by `sites`, in eval mode.

    Args:
        source: of a float model; see `float_source`.
        sites: that record or alter.
        share: a float model of the same source, whose parameters become the new model's: what is written into them is in both.
        weights: of every untied weight that can be packed, to be watched; by default made here.
    """
    if sites.record is None:
        sites.record = lambda site, values: None  # sites that are neither given grids nor a recorder run on integers
    model = build_model(source).module
    if share is not None:
        for name, parameter in model.named_parameters():
            parameter.data = share.get_parameter(name).data
    if weights is None:
        weights = {
            site.name: FloatWeight(model.get_parameter(site.name)) for site in find_weights(model) if not site.tied_to
        }
    return make_static(swap(model, weights).eval(), sites)


class Ranges:
    """Lowest and highest value of every site that is passed; hands values on as they are."""

    def __init__(self) -> None:
        self.observers: dict[str, Observer] = {}

    def __call__(self, site: str, values: Tensor) -> Tensor:
        """Take note of values at a site."""
        observer = self.observers.setdefault(site, Observer())
        if values.numel():
            low, high = (float(end) for end in torch.aminmax(values.detach()))
            if not (abs(low) < float("inf") and abs(high) < float("inf")):
                raise AsrCompressError(f"{site}: NaN or infinity; the checkpoint or the audio is broken")
            observer.low, observer.high = min(observer.low, low), max(observer.high, high)
        return values

    def grid(self, site: str, num_bits: int) -> Grid:
        """The grid that level integer-only would give the site with these bits, by minmax."""
        bits = min(num_bits, 8) if is_operand(site) else num_bits
        return self.observers[site].grid(bits, symmetric=not kind_of(site).startswith("in"), method="minmax")


class Alteration:
    """What goes on from some sites: what a grid of few bits, or softmax's codes of few bits, leave of the values.

    Gradients pass straight through.

    Args:
        bits: of each site.
        ranges: of each site, from the float model.
    """

    def __init__(self, bits: Mapping[str, int], ranges: Ranges) -> None:
        self.bits = dict(bits)
        self.grids = {
            site: ranges.grid(site, count) for site, count in bits.items() if kind_of(site) not in WITHOUT_GRID
        }

    def __call__(self, site: str, values: Tensor) -> Tensor:
        """The values of a site as they go on."""
        if site not in self.bits:
            return values
        plain, grid = values.detach(), self.grids.get(site)
        if grid is None:
            altered = coded_weights(plain, self.bits[site])
        else:
            codes = enter_integers(plain, grid.scale, grid.zero_point, grid.num_bits)
            altered = leave_integers(codes, grid.scale, grid.zero_point)
        return altered + (values - plain) if values.requires_grad else altered


def require_alterable(sites: Iterable[str], passed: Iterable[str]) -> None:
    """Raise where a site is not passed, or is only shown, so that altering it would change nothing."""
    known = set(passed)
    for site in sites:
        if site not in known:
            raise AsrCompressError(f"{site}: is passed by no activation of the model")
        if kind_of(site) in SHOWN_ALONE:
            raise AsrCompressError(
                f"{site}: is inside a loop over time, where activations cannot be changed one by one"
            )
