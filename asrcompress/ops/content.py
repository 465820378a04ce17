"""From packed weights to all that an artifact holds: which tensors stay in float, what is tied, what the recipe records.

Looks at names, shapes and options, never at values, so it serves for files that are yet to be made (plan_sizes.py), too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from asrcompress.artifact import ArtifactContent
from asrcompress.grids import QuantizedWeight
from asrcompress.mapped import Made
from asrcompress.modules.swap import WeightSite
from asrcompress.ops.compress import islands
from asrcompress.ops.load import Source
from asrcompress.ops.plan_file import PlanFile
from asrcompress.ops.recipe import QuantizeConfig
from asrcompress.sparse import SparseWeight


def assemble(
    source: Source,
    config: QuantizeConfig,
    sites: Sequence[WeightSite],
    quantized: Mapping[str, QuantizedWeight],
    floats: Mapping[str, Tensor],
    calibration: dict[str, Any] | None = None,
    sparse: Mapping[str, SparseWeight] | None = None,
) -> ArtifactContent:
    """The content, without grids of activations.

    Args:
        source: what it is made from.
        config: the options that led to `quantized`.
        sites: every weight that can be packed.
        quantized: the packed weights, carried over ones included.
        floats: the tensors that are not, by name.
        calibration: what `CalibrationData.describe` gives, where something was calibrated.
        sparse: the weights in float of which only some are stored.
    """
    recipe = resolve_recipe(source, config, sites, quantized, calibration)
    return assemble_step(source, recipe, tied_names(sites), quantized, floats, sparse or {})


def assemble_step(
    source: Source,
    recipe: dict[str, Any],
    tied: dict[str, str],
    quantized: Mapping[str, QuantizedWeight],
    floats: Mapping[str, Tensor],
    sparse: Mapping[str, SparseWeight],
) -> ArtifactContent:
    """The content that a step with this recipe makes of `source`, without grids of activations."""
    return ArtifactContent(
        family=source.spec.family,
        config=source.spec.config,
        vocabulary=source.spec.vocabulary,
        recipe=recipe,
        # Sizes stand in the sidecar: these bytes count. A large file's sha256 is on its way until it is written.
        parent=Made(("sha256",), lambda _: source.sha256),
        quantized=quantized,
        floats=floats,
        tied=tied,
        sparse=sparse,
    )


def carried_sparse(source: Source, chosen: Collection[str]) -> Mapping[str, SparseWeight]:
    """The sparse floats of an artifact that are not among the `chosen` weights; made when asked for."""
    if source.content is None:
        return {}
    before = source.content.sparse
    return Made((name for name in before if name not in chosen), before.__getitem__)


def float_tensors(content: ArtifactContent) -> dict[str, Tensor]:
    """What a float model is filled with: floats, and sparse ones with their zeros."""
    return {**content.floats, **{name: weight.dequantize() for name, weight in content.sparse.items()}}


def tied_names(sites: Sequence[WeightSite]) -> dict[str, str]:
    """Alias -> the name under which the weight is stored."""
    return {site.name: site.tied_to for site in sites if site.tied_to}


def left_in_float(
    tensors: Mapping[str, Tensor], stored: Collection[str], sites: Sequence[WeightSite]
) -> dict[str, Tensor]:
    """The tensors that are neither `stored` as weights nor another name of one that is."""
    tied = tied_names(sites)
    return {name: tensor for name, tensor in tensors.items() if name not in stored and name not in tied}


def resolve_recipe(
    source: Source,
    config: QuantizeConfig,
    sites: Sequence[WeightSite],
    quantized: Mapping[str, QuantizedWeight],
    calibration: dict[str, Any] | None,
) -> dict[str, Any]:
    """This step's options, the level that the file reaches by them, and the recipes of earlier steps, oldest first.

    Level partial: some weight that could be packed is in float.
    """
    recipe = config.to_json()
    if not quantized.keys() >= {site.name for site in sites if not site.tied_to}:
        recipe["level"] = "partial"
    if source.content:
        earlier = dict(source.content.recipe)
        recipe["previous"] = [*earlier.pop("previous", []), earlier]
    if config.is_static and (kept := islands(sites, quantized, config)):
        recipe["islands"], recipe["level"] = kept, "partial"
    elif recipe["level"] == "computed" and any(config.level_of(site.name) == "stored" for site in sites):
        recipe["level"] = "stored"  # a rule has it so
    if calibration:
        recipe["calibration"] = calibration
    return recipe


def whole_recipe(content: ArtifactContent, config: QuantizeConfig, plan: PlanFile | None) -> dict[str, Any]:
    """What the sidecar records, where bytes do not count: the artifact's recipe, and a plan with all its rules."""
    recipe = dict(content.recipe)
    if plan:
        recipe |= {"plan": plan.describe(), "rules": config.rules_to_json()}
    return recipe
