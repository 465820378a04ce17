"""What `quantize` and `sparsify` say of the file that they wrote, and how they hand it on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from asrcompress.cli.output import emit, emit_json, format_bytes, say

if TYPE_CHECKING:
    from asrcompress.ops.write import WrittenArtifact


def tell_written(written: WrittenArtifact, more: Iterable[str], *, way_out: str, as_json: bool) -> None:
    """Sizes and what else is worth a line on stderr; the path, or the sidecar, on stdout.

    Args:
        written: the file and its sidecar.
        more: lines of the command's own.
        way_out: what to do about a file that is not smaller than what it was made from.
        as_json: the sidecar instead of the path.
    """
    path, record = written.path, written.record
    metrics, parent = record["metrics"], record["parent"]
    dropped = parent["optimizer_size_bytes"]
    say(
        f"{path}: {format_bytes(metrics['size_bytes'])}, {metrics['model_size_ratio']:.2%} of the model's "
        f"{format_bytes(parent['model_size_bytes'])} and {metrics['size_ratio']:.2%} of the file {parent['file']}"
        + (f" ({format_bytes(dropped)} of optimizer state dropped)" if dropped else "")
    )
    if uncoded := metrics.get("size_bytes_without_entropy_coding"):
        saved = 1 - metrics["size_bytes"] / uncoded
        say(f"entropy coding: {format_bytes(uncoded)} without it, {saved:.2%} saved")
    if plain := metrics.get("size_bytes_without_compact"):
        say(f"compact: {format_bytes(plain)} without it, {1 - metrics['size_bytes'] / plain:.2%} saved")
    if warning := record["honesty"].get("warning"):
        say(f"WARNING: {warning}")
    if written.removed:
        say(f"removed what described the file before: {', '.join(path.name for path in written.removed)}")
    training = record.get("training")
    if training and training["num_updates"] and not training["best"]["update"]:
        start = "the student as it began" if "distilled" in record["recipe"] else "the one-shot result"
        smaller = training["options"]["learning_rate"] / 3
        judge = "had a smaller loss on --dev" if training["options"].get("select") == "loss" else "was better"
        say(
            f"note: no evaluation {judge} than the start, so {path} is {start}; try --learning-rate {smaller:.0e}, or "
            "more --epochs"
        )
    for line in more:
        say(line)
    if metrics["model_size_ratio"] >= 1:
        say(f"note: {path} is not smaller than what it was made from; {way_out}")
    if as_json:
        emit_json(record)
    else:
        emit(str(path))
