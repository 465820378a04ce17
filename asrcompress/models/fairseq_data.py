"""What a Fairseq speech-to-text checkpoint leaves outside itself: config.yaml, dictionary, CMVN statistics.

Reads them from the checkpoint's folder, from a folder the user names, or from where the checkpoint
says it was trained, and turns them into plain JSON. Imports no Fairseq.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from asrcompress.errors import AsrCompressError

SAMPLE_RATE_HZ = 16_000
UNSUPPORTED = {"use_audio_input": "raw audio input", "prepend_tgt_lang_tag": "target language tags",
               "prepend_bos_and_append_tgt_lang_tag": "target language tags"}  # fmt: skip


def find_data_dir(
    checkpoint_path: Path, config: dict[str, Any], data_dir: Path | None, *, needed: str | None = None
) -> tuple[Path, Path]:
    """The folder of the training data and the file `needed` in it: without a name, the config.yaml that the task names."""
    task = config.get("task", {})
    file_name = Path(needed or str(task.get("config_yaml") or "config.yaml"))
    what = "vocabulary" if needed else "features and vocabulary"
    if data_dir and not data_dir.is_dir():
        holds = f"{file_name}" if needed else f"{file_name} and the dictionary"
        raise AsrCompressError(f"--data-dir {data_dir}: is not a folder; give the one that holds {holds}")
    trained_in = Path(str(task.get("data") or "."))
    candidates = [data_dir] if data_dir else [checkpoint_path.parent, trained_in]
    for folder in candidates:
        if (folder / file_name).is_file():
            return folder, folder / file_name
    looked = str(data_dir) if data_dir else f"{checkpoint_path.parent}, nor in {trained_in}, which it was trained from"
    raise AsrCompressError(
        f"{checkpoint_path}: its {file_name} ({what}) is not in {looked}; "
        "put it beside the checkpoint or give its folder with --data-dir"
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, read safely."""
    try:
        record = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise AsrCompressError(f"{path}: cannot be read as YAML ({error}); give Fairseq's config.yaml") from error
    if not isinstance(record, dict):
        raise AsrCompressError(f"{path}: holds no mapping; give Fairseq's config.yaml")
    return record


def read_front_end(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Features as evaluation uses them: {"num_mel_bins", "sample_rate_hz", "transforms": [...]}.

    The transforms are those of the split `_eval`, else of `*`, first from `transforms`, then from
    `feature_transforms`, as in Fairseq; global CMVN's statistics are read into the record.
    """
    for key, what in UNSUPPORTED.items():
        if record.get(key):
            raise AsrCompressError(f"{path}: {what} ({key}) is not supported")
    num_mel_bins, sample_rate_hz = record.get("input_feat_per_channel", 80), record.get("sample_rate", SAMPLE_RATE_HZ)
    if type(num_mel_bins) is not int or not 1 <= num_mel_bins <= 1000:
        raise AsrCompressError(
            f"{path}: input_feat_per_channel is {num_mel_bins!r}; give a number of filter banks such as 80"
        )
    if sample_rate_hz != SAMPLE_RATE_HZ:
        raise AsrCompressError(
            f"{path}: sample_rate is {sample_rate_hz!r}; models of {SAMPLE_RATE_HZ} Hz are supported"
        )
    names = [*_transform_names(path, record, "transforms"), *_transform_names(path, record, "feature_transforms")]
    return {
        "num_mel_bins": num_mel_bins,
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "transforms": [_transform(path, record, name, num_mel_bins) for name in names],
    }


def _mapping(path: Path, record: dict[str, Any], key: str) -> dict[str, Any]:
    """A part of config.yaml that has to be a mapping, or is absent or empty."""
    value = record.get(key)
    if value is not None and not isinstance(value, dict):
        raise AsrCompressError(
            f"{path}: {key} is {str(value)[:40]!r} where a mapping is due; give Fairseq's config.yaml"
        )
    return value or {}


def _transform_names(path: Path, record: dict[str, Any], key: str) -> list[str]:
    table = _mapping(path, record, key)
    names = table.get("_eval")
    names = table.get("*") if names is None else names
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise AsrCompressError(
            f"{path}: {key} has {str(names)[:40]!r} where a list of names is due; give Fairseq's config.yaml"
        )
    return names or []


def read_text_units(path: Path, record: dict[str, Any]) -> str:
    """How pieces become text: `sentencepiece`, or `words` (no subwords)."""
    bpe = _mapping(path, record, "bpe_tokenizer").get("bpe")
    tokenizer = _mapping(path, record, "pre_tokenizer").get("tokenizer")
    if bpe not in (None, "sentencepiece") or tokenizer is not None:
        raise AsrCompressError(
            f"{path}: bpe '{bpe}' with tokenizer '{tokenizer}' is not supported; sentencepiece or none is"
        )
    return "words" if bpe is None else "sentencepiece"


def read_dictionary(path: Path) -> list[str]:
    """The symbols of a Fairseq dictionary file (`symbol count` lines), in order, without the four specials."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise AsrCompressError(
            f"{path}: the dictionary is missing; put it beside config.yaml or give its folder with --data-dir"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise AsrCompressError(f"{path}: the dictionary cannot be read ({error})") from error
    symbols = []
    for number, line in enumerate(lines, start=1):
        symbol, space, count = line.removesuffix(" #fairseq:overwrite").rpartition(" ")
        if not space or not count.lstrip("-").isdigit():
            raise AsrCompressError(f"{path}:{number}: is not a `symbol count` line; give Fairseq's dictionary file")
        symbols.append(symbol)
    return symbols


def _transform(path: Path, record: dict[str, Any], name: str, num_mel_bins: int) -> dict[str, Any]:
    options = _mapping(path, record, name)
    if name == "utterance_cmvn":
        return {
            "name": name,
            "norm_means": bool(options.get("norm_means", True)),
            "norm_vars": bool(options.get("norm_vars", True)),
        }
    if name == "global_cmvn":
        stats = path.parent / str(options.get("stats_npz_path", "gcmvn.npz"))
        return {"name": name} | _read_statistics(stats, num_mel_bins)
    raise AsrCompressError(
        f"{path}: the feature transform '{name}' at evaluation is not supported; utterance_cmvn and global_cmvn are"
    )


def _read_statistics(path: Path, num_mel_bins: int) -> dict[str, list[float]]:
    """Mean and standard deviation per filter bank, from Fairseq's .npz."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            statistics = {name: np.asarray(arrays[name], dtype=np.float64) for name in ("mean", "std")}
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise AsrCompressError(
            f"{path}: global CMVN statistics cannot be read ({error}); put the file that training wrote there"
        ) from error
    for name, values in statistics.items():
        if values.shape != (num_mel_bins,) or not np.isfinite(values).all() or (name == "std" and (values <= 0).any()):
            raise AsrCompressError(
                f"{path}: {name} is not {num_mel_bins} finite numbers; give the file that training wrote"
            )
    return {name: values.tolist() for name, values in statistics.items()}
