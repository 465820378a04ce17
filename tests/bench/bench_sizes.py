"""Bytes on disk beside what the codes alone need, of the same layers by every tool.

python -m tests.bench.bench_sizes [--json OUT.json]

Layers as the encoders that are compressed here have them. Theory: num_bits of every weight, nothing else (N:M: kept codes and
the shortest code of each group). File: all layers in one safetensors file, ours as `save_artifact` writes it. Random weights;
sizes do not depend on them. Run in the environment of tools/bench.sh.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from asrcompress.artifact import ArtifactContent, save_artifact
from asrcompress.patterns import code_sizes
from tests.bench.packers import OURS, PACKERS, our_quantizer
from tests.bench.rounds import finish, say

SHAPES = {
    "attention, d = 256": (256, 256),
    "feed-forward, d = 256": (2048, 256),
    "feed-forward, d = 1024": (4096, 1024),
}
COUNT = 12  # layers of each shape
Weights = dict[str, Tensor]


def file_bytes(
    tool: str, weights: Weights, num_bits: int, group_size: int | None, pattern: tuple[int, int] | None
) -> int:
    """Of the file that the tool's packed weights make."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "packed.safetensors"
        if tool == OURS:
            quantize = our_quantizer(num_bits, group_size, pattern)
            packed = {name: quantize(weight) for name, weight in weights.items()}
            save_artifact(path, ArtifactContent("bench", {}, None, {}, {}, packed, {}))
        else:
            pack = PACKERS[tool](num_bits, group_size)
            parts = {name: pack(weight) for name, weight in weights.items()}
            tensors = {f"{name}.{part}": found for name, each in parts.items() for part, found in each.items()}
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        return path.stat().st_size


def measure() -> list[dict[str, Any]]:
    rows = []
    for layers, shape in SHAPES.items():
        generator = torch.Generator().manual_seed(0)
        weights = {f"layers.{n}.fc.weight": torch.randn(shape, generator=generator) * 0.02 for n in range(COUNT)}
        jobs: list[tuple[int, int | None, tuple[int, int] | None]]
        jobs = [(8, None, None), (4, None, None), (4, 32, None), (2, None, None), (4, None, (2, 4)), (2, None, (2, 4))]
        for num_bits, group_size, pattern in jobs:
            theory = COUNT * sum(code_sizes(shape[0] * shape[1], num_bits, pattern).values())
            for tool in PACKERS if pattern is None else (OURS,):
                found = file_bytes(tool, weights, num_bits, group_size, pattern)
                rows.append({
                    "layers": layers, "codes": f"int{num_bits}" + (f" + {pattern[0]}:{pattern[1]}" if pattern else ""),
                    "scales": f"per group of {group_size}" if group_size else "per channel",
                    "tool": tool, "file_bytes": found, "theory_bytes": theory, "file_beside_theory_ratio": found / theory,
                })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        rows = measure()
    smaller = []
    for row in rows:
        say(
            f"{row['layers']:24s} {row['codes']:12s} {row['scales']:16s} {row['tool']:19s} {row['file_bytes']:>11,} / {row['theory_bytes']:>11,}"
            f" = {row['file_beside_theory_ratio']:.4f}"
        )
        same = [
            r for r in rows if all(r[key] == row[key] for key in ("layers", "codes", "scales")) and r["tool"] == OURS
        ]
        if row["tool"] != OURS and row["file_bytes"] < same[0]["file_bytes"]:
            smaller.append(row)
    finish("sizes", rows, options.json)
    for row in smaller:
        say(f"goal missed: {row['tool']} is smaller: {row}")
    raise SystemExit(bool(smaller))


if __name__ == "__main__":
    main()
