"""Jobs that need others: as many processes at once as are asked for, each as soon as what it needs is there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from experiments.run import Progress, Step, run_step


@dataclass(frozen=True)
class Job:
    """Steps, one after the other. needs: names of the jobs that come first. log: the file's name before .log; the job's where None."""

    steps: tuple[Step, ...]
    needs: tuple[str, ...] = ()
    log: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether all that it makes is there."""
        return all(step.output.is_file() for step in self.steps)


def run_graph(jobs: Mapping[str, Job], out: Path, num_processes: int, seconds: float | None = None) -> list[str]:
    """Run what is not done yet; the names of jobs that failed, or could not begin.

    Args:
        jobs: by name; of those that can begin, the first does.
        out: where logs and the journal are.
        num_processes: how many jobs run at once.
        seconds: how long all of it may take; what runs then is ended, and the rest does not begin.
    """
    end = None if seconds is None else time.monotonic() + seconds
    wanted = _wanted(jobs)
    waiting = {name: job for name, job in jobs.items() if name in wanted}
    progress = Progress(out / "journal.txt", len(waiting))
    done = jobs.keys() - waiting.keys()
    failed: list[str] = []
    running: dict[Future[bool], str] = {}

    def work(name: str, job: Job) -> bool:
        begin, worked = time.monotonic(), True
        for step in job.steps:
            worked = worked and (step.output.is_file() or run_step(_timed(step, end), out / f"{job.log or name}.log"))
        progress.finished(name, time.monotonic() - begin, worked=worked)
        return worked

    with ThreadPoolExecutor(num_processes) as pool:
        while waiting or running:
            is_over = end is not None and time.monotonic() >= end
            for name, job in list(waiting.items()):
                if is_over or any(need in failed for need in job.needs):
                    del waiting[name]
                    failed.append(name)
                    progress.finished(name, 0.0, worked=False)
                elif len(running) < num_processes and done.issuperset(job.needs):
                    running[pool.submit(work, name, waiting.pop(name))] = name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                if future.result():
                    done.add(name)
                else:
                    failed.append(name)
    return failed


def _wanted(jobs: Mapping[str, Job]) -> set[str]:
    """Jobs that no other job needs and that are not done, and what these need that is not done."""
    found: set[str] = set()

    def add(name: str) -> None:
        if name not in found and not jobs[name].is_done:
            found.add(name)
            for need in jobs[name].needs:
                add(need)

    for name in jobs.keys() - {need for job in jobs.values() for need in job.needs}:
        add(name)
    return found


def _timed(step: Step, end: float | None) -> Step:
    """The step, ended when the time is up."""
    if end is None:
        return step
    left = max(1, round(end - time.monotonic()))
    return Step(tuple(["timeout", str(left), *command] for command in step.commands), step.output)
