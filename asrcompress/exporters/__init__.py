"""Ways to hand a model to another program: name -> module, loaded when asked for.

An exporter is a module with

DEFAULT_SUFFIX                  what the default folder's name has after the model's: model.int8.safetensors -> model.int8-onnx
export(subject, files) -> Exported
                                writes files into `files` and says what they are. A model that it has no form for, or a package
                                that is missing, is one AsrCompressError that starts with the model's path

The folder appears under its name when all of it is there, and the sidecar after it; sizes, hashes and the sidecar are
ops/export.py's business. Exporters neither print nor know where the files will lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from asrcompress.errors import AsrCompressError

if TYPE_CHECKING:
    from torch import nn

    from asrcompress.artifact import ArtifactContent
    from asrcompress.models import ModelSpec

EXPORTERS = {
    "onnx": "asrcompress.exporters.onnx",
    "fairseq": "asrcompress.exporters.fairseq",
    "c": "asrcompress.exporters.c",
}


@dataclass(frozen=True)
class Subject:
    """What is exported.

    path, sha256, size_bytes: the file, as it was read.
    family, spec: the family's module, and what builds its model.
    content: what the artifact holds; None of a float checkpoint.
    module: built, filled and in eval mode, on the CPU; integer twins where the file has packed weights.
    data_dir: where the user says that a checkpoint's vocabulary files lie.
    """

    path: Path
    sha256: str
    size_bytes: int
    family: ModuleType
    spec: ModelSpec
    content: ArtifactContent | None
    module: nn.Module
    data_dir: Path | None = None


class Folder:
    """Where an exporter puts its files: a folder that does not have its name yet.

    Attributes:
        stem: what files may be named after: the name that the folder will have, without what says the format.
        roles: file name -> what the file is for, in a few words, in the order of writing.
    """

    def __init__(self, root: Path, stem: str) -> None:
        self._root = root
        self.stem = stem
        self.roles: dict[str, str] = {}

    def path(self, name: str, role: str) -> Path:
        """The path to write a file at, for whoever wants a path.

        Raises:
            ValueError: `name` has a folder in it, or was given before (a bug of the exporter).
        """
        if Path(name).name != name or name in ("", "..") or name in self.roles:
            raise ValueError(f"{name}: is no plain name, or was written before")
        self.roles[name] = role
        return self._root / name

    def write(self, name: str, role: str, data: bytes | str) -> None:
        """Write a whole file; text as UTF-8 with the line ends that it has."""
        self.path(name, role).write_bytes(data.encode() if isinstance(data, str) else data)


@dataclass(frozen=True)
class Exported:
    """What an exporter says of the files that it wrote.

    main: the file that a program is given; None where the folder is.
    record: plain JSON for the sidecar: opset, arithmetic, whatever there is to say.
    metrics: numbers that can be gated on, without the format's name, which is put in front; None: not measured.
    notes: lines for the person.
    """

    main: str | None
    record: dict[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, int | float | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def get_exporter(name: str) -> ModuleType:
    """The exporter called `name`. Raises AsrCompressError with the known names."""
    if name not in EXPORTERS:
        raise AsrCompressError(f"--to {name}: is not known; use one of {', '.join(EXPORTERS)}")
    return import_module(EXPORTERS[name])
