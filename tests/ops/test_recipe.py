"""Recipes: the order of rules, what globs are over, and lines for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from asrcompress.artifact import load_artifact
from asrcompress.errors import AsrCompressError
from asrcompress.ops.quantize import Calibrate, plan, quantize
from asrcompress.ops.recipe import QuantizeConfig, Rule, override, read_recipe

RECIPES = Path(__file__).resolve().parents[2] / "samples" / "recipes"


def read(folder: Path, text: str) -> QuantizeConfig:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return QuantizeConfig(**read_recipe(path))


def test_of_the_rules_that_fit_the_last_one_that_says_something_counts(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        bits = 4
        level = "integer-only"
        [[rules]]
        modules = "encoder.*"
        bits = 8
        method = "mse"
        [[rules]]
        modules = "*.fc1"
        bits = 3
        granularity = "per_tensor"
        [[rules]]
        modules = "encoder.layers.1.*"
        level = "computed"
        [[rules]]
        modules = "encoder.layers.1.fc1.weight"
        level = "stored"
        """,
    )
    assert config.of_weight("decoder.fc2.weight") == (4, "per_channel", "rtn")
    assert config.of_weight("encoder.layers.0.fc2.weight") == (8, "per_channel", "mse")
    assert config.of_weight("encoder.layers.0.fc1.weight") == (3, "per_tensor", "mse")
    assert config.of_weight("decoder.fc1.weight") == (3, "per_tensor", "rtn")
    assert [config.level_of(f"encoder.layers.{name}") for name in ("0.fc1.weight", "1.fc2", "1.fc1.weight")] == [
        "integer-only",
        "computed",
        "stored",
    ]


def test_patterns_and_sparsifiers_by_rule(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        pattern = "2:4"
        sparsifier = "wanda"
        [[rules]]
        modules = "encoder.*"
        pattern = "1:4"
        [[rules]]
        modules = "*.fc1"
        sparsifier = "sparsegpt"
        [[rules]]
        modules = "conv"
        pattern = "none"
        """,
    )
    assert config.sparsity_of("decoder.fc2.weight") == ((2, 4), "wanda")
    assert config.sparsity_of("encoder.fc1.weight") == ((1, 4), "sparsegpt")
    assert config.sparsity_of("conv.0.weight") == (None, "wanda")
    record = config.to_json()
    assert (record["pattern"], record["sparsifier"]) == ("2:4", "wanda")
    assert record["rules"][2] == {"modules": "conv", "pattern": "none"}
    assert config.data_needed == ["sparsifier sparsegpt", "sparsifier wanda"]


def test_a_pattern_of_a_rule_alone_has_the_default_sparsifier() -> None:
    config = QuantizeConfig(rules=(Rule("gru", pattern="4:8"),))
    assert config.sparsity_of("gru.weight_ih_l0") == ((4, 8), "magnitude")
    assert config.sparsity_of("classifier.weight") == (None, "magnitude")
    assert config.to_json()["sparsifier"] == "magnitude"
    assert "pattern" not in config.to_json()
    assert config.data_needed == []


def test_without_a_pattern_nothing_about_one_is_recorded() -> None:
    assert not {"pattern", "sparsifier"} & QuantizeConfig().to_json().keys()
    undone = QuantizeConfig(**override({"pattern": "2:4", "sparsifier": "wanda"}, {"pattern": "none"}))
    assert undone == QuantizeConfig()
    with pytest.raises(
        AsrCompressError, match="sparsifier wanda: there is no pattern to choose for; add --pattern 2:4"
    ):
        QuantizeConfig(sparsifier="wanda")


def test_a_fraction_of_zeros_stands_where_a_pattern_does(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        sparsity = 0.5
        [[rules]]
        modules = "encoder"
        pattern = "2:4"
        [[rules]]
        modules = "*.fc1"
        sparsity = 0.75
        sparsifier = "wanda"
        [[rules]]
        modules = "conv"
        pattern = "none"
        """,
    )
    assert config.sparsity_of("decoder.fc2.weight") == (0.5, "magnitude")
    assert config.sparsity_of("encoder.fc2.weight") == ((2, 4), "magnitude")
    assert config.sparsity_of("encoder.fc1.weight") == (0.75, "wanda")
    assert config.sparsity_of("conv.0.weight") == (None, "magnitude")
    record = config.to_json()
    assert (record["sparsity"], record["sparsifier"], "pattern" in record) == (0.5, "magnitude", False)
    assert record["rules"][1] == {"modules": "*.fc1", "sparsifier": "wanda", "sparsity": 0.75}
    assert config.data_needed == ["sparsifier wanda"]
    assert override({"pattern": "2:4"}, {"sparsity": 0.5}) == {"sparsity": 0.5}
    assert override({"sparsity": 0.5}, {"pattern": "none"}) == {"pattern": "none"}


def test_zeros_that_a_weight_has_stay_where_nothing_else_is_said() -> None:
    names = ("conv.weight", "gru.weight", "fc.weight", "out.weight")
    rules = (Rule("conv", pattern="none"), Rule("gru", sparsity=0.5), Rule("fc", bits=3))
    config = QuantizeConfig(rules=rules)
    assert [config.keeps_mask_of(name) for name in names] == [False, False, True, True]
    assert not any(QuantizeConfig(pattern="none").keeps_mask_of(name) for name in names)
    assert not any(QuantizeConfig(pattern="2:4").keeps_mask_of(name) for name in names)
    assert QuantizeConfig(pattern="none").to_json() == QuantizeConfig().to_json()


@pytest.mark.parametrize(
    ("glob", "fitting"),
    [
        ("conv", {"conv", "conv.0", "conv.0.weight", "conv.0:in", "conv.0:out"}),  # a module, and all inside of it
        ("conv.0.weight", {"conv.0.weight"}),
        ("*:in", {"conv.0:in"}),
        ("conv.0:o*", {"conv.0:out"}),
        ("?onv.[0-3]", {"conv.0", "conv.0.weight", "conv.0:in", "conv.0:out"}),
        ("Conv", set()),
        ("*", {"conv", "conv.0", "conv.0.weight", "conv.0:in", "conv.0:out", "gru", ":input"}),
        (":input", {":input"}),
    ],
)
def test_globs_are_over_modules_weights_and_sites(glob: str, fitting: set[str]) -> None:
    names = ["conv", "conv.0", "conv.0.weight", "conv.0:in", "conv.0:out", "gru", ":input"]
    assert {name for name in names if Rule(glob, bits=4).fits(name)} == fitting


def test_a_rule_may_list_globs_and_each_has_to_fit(tiny_kws: Path, tmp_path: Path) -> None:
    text = "[[rules]]\nmodules = ['conv.0.weight', 'gru*', 'attention']\nbits = 3\n"
    config = read(tmp_path, text)
    names = ["conv.0.weight", "conv.0.bias", "gru.weight_ih_l0", "attention.energy.0.weight", "classifier.weight"]
    assert [config.of_weight(name)[0] for name in names] == [3, 8, 3, 3, 8]
    assert config.to_json()["rules"] == [{"modules": ["conv.0.weight", "gru*", "attention"], "bits": 3}]
    result = quantize(tiny_kws, tmp_path / "q.safetensors", config)
    assert load_artifact(result.path).quantized["gru.weight_hh_l1"].num_bits == 3
    with pytest.raises(AsrCompressError, match="^rule 'gru2' fits no module with weights"):
        plan(tiny_kws, read(tmp_path, text.replace("gru*", "gru2")))
    with pytest.raises(AsrCompressError, match="rule 'conv.0.weight' and 2 more: bits 5"):
        read(tmp_path, text.replace("3", "5"))


def test_the_rules_of_a_plan_are_recorded_as_far_as_loading_needs_them() -> None:
    rules = (
        Rule(("a", "b"), bits=4, pattern="2:4"),
        Rule("c", bits=3, level="stored"),
        Rule("*:in", activations="int6"),
    )
    config = QuantizeConfig(level="integer-only", rules=rules, plan="f" * 64)
    assert config.to_json()["rules"] == [
        {"modules": "c", "level": "stored"},
        {"modules": "*:in", "activations": "int6"},
    ]
    assert config.to_json()["plan"] == "f" * 64
    assert config.rules_to_json()[0] == {"modules": ["a", "b"], "bits": 4, "pattern": "2:4"}
    assert "rules" not in QuantizeConfig(rules=rules[:1], plan="f" * 64).to_json()
    assert "plan" not in QuantizeConfig(rules=rules[:1]).to_json()


def test_bits_of_activations() -> None:
    rules = (Rule("encoder", activations="int6"), Rule("encoder.norm:*", activations="int12"))
    config = QuantizeConfig(level="integer-only", intermediate_bits=14, rules=rules)
    assert config.bits_of_site("decoder:add", is_operand=False) == 14
    assert config.bits_of_site("decoder.fc1:in", is_operand=True) == 8
    assert config.bits_of_site("encoder.fc1:in", is_operand=True) == 6
    assert config.bits_of_site("encoder.norm:out", is_operand=False) == 12
    assert config.bits_of_site("encoder.norm:in", is_operand=True) == 8  # a product multiplies 8 bits at most


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bit = 4", r"'bit' is not an option.*use bits, .*rules"),
        ('bits = "4"', "'bits' must be int"),
        ("bits = true", "'bits' must be int"),
        ("bits = 5", "bits 5: use one of"),
        ('include = "*"', "'include' must be a list of strings"),
        ("include = [1]", "'include' must be a list of strings"),
        ('level = "integer"', "level integer: use stored, computed, integer-only"),
        ('level = "stored"\nactivations = "int8"', "level stored is with --activations none"),
        ('method = "best"', "'best' is not known; use one of"),
        ("bits = ", "is not TOML"),
        ("rules = 3", r"'rules' must be tables, each under a line \[\[rules\]\]"),
        ("[rules]\nmodules = '*'", "'rules' must be tables"),
        ("[[rules]]\nbits = 4", "a rule has no 'modules'"),
        ("[[rules]]\nmodule = '*'", "'module' is not an option of a rule; use modules, bits"),
        ("[[rules]]\nmodules = '*'\nbits = '4'", "'bits' must be int"),
        ("[[rules]]\nmodules = '*'\nbits = 7", "rule '\\*': bits 7: use one of"),
        ("[[rules]]\nmodules = '*'\nlevel = 'half'", "rule '\\*': level 'half': use float, stored"),
        ("[[rules]]\nmodules = '*'\nactivations = 'float16'", "rule '\\*': activations 'float16': use int2 to int16"),
        ("[[rules]]\nmodules = '*'\ngranularity = 'per_row'", "per_row"),
        ("pattern = '4:2'", "pattern '4:2': use keep_n:group_m such as 2:4"),
        ("pattern = 4", "'pattern' must be str"),
        ("pattern = '2:4'\nsparsifier = 'best'", "sparsifier 'best' is not known; use one of magnitude, "),
        ("sparsity = 1", "'sparsity' must be float"),
        ("sparsity = 50.0", "sparsity 50.0: use the fraction of weights to drop, such as 0.5"),
        ("sparsity = 0.5\npattern = '2:4'", "pattern 2:4 and sparsity 0.5: give one of them"),
        ("entropy_coding = 'gzip'", "entropy coding gzip: use zstd, or none"),
        ("[[rules]]\nmodules = '*'\nsparsity = 1.0", "rule '\\*': sparsity 1.0: use the fraction"),
        ("[[rules]]\nmodules = '*'\npattern = '2:17'", "rule '\\*': pattern '2:17': use keep_n:group_m"),
        ("[[rules]]\nmodules = '*'\nsparsifier = 'best'", "rule '\\*': sparsifier 'best' is not known"),
        ("[[rules]]\nmodules = '*'\nsparsifier = 'wanda'", "sparsifier wanda: there is no pattern to choose for"),
    ],
)
def test_a_bad_recipe_is_one_line_that_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(AsrCompressError, match=rf"^\S*recipe\.toml: .*{message}") as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(AsrCompressError, match=r"none\.toml: the recipe could not be read: No such file"):
        read_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rules": (Rule("convolution", bits=4),)}, "rule 'convolution' fits no module with weights; the first are conv.0"),
        ({"rules": (Rule("conv*", activations="int4"),)}, r"rule 'conv\*': activations needs the grids of --level integer-only"),
        ({"rules": (Rule("conv*", level="integer-only"),), "level": "computed"}, r"rule 'conv\*': level integer-only needs"),
    ],
)  # fmt: skip
def test_a_rule_that_fits_nothing_or_not_the_level(tiny_kws: Path, options: dict, message: str) -> None:
    with pytest.raises(AsrCompressError, match=message):
        plan(tiny_kws, QuantizeConfig(**options))


def test_what_is_given_later_wins_and_level_and_activations_are_one_thing() -> None:
    recipe = {"num_bits": 4, "activations": "int8"}
    assert override(recipe, {"num_bits": 8}) == {"num_bits": 8, "activations": "int8"}
    assert override(recipe, {"level": "stored"}) == {"num_bits": 4, "level": "stored"}
    assert override({"level": "integer-only"}, {"activations": "none"}) == {"activations": "none"}
    assert recipe == {"num_bits": 4, "activations": "int8"}


@pytest.mark.parametrize(
    ("level", "rule_level", "claimed"),
    [
        ("integer-only", "float", "partial"), ("integer-only", "stored", "partial"), ("integer-only", "computed", "partial"),
        ("integer-only", "integer-only", "integer-only"), ("computed", "stored", "stored"), ("computed", "float", "partial"),
        ("stored", "computed", "stored"),
    ],
)  # fmt: skip
def test_the_level_that_a_file_with_rules_claims(
    tiny_kws: Path, samples_dir: Path, tmp_path: Path, level: str, rule_level: str, claimed: str
) -> None:
    config = QuantizeConfig(level=level, calibration_limit=2, rules=(Rule("gru", level=rule_level),))
    data = Calibrate(samples_dir / "kws" / "manifest.tsv", split="dev") if level == "integer-only" else None
    result = quantize(tiny_kws, tmp_path / "k.safetensors", config, calibrate=data)
    assert result.record["recipe"]["level"] == claimed
    recipe = load_artifact(result.path).recipe
    assert recipe.get("islands", []) == (["gru"] if claimed == "partial" and level == "integer-only" else [])
    assert recipe["rules"] == [{"modules": "gru", "level": rule_level}]
    honesty = result.record["honesty"]
    assert honesty["claimed"] == claimed and honesty["violations"] == []


def test_a_rule_about_a_site_that_does_not_exist(tiny_kws: Path, samples_dir: Path, tmp_path: Path) -> None:
    data = Calibrate(samples_dir / "kws" / "manifest.tsv", split="dev")
    rules = (Rule("conv.0:in", activations="int4"), Rule("conv.0:inn", activations="int4"))
    config = QuantizeConfig(level="integer-only", calibration_limit=2, rules=rules[:1])
    content = load_artifact(quantize(tiny_kws, tmp_path / "k.safetensors", config, calibrate=data).path)
    assert content.grids["conv.0:in"].num_bits == 4 and content.grids["classifier:in"].num_bits == 8
    config = QuantizeConfig(level="integer-only", calibration_limit=2, rules=rules)
    with pytest.raises(AsrCompressError, match=r"rule 'conv\.0:inn' fits no module or site with activations"):
        quantize(tiny_kws, tmp_path / "l.safetensors", config, calibrate=data)
    assert not (tmp_path / "l.safetensors").exists()


def test_a_rule_about_softmaxs_weights(tiny_s2t: Path, tiny_speech: Path, tmp_path: Path) -> None:
    """They have bits and no grid, so calibration records no site of that name."""
    rules = (Rule("*.self_attn:softmax", activations="int4"),)
    config = QuantizeConfig(level="integer-only", calibration_limit=2, rules=rules)
    result = quantize(tiny_s2t, tmp_path / "q.safetensors", config, calibrate=Calibrate(tiny_speech))
    assert result.record["recipe"]["rules"] == [{"modules": "*.self_attn:softmax", "activations": "int4"}]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_sample_recipes_fit_the_sample_models(path: Path, samples_dir: Path) -> None:
    model = "kws/crnn_computer.pt" if path.stem.startswith("kws") else "asr/checkpoint_best.pt"
    config = QuantizeConfig(**read_recipe(path))
    packed, _ = plan(samples_dir / model, config)
    if path.stem == "integer-only":
        bits = {name: config.of_weight(name)[0] for name in packed}
        assert bits["encoder.subsample.conv_layers.0.weight"] == bits["decoder.layers.0.self_attn.q_proj.weight"] == 8
        assert bits["decoder.layers.0.encoder_attn.q_proj.weight"] == bits["decoder.layers.0.fc1.weight"] == 4
        assert config.is_static
