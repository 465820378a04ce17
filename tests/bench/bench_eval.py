"""What `asrcompress eval` takes for a whole test set, as float and as integers, beam search included. Not a test: it asserts nothing.

usage: OMP_NUM_THREADS=1 python -m tests.bench.bench_eval [CHECKPOINT TABLE] [--systems float32 computed] [--batch-size 1 16] [--rounds 3] [--beam 5]
       [--limit N] [--utterances 60] [--threads 1] [--json FILE]

Processes: the command as a user runs it, in turn within every round: CPU seconds of the whole process and the real-time factor of
its sidecar (features and search; the clock). Parts: in this process, the first `--utterances` of the table, CPU
seconds of features, encoder and beam search, the systems in turn within every round. Medians; speeds are ratios within
a round. `computed` is `quantize --bits 8 --level computed`, W8A8.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.bench.rounds import finish, say

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples" / "asr"
FLOAT = "float32"
LABELS = {
    FLOAT: "float32",
    "stored": "int8 weights (stored)",
    "computed": "W8A8 (computed)",
    "integer-only": "integers only",
}


def artifacts(args: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """The files to compare, by system."""
    from asrcompress.ops.quantize import Calibrate, QuantizeConfig, quantize

    paths = {FLOAT: args.checkpoint}
    for level in args.systems:
        if level != FLOAT:
            paths[level] = folder / f"int8.{level}.safetensors"
            config = QuantizeConfig(num_bits=8, level=level, calibration_limit=50)
            quantize(
                args.checkpoint, paths[level], config, calibrate=Calibrate(args.table) if config.is_static else None
            )
    return {name: paths[name] for name in args.systems}


def evaluate(path: Path, args: argparse.Namespace, batch_size: int, folder: Path) -> dict[str, Any]:
    """One `asrcompress eval` in a process of its own."""
    output = folder / "eval.json"
    command = [
        sys.executable,
        "-m",
        "asrcompress",
        "eval",
        str(path),
        "--data",
        str(args.table),
        "--beam",
        str(args.beam),
    ]
    command += ["--batch-size", str(batch_size), "--threads", str(args.threads), "--force", "-o", str(output)]
    command += ["--limit", str(args.limit)] if args.limit else []
    begin = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, text=True)
    said = child.stdout.read() if child.stdout else ""
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{path}: eval failed: {said.strip().splitlines()[-1:]}")
    record = json.loads(output.read_text())
    return {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "wall_s": time.perf_counter() - begin,
        "audio_s": record["data"]["duration_s"],
        "num_utterances": record["metrics"]["num_scored"],
        "wer": record["metrics"]["wer"],
        "real_time_factor": record["metrics"]["real_time_factor"],
    }


def processes(paths: dict[str, Path], args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row for each system and batch size: medians, and speeds relative to float at the same batch size."""
    runs: dict[tuple[int, str], list[dict[str, Any]]] = {(size, name): [] for size in args.batch_size for name in paths}
    for turn in range(args.rounds):
        for (size, name), found in runs.items():
            found.append(evaluate(paths[name], args, size, folder))
            say(f"round {turn + 1}: {name}, batch {size}: {found[-1]['cpu_s']:.1f} CPU s")
    rows = []
    for (size, name), found in runs.items():
        row = {
            "part": "process",
            "system": name,
            "label": LABELS[name],
            "batch_size": size,
            "beam": args.beam,
            "rounds": args.rounds,
        }
        row |= {key: found[0][key] for key in ("audio_s", "num_utterances", "wer")}
        row |= {key: statistics.median(run[key] for run in found) for key in ("cpu_s", "wall_s", "real_time_factor")}
        row["speed_vs_float"] = ratio(runs, (size, name), (size, FLOAT), "cpu_s")
        row["speed_vs_float_real_time"] = ratio(runs, (size, name), (size, FLOAT), "real_time_factor")
        rows.append(row)
    return rows


def ratio(runs: dict[Any, list[dict[str, Any]]], own: Any, base: Any, key: str) -> float | None:
    """Median over rounds of base / own; None where the base was not run."""
    if base not in runs:
        return None
    return statistics.median(a[key] / b[key] for a, b in zip(runs[base], runs[own], strict=True))


class Stopwatch:
    """CPU seconds by part; what is wrapped counts for its part and not for the one around it."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self.inner_s = 0.0

    def wrap(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            outer, self.inner_s = self.inner_s, 0.0
            begin = time.process_time()
            try:
                return work(*args, **kwargs)
            finally:
                took = time.process_time() - begin
                self.parts[part] = self.parts.get(part, 0.0) + took - self.inner_s
                self.inner_s = outer + took

        return timed


def parts(paths: dict[str, Path], args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each system and part, one utterance at a time."""
    from asrcompress.ops.load import load_model
    from asrcompress.speech.audio import read_audio
    from asrcompress.speech.datasets import read_utterances

    heard = [
        read_audio(item.audio, sample_rate_hz=16_000)
        for item in read_utterances(args.table).utterances[: args.utterances]
    ]
    watches: dict[str, Stopwatch] = {}
    runs: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {}
    for name, path in paths.items():
        model, watch = load_model(path, fused=True), Stopwatch()
        family, spec, module = model.source.family, model.source.spec, model.module
        encoder: Any = module.encoder
        encoder.forward = watch.wrap("encoder", encoder.forward)
        features = watch.wrap("features", lambda audio, family=family, spec=spec: family.features(spec, audio))
        runs[name] = features, watch.wrap("beam search", family.transcriber(spec, module, beam=args.beam))
        watches[name] = watch
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for turn in range(args.rounds + 1):  # the first is a warm-up
        for name, (features, decode) in runs.items():
            watches[name].parts = {}
            for audio in heard:
                decode([features(audio)])
            if turn:
                found = watches[name].parts
                rounds[name].append(found | {"all": sum(found.values())})
    audio_s = sum(map(len, heard)) / 16_000
    return [
        {
            "part": part, "system": name, "label": LABELS[name], "batch_size": 1, "beam": args.beam, "rounds": args.rounds,
            "num_utterances": len(heard), "audio_s": audio_s, "cpu_s": statistics.median(run[part] for run in found),
            "speed_vs_float": statistics.median(a[part] / b[part] for a, b in zip(rounds[FLOAT], found, strict=True)) if FLOAT in rounds else None,
        }
        for name, found in rounds.items()
        for part in ("features", "encoder", "beam search", "all")
    ]  # fmt: skip


def show(rows: list[dict[str, Any]]) -> None:
    """Two tables for the terminal."""
    print(f"{'':24}{'batch':>6}{'CPU s':>9}{'wall s':>9}{'RTF':>9}{'x float':>9}{'WER':>9}")
    for row in rows:
        if row["part"] == "process":
            speed = f"{row['speed_vs_float']:.2f}" if row["speed_vs_float"] else ""
            print(
                f"{row['label']:24}{row['batch_size']:6}{row['cpu_s']:9.2f}{row['wall_s']:9.2f}{row['real_time_factor']:9.4f}{speed:>9}"
                f"{100 * row['wer']:8.2f}%"
            )
    print(f"\n{'':24}{'part':>14}{'CPU s':>9}{'of audio':>10}{'x float':>9}")
    for row in rows:
        if row["part"] != "process":
            speed = f"{row['speed_vs_float']:.2f}" if row["speed_vs_float"] else ""
            print(
                f"{row['label']:24}{row['part']:>14}{row['cpu_s']:9.2f}{row['cpu_s'] / row['audio_s']:10.4f}{speed:>9}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, default=SAMPLES / "checkpoint_best.pt")
    parser.add_argument("table", nargs="?", type=Path, default=SAMPLES / "test.tsv")
    parser.add_argument("--systems", nargs="+", choices=tuple(LABELS), default=[FLOAT, "computed"])
    parser.add_argument("--batch-size", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--utterances", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        paths = artifacts(args, Path(folder))
        rows = processes(paths, args, Path(folder)) if args.batch_size else []
        rows += parts(paths, args) if args.utterances else []
    show(rows)
    finish("eval", rows, args.json, num_threads=args.threads)


if __name__ == "__main__":
    main()
