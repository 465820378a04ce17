"""How benches measure and what they leave: contestants in turn within every round, medians, one JSON file each.

Clocks of shared machines drift, so contestants are compared round by round and the ratio is the median of the
rounds' ratios. The JSON is {"name", "environment", "rows": [...]}; tools/benchmarks reads it. Imports nothing heavy.
`python -m tests.bench.rounds NAME FILE` adds name and environment to a file that holds nothing but rows.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "sve")
PACKAGES = (
    "torch", "torchaudio", "fairseq-fixed", "onnx", "onnxruntime", "optimum-quanto", "torchao", "compressed-tensors", "numpy"
)  # fmt: skip


@dataclass
class Times:
    """Seconds of every round, on the processor and on the clock."""

    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)

    def median(self) -> dict[str, float]:
        return {"cpu_s": statistics.median(self.cpu_s), "wall_s": statistics.median(self.wall_s)}


def interleave(contestants: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 1) -> dict[str, Times]:
    """Run every contestant once a round, in turn; the first `warm_up` rounds are not counted."""
    times = {name: Times() for name in contestants}
    for turn in range(rounds + warm_up):
        for name, run in contestants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            if turn >= warm_up:
                times[name].cpu_s.append(cpu)
                times[name].wall_s.append(wall)
    return times


def speed_ratio(times: Mapping[str, Times], name: str, baseline: str) -> float | None:
    """How many times as fast as the baseline, by CPU time: the median of the rounds' ratios; None without that baseline."""
    if baseline not in times:
        return None
    pairs = zip(times[baseline].cpu_s, times[name].cpu_s, strict=True)
    return statistics.median(base / own for base, own in pairs)


def environment(num_threads: int) -> dict[str, Any]:
    """Processor, its flags that matter here, threads, versions. Names neither host nor user."""
    model, flags = platform.machine(), []
    if Path("/proc/cpuinfo").exists():
        facts = dict(
            (key.strip(), value.strip())
            for key, _, value in (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
        )
        model = f"{facts.get('model name', model)}, family {facts.get('cpu family')} model {facts.get('model')}"
        present = facts.get("flags", facts.get("Features", "")).split()
        flags = [flag for flag in FLAGS if flag in present]
    return {
        "cpu": model,
        "flags": flags,
        "processors": os.cpu_count(),
        "num_threads": num_threads,
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))} | _gcc(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gcc() -> dict[str, str]:
    """The compiler of kernels and of C exports, where there is one."""
    if not shutil.which("gcc"):
        return {}
    return {
        "gcc": subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
    }


def finish(
    name: str,
    rows: list[dict[str, Any]],
    path: Path | None,
    *,
    num_threads: int = 1,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write the JSON file where one is wanted; `more` of the environment is what the bench found out itself."""
    if path:
        record = {"name": name, "environment": environment(num_threads) | dict(more or {}), "rows": rows}
        path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")


def say(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


def main(name: str, file: str) -> None:
    """Complete a file of bare rows, by the machine that this runs on; leave any other as it is."""
    found = json.loads(Path(file).read_text())
    if isinstance(found, list):
        finish(name, found, Path(file))


if __name__ == "__main__":
    main(*sys.argv[1:])
