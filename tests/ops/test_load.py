"""Opening and building: what is described is what was read, and a file cannot name a model that does not build."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from asrcompress.artifact import load_artifact, save_artifact
from asrcompress.errors import AsrCompressError
from asrcompress.files import sha256_file
from asrcompress.ops import load
from asrcompress.ops.eval_config import EvalConfig
from asrcompress.ops.evaluate import evaluate
from asrcompress.ops.load import describe, load_model, open_source
from asrcompress.ops.quantize import QuantizeConfig, quantize


@pytest.fixture
def kws_artifact(tiny_kws: Path, tmp_path: Path) -> Path:
    return quantize(tiny_kws, tmp_path / "k.safetensors", QuantizeConfig()).path


@pytest.fixture
def s2t_artifact(tiny_s2t: Path, tmp_path: Path) -> Path:
    return quantize(tiny_s2t, tmp_path / "s.safetensors", QuantizeConfig()).path


@pytest.mark.parametrize("fixture", ["tiny_kws", "kws_artifact"])
def test_a_source_knows_the_file_it_was_read_from(fixture: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = shutil.copy(request.getfixturevalue(fixture), tmp_path / "copy")
    source = open_source(path)
    assert (source.sha256, source.size_bytes) == (sha256_file(path), Path(path).stat().st_size)
    assert describe(source, 0)["sha256"] == source.sha256


@pytest.mark.parametrize("fixture", ["tiny_kws", "kws_artifact"])
@pytest.mark.parametrize("change", ["same size", "other size", "gone"])
def test_a_file_that_changed_since_is_not_described(
    fixture: str, change: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = Path(shutil.copy(request.getfixturevalue(fixture), tmp_path / "copy"))
    source = open_source(path)
    data = path.read_bytes()
    path.unlink()
    if change != "gone":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if change == "same size" else data + b"\0")
    with pytest.raises(AsrCompressError, match="copy: changed while it was being measured"):
        describe(source, 0)


def test_a_checkpoint_replaced_while_it_is_read_is_refused(
    tiny_kws: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(tiny_kws, tmp_path / "copy.pt"))

    def read_and_replace(path: Path, **options: bool) -> object:
        checkpoint = original(path, **options)
        shutil.copy(tiny_kws, path.with_name("next"))
        path.with_name("next").replace(path)
        return checkpoint

    original = load.read_checkpoint
    monkeypatch.setattr(load, "read_checkpoint", read_and_replace)
    with pytest.raises(AsrCompressError, match="changed while"):
        open_source(path)


def test_a_file_replaced_during_eval_gets_no_sidecar(tiny_kws: Path, tiny_speech: Path, tmp_path: Path) -> None:
    """The quality of one file must not be told of another."""
    folder = tmp_path / "models"
    folder.mkdir()
    first = quantize(tiny_kws, folder / "m.safetensors", QuantizeConfig(num_bits=8)).path
    other = quantize(tiny_kws, tmp_path / "other.safetensors", QuantizeConfig(num_bits=2)).path
    (tmp_path / "clips.tsv").write_text(
        "path\tword\n" + "".join(f"{tiny_speech.parent / f'{n}.flac'}\t{word}\n" for n, word in enumerate("abab"))
    )
    before = sorted(folder.iterdir())
    with pytest.raises(AsrCompressError, match="changed while it was being measured"):
        evaluate(
            first,
            EvalConfig(data=tmp_path / "clips.tsv", keyword="a", num_resamples=100),
            progress=lambda done, total: shutil.copy(other, first) and None,
        )
    assert sorted(folder.iterdir()) == before


def rewritten(path: Path, config: dict) -> Path:
    content = load_artifact(path)
    save_artifact(path.with_name("rewritten.safetensors"), dataclasses.replace(content, config=config), force=True)
    return path.with_name("rewritten.safetensors")


@pytest.mark.parametrize("fixture", ["kws_artifact", "s2t_artifact"])
@pytest.mark.parametrize("config", [{}, {"arguments": 3}, {"arguments": {}}, {"num_channels": [2], "sizes": None}])
def test_a_configuration_that_builds_nothing(fixture: str, config: dict, request: pytest.FixtureRequest) -> None:
    path = rewritten(request.getfixturevalue(fixture), config)
    with pytest.raises(AsrCompressError, match=r"rewritten\.safetensors: .*config") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(AsrCompressError, match=r"rewritten\.safetensors: .*config"):
        quantize(path, path.with_name("q.safetensors"), QuantizeConfig())
    assert not path.with_name("q.safetensors").exists()


@pytest.mark.parametrize("value", [None, "x", [], {}, -1, 0, 2.5, True])
@pytest.mark.parametrize("fixture", ["kws_artifact", "s2t_artifact"])
def test_a_wrong_value_anywhere_in_the_configuration(
    fixture: str, value: object, request: pytest.FixtureRequest
) -> None:
    """It loads where nothing needs it, and else it is one line, of one type."""
    path = request.getfixturevalue(fixture)
    config = load_artifact(path).config
    for key in config:
        try:
            load_model(rewritten(path, config | {key: value}))
        except AsrCompressError as error:
            assert "rewritten.safetensors: " in str(error)


@pytest.mark.parametrize("recipe", [{"activations": "int7"}, {"activations": None}, {"previous": 3}, {"previous": [3]}])
def test_a_wrong_recipe_is_damage(recipe: dict, kws_artifact: Path, tmp_path: Path) -> None:
    content = load_artifact(kws_artifact)
    save_artifact(tmp_path / "bad.safetensors", dataclasses.replace(content, recipe=recipe))
    with pytest.raises(AsrCompressError, match="is damaged"):
        load_model(tmp_path / "bad.safetensors")
