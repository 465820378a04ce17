"""Which weights a file's model has, and messages that name the file: what every command that makes an artifact begins with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from asrcompress.errors import AsrCompressError
from asrcompress.modules.swap import WeightSite, find_weights
from asrcompress.ops.load import Source, build_float


def find_sites(source: Source) -> list[WeightSite]:
    """Every weight of the source's model that can be packed or pruned."""
    with torch.device("meta"):  # names and shapes only; nothing is allocated
        return find_weights(build_float(source))


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Errors say which file they are about."""
    try:
        yield
    except AsrCompressError as error:
        raise AsrCompressError(f"{path}: {error}") from error
