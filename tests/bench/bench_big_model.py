"""Peak memory and speed of quantize and sparsify on a checkpoint of billions of parameters. Not a test: it asserts nothing.

usage: python tests/bench/bench_big_model.py FOLDER [--layers 48 --dim 1920] [--dtype float32 bfloat16] [--json OUT]

In FOLDER, which needs room for twice the checkpoint (17 GB in float32) and is left empty, for each dtype and in one run:
  copy       the checkpoint read and written again in pieces of 8 MiB, then fsync
  the rest   a command, in a process of its own: seconds on the clock and on the processor, and its peak resident set
The bound is 4 x the largest tensor as the file has it + 1.5 GB. GB/s are of the checkpoint's bytes. This process imports
nothing heavy: a child's peak counts what its parent has.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
CHUNK_BYTES = 1 << 23
FIXED_BYTES = 1_500_000_000
COMMANDS = (
    ("quantize", "--bits", "4"),
    ("quantize", "--bits", "4", "--pattern", "2:4", "--exclude", "*conv_layers.0.*"),
    ("sparsify", "--pattern", "2:4", "--exclude", "*conv_layers.0.*"),
)


def run(command: list[str]) -> dict[str, Any]:
    """A child's seconds, peak and exit status; its last line where it failed."""
    begin = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=REPOSITORY, text=True)
    output = child.stdout.read() if child.stdout else ""
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return {
        "wall_s": time.perf_counter() - begin,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_rss_bytes": usage.ru_maxrss * 1024,
        "exit_status": child.returncode,
        "output": output.splitlines()[-1:] if child.returncode else output.splitlines(),
    }


def copy(source: Path, target: Path) -> dict[str, Any]:
    """As cp does it, on disk at the end."""
    wall, cpu = time.perf_counter(), time.process_time()
    with open(source, "rb") as reader, open(target, "wb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            writer.write(chunk)
        os.fsync(writer.fileno())
    target.unlink()
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def measure(folder: Path, dtype: str, layers: int, dim: int) -> list[dict[str, Any]]:
    """One row for the copy and one for each command."""
    checkpoint, output = folder / f"big.{dtype}.pt", folder / "big.out.safetensors"
    made = run(
        [sys.executable, "-m", "tests.bench.big_checkpoint", str(checkpoint), "--layers", str(layers), "--dim", str(dim), "--dtype", dtype]
    )  # fmt: skip
    if made["exit_status"]:
        sys.exit(f"{checkpoint} could not be made: {made['output']}")
    facts = json.loads(made["output"][-1])
    bound = 4 * facts["largest_tensor_bytes"] + FIXED_BYTES
    common = {"dtype": dtype, "num_params": facts["num_params"], "input_bytes": facts["size_bytes"]}
    rows = [common | {"command": "copy", "exit_status": 0} | copy(checkpoint, folder / "copy")]
    for command in COMMANDS:
        found = run([sys.executable, "-m", "asrcompress", *command, str(checkpoint), "-o", str(output), "--force"])
        size = output.stat().st_size if output.exists() else None
        found["output"] = [line.replace(f"{folder}{os.sep}", "") for line in found["output"]]
        rows.append(common | {"command": " ".join(command), "output_bytes": size, "bound_bytes": bound} | found)
        for path in folder.glob("big.out.*"):
            path.unlink()
    checkpoint.unlink()
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """For docs/benchmarks.md."""
    lines = [
        "| checkpoint | command | output, GB | s | CPU s | GB/s | GB per CPU s | peak RSS, GB | bound, GB |",
        "|" + "---|" * 9,
    ]
    for row in rows:
        what = f"{row['num_params'] / 1e9:.2f} billion {row['dtype']}, {row['input_bytes'] / 1e9:.2f} GB"
        size, peak, bound = (
            f"{row[key] / 1e9:.2f}" if row.get(key) else "" for key in ("output_bytes", "peak_rss_bytes", "bound_bytes")
        )
        speeds = [f"{row['input_bytes'] / 1e9 / row[key]:.3f}" for key in ("wall_s", "cpu_s")]
        name = f"`{row['command']}`" if row["exit_status"] == 0 else f"`{row['command']}` FAILED: {row['output']}"
        lines.append(
            f"| {what} | {name} | {size} | {row['wall_s']:.0f} | {row['cpu_s']:.0f} | {' | '.join(speeds)} | {peak} | {bound} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--dim", type=int, default=1920)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    found = [row for dtype in options.dtype for row in measure(options.folder, dtype, options.layers, options.dim)]
    print(f"{os.cpu_count()} processors, {platform.machine()}, load {os.getloadavg()[0]:.1f} at the end\n")
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
