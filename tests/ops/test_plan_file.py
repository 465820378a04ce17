"""A plan as a file: read back to the same options, carried out to the byte, held to its budget, for its own model only."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asrcompress.artifact import load_artifact
from asrcompress.errors import AsrCompressError
from asrcompress.files import sha256_file
from asrcompress.ops.load import build_float, describe, load_model, open_source
from asrcompress.ops.plan import Priced, UnitChoices, size_range, solve_exactly
from asrcompress.ops.plan_file import PlanFacts, plan_config, plan_text, read_plan, write_plan
from asrcompress.ops.plan_sizes import FileSizes
from asrcompress.ops.quantize import quantize
from asrcompress.ops.recipe import QuantizeConfig, Rule, read_recipe
from asrcompress.ops.units import Option, weight_units

OPTIONS = [Option(bits, pattern) for bits in (8, 4, 3, 2) for pattern in (None, (2, 4), (1, 4))]
FACTS = PlanFacts("x.pt", "a" * 64, 1000, 90, 100)


def make_plan(model: Path, folder: Path, share: float, config: QuantizeConfig | None = None, **changes: object) -> Path:
    """A plan whose budget lies this far between the smallest file and the largest; costs are made up."""
    source = open_source(model)
    config = config or QuantizeConfig()
    sizes = FileSizes(source, config)
    with torch.device("meta"):
        units = weight_units(build_float(source))
    rng = random.Random(str(share))
    choices = []
    for unit in units:
        scale = rng.random()
        options = tuple(
            Priced(option, sizes.option(unit.name, option), scale * 4.0**-option.num_bits * (9 if option.pattern else 1))
            for option in OPTIONS
            if unit.allows(option)
        )  # fmt: skip
        choices.append(UnitChoices(unit.name, options))
    smallest = sizes.total({unit.name: min(unit.options, key=lambda p: p.size_bytes).option for unit in choices})
    low, high = size_range(choices)
    budget = smallest + int((high - low) * share)
    plan = solve_exactly(choices, budget, sizes.total)
    original = describe(source, 0)["model_size_bytes"]
    predicted = {"loss_change": plan.cost}
    facts = PlanFacts(model.name, source.sha256, original, plan.size_bytes, budget, predicted, "b" * 64)
    folder.mkdir(exist_ok=True)
    params = {unit.name: unit.num_params for unit in units}
    text = plan_text(plan_config(config, plan.choice), replace(facts, **changes), params)
    write_plan(folder / "p.plan.toml", text)
    return folder / "p.plan.toml"


def carry_out(model: Path, plan: Path, output: Path, **others):
    read = read_plan(plan)
    return quantize(model, output, QuantizeConfig(**read.options), plan=read, **others)


def names_in(plan: Path) -> set[str]:
    return {glob for rule in read_plan(plan).options["rules"] if rule.bits for glob in rule.globs}


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6])
@pytest.mark.parametrize("fixture", ["tiny_s2t", "tiny_kws"])
def test_the_file_has_the_bytes_and_the_options_of_its_plan(
    fixture: str, share: float, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model = request.getfixturevalue(fixture)
    plan = make_plan(model, tmp_path, share)
    result = carry_out(model, plan, tmp_path / "q.safetensors")
    facts = read_plan(plan).facts
    assert os.stat(result.path).st_size == facts.size_bytes <= facts.budget_bytes
    content = load_artifact(result.path)
    config = QuantizeConfig(**read_plan(plan).options)
    assert content.quantized.keys() == names_in(plan)
    for name, weight in content.quantized.items():
        assert (weight.num_bits, weight.pattern) == (config.of_weight(name)[0], config.sparsity_of(name)[0])
    assert load_model(result.path)


@pytest.mark.parametrize("fixture", ["digits", "kws"])
def test_real_checkpoints_at_budgets_at_random(fixture: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue(f"{fixture}_dir")
    model = folder / ("checkpoint_best.pt" if fixture == "digits" else "crnn_happy.pt")
    rng = random.Random(fixture)
    for number in range(1 if fixture == "digits" else 4):
        plan = make_plan(model, tmp_path / str(number), rng.random() ** 2)
        facts = read_plan(plan).facts
        size = carry_out(model, plan, tmp_path / f"{number}.safetensors").record["metrics"]["size_bytes"]
        print(f"{fixture}: budget {facts.budget_bytes}, predicted {facts.size_bytes}, written {size}")
        assert size == facts.size_bytes <= facts.budget_bytes


def test_the_artifact_keeps_what_loading_needs_and_the_sidecar_has_it_whole(tiny_s2t: Path, tmp_path: Path) -> None:
    config = QuantizeConfig(level="computed", rules=(Rule("decoder", level="stored", granularity="per_tensor"),))
    plan = make_plan(tiny_s2t, tmp_path, 0.3, config)
    result = carry_out(tiny_s2t, plan, tmp_path / "q.safetensors")
    recipe = load_artifact(result.path).recipe
    assert recipe["plan"] == sha256_file(plan)
    assert recipe["rules"] == [{"modules": "decoder", "level": "stored"}]
    told = json.loads(result.sidecar.read_text())["recipe"]
    assert told["plan"]["sha256"] == sha256_file(plan) and told["plan"]["file"] == plan.name
    assert told["plan"]["size_bytes"] == result.record["metrics"]["size_bytes"]
    assert {name for rule in told["rules"] if "bits" in rule for name in rule["modules"]} == names_in(plan)
    assert told["rules"][0] == {"modules": "decoder", "granularity": "per_tensor", "level": "stored"}
    # The same rules as any recipe's stand whole in the artifact, and take more.
    as_recipe = quantize(tiny_s2t, tmp_path / "r.safetensors", QuantizeConfig(**read_recipe(plan)))
    assert len(load_artifact(as_recipe.path).recipe["rules"]) == len(told["rules"])
    assert as_recipe.record["metrics"]["size_bytes"] > result.record["metrics"]["size_bytes"] + 500


@pytest.mark.parametrize("name", ["a.weight", "w[0].*?", 'q"\\\n\x7fü', "x" * 300])
@pytest.mark.parametrize("pattern", [None, "4:8"])
def test_what_is_written_is_read_back(name: str, pattern: str | None, tmp_path: Path) -> None:
    choice = {name: Option(4, (2, 4)), "b.weight": Option(8), "c.weight": Option(8), "d.weight": None, "e": Option(1)}
    base = QuantizeConfig(
        method="gptq", level="integer-only", calibration_limit=7, bias_correction=True, pattern=pattern, granularity="per_group:4",
        rules=(Rule("*:in", activations="int6"), Rule(("decoder.*", "ctc"), method="mse")),
    )  # fmt: skip
    config = plan_config(base, choice, sparsifier="sparsegpt")
    facts = replace(FACTS, predicted={"loss_change": -1e-05, "relative_wer": 0.0125}, model='my "model".pt')
    sha256 = write_plan(tmp_path / "p.toml", plan_text(config, facts))
    read = read_plan(tmp_path / "p.toml")
    assert read.facts == facts and read.sha256 == sha256 == sha256_file(tmp_path / "p.toml")
    assert replace(QuantizeConfig(**read.options), plan=config.plan) == config
    assert config.of_weight(name) == (4, "per_group:4", "gptq")
    assert config.sparsity_of(name) == ((2, 4), "sparsegpt")
    assert config.sparsity_of("b.weight")[0] is None
    assert config.of_weight("e") == (1, "per_group:4", "binary")
    assert config.level_of("d.weight") == "float" and config.level_of("c.weight") == "integer-only"
    other = name.replace("[0]", "0").replace("weight", "bias")
    assert name == "x" * 300 or other == name or config.of_weight(other)[0] == config.num_bits


def test_it_says_on_top_what_it_is(tmp_path: Path) -> None:
    choice = {"a": Option(8), "b": Option(4, (2, 4)), "c": Option(4, (2, 4)), "d": None}
    facts = replace(FACTS, predicted={"loss_change": 0.0125, "relative_wer": 0.01})
    text = plan_text(plan_config(QuantizeConfig(method="gptq"), choice), facts, {"b": 100, "c": 200})
    assert text.splitlines()[:8] == [
        "# A plan for x.pt, made by asrcompress sensitivity. Carry it out:",
        "#   asrcompress quantize x.pt --plan THIS_FILE -o OUTPUT.safetensors --calibrate DATA",
        "# Predicted: 90 bytes, 9.00% of the float model's 1000; never above 100.",
        "# Against the float model: loss change +0.0125, relative wer +0.01.",
        "# float: 1 weights",
        "# int8: 1 weights",
        "# int4+2:4: 2 weights of 300 parameters",
        "",
    ]


def test_it_is_not_replaced_without_force(tmp_path: Path) -> None:
    text = plan_text(plan_config(QuantizeConfig(), {"a": Option(8)}), FACTS)
    write_plan(tmp_path / "p.toml", text)
    with pytest.raises(AsrCompressError, match="exists already"):
        write_plan(tmp_path / "p.toml", text + "# other\n")
    assert (tmp_path / "p.toml").read_text() == text
    write_plan(tmp_path / "p.toml", text + "# other\n", force=True)
    assert (tmp_path / "p.toml").read_text().endswith("# other\n")


def test_a_plan_is_for_one_model(tiny_kws: Path, tmp_path: Path) -> None:
    plan = make_plan(tiny_kws, tmp_path, 0.3, model_sha256="c" * 64)
    words = r"p\.plan\.toml: was made for crnn\.pt \(sha256 c{12}\), and \S*crnn\.pt is another file .*--config \S*p\.plan\.toml"
    with pytest.raises(AsrCompressError, match=words):
        carry_out(tiny_kws, plan, tmp_path / "q.safetensors")
    assert not (tmp_path / "q.safetensors").exists()


def test_a_byte_above_the_budget_is_not_written(tiny_kws: Path, tmp_path: Path) -> None:
    size = read_plan(make_plan(tiny_kws, tmp_path / "1", 0.3)).facts.size_bytes
    plan = make_plan(tiny_kws, tmp_path / "2", 0.3, budget_bytes=size - 1)
    words = f"would take {size} bytes, 1 more than the plan's budget of {size - 1} .*plan for {size - 2} bytes"
    with pytest.raises(AsrCompressError, match=words):
        carry_out(tiny_kws, plan, tmp_path / "q.safetensors")
    assert list(tmp_path.glob("q.*")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bits = 4\n", r"is a recipe without \[plan\]; give it as --config"),
        ("plan = 3\n", r"\[plan\] has format 3, not asrcompress\.plan\.v1"),
        ("[plan]\nformat = 'asrcompress.plan.v2'\n", "has format 'asrcompress.plan.v2'"),
        ("[plan]\nformat = 'asrcompress.plan.v1'\n", r"\[plan\] has no 'model'"),
        ("bit = 4\n[plan]\n", "'bit' is not an option"),
        ("bits = 1\n[plan]\n", "--bits 1: --method rtn needs 2 bits"),
        ("[[rules]]\nmodules = []\n[plan]\n", "the 'modules' of a rule are no globs"),
        ("[[rules]]\nmodules = [1]\n[plan]\n", "'modules' must be a list of strings"),
        ("bits = ", "is not TOML .*give a plan that asrcompress sensitivity wrote"),
    ],
)
def test_what_is_not_a_plan_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(AsrCompressError, match=rf"^\S*p\.toml: .*{message}") as caught:
        read_plan(tmp_path / "p.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["model", "model_sha256", "model_size_bytes", "size_bytes", "budget_bytes"])
def test_facts_of_the_wrong_kind(key: str, tmp_path: Path) -> None:
    text = plan_text(plan_config(QuantizeConfig(), {"a": Option(8)}), FACTS)
    for wrong in ("true", "-1", "1.5"):
        lines = [f"{key} = {wrong}" if line.startswith(f"{key} = ") else line for line in text.splitlines()]
        (tmp_path / "p.toml").write_text("\n".join(lines))
        with pytest.raises(AsrCompressError, match=rf"\[plan\] has no '{key}', or one that is not (str|int)"):
            read_plan(tmp_path / "p.toml")


def test_a_plan_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(AsrCompressError, match=r"none\.toml: the plan could not be read: No such file"):
        read_plan(tmp_path / "none.toml")
    (tmp_path / "p.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(AsrCompressError, match="is not TOML"):
        read_plan(tmp_path / "p.toml")
