"""wav2vec_ctc against Fairseq itself: logits, features, a trained model's error rate; what is refused, and how."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asrcompress.checkpoints import read_checkpoint
from asrcompress.errors import AsrCompressError
from asrcompress.models import ModelSpec, ctc_family, fairseq_ctc, wav2vec_arguments, wav2vec_ctc
from asrcompress.ops.evaluate import EvalConfig, evaluate
from asrcompress.ops.load import load_model
from asrcompress.ops.quantize import QuantizeConfig, quantize
from tests.fixtures import ctc as fixtures


@pytest.fixture
def theirs(tiny_wav2vec_ctc: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """Fairseq's own way from a file to a model. Its torch.load needs to be told that the file is trusted: we made it."""
    from fairseq import checkpoint_utils

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    models, _, _ = checkpoint_utils.load_model_ensemble_and_task([str(tiny_wav2vec_ctc)])
    return models[0].eval()


def noise(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [0.1 * torch.randn(length, generator=generator) for length in lengths]


@pytest.mark.parametrize(("num_samples", "exact"), [(3245, True), (3325, False)])
def test_logits_are_fairseqs(tiny_wav2vec_ctc: Path, theirs: torch.nn.Module, num_samples: int, exact: bool) -> None:
    """To the bit, where Fairseq does not pad its frames to an even number."""
    ours = load_model(tiny_wav2vec_ctc).module
    source = torch.stack(noise(num_samples, num_samples))
    with torch.no_grad():
        expected = theirs(source=source, padding_mask=torch.zeros_like(source, dtype=torch.bool))["encoder_out"]
        logits, mask = ours(source)
    assert mask is None and (len(expected) % 2 == 0) == exact
    torch.testing.assert_close(logits, expected, rtol=0, atol=0 if exact else 1e-5)


def test_tensors_are_fairseqs_but_for_what_only_training_uses(tiny_wav2vec_ctc: Path, theirs: torch.nn.Module) -> None:
    ours, others = load_model(tiny_wav2vec_ctc).module.state_dict().keys(), theirs.state_dict().keys()
    conv = "w2v_encoder.w2v_model.encoder.pos_conv.0."
    assert ours - others == {conv + "weight"}
    assert others - ours == {conv + "weight_g", conv + "weight_v", "w2v_encoder.w2v_model.mask_emb"}


@pytest.mark.parametrize("normalize", [False, True])
def test_features_are_fairseqs(tiny_wav2vec_ctc: Path, normalize: bool) -> None:
    from fairseq.data.audio.raw_audio_dataset import RawAudioDataset

    spec = load_model(tiny_wav2vec_ctc).source.spec
    assert spec.config["front_end"] == {"sample_rate_hz": 16_000, "normalize": False}
    spec.config["front_end"]["normalize"] = normalize
    audio = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    theirs = RawAudioDataset(16_000, normalize=normalize).postprocess(torch.from_numpy(audio), 16_000)
    torch.testing.assert_close(wav2vec_ctc.features(spec, audio), theirs, rtol=0, atol=0)


def test_the_shortest_audio_gives_one_frame(tiny_wav2vec_ctc: Path) -> None:
    loaded = load_model(tiny_wav2vec_ctc)
    shortest = ctc_family.min_samples(loaded.source.spec.config["arguments"])
    features = [wav2vec_ctc.features(loaded.source.spec, np.ones(n, np.float32)) for n in (shortest - 1, shortest)]
    assert [len(each) for each in features] == [0, shortest]
    with torch.no_grad():
        assert loaded.module(features[1][None])[0].shape == (1, 1, 4 + len(fixtures.LETTERS))
        with pytest.raises(RuntimeError):
            loaded.module(torch.ones(1, shortest - 1))


def test_published_sizes() -> None:
    """wav2vec 2.0's extractor: one frame of 400 samples every 320."""
    layers = wav2vec_arguments.DEFAULT_CONV_LAYERS
    assert ctc_family.min_samples({"conv_feature_layers": layers}) == 400
    assert [ctc_family.num_frames(n, layers) for n in (400, 719, 720, 16_000)] == [1, 1, 2, 49]
    assert ctc_family.num_frames(torch.tensor([16_000]), layers).tolist() == [49]


def test_one_frame_under_a_norm_over_time_is_too_short() -> None:
    one_layer = {"conv_feature_layers": [[8, 10, 5]]}
    assert ctc_family.min_samples(one_layer) == 15
    assert ctc_family.min_samples(one_layer | {"extractor_mode": "layer_norm"}) == 10
    assert ctc_family.min_samples(one_layer | {"crop_seq_to_multiple": 3}) == 20


def test_frames_cropped_to_a_multiple_are_cropped_for_each_utterance() -> None:
    """As each would be alone, whatever the batch's length."""
    given = fixtures.SIZES | {"conv_feature_layers": "[(8, 10, 10)]", "extractor_mode": "layer_norm"}
    arguments = wav2vec_arguments.check_arguments("x", given | {"crop_seq_to_multiple": 4}, "wav2vec2")
    model = wav2vec_ctc.build(ModelSpec("wav2vec_ctc", {"arguments": arguments}, fixtures.LETTERS))
    waves = noise(175, 119)
    with torch.no_grad():
        logits, mask = model(torch.nn.utils.rnn.pad_sequence(waves, batch_first=True), torch.tensor([175, 119]))
        assert mask is not None and (~mask).sum(dim=1).tolist() == [16, 8]
        torch.testing.assert_close(logits[:8, 1], model(waves[1][None])[0][:, 0], rtol=0, atol=1e-5)
    assert ctc_family.pads_exactly(arguments) and not ctc_family.pads_exactly(arguments | {"pos_conv_depth": 2})


def test_a_batch_gives_the_texts_of_its_utterances(tiny_wav2vec_ctc: Path) -> None:
    """Group norm over time would see the padding: utterances of several lengths run one by one."""
    loaded = load_model(tiny_wav2vec_ctc)
    for beam in (1, 4):
        transcribe = wav2vec_ctc.transcriber(loaded.source.spec, loaded.module, beam=beam)
        batch = noise(9000, 4000, 9000, 6500)
        assert transcribe(batch) == [text for wave in batch for text in transcribe([wave])]
        assert len(set(transcribe(batch))) > 1


def test_a_trained_model_understands(trained_wav2vec_ctc: Path, tmp_path: Path) -> None:
    """Its known score shows that features, model and decoding fit together; a packed copy keeps it."""
    data = trained_wav2vec_ctc.parent / "test.tsv"
    quantize(trained_wav2vec_ctc, tmp_path / "q.safetensors", QuantizeConfig(activations="int8"))
    for path, beam in ((trained_wav2vec_ctc, 1), (trained_wav2vec_ctc, None), (tmp_path / "q.safetensors", 1)):
        config = EvalConfig(data, beam=beam, num_resamples=100, batch_size=3)
        _, record = evaluate(path, config, output=tmp_path / "eval.json", force=True)
        assert record["metrics"]["num_scored"] == 40
        assert record["metrics"]["wer"] <= 0.05
        method = "ctc_best_path" if beam == 1 else "ctc_prefix_beam_search"
        assert record["decoding"] == {"method": method, "beam": beam or 5, "batch_size": 3}


def test_options_of_another_search_are_refused(tiny_wav2vec_ctc: Path, tiny_speech: Path, tmp_path: Path) -> None:
    with pytest.raises(AsrCompressError, match=r"--lenpen 1.0: means nothing .* leave it out"):
        evaluate(tiny_wav2vec_ctc, EvalConfig(tiny_speech, lenpen=1.0), output=tmp_path / "e.json")


def test_the_blank_can_be_weighted_as_fairseq_does(tiny_wav2vec_ctc: Path, theirs: torch.nn.Module) -> None:
    loaded = load_model(tiny_wav2vec_ctc)
    (wave,) = noise(9000)
    for weight, mode in ((-1e5, "add"), (1e5, "add"), (0.7, "set")):
        theirs.blank_weight, theirs.blank_mode = weight, mode
        with torch.no_grad():
            logits = theirs.get_logits(theirs(source=wave[None], padding_mask=None))[:, 0]
        expected = wav2vec_ctc.ctc_family.ctc.greedy(logits.numpy())
        loaded.source.spec.config["blank"] = {"weight": weight, "mode": mode}
        text = wav2vec_ctc.transcriber(loaded.source.spec, loaded.module, beam=1)([wave])
        assert text == [ctc_family.ctc.to_text(expected, fixtures.LETTERS, "letters")]


# What a checkpoint may say.

HOSTILE = "__import__('pathlib').Path('{marker}').touch()"


@pytest.mark.parametrize(
    "text",
    [
        HOSTILE, "[(1, 2, 3)] + [" + HOSTILE + "]", "[(512, 10, 5)] * " + "9" * 9, "[(1,2,3)] * 9 * 9 * 9", "9 ** 9 ** 9", "", "[]", "()", "[[]]",
        "(512, 10, 5)", "[(512, 10)]", "[(512, 10, 5, 1)]", "[(512, 10, 0)]", "[(512, 10, -5)]", "[(512, 10, 5.0)]", "[(512, 10, True)]",
        "[(512, 10, 5)] - []", "[(x, 10, 5) for x in (1,)]", "[(512, 10, 5)][0:1]", "[" * 500 + "]" * 500, "(" * 999, "+" * 1999,
        "[(9999999, 10, 5)]", "[(512, 10, 5)]" + " + [(1, 1, 1)]" * 120, "list(((1,2,3),))", "[(512, 10, 5)]\n\n;1",
    ],
)  # fmt: skip
def test_layer_text_is_never_evaluated(tmp_path: Path, text: str) -> None:
    marker = tmp_path / "was-run"
    with pytest.raises(AsrCompressError, match="where: the argument conv_feature_layers has the value"):
        wav2vec_arguments.check_arguments(
            "where", {"conv_feature_layers": text.replace("{marker}", str(marker))}, "wav2vec2"
        )
    assert not marker.exists()


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]", wav2vec_arguments.DEFAULT_CONV_LAYERS),
        ("[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2", wav2vec_arguments.DEFAULT_CONV_LAYERS),
        ("[(8, 4, 2), (9, 3, 1)]*2", [[8, 4, 2], [9, 3, 1]] * 2),
        (" ([[8, 4, 2]]) ", [[8, 4, 2]]),
    ],
)
def test_layer_text_is_read_as_python_would(text: str, layers: list[list[int]]) -> None:
    assert wav2vec_arguments.parse_conv_layers(text) == layers
    assert [list(layer) for layer in eval(text)] == layers


def altered(path: Path, to: Path, change: Any) -> Path:
    """The checkpoint with its configuration (as plain Python) changed."""
    checkpoint = read_checkpoint(path)
    model, task = json.loads(json.dumps([checkpoint.config["model"], checkpoint.config["task"]]))
    change(model, task)
    symbols = {"target_dictionary": None}
    state = {"model": dict(checkpoint.tensors), "cfg": {"model": model, "task": task}, "task_state": symbols}
    torch.save(state, to / "checkpoint.pt")
    (to / "dict.ltr.txt").write_text("".join(f"{symbol} 1\n" for symbol in checkpoint.symbols or fixtures.LETTERS))
    return to / "checkpoint.pt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model, task: model["w2v_args"]["model"].update(conv_feature_layers=HOSTILE), "conv_feature_layers"),
        (lambda model, task: model["w2v_args"]["model"].update(encoder_layers="2"), "encoder_layers"),
        (lambda model, task: model["w2v_args"]["model"].update(encoder_embed_dim=10**9), "encoder_embed_dim"),
        (lambda model, task: model["w2v_args"]["model"].update(activation_fn=HOSTILE), "activation_fn"),
        (lambda model, task: model["w2v_args"]["model"].update(extractor_mode=["default"]), "extractor_mode"),
        (lambda model, task: model["w2v_args"]["model"].update(layer_norm_first=2), "layer_norm_first"),
        (lambda model, task: model["w2v_args"]["model"].update(quantize_input=True), "quantize_input"),
        (lambda model, task: model.update(layer_type="conformer"), "layer_type is 'conformer'"),
        (lambda model, task: model["w2v_args"]["model"].update(_name="data2vec_audio"), "is a 'data2vec_audio'"),
        (lambda model, task: model.update(w2v_args=None), "w2v_args"),
        (lambda model, task: model.update(blank_mode="mul"), "blank_mode"),
        (lambda model, task: model.update(blank_weight="1"), "blank_weight"),
        (lambda model, task: task.update(sample_rate=8000), "sample_rate"),
        (lambda model, task: task.update(normalize="yes"), "normalize"),
        (lambda model, task: task.update(labels="../../etc/x"), "labels"),
        (lambda model, task: task.update(labels="wrd"), "dict.wrd.txt"),
        (lambda model, task: model["w2v_args"]["model"].update(conv_pos_groups=5), "does not build a wav2vec_ctc"),
        (lambda model, task: model["w2v_args"]["model"].update(conv_pos=8), "do not fit"),
    ],
)
def test_what_makes_no_sense_is_one_line(tiny_wav2vec_ctc: Path, tmp_path: Path, change, message: str) -> None:
    path = altered(tiny_wav2vec_ctc, tmp_path, change)
    with pytest.raises(AsrCompressError) as error:
        load_model(path)
    assert message in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_an_artifact_is_checked_like_a_checkpoint(tiny_wav2vec_ctc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And whatever else its configuration holds, such as a file to load, is not handed on."""
    spec = ModelSpec(**json.loads(json.dumps(asdict(load_model(tiny_wav2vec_ctc).source.spec))))
    arguments = spec.config["arguments"]
    hostile = {"conv_feature_layers": HOSTILE}
    with pytest.raises(AsrCompressError, match="conv_feature_layers"):
        wav2vec_ctc.build(ModelSpec(spec.family, spec.config | {"arguments": arguments | hostile}, spec.vocabulary))
    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        fairseq_ctc, "build_wav2vec2_encoder", lambda given, units: (seen.update(given), torch.nn.Identity())[1]
    )
    extra = {"w2v_path": "/some/file.pt", "_target_": "os.system", "data": "/etc", "quant_noise_scalar": 0.5}
    wav2vec_ctc.build(ModelSpec(spec.family, spec.config | {"arguments": arguments | extra}, spec.vocabulary))
    assert seen.keys() == arguments.keys()


def test_an_older_checkpoint_with_namespaces(tiny_wav2vec_ctc: Path, tmp_path: Path) -> None:
    """`args` instead of `cfg`, the pre-trained model's arguments in a Namespace of their own."""
    checkpoint = read_checkpoint(tiny_wav2vec_ctc)
    model, task = checkpoint.config["model"], checkpoint.config["task"]
    nested = {key: value for key, value in model["w2v_args"]["model"].items() if key != "_name"}
    outer = {key: value for key, value in (task | model).items() if key != "_name"}
    outer |= {
        "arch": "wav2vec_ctc",
        "w2v_args": argparse.Namespace(arch="wav2vec2", task="audio_pretraining", **nested),
    }
    state = {"args": argparse.Namespace(**outer), "model": dict(checkpoint.tensors)}
    torch.save(state, tmp_path / "old.pt")
    (tmp_path / "dict.ltr.txt").write_text("".join(f"{symbol} 1\n" for symbol in fixtures.LETTERS))
    old, new = load_model(tmp_path / "old.pt"), load_model(tiny_wav2vec_ctc)
    assert old.source.spec == new.source.spec
    assert all(torch.equal(tensor, new.source.tensors[name]) for name, tensor in old.source.tensors.items())


def test_both_names_of_weight_norm_fold_to_what_torch_computes(tiny_wav2vec_ctc: Path, theirs: torch.nn.Module) -> None:
    conv = theirs.w2v_encoder.w2v_model.encoder.pos_conv[0]
    base = "w2v_encoder.w2v_model.encoder.pos_conv.0"
    checkpoint = read_checkpoint(tiny_wav2vec_ctc)
    spec = wav2vec_ctc.read_spec(checkpoint)
    renamed = dict(checkpoint.tensors)
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        renamed[f"{base}.parametrizations.weight.{new}"] = renamed.pop(f"{base}.{old}")
    theirs(source=noise(4000)[0][None], padding_mask=None)  # torch computes the weight as it runs
    for tensors in (checkpoint.tensors, renamed):
        object.__setattr__(checkpoint, "tensors", tensors)
        cleaned = wav2vec_ctc.clean_tensors(checkpoint, spec)
        torch.testing.assert_close(cleaned[f"{base}.weight"], conv.weight.detach(), rtol=0, atol=0)
        assert not any("original" in name or name.endswith(("_g", "_v")) for name in cleaned)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, base: tensors.pop(base + "weight_v"),
        lambda tensors, base: tensors.update({base + "weight_g": torch.ones(32, 1, 1)}),
        lambda tensors, base: tensors.update({base + "weight_g": torch.ones(1, 1, 15)}),
        lambda tensors, base: tensors.update({base + "weight_g": torch.ones(1, 1, 0), base + "weight_v": torch.ones(32, 8, 0)}),
    ],
)  # fmt: skip
def test_a_weight_norm_of_another_kind_is_refused(tiny_wav2vec_ctc: Path, change: Any) -> None:
    """Before torch's kernel sees it, which crashes on shapes that do not fit."""
    checkpoint = read_checkpoint(tiny_wav2vec_ctc)
    spec = wav2vec_ctc.read_spec(checkpoint)
    change(checkpoint.tensors, "w2v_encoder.w2v_model.encoder.pos_conv.0.")
    with pytest.raises(AsrCompressError, match=r"pos_conv.0: its weight normalisation"):
        wav2vec_ctc.clean_tensors(checkpoint, spec)


@pytest.mark.parametrize("extra", [{"pos_conv_depth": 3}, {"crop_seq_to_multiple": 3}])
def test_other_shapes_of_the_encoder(extra: dict[str, int]) -> None:
    torch.manual_seed(6)
    layers = {"conv_feature_layers": "[(16, 10, 5)] + [(16, 4, 4)] * 2"}
    theirs, _, _ = fixtures.fine_tuned(
        "wav2vec_ctc", fixtures.SIZES | layers | extra, fixtures.LETTERS, normalize=False
    )
    arguments = wav2vec_arguments.check_arguments("x", fixtures.SIZES | layers | extra, "wav2vec2")
    ours = wav2vec_ctc.build(ModelSpec("wav2vec_ctc", {"arguments": arguments}, fixtures.LETTERS))
    tensors = {
        name: tensor for name, tensor in theirs.state_dict().items() if not name.endswith(("mask_emb", "_g", "_v"))
    }
    if "pos_conv_depth" not in extra:
        conv = theirs.w2v_encoder.w2v_model.encoder.pos_conv[0]
        tensors["w2v_encoder.w2v_model.encoder.pos_conv.0.weight"] = torch._weight_norm(conv.weight_v, conv.weight_g, 2)
    torch.nn.Module.load_state_dict(ours, tensors)
    (wave,) = noise(5003)
    with torch.no_grad():
        expected = theirs(source=wave[None], padding_mask=None)["encoder_out"]
        torch.testing.assert_close(ours(wave[None])[0], expected, rtol=0, atol=1e-5)
