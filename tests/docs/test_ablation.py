"""The section "Few bits and few weights together": its rows, how they are run and read, and what is said of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from asrcompress import sidecar
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))  # the script is a package of its own there

from experiments import (
    ablation,
    ablation_bytes,
    ablation_plot,
    ablation_results,
    ablation_run,
    ablation_section,
    ablation_sweep,
    jobs,
)
from experiments.run import Step, prepare_text

LABELS = ("int8", "int4", "int2", "2:4", "1:4", "int4+2:4", "int2+2:4", "int2+1:4")
NAMES = [row.name for row in ablation.rows()]
WORDS = 4  # of every utterance below


# ---------------------------------------------------------------- rows


def test_every_configuration_is_there_one_shot_and_tuned_and_one_is_varied() -> None:
    found = ablation.rows()
    assert len({row.name for row in found}) == len(found) == 2 * len(LABELS) + 7
    for label in LABELS:
        of_label = [row for row in found if row.label == label and row.name.endswith(("-tuned", "-one-shot"))]
        assert [row.finetune is None for row in of_label] == [False, True]
        assert of_label[0].options == of_label[1].options
    base = ablation.variant("seed", 1)
    for key, values in ablation.ABLATED.items():
        for value in values:
            changed = ablation.variant(key, value)
            assert changed.finetune == base.finetune | {key: value} and changed.options == base.options
            assert (changed.name == base.name) == (base.finetune[key] == value)


def test_labels_are_what_the_options_store() -> None:
    for each in ablation.CONFIGURATIONS:
        said = [f"int{each.options['bits']}"] if "bits" in each.options else []
        assert each.label == "+".join(said + ([each.options["pattern"]] if "pattern" in each.options else []))


@pytest.mark.parametrize("scale", [ablation.FULL, ablation.SMALL])
def test_every_recipe_is_one_that_its_command_takes(tmp_path: Path, scale: ablation.Scale) -> None:
    from asrcompress.ops.finetune_config import FinetuneConfig
    from asrcompress.ops.recipe import QuantizeConfig, read_finetune_table, read_recipe
    from asrcompress.ops.sparsify_config import sparsify_config

    for row in ablation.rows():
        path = tmp_path / f"{row.name}.toml"
        path.write_text(ablation_run.recipe(row, scale), encoding="utf-8")
        table = read_finetune_table(path)
        assert bool(table) == (row.finetune is not None)
        if row.finetune is not None:
            config = FinetuneConfig(**table)
            assert all(getattr(config, key) == value for key, value in (row.finetune | scale.finetune).items())
        if row.command == "quantize":
            made = QuantizeConfig(**read_recipe(path))
            assert (made.num_bits, made.pattern) == (row.options["bits"], row.options.get("pattern"))
        else:
            made = sparsify_config(path, {})
            assert made.pattern == row.options["pattern"]
        assert (made.method, made.entropy_coding) == (row.options["method"], "zstd")


def test_another_scale_or_option_makes_a_row_anew(tmp_path: Path) -> None:
    row = ablation.rows()[0]
    full = ablation_run.recipe(row, ablation.FULL)
    others = [
        ablation_run.recipe(row, replace(ablation.FULL, num_train=5)),
        ablation_run.recipe(replace(row, finetune=row.finetune | {"learning_rate": 0.5}), ablation.FULL),
    ]
    for other in others:
        prepare_text(row.name, full, tmp_path)
        made = tmp_path / f"{row.name}.eval.json"
        made.touch()
        prepare_text(row.name, full, tmp_path)
        assert made.exists()
        prepare_text(row.name, other, tmp_path)
        assert not made.exists()


def test_rows_are_named_on_the_command_line() -> None:
    assert ablation_run.choose([]) == ablation.rows()
    assert [row.name for row in ablation_run.choose(["int2+1:4", "2-4-tuned"])] == [
        "int2-1-4-tuned",
        "int2-1-4-one-shot",
        "2-4-tuned",
    ]
    with pytest.raises(ValueError, match="--only int3: is no row; use int8-tuned, "):
        ablation_run.choose(["int3"])


def test_sweeps_are_all_combinations_of_what_is_trained() -> None:
    chosen = ablation_run.choose(["int2+1:4"])
    found = ablation_run.variations(chosen, ["learning_rate=1e-5,3e-4", "epochs=6,12", "method=auto"])
    rate = dict(next(each for each in ablation.CONFIGURATIONS if each.label == "int2+1:4").finetune)["learning_rate"]
    assert len({row.name for row in found}) == 4
    assert {(row.finetune["learning_rate"], row.finetune["epochs"]) for row in found} == {
        (1e-5, 6), (1e-5, 12), (3e-4, 6), (3e-4, 12)
    }  # fmt: skip
    assert all(row.options["method"] == "auto" and "method" not in row.finetune for row in found)
    assert ablation_run.variations(chosen, [f"learning_rate={rate}"])[0].name == "int2-1-4-tuned"
    assert not any(re.search(r"[^a-z0-9_-]", row.name) for row in ablation_run.variations(chosen, ["sr_ste=0.5,1e-4"]))
    for given, said in (("learning_rate", "KEY=VALUE"), ("=3", "KEY=VALUE")):
        with pytest.raises(ValueError, match=said):
            ablation_run.variations(chosen, [given])
    with pytest.raises(ValueError, match="none of these rows is"):
        ablation_run.variations(ablation_run.choose(["int8-one-shot"]), ["epochs=1"])


# ---------------------------------------------------------------- running


def test_nothing_that_chooses_is_of_the_test_set(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    found = ablation_run.all_jobs(ablation.rows(), data, out, out, ablation.FULL, "cuda")
    composed = {name: job.steps[0].commands[0] for name, job in found.items() if name.startswith("compose-")}
    kinds = {name: (command[-3], command[-2:]) for name, command in composed.items()}
    assert kinds["compose-train"] == ("train", ["4000", "5"]) and kinds["compose-test"] == ("test", ["2000", "77"])
    assert kinds["compose-select"][0] == "dev"
    test_tables = {str(table) for table, _ in ablation_run.test_sets(data, out, ablation.FULL).values()}
    for row in ablation.rows():
        command = found[row.name].steps[0].commands[0]
        assert not test_tables & set(command)
        assert ("--finetune" in command) == (row.finetune is not None)
        needs = {"compose-select", "compose-train"} if row.finetune else {"compose-select"}
        assert set(found[row.name].needs) == needs
        if row.finetune:
            assert command[command.index("--finetune") + 1] == str(out / "train-4000" / "train.tsv")
            assert command[command.index("--device") + 1] == "cuda"
        for suffix, (table, _) in ablation_run.test_sets(data, out, ablation.FULL).items():
            job = found[f"{row.name}.{suffix}"]
            (command,) = job.steps[0].commands
            assert job.needs == (row.name, f"float.{suffix}")
            assert command[command.index("--data") + 1] == str(table)
            assert command[command.index("--baseline") + 1] == str(out / f"float.{suffix}.json")
            assert command[command.index("--beam") + 1] == "1"


def test_a_sweep_sees_dev_utterances_alone(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    chosen = ablation_run.variations(ablation_run.choose(["int8"]), ["epochs=1,2"])
    found = ablation_run.all_jobs(chosen, data, out / "sweep", out, ablation.FULL, "cpu", is_sweep=True)
    said = [part for job in found.values() for step in job.steps for command in step.commands for part in command]
    assert "test" not in said and not any(part.endswith("test.tsv") for part in said)
    evaluated = [name for name in found if name.endswith("eval")]
    assert sorted(evaluated) == sorted(["float.dev.eval", *(f"{row.name}.dev.eval" for row in chosen)])


def _job(path: Path, code: str = "", needs: tuple[str, ...] = ()) -> jobs.Job:
    write = f"import time\n{code}\nopen({str(path)!r}, 'x').write(str(time.monotonic()))"
    return jobs.Job((Step(([sys.executable, "-c", write],), path),), needs)


def test_jobs_wait_for_what_they_need_and_are_run_once(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    graph = {"c": _job(c, needs=("a", "b")), "b": _job(b, needs=("a",)), "a": _job(a, "time.sleep(0.3)")}
    assert jobs.run_graph(graph, tmp_path, 3) == []
    times = [float(path.read_text()) for path in (a, b, c)]
    assert times == sorted(times)
    assert jobs.run_graph(graph, tmp_path, 3) == []
    assert len((tmp_path / "journal.txt").read_text().splitlines()) == 3
    a.unlink()  # what only made what is there is not made again
    assert jobs.run_graph(graph, tmp_path, 3) == [] and not a.exists()


def test_what_needs_a_failed_job_does_not_begin_and_the_rest_goes_on(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    graph = {"a": _job(a, "raise SystemExit('no')"), "b": _job(b, needs=("a",)), "c": _job(c)}
    assert sorted(jobs.run_graph(graph, tmp_path, 1)) == ["a", "b"]
    assert c.exists() and not b.exists() and (tmp_path / "a.log").read_text() == "no\n"


def test_when_the_time_is_up_what_runs_is_ended(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    graph = {"a": _job(a, "time.sleep(60)"), "b": _job(b)}
    assert jobs.run_graph(graph, tmp_path, 1, seconds=0.5) == ["a", "b"]
    assert not a.exists() and not b.exists()


def test_a_pack_holds_what_is_read_and_no_model(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "sweep").mkdir(parents=True)
    (out / "test-20").mkdir()
    names = ["x.safetensors.json", "x.eval.utterances.jsonl", "x.log", "x.toml", "journal.txt", "sweep/y.dev.eval.json"]
    for name in [*names, "x.safetensors", "x.training.safetensors", "test-20/test.tsv"]:
        (out / name).write_bytes(b"{}" * 100)
    ablation_run.pack(out, tmp_path / "p.tar.gz")
    with tarfile.open(tmp_path / "p.tar.gz") as archive:
        assert sorted(archive.getnames()) == sorted(names)


def test_models_are_packed_in_parts_that_are_not_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation_run, "MOST_BYTES", 10_000)
    for name, size in (("a", 5000), ("b", 2500), ("c", 4000), ("d", 20_000), ("a.training", 9)):
        (tmp_path / f"{name}.safetensors").write_bytes(b"x" * size)
    ablation_run.pack_models(tmp_path, tmp_path / "p.tar.gz")
    parts = []
    for number in (1, 2, 3):
        with tarfile.open(tmp_path / f"p.models-{number}.tar") as archive:
            parts.append(archive.getnames())
    assert parts == [["a.safetensors", "b.safetensors"], ["c.safetensors"], ["d.safetensors"]]


def test_without_data_one_line_says_so(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    for arguments in ([absent, str(tmp_path / "out"), "--small"], [absent, "--jobs", "3"]):
        command = ["bash", str(ROOT / "tools" / "ablation.sh"), *arguments]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 2 and result.stderr.count("\n") == 1 and f"{absent} is not there" in result.stderr
    assert ablation_run.main([str(tmp_path), str(tmp_path / "out")]) == 2 and not (tmp_path / "out").exists()


# ---------------------------------------------------------------- bytes


@pytest.mark.parametrize(
    ("entry", "bits"),
    [
        ({"num_bits": 8}, 8), ({"num_bits": 4}, 4), ({"num_bits": 2}, 2),
        ({"num_bits": 8, "pattern": "2:4"}, 4.75), ({"num_bits": 4, "pattern": "2:4"}, 2.75), ({"num_bits": 2, "pattern": "2:4"}, 1.75),
        ({"num_bits": 8, "pattern": "1:4"}, 2.5), ({"num_bits": 4, "pattern": "1:4"}, 1.5), ({"num_bits": 2, "pattern": "1:4"}, 1),
        ({"dtype": "float32", "pattern": "2:4"}, 16.75), ({"dtype": "bfloat16", "pattern": "1:4"}, 4.5),
    ],
)  # fmt: skip
def test_bits_of_a_weight_are_those_of_the_table(entry: dict[str, Any], bits: float) -> None:
    assert ablation_bytes.weight_bits(entry | {"shape": [12, 20]}) == bits * 240


@pytest.mark.parametrize("coding", [None, "zstd"])
@pytest.mark.parametrize("pattern", [None, "1:4"])
def test_bytes_are_those_of_the_file(tiny_s2t: Path, tmp_path: Path, pattern: str | None, coding: str | None) -> None:
    from asrcompress.ops.quantize import QuantizeConfig, quantize

    path = tmp_path / "q.safetensors"
    config = QuantizeConfig(num_bits=2, pattern=pattern, entropy_coding=coding)
    entries = quantize(tiny_s2t, path, config).record["ledger"]["entries"]
    assert ablation_bytes.main([str(path), str(tmp_path / "q.json")]) == 0
    found = json.loads((tmp_path / "q.json").read_text())
    kinds = ("weight_packed", "weight_pattern", "weight_scale")
    stored = {kind: sum(entry["size_bytes"] for entry in entries if entry["kind"] == kind) for kind in kinds}
    assert found["coded"] == sum(stored.values())
    assert found["theoretical"] == found["num_params"] * (1 if pattern else 2) / 8
    assert found["theoretical"] <= found["packed"] < found["theoretical"] * 1.01
    if coding is None:
        assert found["packed"] == stored["weight_packed"] + stored["weight_pattern"]
        assert found["scales"] == stored["weight_scale"]
    else:
        assert found["coded"] < found["packed"] + found["scales"]


# ---------------------------------------------------------------- results


def test_a_relative_difference_is_of_sums_and_its_interval_of_utterances() -> None:
    found = ablation_results.relative([2, 0, 1, 3] * 30, [1, 1, 1, 1] * 30)
    assert found.value == 0.5 and found.low < 0.5 < found.high
    assert ablation_results.relative([1, 1] * 9, [1, 1] * 9) == ablation_results.Relative(0, 0, 0)
    assert ablation_results.relative([1, 0], [0, 0]) is None
    double = ablation_results.relative([2, 4, 0] * 9, [1, 2, 0] * 9)  # the ratio is the same in every draw that has one
    assert (double.value, double.low, double.high) == (1, 1, 1)


def _write_eval(out: Path, name: str, suffix: str, errors: list[int], baseline: list[int] | None) -> None:
    from asrcompress.metrics.bootstrap import bootstrap_interval, paired_bootstrap

    words = [WORDS] * len(errors)
    interval = bootstrap_interval(errors, words)
    paired = None
    if baseline is not None:
        two = paired_bootstrap(errors, baseline, words)
        paired = {"delta": two.delta, "low": two.low, "high": two.high}
    lines = [json.dumps({"id": f"u{k}", "errors": e, "num_reference_words": WORDS}) for k, e in enumerate(errors)]
    (out / f"{name}.{suffix}.utterances.jsonl").write_text("\n".join(lines) + "\n")
    metrics = {
        "wer": sum(errors) / sum(words), "num_reference_words": sum(words),
        "substitutions": sum(errors), "insertions": 0, "deletions": 0,
    }  # fmt: skip
    record = sidecar.build(
        "eval",
        model={
            "file": f"{name}.pt", "sha256": "0" * 64, "size_bytes": 3000, "model_size_bytes": 1000, "family": "f", "num_params": 250,
        },
        metrics=metrics,
        environment=sidecar.describe_environment(device="cpu", num_threads=1),
        data={"sha256": suffix, "file": "test.tsv", "num_utterances": len(errors)},
        decoding={"beam": 1, "batch_size": 16},
        normalizer={"name": "basic"},
        intervals={"wer": {"low": interval.low, "high": interval.high, "confidence": 0.95, "num_resamples": 1000}},
        paired=paired,
        utterances_file=f"{name}.{suffix}.utterances.jsonl",
    )  # fmt: skip
    (out / f"{name}.{suffix}.json").write_text(json.dumps(record))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is collected of a run whose one-shot rows are bad by their place, and whose fine-tuned ones are nearly as float is."""
    out = tmp_path_factory.mktemp("out")
    own = [1, 0, 0, 0] * 25
    for suffix in ablation_results.SUFFIXES:
        _write_eval(out, "float", suffix, own, None)
    for position, row in enumerate(ablation.rows()):
        errors = [e + (k < (1 if row.finetune else 5 + position)) for k, e in enumerate(own)]
        for suffix in ablation_results.SUFFIXES:
            _write_eval(out, row.name, suffix, errors, own)
        best = {"metric": 0.05, "loss": 0.1, "epoch": 2.0, "mask_divergence": None}
        divergent = row.finetune is not None and row.finetune["mask_schedule"] != "one-shot"
        training = {
            "options": row.finetune, "train": {"num_utterances": 7}, "dev": {"num_utterances": 5, "file": "dev.tsv"}, "num_updates": 9,
            "before": best | {"metric": 0.2}, "best": best, "written": best,
            "history": [best, best | {"mask_divergence": 0.1234 if divergent else None}],
        }  # fmt: skip
        size = 400 - 10 * position
        artifact = {
            "metrics": {"size_bytes": size, "size_bytes_without_entropy_coding": size + 5},
            "honesty": {"reached": "stored"},
        }
        artifact |= {"training": training} if row.finetune is not None else {}
        (out / f"{row.name}.safetensors.json").write_text(json.dumps(artifact))
        counted = {"num_params": 100, "theoretical": 50.0, "packed": 51 if position else 50, "scales": 5, "coded": 45}
        (out / f"{row.name}.bytes.json").write_text(json.dumps(counted))
    (out / "device.json").write_text('{"device": "cuda", "name": "A GPU"}')
    record = ablation_results.collect(out, ablation.rows())
    path = out / "ablation.json"
    ablation_results.write_results(record, path)
    assert ablation_results.read_results(path) == ablation_results.parse(json.loads(json.dumps(record)))
    return record


def test_what_is_collected_is_what_the_sidecars_say(made: dict[str, Any]) -> None:
    found = ablation_results.parse(made)
    assert list(found.rows) == NAMES and found.model_size_bytes == 1000
    row = found.rows["int8-tuned"]
    assert (row.size_bytes, row.uncoded_bytes, row.test.num_errors) == (400, 405, 26)
    assert row.relative["eval"].value == pytest.approx(1 / 25, abs=1e-6)
    assert row.test.delta == pytest.approx(1 / 400)
    assert (row.training["before"], row.training["best"]) == ([0.2, 0.1], [0.05, 0.1])
    assert found.rows["int8-one-shot"].training is None
    assert found.conditions["train"] == {"num_utterances": 7} and found.conditions["trained_on"]["name"] == "A GPU"


def test_the_section_says_what_the_rows_hold(made: dict[str, Any]) -> None:
    found = ablation_results.parse(made)
    said = ablation_section.section(found)
    assert "{" not in said and "None" not in said and "nan" not in said
    main, before = found.rows["int4-2-4-tuned"], found.rows["int4-2-4-one-shot"]
    size = main.uncoded_bytes
    assert (
        f"**int4 + 2:4**, fine-tuned, is {size / 10:.2f} % of float, {(size - 5) / 10:.2f} % with entropy coding"
        in said
    )
    assert f"| int4+2:4 | {size:,} | {size / 10:.2f} % · {100 * size / 11_285_451:.2f} % | {size - 5:,} |" in said
    assert f"one-shot {100 * before.test.wer:.2f} %, +{100 * before.relative['eval'].value:.1f} % [" in said
    assert "at least 0.9804 in every file, 0.893 with scales" in said
    assert "from the lowest to the highest" in said and "so 0.00 points" in said
    assert said.count("12.34 %") == 2, "masks that change are told, of few-shot and every-step"
    for label in LABELS:
        assert said.count(f"| {label} | ") == 4, "a row in each table"
    one_shot = next(line for line in said.splitlines() if line.startswith("| int2+1:4 | ") and "▲" in line)
    assert one_shot.count("▲") >= 3


def test_whether_the_promise_is_kept_follows_the_figures(made: dict[str, Any]) -> None:
    found = ablation_results.parse(made)

    def said(value: float, low: float) -> str:
        row = found.rows["int4-2-4-tuned"]
        relative = ablation_results.Relative(value, low, value + 0.1)
        rows = found.rows | {row.name: replace(row, relative=row.relative | {"eval": relative})}
        return next(line for line in ablation_section.findings(replace(found, rows=rows)) if "int4 + 2:4" in line)

    assert said(0.073, 0.01).endswith("or not worse than float: yes.")
    assert said(0.08, -0.01).endswith("or not worse than float: yes.")
    assert said(0.08, 0.01).endswith("or not worse than float: no.")


def test_the_plot_shows_every_pair_and_no_two_labels_overlap(made: dict[str, Any]) -> None:
    found = ablation_results.parse(made)
    svg = ablation_plot.ablation_plot(found)
    boxes = []
    for x, y, text in re.findall(r'<text class="label" x="([\d.]+)" y="([\d.]+)">([^<]+)<', svg):
        boxes.append((float(x), float(y), float(x) + 6.2 * len(text), float(y) - 11, text))
    assert {box[4] for box in boxes} == {*LABELS, f"float, 100 %: {100 * found.float_model['eval'].wer:.2f} %"}
    for one, other in combinations(boxes, 2):
        is_apart = one[2] <= other[0] or other[2] <= one[0] or one[3] >= other[1] or other[3] >= one[1]
        assert is_apart, (one[4], other[4])
    assert svg.count("fill: #fff;") == len(LABELS) + 3, "one-shot is hollow, in the legend, too"


def test_a_worse_rate_lies_higher_and_a_larger_file_further_right(made: dict[str, Any]) -> None:
    found = ablation_results.parse(made)
    pairs = ablation_plot.pairs_of(found)
    scale = ablation_plot.Scale(pairs, found.float_model["eval"])
    for pair in pairs:
        assert scale.y(pair.before.wer) < scale.y(pair.after.wer)
    assert [p.label for p in sorted(pairs, key=lambda pair: -scale.x(pair.size_percent))] == list(LABELS)


def test_a_sweep_is_told_best_first_and_what_failed_last(tmp_path: Path) -> None:
    own = [1, 0] * 20
    for name, more in (("good", 0), ("bad", 7)):
        _write_eval(tmp_path, name, "dev.eval", [e + (k < more) for k, e in enumerate(own)], own)
        line = {"metric": 0.05, "loss": 0.1, "epoch": 2.0}
        artifact = {"metrics": {"size_bytes": 1234}, "training": {"before": line | {"metric": 0.5}, "best": line}}
        (tmp_path / f"{name}.safetensors.json").write_text(json.dumps(artifact))
    lines = ablation_sweep.sweep_table(tmp_path, ["gone", "bad", "good"]).splitlines()
    assert [re.match(r"\| `(\w+)`", line)[1] for line in lines[2:]] == ["good", "bad", "gone"]
    assert "12.50 %" in lines[2] and "50.00 % | 5.00 % | 2 | 1,234" in lines[2] and "failed" in lines[4]


# ---------------------------------------------------------------- docs/experiments/ablation.json

of_results = pytest.mark.skipif(
    not ablation_results.FILE.is_file(), reason="tools/ablation.sh makes docs/experiments/ablation.json"
)


@of_results
def test_the_results_are_those_of_the_rows() -> None:
    found = ablation_results.read_results()
    planned = {row.name: row for row in ablation.rows()}
    assert found.rows.keys() == planned.keys()
    for name, row in planned.items():
        made = found.rows[name]
        assert made.options == row.options and (made.training is None) == (row.finetune is None)
        if row.finetune is not None:
            assert {key: made.training["options"][key] for key in row.finetune} == row.finetune
            assert made.training["best"] <= made.training["before"]
    scale, data = ablation.FULL, found.conditions["data"]
    assert (data["eval"]["num_utterances"], data["own.eval"]["num_utterances"]) == (scale.num_test, 300)
    assert found.conditions["dev"]["num_utterances"] == scale.num_select
    assert found.model_size_bytes == 11_217_084


@of_results
def test_rates_are_errors_over_words_and_relative_to_the_float_models() -> None:
    found = ablation_results.read_results()
    for suffix, data in found.conditions["data"].items():
        own = found.float_model[suffix]
        for made in found.rows.values():
            figures, relative = made.evaluations[suffix], made.relative[suffix]
            assert figures.wer == pytest.approx(figures.num_errors / data["num_words"], abs=1e-6)
            assert figures.low <= figures.wer <= figures.high
            assert relative.value == pytest.approx(figures.num_errors / own.num_errors - 1, abs=1e-6)
            assert relative.low <= relative.value <= relative.high


@of_results
def test_files_are_as_small_as_arithmetic_says() -> None:
    for made in ablation_results.read_results().rows.values():
        assert made.bytes["theoretical"] / made.bytes["packed"] >= 0.97
        assert made.bytes["coded"] < made.size_bytes <= made.uncoded_bytes
        assert made.bytes["packed"] + made.bytes["scales"] < made.uncoded_bytes


def test_what_training_does_by_itself_is_told_beside_int8(made: dict[str, Any]) -> None:
    found = ablation_results.parse(made)
    row = found.rows["int2-tuned"]
    figures = replace(row.test, wer=2 * found.rows["int8-tuned"].test.wer)
    worse = replace(row, evaluations=row.evaluations | {"eval": figures})
    said = ablation_section.findings(replace(found, rows=found.rows | {"int2-tuned": worse}))
    line = next(line for line in said if line.startswith("**Training helps"))
    assert "int2 +100.0 %" in line and "int4 +0.0 %" in line
