"""References to the ids of a vocabulary, as Fairseq's tables and label files were turned into them.

Ids are those of Fairseq's Dictionary: four specials, then the vocabulary; what it lacks is <unk>. Pieces come from the
SentencePiece model beside the vocabulary, which artifacts do not hold: decoding needs none. Text is taken as it stands,
but for its case, which follows a vocabulary that has one case only. Punctuation and numbers are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.models import ModelSpec
from asrcompress.models.fairseq_data import read_yaml
from asrcompress.models.text import LETTER_BOUNDARY, LETTERS, SENTENCEPIECE

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
END, UNKNOWN = SPECIALS.index("</s>"), SPECIALS.index("<unk>")


def find_folder(path: Path, config: dict[str, Any] | None, data_dir: Path | None) -> Path:
    """The folder to give to `read_targets`: the user's, else the model's, else the one it was trained from.

    Args:
        path: of the checkpoint or artifact.
        config: of a Fairseq checkpoint; None for an artifact.
        data_dir: what the user gave.

    Raises:
        AsrCompressError: `data_dir` is no folder.
    """
    if data_dir is not None:
        if not data_dir.is_dir():
            raise AsrCompressError(f"--data-dir {data_dir}: is not a folder; give the one of the SentencePiece model")
        return data_dir
    task = (config or {}).get("task", {})
    trained_in = [Path(folder) for key in ("data", "label_dir") if isinstance(folder := task.get(key), str)]
    candidates = (path.parent, *trained_in)
    return next((folder for folder in candidates if any(folder.glob("*.model"))), path.parent)


def encode(spec: ModelSpec, folder: Path, references: Sequence[str], *, end: bool) -> list[Tensor]:
    """Ids of each reference, int64.

    Letters are followed by one boundary a word, the last word included, as in Fairseq's label files.

    Args:
        spec: vocabulary and text units of the model.
        folder: holds the SentencePiece model where the vocabulary is of its pieces.
        references: texts; an empty one has no units.
        end: append </s>, as decoders are trained.

    Raises:
        AsrCompressError: the SentencePiece model is missing, or each reference holds a unit that the vocabulary lacks.
    """
    symbols = spec.vocabulary or []
    ids = {symbol: index for index, symbol in enumerate((*SPECIALS, *symbols))}
    split, case = _splitter(spec, folder), case_of(symbols)
    pieces = [split(case(text)) for text in references]
    encoded = [[ids.get(piece, UNKNOWN) for piece in row] for row in pieces]
    written = [row for row in encoded if row]
    if written and all(UNKNOWN in row for row in written):
        first = next(position for position, row in enumerate(encoded) if row)
        unknown = pieces[first][encoded[first].index(UNKNOWN)]
        raise AsrCompressError(
            f"{folder}: none of {len(written)} references can be written in the model's vocabulary: '{unknown[:20]}' of "
            f"'{references[first][:40]}' is not in it; give references as in training, or its own folder with --data-dir"
        )
    return [torch.tensor(row + [END] * end, dtype=torch.long) for row in encoded]


def case_of(symbols: Sequence[str]) -> Callable[[str], str]:
    """How texts are cased: as the vocabulary where all its letters have one case, else left as they are."""
    text = "".join(symbol for symbol in symbols if not (symbol.startswith("<") and symbol.endswith(">")))
    lower, upper = any(letter.islower() for letter in text), any(letter.isupper() for letter in text)
    if lower == upper:
        return str
    return str.lower if lower else str.upper


def _splitter(spec: ModelSpec, folder: Path) -> Callable[[str], list[str]]:
    units = spec.config["text_units"]
    if units == SENTENCEPIECE:
        return _sentencepiece(find_sentencepiece(folder, spec.vocabulary or []))
    if units == LETTERS:
        return lambda text: [letter for word in text.split() for letter in (*word, LETTER_BOUNDARY)]
    return str.split


def find_sentencepiece(folder: Path, symbols: Sequence[str]) -> Path:
    """The SentencePiece model in a folder: the one that config.yaml names, else the only one with these pieces.

    Raises:
        AsrCompressError: there is none, or more than one.
    """
    if not folder.is_dir():
        raise AsrCompressError(f"{folder}: no such folder; --data-dir names the one of the checkpoint")
    named = _named_model(folder)
    if named is not None:
        for path in (folder / named, folder / named.name):
            if path.is_file():
                return path
        raise AsrCompressError(
            f"{folder / 'config.yaml'}: names the SentencePiece model {named}, which is not there; references cannot be "
            f"written without it: put it into {folder}, or give the folder that has it with --data-dir"
        )
    wanted = {symbol for symbol in symbols if not symbol.startswith(("<", "madeupword"))}
    found = [path for path in sorted(folder.glob("*.model")) if wanted <= _pieces(path)]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} SentencePiece models ({', '.join(path.name for path in found)})" if found else "no such file"
    raise AsrCompressError(
        f"the folder {folder.resolve()}: references cannot be written without the SentencePiece model of the vocabulary, and it "
        f"holds {what}; give --data-dir the folder of the checkpoint that the model was made from"
    )


def _named_model(folder: Path) -> Path | None:
    path = folder / "config.yaml"
    table = read_yaml(path).get("bpe_tokenizer") if path.is_file() else None
    name = table.get("sentencepiece_model") if isinstance(table, dict) else None
    return Path(name) if isinstance(name, str) else None


def _load(path: Path) -> Any:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise AsrCompressError(f"{path}: cannot be read without sentencepiece: pip install sentencepiece") from error
    try:
        return SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise AsrCompressError(f"{path}: is not a SentencePiece model; give the one that training used") from error


def _pieces(path: Path) -> set[str]:
    model = _load(path)
    return {model.id_to_piece(index) for index in range(model.get_piece_size())}


def _sentencepiece(path: Path) -> Callable[[str], list[str]]:
    model = _load(path)
    # Fairseq joins the pieces by spaces and splits them again.
    return lambda text: " ".join(model.encode(text, out_type=str)).split()
