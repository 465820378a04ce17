"""Fixtures shared by all tests: the folders of real speech, skipped visibly where they are absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.fairseq_files import PIECES, age, save_checkpoint, write_dictionary, write_sentencepiece

ROOT = Path(__file__).resolve().parents[1]
pytest_plugins = ["tests.fixtures.ctc", "tests.fixtures.conformer", "tests.fixtures.sidecars", "tests.fixtures.vgg"]


def _shared(name: str) -> Path:
    folder = ROOT.parent / "shared" / "data" / name
    if not folder.is_dir():
        pytest.skip(f"../shared/data/{name} is absent: real speech and checkpoints are needed")
    return folder


@pytest.fixture(scope="session")
def digits_dir() -> Path:
    return _shared("digits")


@pytest.fixture(scope="session")
def kws_dir() -> Path:
    return _shared("kws")


@pytest.fixture(scope="session")
def librispeech_dir() -> Path:
    return _shared("LibriSpeech")


@pytest.fixture(scope="session")
def samples_dir() -> Path:
    return ROOT / "samples"


@pytest.fixture(scope="session")
def tiny_s2t(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small s2t_transformer built by Fairseq, saved by Fairseq's own writer, with its config.yaml and dictionary.

    Weights are random: what it transcribes means nothing, and everything else is as in a trained one.
    """
    import argparse

    import torch
    from fairseq.data import Dictionary
    from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerModel, base_architecture

    folder = tmp_path_factory.mktemp("tiny_s2t")
    write_dictionary(folder / "dict.txt", PIECES)
    write_sentencepiece(folder / "spm.model", PIECES)
    (folder / "config.yaml").write_text(
        "vocab_filename: dict.txt\ninput_feat_per_channel: 80\nbpe_tokenizer: {bpe: sentencepiece}\n"
        "transforms: {'*': [utterance_cmvn], _train: [utterance_cmvn, specaugment]}\n"
    )
    dictionary = Dictionary.load(str(folder / "dict.txt"))
    args = argparse.Namespace(
        arch="s2t_transformer_s", task="speech_to_text", data=".", config_yaml="config.yaml", ctc_weight=0.3, conv_channels=32,
        encoder_embed_dim=32, encoder_ffn_embed_dim=64, encoder_layers=2, encoder_attention_heads=2, decoder_layers=2,
        decoder_embed_dim=32, decoder_ffn_embed_dim=64, decoder_attention_heads=2, share_decoder_input_output_embed=True,
        input_feat_per_channel=80, input_channels=1, max_source_positions=3000, max_target_positions=40, dropout=0.1,
    )  # fmt: skip
    base_architecture(args)
    torch.manual_seed(1)
    model = S2TTransformerModel.build_model(
        args, argparse.Namespace(target_dictionary=dictionary, source_dictionary=None)
    )
    age(model)
    return save_checkpoint(folder / "checkpoint_best.pt", args, model)


@pytest.fixture(scope="session")
def tiny_speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of five short synthetic recordings with references, one of them empty."""
    import numpy as np
    import soundfile

    folder = tmp_path_factory.mktemp("tiny_speech")
    random = np.random.default_rng(0)
    rows = ["id\taudio\tn_frames\ttgt_text\tspeaker"]
    for number, text in enumerate(["go left", "stop", "", "right go", "lefts"]):
        seconds = 0.4 + 0.15 * number
        tone = np.sin(np.arange(int(16000 * seconds)) * (0.05 + 0.03 * number))
        soundfile.write(folder / f"{number}.flac", 0.3 * tone + 0.02 * random.standard_normal(len(tone)), 16000)
        rows.append(f"utterance_{number}\t{number}.flac\t{int(seconds * 100)}\t{text}\tnobody")
    (folder / "test.tsv").write_text("\n".join(rows) + "\n")
    return folder / "test.tsv"


@pytest.fixture(scope="session")
def tiny_kws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of the report's smallest keyword model, random weights."""
    import torch

    from asrcompress.models.crnn import CRNN

    torch.manual_seed(2)
    path = tmp_path_factory.mktemp("tiny_kws") / "crnn.pt"
    torch.save(CRNN(2, 12).state_dict(), path)
    return path
