"""s2t_transformer against Fairseq itself: features, forward pass, decoding; what it needs beside the checkpoint."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asrcompress.errors import AsrCompressError
from asrcompress.models import fairseq_adapter, fairseq_data, s2t_transformer
from asrcompress.models.features import num_fbank_frames
from asrcompress.ops.load import LoadedModel, load_model
from tests.fixtures.fairseq_files import argmax_tokens, load_with_fairseq


def forward(model: torch.nn.Module) -> torch.Tensor:
    source = torch.randn(2, 97, 80, generator=torch.Generator().manual_seed(3))
    previous = torch.tensor([[2, 5, 6, 7], [2, 4, 4, 5]])
    with torch.no_grad():
        return model(source, torch.tensor([97, 60]), previous)[0]


def test_logits_are_fairseqs(tiny_s2t: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = load_with_fairseq(tiny_s2t, monkeypatch)
    ours = load_model(tiny_s2t).module
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    torch.testing.assert_close(forward(ours), forward(theirs), rtol=0, atol=0)


def test_logits_are_fairseqs_on_the_trained_model(digits_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = load_with_fairseq(digits_dir / "checkpoint_best.pt", monkeypatch)
    ours = load_model(digits_dir / "checkpoint_best.pt").module
    torch.testing.assert_close(forward(ours), forward(theirs), rtol=0, atol=0)


@pytest.fixture(scope="module")
def tiny(tiny_s2t: Path) -> LoadedModel:
    return load_model(tiny_s2t)


def test_features_are_fairseqs(tiny: LoadedModel, tiny_speech: Path) -> None:
    from fairseq.data.audio.audio_utils import _get_torchaudio_fbank
    from fairseq.data.audio.feature_transforms.utterance_cmvn import UtteranceCMVN

    audio, _ = soundfile.read(tiny_speech.parent / "1.flac", dtype="float32")
    theirs = UtteranceCMVN()(_get_torchaudio_fbank(audio[None] * 2**15, 16_000))
    ours = tiny.source.family.features(tiny.source.spec, audio)
    np.testing.assert_array_equal(ours.numpy(), theirs)
    assert len(ours) == num_fbank_frames(len(audio) / 16_000)


def test_audio_shorter_than_a_window_has_no_frames(tiny: LoadedModel) -> None:
    assert tiny.source.family.features(tiny.source.spec, np.zeros(399, dtype=np.float32)).shape == (0, 80)
    assert len(tiny.source.family.features(tiny.source.spec, np.zeros(400, dtype=np.float32))) == 1


def test_global_cmvn_is_fairseqs(tiny_s2t: Path, tmp_path: Path) -> None:
    from fairseq.data.audio.feature_transforms.global_cmvn import GlobalCMVN

    for file in tiny_s2t.parent.iterdir():
        shutil.copy(file, tmp_path)
    random = np.random.default_rng(1)
    np.savez(tmp_path / "stats.npz", mean=random.normal(10, 3, 80), std=random.uniform(1, 4, 80))
    (tmp_path / "config.yaml").write_text(
        "vocab_filename: dict.txt\nglobal_cmvn: {stats_npz_path: stats.npz}\ntransforms: {'*': [global_cmvn]}\n"
    )
    loaded = load_model(tmp_path / tiny_s2t.name)
    audio = random.standard_normal(16_000).astype(np.float32) * 0.1
    plain = loaded.source.spec.config["front_end"] | {"transforms": []}
    spec = type(loaded.source.spec)("s2t_transformer", loaded.source.spec.config | {"front_end": plain}, [])
    raw = loaded.source.family.features(spec, audio)
    ours = loaded.source.family.features(loaded.source.spec, audio)
    np.testing.assert_allclose(ours.numpy(), GlobalCMVN(str(tmp_path / "stats.npz"))(raw.numpy()), rtol=1e-4, atol=1e-4)


def test_greedy_decoding_follows_the_argmax(tiny: LoadedModel) -> None:
    """Beam 1 of Fairseq's search against a loop over full forward passes."""
    features = torch.randn(60, 80, generator=torch.Generator().manual_seed(5))
    transcribe = tiny.source.family.transcriber(tiny.source.spec, tiny.module, beam=1, max_len_b=6)
    tokens = argmax_tokens(tiny.module, features, 6)
    symbols = [None, None, None, "<unk>", *tiny.source.spec.vocabulary]
    expected = "".join(symbols[token] for token in tokens[1:] if token > 2).replace("\u2581", " ").strip()
    assert transcribe([features]) == [expected]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: os.remove(folder / "config.yaml"), "--data-dir"),
        (lambda folder: os.remove(folder / "dict.txt"), "the dictionary is missing"),
        (lambda folder: (folder / "dict.txt").write_text("go 1\n"), "has 10 output units, the dictionary"),
        (lambda folder: (folder / "dict.txt").write_text("no count\n"), "is not a `symbol count` line"),
        (lambda folder: (folder / "config.yaml").write_text("- just\n- a list\n"), "holds no mapping"),
        (lambda folder: (folder / "config.yaml").write_text("a: [\n"), "cannot be read as YAML"),
        (
            lambda folder: (folder / "config.yaml").write_text(
                "vocab_filename: dict.txt\ntransforms: {'*': [delta]}\n"
            ),
            "'delta'",
        ),
        (
            lambda folder: (folder / "config.yaml").write_text("vocab_filename: dict.txt\nuse_audio_input: true\n"),
            "raw audio",
        ),
        (
            lambda folder: (folder / "config.yaml").write_text(
                "vocab_filename: dict.txt\nbpe_tokenizer: {bpe: gpt2}\n"
            ),
            "gpt2",
        ),
    ],
)
def test_what_is_missing_or_unsupported_is_named(tiny_s2t: Path, tmp_path: Path, change, message: str) -> None:
    for file in tiny_s2t.parent.iterdir():
        shutil.copy(file, tmp_path)
    change(tmp_path)
    with pytest.raises(AsrCompressError) as error:
        load_model(tmp_path / tiny_s2t.name)
    assert message in str(error.value) and str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_overwritten_dictionary_line_is_read(tmp_path: Path) -> None:
    (tmp_path / "dict.txt").write_text("a 1\n<unk> 1 #fairseq:overwrite\nb 2\n")
    assert fairseq_data.read_dictionary(tmp_path / "dict.txt") == ["a", "<unk>", "b"]


HOSTILE = "__import__('os').system('touch {marker}')"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("adaptive_softmax_cutoff", "[" + HOSTILE + ", 8][1:]"),
        ("encoder_xformers_att_config", HOSTILE + " or None"),
        ("conv_kernel_sizes", HOSTILE),
        ("activation_fn", HOSTILE),
        ("encoder_layers", HOSTILE),
        ("encoder_embed_dim", 10**9),
        ("decoder_layers", True),
        ("conv_version", "other"),
    ],
)
def test_arguments_are_never_evaluated(tiny_s2t: Path, tmp_path: Path, name: str, value) -> None:
    """Fairseq calls eval() on some string arguments; a checkpoint and an artifact are refused before that."""
    marker = tmp_path / "was-run"
    for file in tiny_s2t.parent.iterdir():
        shutil.copy(file, tmp_path)
    path = tmp_path / tiny_s2t.name
    with torch.serialization.safe_globals([argparse.Namespace]):
        state = torch.load(path, weights_only=True)
    bad = value.format(marker=marker) if isinstance(value, str) else value
    setattr(state["cfg"]["model"], name, bad)
    state["cfg"]["model"].share_decoder_input_output_embed = False
    torch.save(state, path)
    with pytest.raises(AsrCompressError, match=name):
        load_model(path)
    spec = load_model(tiny_s2t).source.spec
    hostile = type(spec)(
        spec.family, spec.config | {"arguments": spec.config["arguments"] | {name: bad}}, spec.vocabulary
    )
    with pytest.raises(AsrCompressError, match=name):
        s2t_transformer.build(hostile)
    assert not marker.exists()


def test_only_checked_arguments_reach_fairseq(tiny_s2t: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else an artifact's configuration holds, such as a file to load, is not handed on."""
    spec = load_model(tiny_s2t).source.spec
    extra = {"load_pretrained_encoder_from": "/some/file.pt", "dropout": "0.1", "anything": 1}
    seen = {}
    monkeypatch.setattr(fairseq_adapter, "build_s2t_transformer", lambda arguments, symbols: seen.update(arguments))
    s2t_transformer.build(
        type(spec)(spec.family, spec.config | {"arguments": spec.config["arguments"] | extra}, spec.vocabulary)
    )
    assert seen and not extra.keys() & seen.keys()


def test_a_model_without_final_norm_is_built(tiny_s2t: Path, tmp_path: Path) -> None:
    for file in tiny_s2t.parent.iterdir():
        shutil.copy(file, tmp_path)
    path = tmp_path / tiny_s2t.name
    with torch.serialization.safe_globals([argparse.Namespace]):
        state = torch.load(path, weights_only=True)
    state["cfg"]["model"].no_decoder_final_norm = True
    for name in ("decoder.layer_norm.weight", "decoder.layer_norm.bias"):
        del state["model"][name]
    torch.save(state, path)
    assert load_model(path).module.decoder.layer_norm is None


def test_an_empty_eval_list_of_transforms_falls_back(tmp_path: Path) -> None:
    both = {"transforms": {"_eval": None, "*": ["utterance_cmvn"]}, "feature_transforms": {"*": ["utterance_cmvn"]}}
    assert [t["name"] for t in fairseq_data.read_front_end(tmp_path, both)["transforms"]] == ["utterance_cmvn"] * 2
    none = {"transforms": {"_eval": [], "*": ["utterance_cmvn"]}}
    assert fairseq_data.read_front_end(tmp_path, none)["transforms"] == []


@pytest.mark.parametrize(
    "record",
    [
        {"sample_rate": 8000}, {"input_feat_per_channel": "eighty"}, {"input_feat_per_channel": 0}, {"transforms": ["utterance_cmvn"]},
        {"transforms": {"*": "utterance_cmvn"}}, {"transforms": {"*": [1]}}, {"transforms": {"*": ["utterance_cmvn"]}, "utterance_cmvn": 3},
    ],
)  # fmt: skip
def test_a_front_end_that_makes_no_sense_is_refused(tmp_path: Path, record: dict) -> None:
    with pytest.raises(AsrCompressError, match="config.yaml"):
        fairseq_data.read_front_end(tmp_path / "config.yaml", record)


@pytest.mark.parametrize("content", [b"PK\x03\x04 not a zip", b"", b"text"])
def test_damaged_statistics_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "gcmvn.npz").write_bytes(content)
    with pytest.raises(AsrCompressError, match="gcmvn.npz"):
        fairseq_data.read_front_end(tmp_path / "config.yaml", {"transforms": {"*": ["global_cmvn"]}})


def test_statistics_of_another_width_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "gcmvn.npz", mean=np.zeros(40), std=np.ones(40))
    with pytest.raises(AsrCompressError, match="80 finite numbers"):
        fairseq_data.read_front_end(tmp_path / "config.yaml", {"transforms": {"*": ["global_cmvn"]}})
