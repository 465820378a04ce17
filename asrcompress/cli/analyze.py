"""`asrcompress analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from asrcompress.cli.honesty import honesty_lines
from asrcompress.cli.options import DataDir, Force, Json, ModelArgument, Output, Threads, Trust
from asrcompress.cli.output import aligned, emit, emit_json, format_bytes, path_from_stdin, say
from asrcompress.errors import EXIT_GATE_FAILED


def analyze(
    model: ModelArgument = None,
    output: Output = None,
    duration_s: Annotated[
        Optional[float],
        typer.Option(
            help="Seconds of audio to count MACs for. [default: 10 for ASR, 1 for keywords]", show_default=False
        ),
    ] = None,
    tokens: Annotated[
        Optional[int], typer.Option(help="Tokens that a decoder is run over. [default: 4 a second]", show_default=False)
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Inputs counted together.")] = 1,
    macs_convention: Annotated[
        str,
        typer.Option(
            help="What 'macs' means: true; thop (as that package counts today); thop-conv-bias (as it once did)."
        ),
    ] = "true",
    require_level: Annotated[
        Optional[str],
        typer.Option(
            help="Exit with 1 unless the audit proves this level: partial, stored, computed or integer-only.",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        Optional[Path],
        typer.Option(
            help="The float model: adds how close the logits are, in dB. With --reference-data.", show_default=False
        ),
    ] = None,
    reference_data: Annotated[
        Optional[Path],
        typer.Option(help="Speech that both are run on: up to 16 utterances of this set.", show_default=False),
    ] = None,
    reference_split: Annotated[
        Optional[str], typer.Option(help="Of a keyword set. [default: train, else val]", show_default=False)
    ] = None,
    threads: Threads = 1,
    data_dir: DataDir = None,
    trust_checkpoint: Trust = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """List every module with its parameters, stored bytes and MACs, and audit what the file claims. Writes MODEL.analyze.json.

    Exit code 1: --require-level names a level that is not reached; the sidecar is written all the same.

    \b
    Example:
      asrcompress analyze samples/asr/checkpoint_best.pt -o /tmp/float.analyze.json
    """
    path = path_from_stdin("model") if model in (None, "-") else model

    from asrcompress.cli.trust import warn_of_trust
    from asrcompress.ops.analyze import AnalyzeConfig
    from asrcompress.ops.analyze import analyze as run
    from asrcompress.ops.audit import check_level, shortfall
    from asrcompress.ops.load import set_threads

    if require_level is not None:
        check_level(require_level)
    config = AnalyzeConfig(
        duration_s=duration_s, num_tokens=tokens, batch_size=batch_size, macs_convention=macs_convention, reference=reference,
        reference_data=reference_data, reference_split=reference_split,
    )  # fmt: skip
    set_threads(threads)
    if trust_checkpoint:
        warn_of_trust(path)
    _, record = run(path, config, output=output, data_dir=data_dir, trust=trust_checkpoint, force=force)
    for line in _table(record):
        say(line)
    if as_json:
        emit_json(record)
    else:
        emit(str(path))  # the model's path: the next command in a pipe takes a model
    missing = shortfall(record["honesty"], require_level) if require_level is not None else None
    if missing is not None:
        say(f"{path}: {missing}")
        raise typer.Exit(EXIT_GATE_FAILED)


def _table(record: dict[str, Any]) -> list[str]:
    """Layers, totals by kind, and the sentences that people look for."""
    model, metrics = record["model"], record["metrics"]
    rows: list[tuple[str, ...]] = [("module", "class", "shape", "params", "bytes", "MACs", "bits")]
    for row in record["layers"]:
        shape = "x".join(map(str, row["shape"])) if row["shape"] else ""
        bits = f"tied: {row['tied_to']}" if row["tied_to"] else str(row["num_bits"] or "float")
        rows.append(
            (
                row["name"] or "(model)",
                row["class"],
                shape,
                f"{row['num_params']:,}",
                f"{row['size_bytes']:,}",
                f"{row['macs']:,}",
                bits,
            )
        )
    lines = aligned(rows)
    kinds: list[tuple[str, ...]] = [("kind", "params", "bytes", "MACs")]
    kinds += [(t["kind"], f"{t['num_params']:,}", f"{t['size_bytes']:,}", f"{t['macs']:,}") for t in record["totals"]]
    lines += ["", *aligned(kinds), ""]
    size = f"{model['file']}: {model['family']}, {model['num_params']:,} parameters, {metrics['size_bytes']:,} bytes on disk"
    if metrics["optimizer_size_bytes"]:
        share = metrics["optimizer_size_bytes"] / metrics["size_bytes"]
        size += f": {metrics['model_size_bytes']:,} model, {metrics['optimizer_size_bytes']:,} optimizer state"
        size += f" ({share:.0%} of the file, not counted as the model)"
    lines.append(size)
    shape = record["input"]
    tokens = f" and {shape['num_tokens']} tokens" if shape["num_tokens"] else ""
    count = f"batch {shape['batch_size']}, {shape['duration_s']:g} s ({shape['num_frames']} frames){tokens}"
    true = (
        ""
        if record["macs_convention"] == "true"
        else f" as {record['macs_convention']} counts; true {metrics['true_macs']:,}"
    )
    lines.append(f"MACs for {count}: {metrics['macs']:,}{true}; thop says {metrics['thop_macs']:,} of the float model")
    if record["reference"]:
        found = record["reference"]
        lines.append(
            f"logits: signal-to-quantization-noise {found['sqnr_db']:.1f} dB against {found['file']}, on "
            f"{found['data']['num_utterances']} utterances of {found['data']['file']}"
        )
    kinds_of_bytes = _ledger(record)
    lines.append("bytes: " + ", ".join(f"{kind} {format_bytes(size)}" for kind, size in kinds_of_bytes.items()))
    said = kinds_of_bytes.get("header", 0) + kinds_of_bytes.get("json", 0)
    if model["format"] == "asrcompress.v1" and said > metrics["size_bytes"] / 3:
        lines.append(
            f"note: header and record are {said / metrics['size_bytes']:.0%} of the file; --compact of quantize and sparsify stores them "
            "in a tenth of that"
        )
    return [*lines, "", *honesty_lines(record["honesty"])]


def _ledger(record: dict[str, Any]) -> dict[str, int]:
    kinds: dict[str, int] = {}
    for entry in record["ledger"]["entries"]:
        kinds[entry["kind"]] = kinds.get(entry["kind"], 0) + entry["size_bytes"]
    return kinds
