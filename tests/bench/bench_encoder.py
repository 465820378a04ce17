"""An encoder of 12 layers as a W8A8 artifact, beside torch, ONNX Runtime and other quantizers. Not a test: it asserts nothing.

usage: OMP_NUM_THREADS=1 python -m tests.bench.bench_encoder [--only ours,ort-int8] [--dim 256 512] [--batch 1 8] [--part layers whole]
       [--time 375] [--rounds 7] [--threads 1] [--json FILE]

Fairseq's s2t_transformer encoder, feed-forward 2048, heads of 64, every utterance 375 frames after subsampling. `layers`
is fed subsampled frames, `whole` filter banks. One process, contestants in turn within every round, medians; speeds
are ratios of CPU time within a round; larger batches take half the rounds. Without --only, everyone runs at d = 256 and
batch 1, all but what takes half a minute to compile at other widths, the main ones at larger batches and as `whole`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from tests.bench.encoder_contestants import CONTESTANTS, DEFAULT, Case, Run
from tests.bench.encoder_models import count_macs, inputs, write_checkpoint
from tests.bench.rounds import finish, interleave, say, speed_ratio

SMALLEST = 256
BASELINES = ("torch", "ort-int8")
COMPILED = ("torch-compiled", "torchao-compiled")  # half a minute each, so at one size alone
FEW = ("ours", "torch", "torch-int8", "ort", "ort-int8", "quanto-w8a8", "torchao")
WHOLE = ("ours", "torch", "torch-int8", "ort", "ort-int8")


def contestants(part: str, dim: int, batch: int) -> list[str]:
    """Who runs where nobody is named, so that all of it takes 5 minutes: everyone at the smallest size."""
    if part == "whole":
        return list(WHOLE) if batch == 1 else []
    if batch > 1:
        return list(FEW)
    return [name for name in DEFAULT if dim == SMALLEST or name not in COMPILED]


def prepare(case: Case, names: list[str]) -> tuple[dict[str, Run], dict[str, str]]:
    """(what runs, why the rest does not)."""
    ready: dict[str, Run] = {}
    failed: dict[str, str] = {}
    for name in names:
        begin = time.perf_counter()
        try:
            run = CONTESTANTS[name][1](case)
            run()
            ready[name] = run
            say(f"  {name} ready after {time.perf_counter() - begin:.1f} s")
        except Exception as error:  # what a peer cannot do is a line of the table
            if name.startswith("ours"):
                raise
            failed[name] = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:100]}"
            say(f"  {name} does not run: {failed[name]}")
    return ready, failed


def measure(case: Case, names: list[str], rounds: int, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each contestant."""
    ready, failed = prepare(case, names)
    with torch.inference_mode():
        truth = case.plain()(case.x)
    times = interleave(ready, rounds, warm_up=0)  # every one has run once by now
    rows = []
    for name in names:
        row = {**facts, "contestant": name, "label": CONTESTANTS[name][0]}
        if name in failed:
            rows.append(row | {"error": failed[name]})
            continue
        median = times[name].median()
        out = ready[name]().float()
        rows.append(
            row
            | {f"{key[:-2]}_ms": value * 1e3 for key, value in median.items()}
            | {"gops": 2 * facts["macs"] / median["cpu_s"] / 1e9}
            | {f"speed_vs_{base}": speed_ratio(times, name, base) for base in BASELINES}
            | {
                "relative_error": float((out - truth).norm() / truth.norm()),
                "cosine": float(F.cosine_similarity(out.flatten(), truth.flatten(), dim=0)),
            }
        )
    return rows


def peaks() -> dict[str, float]:
    """What the two products of large square matrices reach here, best of several, in 10^9 operations a CPU second."""
    size = 1536
    floats = torch.randn(size, size)
    codes = torch.randint(-127, 128, (size, size), dtype=torch.int8)
    runs: dict[str, Run] = {
        "float32_gops": lambda: floats @ floats.t(),
        "int8_gops": lambda: torch._int_mm(codes, codes.t()),
    }
    times = interleave(runs, rounds=9)
    return {name: 2 * size**3 / min(found.cpu_s) / 1e9 for name, found in times.items()}


def show(rows: list[dict[str, Any]]) -> None:
    """A table for the terminal."""
    first = rows[0]
    print(
        f"\n{first['part']}, d = {first['dim']}, batch {first['batch']}, {first['time']} frames, {first['macs'] / 1e9:.2f} GMAC"
    )
    print(f"{'':46}{'CPU ms':>9}{'wall ms':>9}{'GOP/s':>8}{'x torch':>9}{'x ORT int8':>12}{'error':>10}")
    for row in rows:
        if "error" in row:
            print(f"{row['label']:46}  {row['error']}")
            continue
        torch_, ort = (f"{row[f'speed_vs_{base}']:.2f}" if row[f"speed_vs_{base}"] else "" for base in BASELINES)
        print(
            f"{row['label']:46}{row['cpu_ms']:9.1f}{row['wall_ms']:9.1f}{row['gops']:8.0f}{torch_:>9}{ort:>12}{row['relative_error']:10.5f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog="contestants: " + ", ".join(CONTESTANTS)
    )  # fmt: skip
    parser.add_argument("--only", type=lambda text: text.split(","), help="contestants, separated by commas")
    parser.add_argument("--dim", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--part", nargs="+", choices=("layers", "whole"), default=["layers"])
    parser.add_argument("--time", type=int, default=375)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    unknown = [name for name in args.only or () if name not in CONTESTANTS]
    if unknown:
        parser.error(f"{unknown[0]}: use {', '.join(CONTESTANTS)}")
    torch.set_num_threads(args.threads)
    found_peaks = peaks()
    print("large square matrices: " + ", ".join(f"{name} {value:.0f}" for name, value in found_peaks.items()))
    rows: list[dict[str, Any]] = []
    for dim in args.dim:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = write_checkpoint(Path(folder), dim)
            for part in args.part:
                for batch in args.batch:
                    case = Case(checkpoint, Path(folder), inputs(dim, batch, args.time, part), part)
                    facts = {
                        "part": part,
                        "dim": dim,
                        "batch": batch,
                        "time": args.time,
                        "macs": count_macs(dim, batch, args.time, part),
                    }
                    names = args.only or contestants(part, dim, batch)
                    if not names:
                        continue
                    say(f"{part}, d = {dim}, batch {batch}")
                    rounds = args.rounds if batch == 1 else max(3, args.rounds // 2)
                    found = measure(case, names, rounds, facts)
                    show(found)
                    rows += found
    finish("encoder", rows, args.json, num_threads=args.threads, more={"peak": found_peaks})


if __name__ == "__main__":
    main()
