"""Run the plan through the command line, two processes at a time, and make the page.

    python -m experiments.run DATA OUT      from tools/; `bash tools/experiments.sh [DATA] [OUT]` does that

A step whose sidecar exists is skipped, so a run that was stopped goes on where it was; a run whose recipe has changed is
run again. OUT/journal.txt says what was run and how long it took, OUT/<run>.log what the commands said.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from experiments.plan import Run, all_runs

BATCH_SIZE = "10"
NUM_PROCESSES = 2
# What a run is evaluated on, and what its sidecar is called: suffix -> (table, beam).
EVALUATIONS = {"eval": ("test.tsv", "1"), "beam5.eval": ("test.tsv", "5"), "dev.eval": ("dev.tsv", "1")}
Command = list[str]


@dataclass(frozen=True)
class Step:
    """Commands joined by pipes that make `output`."""

    commands: tuple[Command, ...]
    output: Path


def asrcompress(*arguments: str | Path) -> Command:
    """A command line, with this Python."""
    return [sys.executable, "-m", "asrcompress", *map(str, arguments)]


def evaluation(model: str | Path, data: Path, out: Path, name: str, suffix: str) -> tuple[Command, Path]:
    """`eval` of one model, compared with the float model under the same conditions, and the sidecar that it writes."""
    table, beam = EVALUATIONS[suffix]
    output = out / f"{name}.{suffix}.json"
    options: list[str | Path] = ["--data", data / table, "--beam", beam, "--batch-size", BATCH_SIZE, "--force"]
    if name != "float":
        options += ["--baseline", out / f"float.{suffix}.json"]
    return asrcompress("eval", model, *options, "-o", output), output


def steps_of(run: Run, data: Path, out: Path) -> list[Step]:
    """What makes a run's sidecars."""
    artifact = out / f"{run.name}.safetensors"
    calibrate: list[str | Path] = ["--calibrate", data / "dev.tsv"] if run.needs_speech else []
    quantize = asrcompress(
        "quantize",
        data / "checkpoint_best.pt",
        "--config",
        out / f"{run.name}.toml",
        *calibrate,
        "-o",
        artifact,
        "--force",
    )
    first, output = evaluation("-", data, out, run.name, "eval")
    return [Step((quantize, first), output)]


def checks_of(name: str, data: Path, out: Path) -> list[Step]:
    """The other evaluations, for what came out best."""
    artifact = out / f"{name}.safetensors"
    made = [evaluation(artifact, data, out, name, suffix) for suffix in EVALUATIONS if suffix != "eval"]
    return [Step((command,), output) for command, output in made]


def recipe_text(run: Run) -> str:
    """The recipe file."""
    lines = [f"{key} = {_toml(value)}" for key, value in run.options.items()]
    for rule in run.rules:
        lines += ["", "[[rules]]", *(f"{key} = {_toml(value)}" for key, value in rule.items())]
    return "\n".join(lines) + "\n"


def _toml(value: str | int | bool) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def run_step(step: Step, log: Path) -> bool:
    """Run the commands; the last one's output is what counts."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("a", encoding="utf-8") as errors:
        processes: list[subprocess.Popen[bytes]] = []
        for command in step.commands:
            given = processes[-1].stdout if processes else subprocess.DEVNULL
            processes.append(
                subprocess.Popen(command, stdin=given, stdout=subprocess.PIPE, stderr=errors, env=environment)  # noqa: S603
            )
            if processes[1:] and processes[-2].stdout:
                processes[-2].stdout.close()
        processes[-1].communicate()
        return all([process.wait() == 0 for process in processes]) and step.output.is_file()


class Progress:
    """A line on the terminal that is written over, and the journal."""

    def __init__(self, journal: Path, total: int) -> None:
        self.journal, self.total, self.done, self.begin = journal, total, 0, time.monotonic()
        self.lock = threading.Lock()

    def finished(self, name: str, seconds: float, *, worked: bool) -> None:
        """A run ended."""
        with self.lock:
            self.done += 1
            with self.journal.open("a", encoding="utf-8") as handle:
                handle.write(f"{time.strftime('%H:%M:%S')} {name} {seconds:.1f} s{'' if worked else ' FAILED'}\n")
            left = (time.monotonic() - self.begin) / self.done * (self.total - self.done)
            line = f"experiments: {self.done} of {self.total}, about {left / 60:.0f} min left; {name}"
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{line[:100]:100}" + ("\n" if self.done == self.total else ""))
            elif not worked or self.done % 10 == 0 or self.done == self.total:
                sys.stderr.write(line + "\n")
            sys.stderr.flush()


def prepare(run: Run, out: Path) -> None:
    """Write the recipe; what was made from another one goes."""
    prepare_text(run.name, recipe_text(run), out)


def prepare_text(name: str, text: str, out: Path) -> None:
    """Write a run's recipe as it is given; what was made from another one goes."""
    recipe = out / f"{name}.toml"
    if not recipe.is_file() or recipe.read_text(encoding="utf-8") != text:
        for old in out.glob(f"{name}.*"):
            old.unlink()
        recipe.write_text(text, encoding="utf-8")


def run_all(runs: Sequence[Run], data: Path, out: Path) -> list[str]:
    """Run what is not done yet; the names of runs that failed."""
    floats = [evaluation(data / "checkpoint_best.pt", data, out, "float", suffix) for suffix in EVALUATIONS]
    failed = run_jobs({"float": [Step((command,), output) for command, output in floats]}, out)
    if failed:
        return failed
    for run in runs:
        prepare(run, out)
    return run_jobs({run.name: steps_of(run, data, out) for run in runs}, out)


def run_jobs(jobs: dict[str, list[Step]], out: Path, num_processes: int = NUM_PROCESSES) -> list[str]:
    """Run the steps whose outputs are not there yet, so many jobs at a time; the names of those that failed."""
    left = {name: [step for step in steps if not step.output.is_file()] for name, steps in jobs.items()}
    left = {name: steps for name, steps in left.items() if steps}
    progress = Progress(out / "journal.txt", len(left))
    failed: list[str] = []

    def work(name: str) -> None:
        begin = time.monotonic()
        worked = all(run_step(step, out / f"{name}.log") for step in left[name])
        if not worked:
            failed.append(name)
        progress.finished(name, time.monotonic() - begin, worked=worked)

    pool = ThreadPoolExecutor(num_processes)
    try:
        for future in as_completed([pool.submit(work, name) for name in left]):
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)
    return failed


def main(arguments: Sequence[str]) -> int:
    """Exit code 0: the page is made; 1: some run failed; 2: there are no data."""
    data, out = Path(arguments[0]), Path(arguments[1])
    missing = [name for name in ("checkpoint_best.pt", "dev.tsv", "test.tsv") if not (data / name).is_file()]
    if missing:
        sys.stderr.write(
            f"experiments: {data / missing[0]} is not there; give the folder of the digits data: bash tools/experiments.sh DATA\n"
        )
        return 2
    out.mkdir(parents=True, exist_ok=True)
    from experiments.best import winners
    from experiments.page import write_page
    from experiments.results import collect, parse, write_results

    failed = run_all(all_runs(), data, out)
    if not failed:
        names = {result.name for result in winners(parse(collect(out))).values()}
        failed = run_jobs({name: checks_of(name, data, out) for name in sorted(names)}, out)
    if failed:
        sys.stderr.write(f"experiments: {len(failed)} runs failed: {', '.join(failed)}; see {out / failed[0]}.log\n")
        return 1
    write_results(collect(out))
    write_page()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
