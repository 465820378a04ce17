"""Run the plans and the uniform files through the command line, one process at a time, and make the page.

    python -m experiments.plans_run DATA OUT [--small]      from tools/; `bash tools/plans.sh [DATA] [OUT]` does that

Whatever is there is not made again, and a table that was begun goes on where it was. Files of another table or recipe are made
anew. OUT/journal.txt says what was run and how long it took, OUT/<name>.log what the commands said. --small runs a little of
everything and writes OUT/plans.json alone: whether it works, not what comes out.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.compose import compose_set
from experiments.plans import FULL, SMALL, TABLE_RATIO, Planned, Scale, Uniform, uniforms
from experiments.run import Command, Step, asrcompress, prepare, run_jobs

BATCH_SIZE = "16"
SEEDS = {"dev": 78, "test": 77}
MODEL = "checkpoint_best.pt"
TABLES = {False: "table.json", True: "table-few.json"}  # by Planned.is_few


def evaluation_tables(data: Path, out: Path) -> dict[str, Path]:
    """What every file is evaluated on, by the suffix of its sidecar: the composed set, and the data's own."""
    return {"eval": out / "test" / "test.tsv", "own.eval": data / "test.tsv"}


def compose(data: Path, out: Path, split: str, num_utterances: int) -> None:
    """A set of the data's recordings of one split, with its own seed."""
    compose_set(data, out / split, split, num_utterances, SEEDS[split])


def evaluations(model: str | Path, data: Path, out: Path, name: str) -> list[Step]:
    """`eval`, greedy, on every test table, beside the float model."""
    steps = []
    for suffix, table in evaluation_tables(data, out).items():
        output = out / f"{name}.{suffix}.json"
        options: list[str | Path] = ["--data", table, "--beam", "1", "--batch-size", BATCH_SIZE, "--force"]
        if name != "float":
            options += ["--baseline", out / f"float.{suffix}.json"]
        steps.append(Step((asrcompress("eval", model, *options, "-o", output),), output))
    return steps


def dev_table(data: Path, out: Path, *, is_few: bool) -> Path:
    """What a sensitivity table is made with, and its plans' files are calibrated on."""
    return data / "dev.tsv" if is_few else out / "dev" / "dev.tsv"


def table_step(data: Path, out: Path, scale: Scale, *, is_few: bool) -> Step:
    """A sensitivity table."""
    output = out / TABLES[is_few]
    size = ["--top", str(scale.top), "--sample", str(scale.sample), "--target-size-ratio", str(TABLE_RATIO)]
    return Step((_sensitivity(data, out, is_few, *size, "--force", "-o", output),), output)


def plan_steps(plan: Planned, data: Path, out: Path) -> list[Step]:
    """A plan from its table, the file that it plans, and its evaluations."""
    written, table = out / f"{plan.name}.toml", out / TABLES[plan.is_few]
    options: list[str | Path] = ["--from", table, "--target-size-ratio", str(plan.ratio), "--objective", plan.objective]
    first = Step((_sensitivity(data, out, plan.is_few, *options, "-o", written),), written)
    return [first, *_made(plan.name, ["--plan", written], data, out, is_few=plan.is_few)]


def uniform_steps(uniform: Uniform, data: Path, out: Path) -> list[Step]:
    """A uniform file and its evaluations."""
    return _made(uniform.name, ["--config", out / f"{uniform.name}.toml"], data, out)


def _sensitivity(data: Path, out: Path, is_few: bool, *options: str | Path) -> Command:
    speech = dev_table(data, out, is_few=is_few)
    return asrcompress("sensitivity", data / MODEL, "--data", speech, "--data-dir", data, *options)


def _made(name: str, options: Sequence[str | Path], data: Path, out: Path, *, is_few: bool = False) -> list[Step]:
    artifact = out / f"{name}.safetensors"
    calibrate: list[str | Path] = ["--calibrate", dev_table(data, out, is_few=is_few), "--data-dir", data]
    command = asrcompress("quantize", data / MODEL, *options, *calibrate, "-o", artifact, "--force")
    return [
        Step((command,), artifact.with_name(f"{artifact.name}.json")),
        *evaluations(artifact, data, out, name),
    ]


def drop_stale(plan: Planned, out: Path) -> None:
    """Remove what was made of a plan that is not of this table."""
    written = out / f"{plan.name}.toml"
    sha256 = hashlib.sha256((out / TABLES[plan.is_few]).read_bytes()).hexdigest()
    if written.is_file() and f'\nsensitivity_sha256 = "{sha256}"\n' in written.read_text(encoding="utf-8"):
        return
    for old in out.glob(f"{plan.name}.*"):
        old.unlink()


def run_all(data: Path, out: Path, scale: Scale) -> list[str]:
    """Run what is not done yet; the names of what failed."""
    for split, number in (("dev", scale.num_dev), ("test", scale.num_test)):
        compose(data, out, split, number)
    first = {"float": evaluations(data / MODEL, data, out, "float")}
    for is_few, name in TABLES.items():
        first[name.removesuffix(".json")] = [table_step(data, out, scale, is_few=is_few)]
    failed = run_jobs(first, out, num_processes=1)
    if failed:
        return failed
    for plan in scale.plans:
        drop_stale(plan, out)
    for uniform in uniforms():
        prepare(uniform.run, out)
    jobs = {plan.name: plan_steps(plan, data, out) for plan in scale.plans}
    jobs |= {uniform.name: uniform_steps(uniform, data, out) for uniform in uniforms()}
    return run_jobs(jobs, out, num_processes=1)


def main(arguments: Sequence[str]) -> int:
    """Exit code 0: the page is made; 1: something failed; 2: there are no data."""
    data, out = Path(arguments[0]), Path(arguments[1])
    is_small = "--small" in arguments
    scale = SMALL if is_small else FULL
    missing = [
        name for name in (MODEL, "make_train.py", "recordings", "dev.tsv", "test.tsv") if not (data / name).exists()
    ]
    if missing:
        sys.stderr.write(
            f"plans: {data / missing[0]} is not there; give the folder of the digits data: bash tools/plans.sh DATA\n"
        )
        return 2
    out.mkdir(parents=True, exist_ok=True)
    from experiments.page import write_page
    from experiments.plans_results import FILE, collect, write_results

    failed = run_all(data, out, scale)
    if failed:
        sys.stderr.write(f"plans: {len(failed)} failed: {', '.join(failed)}; see {out / failed[0]}.log\n")
        return 1
    write_results(collect(out, scale), out / "plans.json" if is_small else FILE)
    if not is_small:
        write_page()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
