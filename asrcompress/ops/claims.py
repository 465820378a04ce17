"""What a recipe says of the zeros in a model's weights, so that an audit can count them.

Reads the recipe as the artifact records it; counting is in metrics/honesty_weight.py.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import torch

from asrcompress.errors import AsrCompressError
from asrcompress.metrics.honesty_weight import Claim
from asrcompress.modules.swap import find_weights
from asrcompress.ops.choice import as_choice, check_said, drops, said_of
from asrcompress.ops.load import Source, build_float
from asrcompress.ops.recipe import recorded_rules


def recipe_claims(source: Source) -> dict[str, Claim]:
    """What the last step of an artifact's recipe says of the zeros in its weights: a pattern, or a fraction.

    A plan's rules are not recorded, so nothing is claimed by one; the weights' own claims are counted all the same.

    Raises:
        AsrCompressError: the recipe is damaged.
    """
    try:
        return _claims(source, source.content.recipe if source.content else {})
    except (AsrCompressError, TypeError, ValueError, AttributeError) as error:
        raise AsrCompressError(f"{source.path}: its recipe is damaged ({error}); write the file again") from error


def _claims(source: Source, recipe: dict[str, Any]) -> dict[str, Claim]:
    said = check_said(recipe.get("pattern"), recipe.get("sparsity"))
    rules = recorded_rules(recipe)
    if "plan" in recipe or not any(
        map(drops, (said, *(one for rule in rules for one in (rule.pattern, rule.sparsity))))
    ):
        return {}
    with torch.device("meta"):
        sites = find_weights(build_float(source))
    left = {
        site.tied_to or site.name
        for site in sites
        if any(fnmatchcase(site.name, glob) for glob in recipe.get("exclude", ()))
        or [rule.level for rule in rules if rule.level and rule.fits(site.name)][-1:] == ["float"]
    }
    claims: dict[str, Claim] = {}
    for site in sites:
        included = any(fnmatchcase(site.name, glob) for glob in recipe.get("include", ("*",)))
        choice = as_choice(said_of(site.name, said, None, rules)[0])
        if included and choice is not None and (first := site.tied_to or site.name) not in left:
            claims.setdefault(first, choice)
    return claims
