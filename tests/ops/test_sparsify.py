"""sparsify: what is kept and stored, of floats and of packed codes, in chains of files, and what cannot be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from asrcompress.artifact import load_artifact
from asrcompress.errors import AsrCompressError
from asrcompress.files import sha256_file
from asrcompress.grids import Granularity, as_rows, zero_codes
from asrcompress.ops.analyze import AnalyzeConfig, analyze
from asrcompress.ops.load import load_model, open_source
from asrcompress.ops.quantize import Calibrate, quantize
from asrcompress.ops.recipe import QuantizeConfig, Rule
from asrcompress.ops.sparsify import plan, prune_codes, sparsify
from asrcompress.ops.sparsify_config import SparsifyConfig, sparsify_config
from asrcompress.packing import packed_size_bytes
from asrcompress.patterns import UNSTRUCTURED, group_code_bits
from asrcompress.quantizers import get_quantizer
from asrcompress.quantizers.statistics import InputStatistics, output_error
from asrcompress.sparsifiers import prune

ALL = {"conv.0.weight", "attention.energy.0.weight", "attention.energy.2.weight", "classifier.weight"}
ALL |= {f"gru.weight_{gate}_l{layer}" for gate in ("ih", "hh") for layer in (0, 1)}


@pytest.fixture(scope="module")
def speech(samples_dir: Path) -> Calibrate:
    return Calibrate(samples_dir / "kws" / "manifest.tsv", split="dev")


@pytest.fixture(scope="module")
def kws(samples_dir: Path) -> Path:
    return samples_dir / "kws" / "crnn_computer.pt"


@pytest.mark.parametrize("pattern", ["2:4", "1:4"])
def test_every_group_keeps_n_and_what_is_kept_is_as_it_was(tiny_s2t: Path, tmp_path: Path, pattern: str) -> None:
    """Linear layers, convolutions along their reduction dimension, and an embedding that is tied to the output."""
    keep_n, group_m = map(int, pattern.split(":"))
    result = sparsify(tiny_s2t, tmp_path / "s.safetensors", SparsifyConfig(pattern=pattern))
    originals, content = open_source(tiny_s2t).tensors, load_artifact(result.path)
    assert len(content.sparse) == 2 + 2 * 6 + 2 * 10 + 1 + 1  # convolutions, encoder, decoder, ctc, embedding
    assert content.tied == {"decoder.output_projection.weight": "decoder.embed_tokens.weight"}
    sizes = {entry["name"]: entry["size_bytes"] for entry in result.record["ledger"]["entries"]}
    for name, weight in content.sparse.items():
        rows = as_rows(originals[name])
        assert weight.pattern == (keep_n, group_m) and weight.shape == tuple(originals[name].shape)
        assert (weight.mask.reshape(-1, group_m).sum(dim=1) == keep_n).all()
        assert torch.equal(weight.values, torch.where(weight.mask, rows, 0.0))
        dropped = rows.masked_fill(weight.mask, 0).abs().reshape(-1, group_m).amax(dim=1)
        kept = rows.abs().masked_fill(~weight.mask, float("inf")).reshape(-1, group_m).amin(dim=1)
        assert (dropped <= kept).all()
        assert sizes[f"{name}_values"] == rows.numel() * keep_n // group_m * 4
        groups = rows.numel() // group_m
        assert sizes[f"{name}_pattern"] == packed_size_bytes(groups, group_code_bits(weight.pattern))
    assert sum(sizes.values()) == result.record["metrics"]["size_bytes"] == os.stat(result.path).st_size
    assert (result.record["honesty"]["reached"], result.record["honesty"]["violations"]) == ("float", [])
    assert result.record["model"]["compression"]["patterns"] == [pattern]


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_a_fraction_of_zeros_is_exact_in_every_weight(
    kws: Path, speech: Calibrate, tmp_path: Path, method: str
) -> None:
    config = SparsifyConfig(sparsity=0.6, method=method, calibration_limit=4)
    result = sparsify(kws, tmp_path / "s.safetensors", config, calibrate=None if method == "magnitude" else speech)
    content = load_artifact(result.path)
    assert content.sparse.keys() == ALL
    sizes = {entry["name"]: entry["size_bytes"] for entry in result.record["ledger"]["entries"]}
    for name, weight in content.sparse.items():
        count = weight.mask.numel()
        kept = count - round(0.6 * count)
        assert (int(weight.mask.sum()), weight.pattern) == (kept, None)
        assert (sizes[f"{name}_values"], sizes[f"{name}_bitmask"]) == (4 * kept, -(-count // 8))
    assert result.record["model"]["compression"]["patterns"] == [UNSTRUCTURED]
    assert (content.recipe["sparsity"], content.recipe["sparsifier"]) == (0.6, method)
    assert ("calibration" in content.recipe) == (method != "magnitude")


def test_the_file_computes_as_the_masked_model_does(kws: Path, tmp_path: Path) -> None:
    result = sparsify(kws, tmp_path / "s.safetensors", SparsifyConfig(pattern="2:4"))
    model, found = load_model(kws).module, load_model(result.path).module
    with torch.no_grad():
        for name in ALL:
            parameter = model.get_parameter(name)
            parameter.copy_(prune(parameter, (2, 4), sparsifier="magnitude").rows.reshape(parameter.shape))
        frames = torch.randn(2, 40, 101, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(model(frames), found(frames), atol=2e-3)  # biases are float16 in the file
    _, record = analyze(result.path, AnalyzeConfig(), output=tmp_path / "a.json")
    entries = record["ledger"]["entries"]
    assert sum(row["size_bytes"] for row in record["layers"]) == sum(
        entry["size_bytes"] for entry in entries if entry["kind"] not in ("header", "json")
    )


def code_bytes(record: dict) -> int:
    kinds = ("weight_packed", "weight_pattern", "weight_bitmask")
    return sum(entry["size_bytes"] for entry in record["ledger"]["entries"] if entry["kind"] in kinds)


def weights_of(path: Path) -> dict:
    return dict(load_artifact(path).quantized)


@pytest.mark.parametrize("choice", [{"pattern": "2:4"}, {"sparsity": 0.5}])
@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_pruned_then_quantized_is_what_quantize_makes_of_both(
    kws: Path, speech: Calibrate, tmp_path: Path, method: str, choice: dict
) -> None:
    data = None if method == "magnitude" else speech
    sparse, small, once = (tmp_path / f"{name}.safetensors" for name in ("sparse", "small", "once"))
    sparsify(kws, sparse, SparsifyConfig(method=method, calibration_limit=4, **choice), calibrate=data)
    quantize(sparse, small, QuantizeConfig(num_bits=4))
    config = QuantizeConfig(num_bits=4, sparsifier=method, calibration_limit=4, **choice)
    quantize(kws, once, config, calibrate=data)
    chained, direct = weights_of(small), weights_of(once)
    assert chained.keys() == direct.keys() == ALL
    for name, weight in chained.items():
        assert (weight.num_bits, weight.pattern) == (4, direct[name].pattern)
        assert weight.pattern == ((2, 4) if "pattern" in choice else UNSTRUCTURED)
        assert torch.equal(weight.codes, direct[name].codes) and torch.equal(weight.scale, direct[name].scale), name
    assert load_artifact(small).recipe["previous"][0]["sparsifier"] == method


@pytest.mark.parametrize("choice", [{"pattern": "1:4"}, {"sparsity": 0.7}])
@pytest.mark.parametrize(("num_bits", "method"), [(4, "asymmetric"), (8, "rtn"), (1, "binary")])
def test_quantized_then_pruned_keeps_bits_grid_and_scales(
    tiny_kws: Path, tmp_path: Path, num_bits: int, method: str, choice: dict
) -> None:
    dense, sparse = tmp_path / "q.safetensors", tmp_path / "s.safetensors"
    config = QuantizeConfig(num_bits=num_bits, method=method, granularity="per_group:2")
    made = quantize(tiny_kws, dense, config)
    result = sparsify(dense, sparse, SparsifyConfig(**choice))
    before, after = weights_of(dense), weights_of(sparse)
    for name, weight in after.items():
        assert (weight.num_bits, weight.granularity) == (num_bits, before[name].granularity)
        assert torch.equal(weight.scale, before[name].scale)
        assert (weight.zero_point is None) == (before[name].zero_point is None)
        if weight.zero_point is not None:
            assert torch.equal(weight.zero_point, before[name].zero_point)
        zeros = zero_codes(weight.zero_point, *weight.codes.shape)
        is_kept = weight.codes != zeros
        assert torch.equal(weight.codes[is_kept], before[name].codes[is_kept])
        if "pattern" in choice:
            assert weight.pattern == (1, 4) and (is_kept.reshape(-1, 4).sum(dim=1) <= 1).all()
        else:
            assert weight.pattern == UNSTRUCTURED
            assert int(is_kept.sum()) <= is_kept.numel() - round(0.7 * is_kept.numel())
    assert result.record["honesty"]["violations"] == []
    assert num_bits == 1 or code_bytes(result.record) < 0.65 * code_bytes(made.record)
    assert load_artifact(sparse).recipe["level"] == "stored"


@pytest.mark.parametrize("level", ["computed", "integer-only"])
def test_how_a_file_computes_stays(kws: Path, speech: Calibrate, tmp_path: Path, level: str) -> None:
    data = speech if level == "integer-only" else None
    rules = (Rule("classifier", level="stored"),) if level == "computed" else ()
    config = QuantizeConfig(num_bits=8, level=level, calibration_limit=3, rules=rules)
    quantize(kws, tmp_path / "q.safetensors", config, calibrate=data)
    chosen = SparsifyConfig(pattern="2:4", rules=(Rule("gru", pattern="1:4"),))
    result = sparsify(tmp_path / "q.safetensors", tmp_path / "s.safetensors", chosen)
    before, after = load_artifact(tmp_path / "q.safetensors"), load_artifact(result.path)
    assert after.grids == before.grids and bool(after.grids) == (level == "integer-only")
    assert {name: after.recipe.get(name) for name in ("activations", "level")} == {
        name: before.recipe.get(name) for name in ("activations", "level")
    }
    honesty = result.record["honesty"]
    assert (honesty["reached"], honesty["violations"]) == ("integer-only" if level == "integer-only" else "stored", [])
    if rules:
        assert after.recipe["rules"] == [
            {"modules": "classifier", "level": "stored"},
            {"modules": "gru", "pattern": "1:4"},
        ]


def test_what_is_not_chosen_goes_with_the_file_as_it_is(kws: Path, tmp_path: Path) -> None:
    a, b, c = (tmp_path / f"{name}.safetensors" for name in "abc")
    sparsify(kws, a, SparsifyConfig(pattern="2:4", include=("gru.*",)))
    quantize(a, b, QuantizeConfig(num_bits=4, include=("attention.*", "conv.*")))
    sparsify(b, c, SparsifyConfig(sparsity=0.5, include=("conv.*", "classifier.*")))
    first, second, third = map(load_artifact, (a, b, c))
    layers = {name for name in ALL if name.startswith("gru")}
    energies = {"attention.energy.0.weight", "attention.energy.2.weight"}
    assert first.sparse.keys() == second.sparse.keys() == layers
    assert {n: w.pattern for n, w in second.quantized.items()} == dict.fromkeys({"conv.0.weight", *energies})
    assert {n: w.pattern for n, w in third.quantized.items()} == {"conv.0.weight": UNSTRUCTURED} | dict.fromkeys(
        energies
    )
    assert third.sparse.keys() == {*layers, "classifier.weight"}
    for name in layers:
        assert torch.equal(third.sparse[name].values, first.sparse[name].values)
        assert torch.equal(third.sparse[name].mask, first.sparse[name].mask)
    for name in energies:
        assert torch.equal(third.quantized[name].codes, second.quantized[name].codes)
    load_model(c)


def test_zeros_stay_through_quantize_until_it_says_otherwise(kws: Path, tmp_path: Path) -> None:
    sparse, eight, four, dense, other = (tmp_path / f"{name}.safetensors" for name in "sefdo")
    sparsify(kws, sparse, SparsifyConfig(pattern="1:4"))
    quantize(sparse, eight, QuantizeConfig(num_bits=8))
    quantize(eight, four, QuantizeConfig(num_bits=3))  # codes, too, and packed anew
    quantize(sparse, dense, QuantizeConfig(num_bits=4, pattern="none"))
    quantize(sparse, other, QuantizeConfig(num_bits=4, rules=(Rule("gru", sparsity=0.8), Rule("conv", pattern="none"))))
    assert {weight.pattern for weight in weights_of(four).values()} == {(1, 4)}
    assert {weight.num_bits for weight in weights_of(four).values()} == {3}
    assert {weight.pattern for weight in weights_of(dense).values()} == {None}
    assert {name: weight.pattern for name, weight in weights_of(other).items()} == {
        name: UNSTRUCTURED if "gru" in name else None if "conv" in name else (1, 4) for name in ALL
    }


def test_a_sparse_file_can_be_made_sparser(kws: Path, tmp_path: Path) -> None:
    sparsify(kws, tmp_path / "a.safetensors", SparsifyConfig(pattern="2:4"))
    sparsify(tmp_path / "a.safetensors", tmp_path / "b.safetensors", SparsifyConfig(pattern="1:4"))
    sparsify(kws, tmp_path / "c.safetensors", SparsifyConfig(pattern="1:4"))
    twice, once = load_artifact(tmp_path / "b.safetensors"), load_artifact(tmp_path / "c.safetensors")
    for name, weight in once.sparse.items():
        assert torch.equal(twice.sparse[name].values, weight.values)
    assert len(twice.recipe["previous"]) == 1


def test_codes_that_make_up_for_dropped_ones_have_a_smaller_output_error() -> None:
    generator = torch.Generator().manual_seed(3)
    weight = get_quantizer("mse")(
        torch.randn(48, 96, generator=generator), num_bits=4, granularity=Granularity.parse("per_group:24")
    )
    mix = torch.eye(96) + 0.4 * torch.randn(96, 96, generator=generator)
    statistics = InputStatistics.empty(1, 96)
    statistics.add(torch.randn(600, 96, generator=generator) @ mix)
    rows = weight.dequantize()
    for choice in ((2, 4), 0.5):
        option = {"pattern": "2:4"} if choice == (2, 4) else {"sparsity": 0.5}
        found = prune_codes("w", weight, SparsifyConfig(method="sparsegpt", **option), statistics)
        assert torch.equal(found.scale, weight.scale) and found.granularity == weight.granularity
        assert int((found.codes == 0).sum()) >= found.codes.numel() // 2
        mask = prune(rows, choice, sparsifier="sparsegpt", statistics=statistics).mask
        left, made_up = (output_error(rows, kept, statistics) for kept in (rows * mask, found.dequantize()))
        assert made_up < 0.85 * left


@pytest.mark.parametrize("choice", [{"pattern": "2:4"}, {"sparsity": 0.5}])
def test_weight_by_weight_gives_the_same_bytes(kws: Path, tmp_path: Path, choice: dict) -> None:
    quantize(kws, tmp_path / "q.safetensors", QuantizeConfig(num_bits=4, include=("gru.*",)))
    for number, path in enumerate((kws, tmp_path / "q.safetensors")):
        digests = set()
        for budget in (0, 1 << 30):
            output = tmp_path / f"{number}-{budget}.safetensors"
            sparsify(path, output, SparsifyConfig(**choice), memory_budget_bytes=budget)
            digests.add(sha256_file(output))
        assert len(digests) == 1


def test_half_precision_stays_half_precision(kws: Path, tmp_path: Path) -> None:
    state = torch.load(kws, weights_only=True)
    torch.save({name: tensor.bfloat16() for name, tensor in state.items()}, tmp_path / "b.pt")
    result = sparsify(tmp_path / "b.pt", tmp_path / "b.safetensors", SparsifyConfig(pattern="2:4"))
    content = load_artifact(result.path)
    assert {weight.values.dtype for weight in content.sparse.values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in content.floats.values()} == {torch.bfloat16}
    again = sparsify(result.path, tmp_path / "c.safetensors", SparsifyConfig(pattern="1:4"))
    assert {weight.values.dtype for weight in load_artifact(again.path).sparse.values()} == {torch.bfloat16}
    load_model(again.path)


def test_a_tied_weight_is_pruned_once_and_left_out_by_either_name(tiny_s2t: Path) -> None:
    names = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")
    pruned, kept = plan(tiny_s2t, SparsifyConfig(pattern="2:4"))
    assert names[0] in pruned and names[1] not in (*pruned, *kept)
    for name in names:
        pruned, kept = plan(tiny_s2t, SparsifyConfig(pattern="2:4", exclude=(name,)))
        assert names[0] in kept and not set(names) & set(pruned)


def test_inputs_that_do_not_divide_are_all_named_before_any_work(tiny_kws: Path, tmp_path: Path) -> None:
    config = SparsifyConfig(pattern="5:16")
    message = (
        r"conv\.0\.weight: 100 inputs do not divide into groups of 16 for 5:16; use a pattern whose groups divide, such as 5:10, "
        r".*--exclude 'conv\.0\.weight'; nor do those of 7 more: gru\.weight_ih_l0, "
    )
    for work in (lambda: plan(tiny_kws, config), lambda: sparsify(tiny_kws, tmp_path / "k.safetensors", config)):
        with pytest.raises(AsrCompressError, match=message) as caught:
            work()
        assert str(tiny_kws) in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing says what to drop; add --pattern 2:4 .* or --sparsity 0.5"),
        ({"pattern": "none"}, "nothing says what to drop"),
        ({"pattern": "2:4", "sparsity": 0.5}, "pattern 2:4 and sparsity 0.5: give one of them"),
        ({"pattern": "4:2"}, "pattern '4:2': use keep_n:group_m"),
        ({"sparsity": 1.0}, "sparsity 1.0: use the fraction of weights to drop"),
        ({"sparsity": float("nan")}, "sparsity nan: use the fraction"),
        ({"pattern": "2:4", "method": "rtn"}, "sparsifier 'rtn' is not known; use one of magnitude, sparsegpt, wanda"),
        ({"pattern": "2:4", "entropy_coding": "gzip"}, "entropy coding gzip: use zstd, or none"),
        ({"pattern": "2:4", "calibration_limit": 0}, "--calibration-limit 0: use 1 to"),
    ],
)
def test_options_that_do_not_fit_are_one_line(options: dict, message: str) -> None:
    with pytest.raises(AsrCompressError, match=message):
        SparsifyConfig(**options)


def test_data_is_asked_for_where_it_is_needed_and_refused_where_not(
    tiny_kws: Path, speech: Calibrate, tmp_path: Path
) -> None:
    output = tmp_path / "k.safetensors"
    for config, data, message in (
        (SparsifyConfig(pattern="2:4", method="wanda"), None, "^--method wanda needs speech to calibrate with; add --cal"),
        (SparsifyConfig(pattern="2:4"), speech, "manifest.tsv: --method magnitude looks at no data; leave it out, or add"),
        (SparsifyConfig(pattern="2:4", method="wanda"), Calibrate(tmp_path / "no"), "no: no such file or folder"),
        (SparsifyConfig(pattern="2:4", exclude=("*",)), None, "no weight is left to prune; widen --include"),
        (SparsifyConfig(pattern="2:4", include=("grus",)), None, "--include 'grus' fits no weight"),
        (SparsifyConfig(rules=(Rule("grus", pattern="2:4"),)), None, "rule 'grus' fits no module with weights"),
    ):  # fmt: skip
        with pytest.raises(AsrCompressError, match=message):
            sparsify(tiny_kws, output, config, calibrate=data)
    assert os.listdir(tmp_path) == []


def test_a_recipe_has_the_options_and_rules_and_the_command_line_goes_first(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'pattern = "2:4"\nmethod = "wanda"\nentropy_coding = "zstd"\n'
        '[[rules]]\nmodules = "conv"\npattern = "none"\n[[rules]]\nmodules = ["gru.*_l1"]\nsparsity = 0.75\nmethod = "magnitude"\n'
    )
    config = sparsify_config(recipe, {})
    assert config.sparsity_of("classifier.weight") == ((2, 4), "wanda")
    assert config.sparsity_of("conv.0.weight") == (None, "wanda")
    assert config.sparsity_of("gru.weight_ih_l1") == (0.75, "magnitude")
    assert config.to_json()["rules"][1] == {"modules": ["gru.*_l1"], "sparsity": 0.75, "sparsifier": "magnitude"}
    assert config.to_json()["entropy_coding"] == "zstd"
    over = sparsify_config(recipe, {"sparsity": 0.5, "method": "sparsegpt", "entropy_coding": "none"})
    assert over.sparsity_of("classifier.weight") == (0.5, "sparsegpt")
    assert over.entropy_coding is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bits = 4", r"'bits' is not an option of sparsify; use pattern, .*rules"),
        ("sparsity = 1", "'sparsity' must be float"),
        ("pattern = 4", "'pattern' must be str"),
        ("sparsity = 2.0", "sparsity 2.0: use the fraction"),
        ("method = 'wanda'", "nothing says what to drop"),
        ("rules = 3", r"'rules' must be tables"),
        ("[[rules]]\npattern = '2:4'", "a rule has no 'modules'"),
        ("[[rules]]\nmodules = '*'\nbits = 4", "'bits' is not an option of a rule of sparsify; use modules, pattern"),
        ("[[rules]]\nmodules = '*'\nsparsity = '0.5'", "'sparsity' must be float"),
        ("[[rules]]\nmodules = '*'\nmethod = 'best'", "sparsifier 'best' is not known"),
        ("pattern = ", "is not TOML"),
    ],
)
def test_a_bad_recipe_is_one_line_that_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    with pytest.raises(AsrCompressError, match=rf"^\S*recipe\.toml: .*{message}") as caught:
        sparsify_config(tmp_path / "recipe.toml", {})
    assert "\n" not in str(caught.value)
