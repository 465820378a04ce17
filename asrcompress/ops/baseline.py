"""The earlier run that eval compares with: reading it, and finding before any decoding that it compares.

The difference itself is the scorers' work, utterance by utterance.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrcompress import sidecar
from asrcompress.errors import AsrCompressError


@dataclass(frozen=True)
class Baseline:
    """An earlier run's sidecar and its utterances, by id."""

    path: Path
    record: dict[str, Any]
    utterances_path: Path
    utterances: dict[str, dict[str, Any]]


def read_baseline(path: Path) -> Baseline:
    """An eval sidecar and the utterances file that it names, which must lie beside it and be the one that eval wrote."""
    record = sidecar.read(path).record
    name = record.get("utterances_file")
    if record["kind"] != "eval" or not isinstance(name, str):
        raise AsrCompressError(
            f"{path}: is not a sidecar of asrcompress eval; --baseline needs one, with its utterances file"
        )
    if not name or name != Path(name).name or "\0" in name:
        raise AsrCompressError(f"{path}: utterances_file {name!a} is not a plain name; evaluate the baseline again")
    file = path.with_name(name)
    try:
        content = file.read_bytes()
        lines = [json.loads(line) for line in content.decode().split("\n") if line]
        utterances = {str(line["id"]): line for line in lines}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _not_usable(path, file, f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if record.get("utterances_sha256") not in (None, hashlib.sha256(content).hexdigest()):
        raise _not_usable(path, file, "are not those that it was written with (another sha256)")
    if len(utterances) != len(lines):
        raise _not_usable(path, file, "name an id twice")
    return Baseline(path, record, file, utterances)


def comparable_values(
    baseline: Baseline,
    value: str,
    ids: Sequence[str],
    *,
    data: dict[str, Any],
    decoding: dict[str, Any],
    normalizer: dict[str, str] | None,
) -> list[float]:
    """What the baseline says of these utterances, in their order: their `value`, "errors" or "score".

    Raises:
        AsrCompressError: it was measured on another test set, with another normaliser, or decoded differently, or
            its utterances are not exactly these.
    """
    there = baseline.record["data"]
    if there["sha256"] != data["sha256"]:
        raise AsrCompressError(
            f"{baseline.path}: was measured on another test set: {_set(there)} there, {_set(data)} here; "
            "evaluate both on the same set, with the same --limit and --split"
        )
    for what, ours, theirs in (
        ("normaliser", normalizer, baseline.record.get("normalizer")),
        ("decoding", decoding, baseline.record.get("decoding")),
    ):
        if ours != theirs:
            raise AsrCompressError(
                f"{baseline.path}: was measured with another {what}: {theirs} there, {ours} here; evaluate both alike"
            )
    if baseline.utterances.keys() != set(ids):
        what = f"are {len(baseline.utterances)}, not the {len(ids)} of the test set"
        raise _not_usable(baseline.path, baseline.utterances_path, what)
    values = [baseline.utterances[identifier].get(value) for identifier in ids]
    for identifier, number in zip(ids, values, strict=True):
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < math.inf:
            what = f"have no '{value}' for {identifier}"
            raise _not_usable(baseline.path, baseline.utterances_path, what)
    return [number for number in values if number is not None]


def _not_usable(path: Path, file: Path, what: str) -> AsrCompressError:
    return AsrCompressError(
        f"{file}: the utterances of the baseline {path.name} {what}; put the file that eval wrote "
        "with it beside it, or evaluate the baseline's model again"
    )


def _set(data: dict[str, Any]) -> str:
    return f"{data.get('file')} with {data.get('num_utterances')} utterances (sha256 {str(data.get('sha256'))[:8]})"
