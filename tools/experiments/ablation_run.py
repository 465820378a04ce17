"""Run the rows of the ablation through the command line, several processes at a time, and make the page.

    python -m experiments.ablation_run DATA OUT [options]      from tools/; `bash tools/ablation.sh [DATA] [OUT] [options]` does that

Whatever is there is not made again, a training that was stopped goes on from its last evaluation, and rows of another recipe are
made anew. OUT/journal.txt says what was run and how long it took, OUT/<name>.log what the commands said. --small runs a little
of everything and writes OUT/ablation.json alone: whether it works, not what comes out.

With --set, rows are run with other options, for all combinations of the values given, in OUT/sweep, and are evaluated on composed
dev utterances: the test set chooses nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from experiments.ablation import FULL, SMALL, Row, Scale, changed, rows
from experiments.jobs import Job, run_graph
from experiments.plan import Run
from experiments.plans_run import BATCH_SIZE, MODEL, SEEDS
from experiments.run import Step, asrcompress, prepare_text, recipe_text

TRAIN_SEED, SELECT_SEED = 5, 79
MOST_BYTES = 15 << 20  # of an archive with models
STATE_SUFFIX = ".training.safetensors"  # of what a stopped training goes on from
PACKED = ("json", "jsonl", "log", "toml", "txt")  # what --pack takes: all that `collect` reads, and what was said


def composed(out: Path, split: str, num_utterances: int) -> Path:
    """The table of a composed set."""
    return out / f"{split}-{num_utterances}" / f"{split}.tsv"


def train_table(out: Path, scale: Scale) -> Path:
    """What is trained on."""
    return composed(out, "train", scale.num_train)


def select_table(out: Path, scale: Scale) -> Path:
    """What chooses the best weights, and is calibrated on: recordings of the dev split, that are in no other set."""
    return composed(out, "dev", scale.num_select)


def test_sets(data: Path, out: Path, scale: Scale) -> dict[str, tuple[Path, int | None]]:
    """What every file is evaluated on, and how many utterances of it, by the suffix of its sidecar: a composed set, and the data's own."""
    return {
        "eval": (composed(out, "test", scale.num_test), None),
        "own.eval": (data / "test.tsv", scale.own_limit),
    }


def dev_sets(out: Path, scale: Scale) -> dict[str, tuple[Path, int | None]]:
    """What files of a sweep are evaluated on."""
    return {"dev.eval": (composed(out, "dev", scale.num_dev), None)}


def compose_job(data: Path, table: Path, split: str, num_utterances: int, seed: int) -> Job:
    """Compose a set."""
    command = [sys.executable, "-m", "experiments.compose", data, table.parent, split, num_utterances, seed]
    return Job((Step((list(map(str, command)),), table),))


def evaluation(model: Path, name: str, suffix: str, table: tuple[Path, int | None], out: Path, floats: Path) -> Step:
    """`eval`, greedy; beside the float model, whose sidecars lie in `floats`, unless it is that one."""
    data, limit = table
    output = out / f"{name}.{suffix}.json"
    options: list[str | Path] = ["--data", data, "--beam", "1", "--batch-size", BATCH_SIZE, "--force"]
    if limit is not None:
        options += ["--limit", str(limit)]
    if name != "float":
        options += ["--baseline", floats / f"float.{suffix}.json"]
    return Step((asrcompress("eval", model, *options, "-o", output),), output)


def recipe(row: Row, scale: Scale) -> str:
    """The recipe file of a row; its first line says what else it depends on."""
    options = row.options | {"entropy_coding": "zstd", "calibration_limit": scale.calibration_limit}
    text = f"# {_scale_text(scale)}\n{recipe_text(Run(row.name, 'ablation', options))}"
    if row.finetune is None:
        return text
    return f"{text}\n[finetune]\n{recipe_text(Run(row.name, 'ablation', row.finetune | scale.finetune))}"


def _scale_text(scale: Scale) -> str:
    return (
        f"train {scale.num_train}, select {scale.num_select}, "
        f"test {scale.num_test} ({scale.own_limit or 'all'} of the data's own), dev {scale.num_dev}"
    )


def make_steps(row: Row, data: Path, out: Path, train: Path, select: Path, device: str) -> tuple[Step, ...]:
    """The file, and what its weights take."""
    artifact = out / f"{row.name}.safetensors"
    options: list[str | Path] = ["--config", out / f"{row.name}.toml", "--calibrate", select, "--data-dir", data]
    if row.finetune is not None:
        options += ["--finetune", train, "--dev", select, "--device", device, "--resume"]
    command = asrcompress(row.command, data / MODEL, *options, "-o", artifact, "--force")
    counted = out / f"{row.name}.bytes.json"
    count = [sys.executable, "-m", "experiments.ablation_bytes", str(artifact), str(counted)]
    return (
        Step((command,), artifact.with_name(f"{artifact.name}.json")),
        Step((count,), counted),
    )


def all_jobs(
    chosen: Iterable[Row],
    data: Path,
    out: Path,
    floats: Path,
    scale: Scale,
    device: str,
    *,
    is_sweep: bool = False,
    composed_only: bool = False,
) -> dict[str, Job]:
    """Compose, evaluate the float model, make and evaluate the rows; `floats` is the folder of what the rows share."""
    chosen = list(chosen)
    sets = dev_sets(floats, scale) if is_sweep else test_sets(data, floats, scale)
    if composed_only:
        sets.pop("own.eval", None)
    split = "dev" if is_sweep else "test"
    number = scale.num_dev if is_sweep else scale.num_test
    train, first = train_table(floats, scale), composed(floats, split, number)
    select = select_table(floats, scale)
    jobs = {"compose-select": compose_job(data, select, "dev", scale.num_select, SELECT_SEED)}
    if _is_trained(chosen):
        jobs["compose-train"] = compose_job(data, train, "train", scale.num_train, TRAIN_SEED)
    jobs[f"compose-{split}"] = compose_job(data, first, split, number, SEEDS[split])
    made = {
        row.name: Job(
            make_steps(row, data, out, train, select, device),
            ("compose-select", *(("compose-train",) if row.finetune is not None else ())),
        )
        for row in chosen
    }
    for suffix, table in sets.items():
        needs = (f"compose-{split}",) if table[0] == first else ()
        step = evaluation(data / MODEL, "float", suffix, table, floats, floats)
        jobs[f"float.{suffix}"] = Job((step,), needs, "float")
    jobs |= made
    for row in chosen:
        for suffix, table in sets.items():
            step = evaluation(out / f"{row.name}.safetensors", row.name, suffix, table, out, floats)
            jobs[f"{row.name}.{suffix}"] = Job((step,), (row.name, f"float.{suffix}"))
    return jobs


def _is_trained(chosen: Iterable[Row]) -> bool:
    return any(row.finetune is not None for row in chosen)


def choose(names: Sequence[str]) -> list[Row]:
    """Rows by their own names (int4-2-4-tuned), or both of a configuration by its label (int4+2:4); all where none is named.

    Raises:
        ValueError: no row has such a name.
    """
    if not names:
        return rows()
    found: dict[str, Row] = {}
    plain = [row for row in rows() if row.name.endswith(("-tuned", "-one-shot"))]
    for name in names:
        fits = [row for row in rows() if row.name == name] or [row for row in plain if row.label == name]
        if not fits:
            raise ValueError(f"--only {name}: is no row; use {', '.join(row.name for row in rows())}")
        found |= {row.name: row for row in fits}
    return list(found.values())


def variations(chosen: Sequence[Row], given: Sequence[str]) -> list[Row]:
    """The fine-tuned ones of these rows with every combination of `given`: KEY=VALUE or KEY=VALUE,VALUE,...

    Raises:
        ValueError: not written so, or no row is fine-tuned.
    """
    values: dict[str, list[Any]] = {}
    for each in given:
        key, equals, text = each.partition("=")
        if not (key and equals and text):
            raise ValueError(
                f"--set {each}: use KEY=VALUE, or KEY=VALUE,VALUE for several, such as learning_rate=3e-5,1e-4"
            )
        values[key.replace("-", "_")] = [_value(one) for one in text.split(",")]
    trained = [row for row in chosen if row.finetune is not None]
    if not trained:
        raise ValueError("--set: varies what is fine-tuned, and none of these rows is")
    found = [changed(row, dict(zip(values, one, strict=True))) for row in trained for one in product(*values.values())]
    return list({row.name: row for row in found}.values())


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def pack(out: Path, path: Path) -> None:
    """All small files of `out` in one .tar.gz: sidecars, utterances, recipes and logs, but no model and no audio."""
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted([*out.glob("*"), *out.glob("sweep/*")]):
            if file.is_file() and file.suffix.removeprefix(".") in PACKED:
                archive.add(file, file.relative_to(out))


def pack_models(out: Path, path: Path) -> None:
    """The rows' artifacts in <path>.models-1.tar and so on, none larger than MOST_BYTES unless it holds one file alone."""
    files = sorted(file for file in out.glob("*.safetensors") if not file.name.endswith(STATE_SUFFIX))
    parts: list[list[Path]] = []
    left = 0
    for file in files:
        size = file.stat().st_size + 1024  # with its header and padding
        if not parts or size > left:
            parts.append([])
            left = MOST_BYTES
        parts[-1].append(file)
        left -= size
    stem = path.name.removesuffix(".gz").removesuffix(".tar")
    for number, part in enumerate(parts, 1):
        with tarfile.open(path.with_name(f"{stem}.models-{number}.tar"), "w") as archive:
            for file in part:
                archive.add(file, file.relative_to(out))


def describe_device(device: str) -> dict[str, str | None]:
    """What trained."""
    if device != "cuda":
        return {"device": device, "name": None}
    import torch

    return {"device": device, "name": torch.cuda.get_device_name() if torch.cuda.is_available() else None}


def run_sweep(chosen: Sequence[Row], data: Path, out: Path, scale: Scale, options: argparse.Namespace) -> list[str]:
    """Run variations and print what came out, best first; the names of what failed."""
    from experiments.ablation_sweep import sweep_table

    folder = out / "sweep"
    folder.mkdir(exist_ok=True)
    prepare_text("float", f"# {_scale_text(scale)}\n", out)
    for row in chosen:
        prepare_text(row.name, recipe(row, scale), folder)
    jobs = all_jobs(chosen, data, folder, out, scale, options.device, is_sweep=True)
    failed = run_graph(jobs, folder, options.jobs, _seconds(options))
    text = sweep_table(folder, [row.name for row in chosen])
    (folder / "sweep.txt").write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")
    return failed


def run_table(chosen: Sequence[Row], data: Path, out: Path, scale: Scale, options: argparse.Namespace) -> list[str]:
    """Run rows; the names of what failed."""
    prepare_text("float", f"# {_scale_text(scale)}\n", out)
    for row in chosen:
        prepare_text(row.name, recipe(row, scale), out)
    if _is_trained(chosen):
        text = json.dumps(describe_device(options.device))
        (out / "device.json").write_text(text + "\n", encoding="utf-8")
    jobs = all_jobs(chosen, data, out, out, scale, options.device, composed_only=options.composed_only)
    return run_graph(jobs, out, options.jobs, _seconds(options))


def _seconds(options: argparse.Namespace) -> float | None:
    return None if options.minutes is None else 60 * options.minutes


def publish(out: Path, *, is_small: bool) -> None:
    """Read all sidecars; write the results and the page, or, of a small run, the results alone beside the sidecars."""
    from experiments.ablation_results import FILE, collect, write_results
    from experiments.page import write_page

    write_results(collect(out, rows()), out / "ablation.json" if is_small else FILE)
    if not is_small:
        write_page()


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(prog="ablation", description="Run the ablation of bits, patterns and fine-tuning.")
    parser.add_argument("data", type=Path, help="the folder of the digits data")
    parser.add_argument("out", type=Path, help="where all files go")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes at once, of one thread each [2]")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where models are trained [cpu]")
    parser.add_argument("--small", action="store_true", help="a little of everything: whether it runs")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="these rows alone; the page is left as it is"
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE[,VALUE]", help="other options, into OUT/sweep"
    )
    parser.add_argument("--minutes", type=float, metavar="M", help="end what is not done by then")
    parser.add_argument("--pack", type=Path, metavar="FILE.tar.gz", help="sidecars and logs, without the models")
    parser.add_argument(
        "--models", action="store_true", help="with --pack: the models in archives of their own beside it"
    )
    parser.add_argument("--composed-only", action="store_true", help="leave the data's own test set for another run")
    parser.add_argument("--collect", action="store_true", help="run nothing; make the page of the sidecars in OUT")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Exit code 0: done; 1: something failed; 2: there are no data, or no such row."""
    options = read_arguments(arguments)
    data, out = options.data, options.out
    scale = SMALL if options.small else FULL
    if options.collect:
        publish(out, is_small=options.small)
        return 0
    missing = [name for name in (MODEL, "make_train.py", "recordings") if not (data / name).exists()]
    if missing:
        return _refuse(
            f"{data / missing[0]} is not there; give the folder of the digits data: bash tools/ablation.sh DATA"
        )
    try:
        chosen = choose(options.only)
        varied = variations(chosen, options.set) if options.set else []
    except ValueError as error:
        return _refuse(str(error))
    out.mkdir(parents=True, exist_ok=True)
    failed = run_sweep(varied, data, out, scale, options) if varied else run_table(chosen, data, out, scale, options)
    if options.pack:
        pack(out, options.pack)
        if options.models:
            pack_models(out, options.pack)
    if failed:
        sys.stderr.write(f"ablation: {len(failed)} failed: {', '.join(failed)}; see the logs in {out}\n")
        return 1
    if not (options.only or varied or options.composed_only):
        publish(out, is_small=options.small)
    return 0


def _refuse(text: str) -> int:
    sys.stderr.write(f"ablation: {text}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
