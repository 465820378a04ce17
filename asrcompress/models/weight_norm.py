"""Weight norm, folded: a length `weight_g` and a direction `weight_v` become the one `weight` that is multiplied with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError

# (length, direction) as torch names them: torch.nn.utils.weight_norm's, then its successor's in parametrizations.
SUFFIXES = ((".weight_g", ".weight_v"), (".parametrizations.weight.original0", ".parametrizations.weight.original1"))


def fold_weight_norm(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with every pair of length and direction replaced by its weight, bit for bit what torch computes.

    Raises:
        AsrCompressError: one of a pair is missing, or their shapes do not go together; names `path`.
    """
    folded = dict(tensors)
    for length_suffix, direction_suffix in SUFFIXES:
        stems = {
            name.removesuffix(s) for name in tensors for s in (length_suffix, direction_suffix) if name.endswith(s)
        }
        for stem in sorted(stems):
            length, direction = folded.pop(stem + length_suffix, None), folded.pop(stem + direction_suffix, None)
            axes = [] if length is None or direction is None else _axes(length, direction)
            if length is None or direction is None or not axes:
                raise AsrCompressError(
                    f"{path}: {stem} has a weight norm whose parts are missing or do not go together; "
                    "the file is damaged, copy it again from where it came"
                )
            folded[f"{stem}.weight"] = torch._weight_norm(direction.float(), length.float(), axes[0])
    return folded


def _axes(length: Tensor, direction: Tensor) -> list[int]:
    """Axes along which there is one length for each slice, the longest first; none where the shapes do not fit."""
    if length.dim() != direction.dim() or not direction.is_floating_point() or not length.is_floating_point():
        return []
    fitting = [axis for axis in range(length.dim()) if length.numel() == length.shape[axis] == direction.shape[axis]]
    return sorted(fitting, key=lambda axis: -length.shape[axis])
