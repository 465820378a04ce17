"""The zip container that torch.save and torch.jit.save write: which records it has and where they lie.

Does not interpret pickles; pickled.py and torchscript.py do.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from asrcompress.errors import AsrCompressError

LOCAL_HEADER_SIZE = 30
MAX_CODE_SIZE = 1 << 26  # text of TorchScript's compressed source files; real ones are under 10 MB


@dataclass(frozen=True)
class TorchZip:
    """An opened index. `records`: entries by name below the archive's single top folder."""

    path: Path
    records: dict[str, zipfile.ZipInfo]

    @property
    def is_torchscript(self) -> bool:
        """Whether torch.jit.save wrote it."""
        return "constants.pkl" in self.records

    def read(self, name: str) -> bytes:
        """The bytes of a small record. Raises KeyError without it, zipfile.BadZipFile when damaged."""
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(self.records[name])

    def offset(self, name: str) -> int:
        """Where a stored record's bytes begin in the file."""
        with open(self.path, "rb") as handle:
            return _data_offset(handle, self.records[name])

    def texts(self, prefix: str, suffix: str) -> dict[str, str]:
        """Text records below `prefix` that end with `suffix`, by name."""
        chosen = {n: r for n, r in self.records.items() if n.startswith(prefix) and n.endswith(suffix)}
        if sum(record.file_size for record in chosen.values()) > MAX_CODE_SIZE:
            raise ValueError(f"its {prefix} records are larger than {MAX_CODE_SIZE} bytes")
        with zipfile.ZipFile(self.path) as archive:
            return {name: archive.read(record).decode() for name, record in chosen.items()}


def _data_offset(handle: IO[bytes], record: zipfile.ZipInfo) -> int:
    handle.seek(record.header_offset)
    header = handle.read(LOCAL_HEADER_SIZE)
    if len(header) != LOCAL_HEADER_SIZE or header[:4] != b"PK\x03\x04":
        raise ValueError(f"its record {record.filename} has no header")
    name_size, extra_size = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    return record.header_offset + LOCAL_HEADER_SIZE + name_size + extra_size


def open_torch_zip(path: Path) -> TorchZip:
    """Read a zip file's index and check that torch wrote it.

    Raises:
        AsrCompressError: it is cut short, is another kind of zip, or was repacked with compression.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except zipfile.BadZipFile:
        raise AsrCompressError(
            f"{path}: is cut short or damaged (its zip directory is unreadable); copy it again from where it came"
        ) from None
    records = {info.filename.partition("/")[2]: info for info in infos}
    if "data.pkl" not in records:
        raise AsrCompressError(
            f"{path}: is a zip file that torch did not write (no data.pkl); unpack it and give the checkpoint inside"
        )
    if len(records) != len(infos) or len({info.filename.partition("/")[0] for info in infos}) != 1:
        raise AsrCompressError(
            f"{path}: has zip records that torch does not write; load it with torch and save it again with torch.save"
        )
    for name, record in records.items():
        if record.compress_type != zipfile.ZIP_STORED and not name.startswith("code/"):
            raise AsrCompressError(
                f"{path}: was repacked with compression; load it with torch and save it again with torch.save"
            )
    return TorchZip(path, records)
