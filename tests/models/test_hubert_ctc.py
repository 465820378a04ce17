"""hubert_ctc against Fairseq's classes: logits with and without padding, features, a trained model's error rate."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from asrcompress.checkpoints import read_checkpoint
from asrcompress.errors import AsrCompressError
from asrcompress.models import ModelSpec, ctc_family, hubert_ctc, wav2vec_arguments
from asrcompress.ops.evaluate import EvalConfig, evaluate
from asrcompress.ops.load import LoadedModel, load_model
from asrcompress.ops.quantize import QuantizeConfig, quantize
from tests.fixtures import ctc as fixtures


@pytest.fixture(scope="module")
def tiny(tiny_hubert_ctc: Path) -> LoadedModel:
    return load_model(tiny_hubert_ctc)


@pytest.fixture(scope="module")
def theirs(tiny_hubert_ctc: Path) -> torch.nn.Module:
    """Fairseq's model with the checkpoint's weights, filled by torch: Fairseq's loader cannot build it (see below)."""
    checkpoint = read_checkpoint(tiny_hubert_ctc)
    encoder = checkpoint.config["model"]["w2v_args"]["model"]
    model, _, _ = fixtures.fine_tuned("hubert_ctc", encoder, fixtures.LETTERS, normalize=True)
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if "label_embs" not in name}
    torch.nn.Module.load_state_dict(model, tensors)
    return model.eval()


def noise(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    waves = [torch.randn(length, generator=generator) for length in lengths]
    return [F.layer_norm(wave, wave.shape) for wave in waves]


def test_fairseqs_own_loader_cannot_build_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder reads a key that no class declares, which OmegaConf refuses; here the same file is a model."""
    from fairseq import checkpoint_utils
    from omegaconf.errors import ConfigAttributeError

    model, config, dictionary = fixtures.fine_tuned("hubert_ctc", fixtures.SIZES, fixtures.LETTERS, normalize=True)
    state = {"dictionaries": [None], "target_dictionary": dictionary}
    path = fixtures.save(tmp_path / "checkpoint.pt", model, config, state)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(ConfigAttributeError, match="autoregressive"):
        checkpoint_utils.load_model_ensemble_and_task([str(path)])
    loaded = load_model(path)
    assert loaded.source.spec.vocabulary == fixtures.LETTERS
    (wave,) = noise(4000)
    with torch.no_grad():
        expected = model(source=wave[None], padding_mask=None)["encoder_out"]
        torch.testing.assert_close(loaded.module(wave[None])[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("num_samples", "exact"), [(3279, True), (3519, False)])
def test_logits_are_fairseqs(tiny: LoadedModel, theirs: torch.nn.Module, num_samples: int, exact: bool) -> None:
    """To the bit, where Fairseq does not pad its frames to an even number."""
    source = torch.stack(noise(num_samples, num_samples))
    with torch.no_grad():
        expected = theirs(source=source, padding_mask=None)["encoder_out"]
        logits, mask = tiny.module(source)
    assert mask is None and (len(expected) % 2 == 0) == exact
    torch.testing.assert_close(logits, expected, rtol=0, atol=0 if exact else 1e-5)


def test_padding_changes_nothing(tiny: LoadedModel, theirs: torch.nn.Module) -> None:
    """Each row of a padded batch has the logits it has alone; Fairseq's own mask lets some frames of padding through."""
    waves = noise(9000, 4000, 6543)
    padded, lengths = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True), torch.tensor([9000, 4000, 6543])
    with torch.no_grad():
        logits, mask = tiny.module(padded, lengths)
        ends = (~mask).sum(dim=1).tolist()
        for row, wave in enumerate(waves):
            alone = theirs(source=wave[None], padding_mask=None)["encoder_out"][:, 0]
            assert len(alone) == ends[row]
            torch.testing.assert_close(logits[: ends[row], row], alone, rtol=0, atol=2e-5)
    for beam in (1, 4):
        transcribe = hubert_ctc.transcriber(tiny.source.spec, tiny.module, beam=beam)
        assert transcribe(waves) == [text for wave in waves for text in transcribe([wave])]


def test_features_are_normalised_over_the_utterance(tiny: LoadedModel) -> None:
    from fairseq.data.audio.raw_audio_dataset import RawAudioDataset

    audio = 0.01 + 0.1 * np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    theirs = RawAudioDataset(16_000, normalize=True).postprocess(torch.from_numpy(audio), 16_000)
    torch.testing.assert_close(hubert_ctc.features(tiny.source.spec, audio), theirs, rtol=0, atol=0)
    assert len(hubert_ctc.features(tiny.source.spec, audio[:50])) == 0


def test_what_pre_training_left_is_dropped(tiny_hubert_ctc: Path, tiny: LoadedModel) -> None:
    dropped = read_checkpoint(tiny_hubert_ctc).tensors.keys() - tiny.source.tensors.keys()
    short = {name.removeprefix("w2v_encoder.w2v_model.") for name in dropped}
    assert short == {"mask_emb", "label_embs_concat", "encoder.pos_conv.0.weight_g", "encoder.pos_conv.0.weight_v"}


def test_building_looks_for_no_file(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the pre-trained checkpoint nor its dictionaries, which the configuration names."""
    hubert_ctc.build(tiny.source.spec)  # what Python itself has to read is read by now

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"opened {args}")

    monkeypatch.setattr("builtins.open", refuse)
    hubert_ctc.build(tiny.source.spec)


def test_the_dictionary_is_the_models(tiny_hubert_ctc: Path, tmp_path: Path) -> None:
    (tmp_path / "dict.ltr.txt").write_text("| 1\nA 1\n")
    with pytest.raises(AsrCompressError, match=r"has 9 output units, .*dict.ltr.txt gives 6; give the folder"):
        load_model(tiny_hubert_ctc, data_dir=tmp_path)
    (tmp_path / "dict.ltr.txt").unlink()
    with pytest.raises(AsrCompressError, match=r"dict.ltr.txt, is in none of .*--data-dir"):
        load_model(tiny_hubert_ctc, data_dir=tmp_path)
    # Where fine-tuning had it is the last place to look; the checkpoint's own folder has none here.
    shutil.copy(tiny_hubert_ctc, tmp_path / "model")
    (tmp_path / "trained_from").mkdir()
    shutil.copy(tiny_hubert_ctc.parent / "dict.ltr.txt", tmp_path / "trained_from")
    assert load_model(tmp_path / "model", data_dir=tmp_path / "trained_from").source.spec.vocabulary == fixtures.LETTERS
    state = torch.load(tmp_path / "model", weights_only=True)
    state["cfg"]["task"]["label_dir"] = str(tmp_path / "trained_from")
    torch.save(state, tmp_path / "model")
    assert load_model(tmp_path / "model").source.spec.vocabulary == fixtures.LETTERS
    with pytest.raises(AsrCompressError, match="is not a folder"):
        load_model(tiny_hubert_ctc, data_dir=tmp_path / "absent")


def test_a_batch_norm_before_the_positional_convolution() -> None:
    """HuBERT's variant for bfloat16: no weight norm, statistics among the tensors."""
    torch.manual_seed(7)
    given = fixtures.SIZES | {"conv_feature_layers": "[(16, 10, 5)] + [(16, 4, 4)] * 2", "conv_pos_batch_norm": True}
    theirs, _, _ = fixtures.fine_tuned("hubert_ctc", given, fixtures.LETTERS, normalize=False)
    theirs.w2v_encoder.w2v_model.encoder.pos_conv[0].running_mean.uniform_(-1, 1)
    arguments = wav2vec_arguments.check_arguments("x", given, "hubert")
    ours = hubert_ctc.build(ModelSpec("hubert_ctc", {"arguments": arguments}, fixtures.LETTERS))
    tensors = {name: tensor for name, tensor in theirs.state_dict().items() if not name.endswith("mask_emb")}
    torch.nn.Module.load_state_dict(ours, tensors)
    (wave,) = noise(5000)
    with torch.no_grad():
        expected = theirs(source=wave[None], padding_mask=None)["encoder_out"]
        torch.testing.assert_close(ours(wave[None])[0], expected, rtol=0, atol=1e-5)
    layer_norms = arguments | {"extractor_mode": "layer_norm"}
    assert not ctc_family.pads_exactly(layer_norms)
    assert ctc_family.pads_exactly(layer_norms | {"conv_pos_batch_norm": False})


def test_a_trained_model_understands(trained_hubert_ctc: Path, tmp_path: Path) -> None:
    data = trained_hubert_ctc.parent / "test.tsv"
    quantize(trained_hubert_ctc, tmp_path / "q.safetensors", QuantizeConfig(activations="int8"))
    for path, beam in ((trained_hubert_ctc, 1), (trained_hubert_ctc, 5), (tmp_path / "q.safetensors", 1)):
        config = EvalConfig(data, beam=beam, num_resamples=100, batch_size=8)
        _, record = evaluate(path, config, output=tmp_path / "eval.json", force=True)
        assert record["metrics"]["num_scored"] == 40
        assert record["metrics"]["wer"] <= 0.05
