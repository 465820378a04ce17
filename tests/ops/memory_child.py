"""Run by test_streaming.py in a process of its own: what commands on a big file add to what the process has, at most.

usage: python -m tests.ops.memory_child SMALL BIG FOLDER. Prints JSON: command -> bytes, and the whole process's peak.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from asrcompress.ops import load
from asrcompress.ops.quantize import quantize
from asrcompress.ops.recipe import QuantizeConfig
from asrcompress.ops.sparsify import sparsify
from asrcompress.ops.sparsify_config import SparsifyConfig

COMMANDS = {
    "quantize": lambda path, out: quantize(path, out, QuantizeConfig(num_bits=4), force=True, memory_budget_bytes=0),
    "sparsify": lambda path, out: sparsify(path, out, SparsifyConfig(sparsity=0.5), force=True, memory_budget_bytes=0),
}


def status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def main(small: Path, big: Path, folder: Path) -> dict[str, int]:
    """Each command on the small file first, so that what is imported and kept is there already."""
    load.MAP_FROM_BYTES = 0  # as for files of 64 MiB and more
    added, peak = {}, 0  # not ru_maxrss, which starts at what the parent had
    for name, command in COMMANDS.items():
        command(small, folder / "small.safetensors")
        before, peak = status("VmRSS"), max(peak, status("VmHWM"))
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        command(big, folder / "big.safetensors")
        peak = max(peak, status("VmHWM"))
        added[name] = status("VmHWM") - before
    return added | {"process": peak}


if __name__ == "__main__":
    print(json.dumps(main(*map(Path, sys.argv[1:]))))
