"""How fast float32 weights become few bits, in memory and from disk to disk, beside a plain copy and the tools one would take.

python -m tests.bench.bench_packing FOLDER [--layers 6 --rows 1920 --columns 7680] [--rounds 5] [--json OUT.json]

One thread on one processor for everybody. In memory: weights as they lie there -> tensors as they are stored. From disk: a
safetensors file is read weight by weight, what comes of it is written to another and synced; ours is written by
`save_artifact`, the peers' by safetensors. `copy` reads the same file in pieces of 8 MiB and writes it again. GB are of the
float32 weights. FOLDER needs room for twice the weights and is left as it was. Run in the environment of tools/bench.sh.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tests.bench.packers import OURS, PACKERS, Packer, our_quantizer, ours
from tests.bench.rounds import Times, finish, interleave, say

CHUNK_BYTES = 1 << 23
JOBS = {"int8": (8, None), "int4": (4, None), "int2": (2, None), "int4 + 2:4": (4, (2, 4))}
GOAL = 0.3  # of the speed of the copy
Contestants = dict[tuple[str, str, str], Callable[[], Any]]


def make_weights(path: Path, layers: int, rows: int, columns: int) -> None:
    """Write normal weights with a deviation of 0.02."""
    generator = torch.Generator().manual_seed(0)
    save_file(
        {f"layers.{n}.weight": torch.randn(rows, columns, generator=generator) * 0.02 for n in range(layers)}, path
    )


def names_of(weights: Any) -> list[str]:
    """Of the tensors in an open file."""
    return list(weights.keys())


def copy(source: Path, target: Path) -> None:
    with open(source, "rb") as reader, open(target, "wb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            writer.write(chunk)
        os.fsync(writer.fileno())


def save_ours(source: Path, target: Path, quantize: Callable[[Tensor], Any]) -> None:
    """As `quantize` writes its file, without what it proves and tells of it."""
    from asrcompress.artifact import ArtifactContent, save_artifact
    from asrcompress.mapped import Made, release

    with safe_open(source, framework="pt") as weights:

        def make(name: str) -> Any:
            weight = weights.get_tensor(name)
            found = quantize(weight)
            release(weight)
            return found

        shapes = {name: weights.get_slice(name).get_shape() for name in names_of(weights)}
        quantized = Made(shapes, make, lambda name: torch.Size(shapes[name]).numel())
        save_artifact(target, ArtifactContent("bench", {}, None, {}, {}, quantized, {}), force=True)


def save_peers(source: Path, target: Path, pack: Packer) -> None:
    with safe_open(source, framework="pt") as weights:
        packed = {
            f"{name}.{part}": tensor
            for name in names_of(weights)
            for part, tensor in pack(weights.get_tensor(name)).items()
        }
        save_file(packed, target)
    with open(target, "rb") as handle:
        os.fsync(handle.fileno())


def contestants(source: Path, folder: Path) -> Contestants:
    """(where, job, tool) -> what to run."""
    with safe_open(source, framework="pt") as weights:
        inside = [weights.get_tensor(name).clone() for name in names_of(weights)]
    found: Contestants = {("from disk", "copy", "read and write"): lambda: copy(source, folder / "copy")}

    def add(job: str, tool: str, pack: Packer, save: Callable[[], None]) -> None:
        found["in memory", job, tool] = lambda: [pack(weight) for weight in inside]
        found["from disk", job, tool] = save

    for job, (num_bits, pattern) in JOBS.items():
        quantize = our_quantizer(num_bits, pattern=pattern)
        target = folder / "ours.safetensors"
        add(job, OURS, ours(num_bits, pattern=pattern), lambda q=quantize, t=target: save_ours(source, t, q))
        for tool, make in PACKERS.items():
            if tool != OURS and pattern is None:
                pack = make(num_bits)
                add(job, tool, pack, lambda p=pack: save_peers(source, folder / "peers.safetensors", p))
    return found


def table(times: dict[tuple[str, str, str], Times], num_bytes: int) -> list[dict[str, Any]]:
    """A row for each contestant; its speed beside the copy's and how many times as fast asrcompress does the same."""
    copied = times["from disk", "copy", "read and write"]
    rows = []
    for (where, job, tool), found in times.items():
        own = times.get((where, job, OURS))
        rows.append({
            "where": where, "job": job, "tool": tool,
            "per_cpu_s_gbps": num_bytes / 1e9 / found.median()["cpu_s"],
            "per_wall_s_gbps": num_bytes / 1e9 / found.median()["wall_s"],
            "beside_copy_ratio": copied.median()["wall_s"] / found.median()["wall_s"],
            "asrcompress_times_as_fast": found.median()["cpu_s"] / own.median()["cpu_s"] if own and tool != OURS else None,
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rows", type=int, default=1920)
    parser.add_argument("--columns", type=int, default=7680)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):  # threads of ours that work ahead share the processor, too
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    options.folder.mkdir(parents=True, exist_ok=True)
    num_bytes = 4 * options.layers * options.rows * options.columns
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        source = Path(name) / "weights.safetensors"
        make_weights(source, options.layers, options.rows, options.columns)
        with torch.no_grad():
            rows = table(interleave(contestants(source, Path(name)), options.rounds), num_bytes)
    for row in rows:
        times = row["asrcompress_times_as_fast"]
        say(
            f"{row['where']:10s} {row['job']:11s} {row['tool']:19s} {row['per_cpu_s_gbps']:6.2f} GB per CPU s {row['per_wall_s_gbps']:6.2f} GB/s"
            f"  {row['beside_copy_ratio']:6.2f} x copy" + (f"  asrcompress {times:.1f} times as fast" if times else "")
        )
    finish("packing", rows, options.json)
    slow = [row for row in rows if row["tool"] == OURS and row["beside_copy_ratio"] < GOAL]
    slow += [row for row in rows if row["asrcompress_times_as_fast"] and row["asrcompress_times_as_fast"] <= 1]
    for row in slow:
        say(f"goal missed: {row}")
    raise SystemExit(bool(slow))


if __name__ == "__main__":
    main()
