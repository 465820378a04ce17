"""What it costs to start: --help and report beside an empty Python, quantize beside `import torch`.

python -m tests.bench.bench_startup [--rounds 11] [--json OUT.json]

CPU time of whole processes, user and system, as the kernel counts it; all of them in turn in every round, and the median of
the rounds' ratios. Byte code is compiled before, into a folder of its own, as installed packages have it. A `quantize` that is
told to read a file which is not there ends where work would begin.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.rounds import finish, say

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "tests" / "examples"
MAIN = "from asrcompress.cli.main import main; main()"  # what the installed script does
ONE, FLOAT = (EXAMPLES / f"checkpoint_best.{name}.eval.json" for name in ("int8.safetensors", "pt"))
MODEL = ROOT / "samples" / "kws" / "crnn_computer.pt"


def contestants(folder: Path) -> dict[str, tuple[list[str], str | None, float | None]]:
    """Name -> (arguments of Python, what it is held against, how many times as much it may cost)."""
    command = ["-c", MAIN]
    model = folder / "model.pt"
    shutil.copy(MODEL, model)
    gate = ["--baseline", str(FLOAT), "--require", "delta.wer<=0.01"]
    return {
        "python -c pass": (["-c", "pass"], None, None),
        "asrcompress --help": ([*command, "--help"], "python -c pass", 8.0),
        "asrcompress report A.json": ([*command, "report", str(ONE)], "python -c pass", 8.0),
        "asrcompress report A.json --baseline B.json --require GATE": ([*command, "report", str(ONE), *gate], "python -c pass", 8.0),
        "python -c 'import torch'": (["-c", "import torch"], None, None),
        "python -c 'import asrcompress.ops.quantize'": (["-c", "import asrcompress.ops.quantize"], "python -c 'import torch'", 1.3),
        "asrcompress quantize, until work starts": (
            [*command, "quantize", str(folder / "absent.pt"), "-o", str(folder / "a.safetensors")], "python -c 'import torch'", 1.3,
        ),
        "asrcompress quantize of 70,443 parameters, all of it": (
            [*command, "quantize", str(model), "-o", str(folder / "b.safetensors"), "--force"], "python -c 'import torch'", None,
        ),
    }  # fmt: skip


def cpu_s(command: list[str], environment: dict[str, str], is_fine: tuple[int, ...]) -> float:
    """Seconds of CPU that a process takes from its start to its end.

    Raises:
        RuntimeError: it ended with another code than `is_fine`.
    """
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in is_fine:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def measure(rounds: int) -> list[dict[str, Any]]:
    """A row for each contestant."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = contestants(folder)
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment |= {"PYTHONPYCACHEPREFIX": str(folder / "pycache"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        times: dict[str, list[float]] = {label: [] for label in found}
        for turn in range(rounds + 1):  # the first compiles
            say(f"round {turn} of {rounds}")
            for label, (arguments, _, _) in found.items():
                ends = (2,) if "until work starts" in label else (0,)
                taken = cpu_s([sys.executable, *arguments], environment, ends)
                if turn:
                    times[label].append(taken)
    return [_row(label, against, limit, times) for label, (_, against, limit) in found.items()]


def _row(label: str, against: str | None, limit: float | None, times: dict[str, list[float]]) -> dict[str, Any]:
    row: dict[str, Any] = {"process": label, "cpu_ms": round(1000 * statistics.median(times[label]), 1)}
    row |= {"beside": against, "times_as_much": None, "at_most": limit}
    if against:
        ratio = statistics.median(own / base for own, base in zip(times[label], times[against], strict=True))
        row["times_as_much"] = round(ratio, 2)
    return row


def main() -> int:
    """Print the table; exit code 1 where something costs more than it may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = measure(options.rounds)
    for row in rows:
        ratio = f"{row['times_as_much']:6.2f} x {row['beside']}" if row["beside"] else ""
        limit = f" (at most {row['at_most']:g})" if row["at_most"] else ""
        print(f"{row['cpu_ms']:8.1f} ms  {row['process']:60} {ratio}{limit}")
    finish("startup", rows, options.json)
    return int(any(row["at_most"] and row["times_as_much"] > row["at_most"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
