"""export --to fairseq: Fairseq itself loads the file, without being told to trust it, and says what the artifact says."""

from __future__ import annotations

import importlib
import resource
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.exporters.fairseq import weight_norm
from asrcompress.models.fairseq_vgg import import_vggtransformer
from asrcompress.models.s2t import SPECIAL_SYMBOLS
from asrcompress.ops.export import WrittenExport, export
from asrcompress.ops.load import build_float, load_model, open_source
from asrcompress.ops.quantize import QuantizeConfig, quantize
from asrcompress.speech.audio import read_audio
from tests.fixtures.conformer import make_s2t_conformer

TINY = {
    "s2t_transformer": "tiny_s2t",
    "s2t_conformer": "tiny_s2t_conformer",
    "asr_vggtransformer": "tiny_vgg",
    "asr_vggtransformer_encoder": "tiny_vgg_encoder",
    "wav2vec_ctc": "tiny_wav2vec_ctc",
    "hubert_ctc": "tiny_hubert_ctc",
}


@pytest.fixture(scope="module", params=list(TINY))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WrittenExport]:
    """An artifact of 4 bits and what it was exported to."""
    checkpoint = request.getfixturevalue(TINY[request.param])
    artifact = tmp_path_factory.mktemp("exported") / "model.int4.safetensors"
    quantize(checkpoint, artifact, QuantizeConfig(num_bits=4))
    return artifact, export(artifact, "fairseq", data_dir=checkpoint.parent)


def load_by_fairseq(path: Path, **overrides: Any) -> tuple[torch.nn.Module, Any]:
    """Fairseq's own way from a file to a model and a task; its torch.load keeps to tensors and plain containers."""
    from fairseq import checkpoint_utils
    from fairseq.models import MODEL_DATACLASS_REGISTRY
    from fairseq.models.hubert.hubert_asr import HubertCtcConfig

    import_vggtransformer()
    importlib.import_module("examples.speech_recognition.tasks.speech_recognition")

    @dataclass
    class Config(HubertCtcConfig):  # type: ignore[misc,unused-ignore]
        autoregressive: bool = False  # Fairseq reads it and has no such field (facebookresearch/fairseq#4916)

    with patch.dict(MODEL_DATACLASS_REGISTRY, hubert_ctc=Config):
        models, _, task = checkpoint_utils.load_model_ensemble_and_task(
            [str(path)], arg_overrides={"data": str(path.parent)} | overrides
        )
    return models[0].eval(), task


def logits(module: torch.nn.Module, family: str, *, is_ours: bool) -> Tensor:
    """(steps, units) of one utterance; teacher-forced where there is a decoder."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        if family.endswith("_ctc"):
            audio = torch.randn(1, 4000, generator=generator)
            if is_ours:
                found = module(audio)[0]
            else:
                found = module(source=audio, padding_mask=torch.zeros(1, 4000, dtype=torch.bool))["encoder_out"]
            return found[:, 0]
        source, lengths = torch.randn(1, 120, 80, generator=generator), torch.tensor([120])
        if family.endswith("_encoder"):
            return module(source, lengths)["encoder_out"][:, 0]
        return module(source, lengths, torch.tensor([[2, 5, 6, 7, 4]]))[0][0]


def test_fairseq_loads_every_family_and_computes_the_same(exported: tuple[Path, WrittenExport]) -> None:
    artifact, written = exported
    loaded = load_model(artifact)
    theirs, task = load_by_fairseq(written.main)
    family = loaded.source.spec.family
    torch.testing.assert_close(
        logits(theirs, family, is_ours=False), logits(loaded.module, family, is_ours=True), rtol=1e-4, atol=2e-5
    )
    assert task.target_dictionary.symbols[SPECIAL_SYMBOLS:] == loaded.source.spec.vocabulary


def test_what_is_read_back_is_what_the_artifact_holds_to_the_bit(exported: tuple[Path, WrittenExport]) -> None:
    artifact, written = exported
    source, again = open_source(artifact), open_source(written.main)
    assert source.content is not None
    packed = {name: source.content.quantized[name].dequantize() for name in source.content.quantized}
    expected = {name: tensor.float() for name, tensor in {**source.tensors, **packed}.items()}
    assert (again.spec.family, again.spec.vocabulary) == (source.spec.family, source.spec.vocabulary)
    assert {key: again.spec.config[key] for key in source.spec.config if key != "arguments"} == {
        key: value for key, value in source.spec.config.items() if key != "arguments"
    }
    same = [name for name in expected if torch.equal(again.tensors[name], expected[name])]
    assert same == list(expected)
    ours, theirs = build_float(source).state_dict(), build_float(again).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }


def test_the_sidecar_says_that_it_is_dequantized(exported: tuple[Path, WrittenExport], validator: Any) -> None:
    artifact, written = exported
    validator.validate(written.record)
    block = written.record["export"]
    assert block["is_dequantized"] is True
    assert block["num_dequantized_weights"] == len(open_source(artifact).content.quantized)  # type: ignore[union-attr]
    assert ".dequantized" in block["folder"] and block["main"].endswith(".dequantized.pt")
    assert written.record["metrics"]["fairseq_size_bytes"] > artifact.stat().st_size


def test_beam_search_by_fairseq_gives_the_artifacts_words(digits_dir: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "digits.int4.safetensors"
    quantize(digits_dir / "checkpoint_best.pt", artifact, QuantizeConfig(num_bits=4))
    written = export(artifact, "fairseq", data_dir=digits_dir)
    model, task = load_by_fairseq(written.main)
    generator = task.build_generator([model], Namespace(beam=5, max_len_a=0.0, max_len_b=200, lenpen=1.0))
    loaded = load_model(artifact)
    spec, family = loaded.source.spec, loaded.source.family
    frames = [
        family.features(spec, read_audio(path, sample_rate_hz=16_000))
        for path in sorted(digits_dir.glob("audio/test/*"))[:12]
    ]
    theirs = []
    for each in frames:
        start = torch.tensor([[task.target_dictionary.eos()]])
        inputs = {"src_tokens": each[None], "src_lengths": torch.tensor([len(each)]), "prev_output_tokens": start}
        tokens = task.inference_step(generator, [model], {"net_input": inputs})[0][0]["tokens"]
        theirs.append(task.target_dictionary.string(tokens, bpe_symbol="sentencepiece"))
    transcribe = family.transcriber(spec, loaded.module, beam=5)
    assert theirs == [text for each in frames for text in transcribe([each])]
    assert len(set(theirs)) > 10


def test_a_full_disk_is_a_users_error_and_leaves_nothing(tiny_s2t: Path, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(AsrCompressError, match=r"out: could not be written: .*is the disk full\?$"):
            export(tiny_s2t, "fairseq", output=tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_float_checkpoint_comes_out_as_it_went_in(tiny_s2t: Path, tmp_path: Path) -> None:
    written = export(tiny_s2t, "fairseq", output=tmp_path / "again")
    first, again = open_source(tiny_s2t), open_source(written.main)
    assert first.tensors.keys() == again.tensors.keys()
    assert all(torch.equal(again.tensors[name], first.tensors[name]) for name in first.tensors)
    assert written.record["export"]["is_dequantized"] is False
    assert written.main.stat().st_size < tiny_s2t.stat().st_size  # Adam's state is not in it


def test_global_statistics_and_a_missing_sentencepiece_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trained").mkdir()
    checkpoint = make_s2t_conformer(tmp_path / "trained")
    folder = checkpoint.parent
    random = np.random.default_rng(0)
    mean, std = random.standard_normal(80).astype(np.float32), 0.5 + random.random(80).astype(np.float32)
    np.savez(folder / "stats.npz", mean=mean, std=std)
    (folder / "config.yaml").write_text(
        "vocab_filename: dict.txt\ninput_feat_per_channel: 80\nbpe_tokenizer: {bpe: sentencepiece}\n"
        "transforms: {'*': [global_cmvn]}\nglobal_cmvn: {stats_npz_path: stats.npz}\n"
    )
    artifact = tmp_path / "model.safetensors"
    quantize(checkpoint, artifact, QuantizeConfig(num_bits=8))
    written = export(artifact, "fairseq")
    assert {file["file"] for file in written.record["export"]["files"]} == {
        "model.dequantized.pt", "dict.txt", "config.yaml", "gcmvn.npz",
    }  # fmt: skip
    assert any("SentencePiece" in note for note in written.notes)
    task = load_by_fairseq(written.main)[1]
    transform = task.data_cfg.get_feature_transforms("test", False)
    from fairseq.data.audio.feature_transforms import CompositeAudioFeatureTransform

    monkeypatch.chdir(written.folder)  # where Fairseq looks for it
    frames = random.standard_normal((7, 80)).astype(np.float32)
    normalised = CompositeAudioFeatureTransform.from_config_dict(transform)(frames)
    np.testing.assert_allclose(normalised, (frames - mean) / std, rtol=1e-5, atol=1e-6)
    with pytest.raises(AsrCompressError, match="SentencePiece"):
        export(artifact, "fairseq", output=tmp_path / "other", data_dir=tmp_path)
    assert not (tmp_path / "other").exists() and not (tmp_path / "other.json").exists()


def test_a_keyword_model_has_no_form_in_fairseq(tiny_kws: Path, tmp_path: Path) -> None:
    with pytest.raises(AsrCompressError, match=r"crnn\.pt: is a kws_crnn, which Fairseq has no model for"):
        export(tiny_kws, "fairseq", output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(6, 4, 5), (3, 7, 1)])
def test_weight_norm_multiplies_back_to_the_bit_zeros_included(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    weight[:, :, 0] = 0 if shape[2] > 1 else weight[:, :, 0]
    parts = weight_norm("conv", weight, axis=2)
    assert torch.equal(torch._weight_norm(parts["conv.weight_v"], parts["conv.weight_g"], 2), weight)
