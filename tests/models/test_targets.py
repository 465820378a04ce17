"""References as ids: Fairseq's own encoding of the same text, and what is said where none can be made."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from asrcompress.errors import AsrCompressError
from asrcompress.models import ModelSpec, targets
from asrcompress.ops.load import open_source
from tests.fixtures.fairseq_files import PIECES, write_sentencepiece

TEXTS = ["go left", "stop", "", "right go", "lefts", "hello go"]
LETTERS = ["|", "E", "T", "A", "O", "N", "'"]


def spec_of(symbols: list[str], text_units: str) -> ModelSpec:
    return ModelSpec("wav2vec_ctc", {"text_units": text_units}, symbols)


def fairseq_ids(symbols: list[str], lines: list[str], *, end: bool) -> list[list[int]]:
    from fairseq.data import Dictionary

    dictionary = Dictionary()
    for symbol in symbols:
        dictionary.add_symbol(symbol)
    return [dictionary.encode_line(line, add_if_not_exist=False, append_eos=end).tolist() for line in lines]


def fairseq_pieces(model: Path, texts: list[str]) -> list[str]:
    from fairseq.data.encoders.sentencepiece_bpe import SentencepieceBPE

    options = SimpleNamespace(
        sentencepiece_model=str(model), sentencepiece_enable_sampling=False, sentencepiece_alpha=None
    )
    encoder = SentencepieceBPE(options)
    return [encoder.encode(text) for text in texts]


def ids_of(source, texts: list[str]) -> list[list[int]]:
    folder = targets.find_folder(source.path, source.checkpoint.config, None)
    return [ids.tolist() for ids in source.family.read_targets(source.spec, folder, texts)]


@pytest.mark.parametrize("fixture", ["tiny_s2t", "tiny_s2t_conformer", "tiny_vgg", "tiny_vgg_encoder"])
def test_pieces_are_fairseqs(fixture: str, request: pytest.FixtureRequest) -> None:
    """With </s> at the end: for decoders, and because the criterion ctc_loss of the VGG encoder has it as well."""
    source = open_source(request.getfixturevalue(fixture))
    lines = fairseq_pieces(source.path.parent / "spm.model", TEXTS)
    expected = fairseq_ids(source.spec.vocabulary, lines, end=True)
    assert ids_of(source, TEXTS) == expected
    assert expected[2] == [2] and 3 in expected[5]


def test_ids_of_the_real_development_set_are_fairseqs(digits_dir: Path) -> None:
    """Through Fairseq's own reader of the table, with its config.yaml, dictionary and SentencePiece model."""
    from fairseq.data import Dictionary
    from fairseq.data.audio.speech_to_text_dataset import S2TDataConfig, SpeechToTextDatasetCreator
    from fairseq.data.encoders import build_bpe

    config = S2TDataConfig(digits_dir / "config.yaml")
    dictionary = Dictionary.load(str(digits_dir / config.vocab_filename))
    bpe = build_bpe(SimpleNamespace(**config.bpe_tokenizer))
    theirs = SpeechToTextDatasetCreator.from_tsv(
        str(digits_dir), config, "dev", dictionary, None, bpe, False, epoch=1, seed=1
    )
    with (digits_dir / "dev.tsv").open() as table:
        texts = [row["tgt_text"] for row in csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE)]
    expected = [
        dictionary.encode_line(theirs.get_tokenized_tgt_text(index), add_if_not_exist=False, append_eos=True)
        for index in range(len(texts))
    ]
    ours = ids_of(open_source(digits_dir / "checkpoint_best.pt"), texts)
    assert ours == [ids.tolist() for ids in expected]
    assert len(ours) == 200 and not any(3 in ids for ids in ours)


@pytest.mark.parametrize("fixture", ["tiny_wav2vec_ctc", "tiny_hubert_ctc"])
def test_letters_are_those_of_fairseqs_label_files(fixture: str, request: pytest.FixtureRequest) -> None:
    """As its libri_labels.py writes them: letters, | for spaces and one more at the end, all in capitals."""
    source = open_source(request.getfixturevalue(fixture))
    texts = ["TEA AT TOE", "A", "EXTRA"]
    lines = [" ".join(list(text.replace(" ", "|"))) + " |" for text in texts]
    expected = fairseq_ids(source.spec.vocabulary, lines, end=False)
    assert ids_of(source, texts) == expected
    assert ids_of(source, [text.lower() for text in texts]) == expected
    assert expected[2].count(3) == 2  # X and R are not in the dictionary


def test_a_reference_without_words_has_no_units() -> None:
    assert targets.encode(spec_of(LETTERS, "letters"), Path(), ["", "  "], end=False)[1].tolist() == []
    assert targets.encode(spec_of(LETTERS, "letters"), Path(), [], end=False) == []


def test_words_are_units_where_the_vocabulary_is_of_words() -> None:
    spec = spec_of(["low", "mid"], "words")
    assert [ids.tolist() for ids in targets.encode(spec, Path(), ["Low mid", "high"], end=True)] == [[4, 5, 2], [3, 2]]


@pytest.mark.parametrize(
    ("symbols", "text"),
    [
        (["A", "|", "<lang>"], "IT'S 1 É"),  # what is in brackets is no text
        (["a", "é", "1"], "it's 1 é"),
        (["A", "b"], "It's 1 é"),
        (["1", "|"], "It's 1 é"),
    ],
)
def test_case_follows_a_vocabulary_of_one_case(symbols: list[str], text: str) -> None:
    assert targets.case_of(symbols)("It's 1 é") == text


def copied(path: Path, folder: Path) -> Path:
    for file in path.parent.iterdir():
        shutil.copy(file, folder)
    return folder / path.name


def test_a_missing_sentencepiece_model_is_said_with_the_way_out(tiny_s2t: Path, tmp_path: Path) -> None:
    source = open_source(copied(tiny_s2t, tmp_path))
    (tmp_path / "spm.model").unlink()
    with pytest.raises(AsrCompressError, match=rf"{tmp_path}: .*SentencePiece model.*--data-dir") as caught:
        ids_of(source, TEXTS)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(AsrCompressError, match=r"absent: no such folder; --data-dir names"):
        targets.find_sentencepiece(tmp_path / "absent", PIECES)


def test_a_missing_sentencepiece_model_names_the_folder_in_full(
    tiny_s2t: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copied(tiny_s2t, tmp_path)
    (tmp_path / "spm.model").unlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AsrCompressError, match=rf"^the folder {tmp_path}: .*SentencePiece model"):
        ids_of(open_source(Path(path.name)), TEXTS)


def test_a_model_that_config_yaml_names_is_taken_and_missed(tiny_s2t: Path, tmp_path: Path) -> None:
    source = open_source(copied(tiny_s2t, tmp_path))
    config = tmp_path / "config.yaml"
    config.write_text(
        config.read_text().replace("bpe: sentencepiece", "bpe: sentencepiece, sentencepiece_model: /training/two.model")
    )
    with pytest.raises(AsrCompressError, match=r"config.yaml: names .*/training/two.model.* with --data-dir"):
        ids_of(source, TEXTS)
    write_sentencepiece(tmp_path / "two.model", [*PIECES, "\u2581left"])
    assert ids_of(source, ["go left", "go"]) == [[4, 3, 2], [4, 2]]


def test_of_several_models_the_one_with_the_vocabularys_pieces_is_taken(tiny_s2t: Path, tmp_path: Path) -> None:
    source = open_source(copied(tiny_s2t, tmp_path))
    write_sentencepiece(tmp_path / "another.model", ["\u2581g", "o"])
    assert ids_of(source, ["go left"]) == [[4, 6, 7, 2]]
    shutil.copy(tmp_path / "spm.model", tmp_path / "twin.model")
    with pytest.raises(AsrCompressError, match=r"2 SentencePiece models \(spm.model, twin.model\)"):
        ids_of(source, ["go left"])


def test_a_file_that_is_no_sentencepiece_model(tiny_s2t: Path, tmp_path: Path) -> None:
    source = open_source(copied(tiny_s2t, tmp_path))
    (tmp_path / "spm.model").write_bytes(b"\x00\xff" * 40)
    with pytest.raises(AsrCompressError, match=r"spm.model: is not a SentencePiece model"):
        ids_of(source, TEXTS)


@pytest.mark.parametrize("fixture", ["tiny_s2t", "tiny_vgg_encoder", "tiny_wav2vec_ctc"])
def test_references_of_another_language_are_refused(fixture: str, request: pytest.FixtureRequest) -> None:
    source = open_source(request.getfixturevalue(fixture))
    with pytest.raises(AsrCompressError, match=r"none of 2 references .*'Привет.*--data-dir") as caught:
        ids_of(source, ["", "Привет мир", "да"])
    assert "\n" not in str(caught.value)


def test_a_reference_longer_than_the_decoder_is_refused(tiny_s2t: Path) -> None:
    source = open_source(tiny_s2t)  # 40 positions
    assert len(ids_of(source, ["go " * 39])[0]) == 40
    with pytest.raises(AsrCompressError, match=r"41 tokens where the model takes 40"):
        ids_of(source, ["go " * 40])


def test_the_folder_is_the_users_else_the_models_else_where_it_was_trained(tmp_path: Path) -> None:
    beside, trained, given = (tmp_path / name for name in ("beside", "trained", "given"))
    for folder in (beside, trained, given):
        folder.mkdir()
    config = {"task": {"data": str(trained)}}
    assert targets.find_folder(beside / "model.pt", config, given) == given
    assert targets.find_folder(beside / "model.pt", config, None) == beside
    write_sentencepiece(trained / "spm.model", PIECES)
    assert targets.find_folder(beside / "model.pt", config, None) == trained
    assert targets.find_folder(beside / "model.safetensors", None, None) == beside
    with pytest.raises(AsrCompressError, match=r"--data-dir .*nowhere: is not a folder"):
        targets.find_folder(beside / "model.pt", config, tmp_path / "nowhere")
