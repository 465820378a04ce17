"""Grids as the artifact's JSON holds them: a tree of module names, since hundreds of sites share their beginnings.

A site `decoder.fc1:in` is {"decoder": {"fc1": {":in": grid}}}. A grid is its scale alone where the zero point is 0 and
the bits are what its kind usually has (8 for operands of products, else 16), or [scale, zero_point, num_bits].
"""

from __future__ import annotations

from typing import Any

from asrcompress.integers.grid import Grid
from asrcompress.integers.sites import is_operand

MAX_DEPTH = 64


def to_tree(grids: dict[str, Grid]) -> dict[str, Any]:
    """site -> grid, as nested objects of JSON."""
    tree: dict[str, Any] = {}
    for site, grid in grids.items():
        module, _, kind = site.rpartition(":")
        node = tree
        for part in module.split(".") if module else ():
            node = node.setdefault(part, {})
        usual = grid.zero_point == 0 and grid.num_bits == usual_bits(site)
        node[f":{kind}"] = grid.scale if usual else grid.to_json()
    return tree


def from_tree(tree: dict[str, Any], module: str = "", depth: int = 0) -> dict[str, Grid]:
    """The inverse of `to_tree`, checked.

    Raises:
        AsrCompressError: a grid is none.
        ValueError: the tree is deeper than any model.
    """
    if depth > MAX_DEPTH:
        raise ValueError("its grids are nested without end")
    grids: dict[str, Grid] = {}
    for key, value in tree.items():
        if key.startswith(":"):
            site = f"{module}{key}"
            listed = value if isinstance(value, list) else [value, 0, usual_bits(site)]
            grids[site] = Grid.from_json(listed)
        else:
            grids |= from_tree(value, f"{module}.{key}" if module else key, depth + 1)
    return grids


def usual_bits(site: str) -> int:
    """Bits that go without saying."""
    return 8 if is_operand(site) else 16
