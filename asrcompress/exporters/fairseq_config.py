"""What Fairseq builds a model from, as plain values: the settings in a checkpoint, config.yaml, dictionary.

Everything is a dict, list, string or number, so that torch reads a checkpoint with `weights_only=True`. Folders are not
named: Fairseq is told the data's by `data`. Settings that only training reads are Fairseq's defaults.
"""

from __future__ import annotations

from typing import Any

from asrcompress.models import ModelSpec, fairseq_adapter, fairseq_vgg
from asrcompress.models.text import LETTERS, SENTENCEPIECE

S2T = ("s2t_transformer", "s2t_conformer")
VGG = ("asr_vggtransformer", "asr_vggtransformer_encoder")
CTC = ("wav2vec_ctc", "hubert_ctc")
FAMILIES = (*S2T, *VGG, *CTC)
DATA = "."  # of the task; whoever loads the file overrides it
CTC_BLANK = "<ctc_blank>"  # the task speech_recognition adds it to the dictionary by itself


def settings(spec: ModelSpec) -> dict[str, Any]:
    """The checkpoint's `cfg`: what `model` is built from, and its `task`."""
    if spec.family in S2T:
        return _s2t(spec)
    if spec.family in VGG:
        return _vgg(spec)
    return _ctc(spec)


def task_state(spec: ModelSpec) -> dict[str, Any]:
    """What the task is given back: no dictionaries of pre-training, which HuBERT would look for."""
    return {"dictionaries": [None]} if spec.family == "hubert_ctc" else {}


def dictionary(spec: ModelSpec) -> tuple[str, str]:
    """Name and content of the dictionary file: a line `symbol count` for each symbol after the four specials."""
    name = f"dict.{_labels(spec)}.txt" if spec.family in CTC else "dict.txt"
    symbols = [symbol for symbol in spec.vocabulary or [] if not (spec.family in VGG and symbol == CTC_BLANK)]
    overwrite = " #fairseq:overwrite"
    specials = ("<s>", "<pad>", "</s>", "<unk>")
    return name, "".join(f"{symbol} 1{overwrite if symbol in specials else ''}\n" for symbol in symbols)


def config_yaml(spec: ModelSpec, *, statistics: str | None, sentencepiece: str | None) -> dict[str, Any]:
    """The task speech_to_text's config.yaml, files named as they lie beside it.

    Args:
        spec: of the model.
        statistics: file of global CMVN, where the model has it.
        sentencepiece: file of the pieces' model, where it is there; without, Fairseq splits references at spaces.
    """
    front_end = spec.config["front_end"]
    record: dict[str, Any] = {
        "input_channels": spec.config["arguments"].get("input_channels", 1),
        "input_feat_per_channel": front_end["num_mel_bins"],
        "sample_rate": front_end["sample_rate_hz"],
        "vocab_filename": dictionary(spec)[0],
        "transforms": {"*": [transform["name"] for transform in front_end["transforms"]]},
    }
    for transform in front_end["transforms"]:
        if transform["name"] == "utterance_cmvn":
            record["utterance_cmvn"] = {key: transform[key] for key in ("norm_means", "norm_vars")}
    if statistics:
        record["global_cmvn"] = {"stats_npz_path": statistics}
    if sentencepiece:
        record["bpe_tokenizer"] = {"bpe": SENTENCEPIECE, "sentencepiece_model": sentencepiece}
    return record


def _s2t(spec: ModelSpec) -> dict[str, Any]:
    arguments = fairseq_adapter.whole_s2t_arguments(dict(spec.config["arguments"]), spec.family)
    positions = {key: arguments[key] for key in ("max_source_positions", "max_target_positions") if key in arguments}
    task: dict[str, Any] = {"task": "speech_to_text", "data": DATA, "config_yaml": "config.yaml"} | positions
    model: dict[str, Any] = arguments | {"_name": spec.family, "arch": spec.family, "fp16": False} | task
    return {"model": model, "task": task}


def _vgg(spec: ModelSpec) -> dict[str, Any]:
    is_encoder = spec.family == "asr_vggtransformer_encoder"
    # All architectures of a family have one class, and all its sizes are given here.
    architecture = "vggtransformer_enc_1" if is_encoder else "vggtransformer_1"
    arguments = fairseq_vgg.whole_vgg_arguments(dict(spec.config["arguments"]), is_encoder=is_encoder)
    has_blank = CTC_BLANK in (spec.vocabulary or [])
    task = {
        "task": "speech_recognition", "data": DATA, "criterion": "ctc_loss" if has_blank else "cross_entropy_acc",
        "max_source_positions": 100_000, "max_target_positions": 1024,
    }  # fmt: skip
    return {"model": arguments | {"_name": architecture, "arch": architecture} | task, "task": task}


def _ctc(spec: ModelSpec) -> dict[str, Any]:
    is_hubert = spec.family == "hubert_ctc"
    arguments = dict(spec.config["arguments"])
    normalize = spec.config["front_end"]["normalize"]
    layers = str([tuple(layer) for layer in arguments["conv_feature_layers"]])  # Fairseq evaluates it
    encoder = arguments | {"_name": "hubert" if is_hubert else "wav2vec2", "conv_feature_layers": layers}
    pretraining = {
        "_name": "hubert_pretraining" if is_hubert else "audio_pretraining",
        "data": DATA,
        "normalize": normalize,
    }
    audio = {"data": DATA, "normalize": normalize, "sample_rate": spec.config["front_end"]["sample_rate_hz"]}
    if is_hubert:
        encoder["label_rate"] = 50.0
        task = {"_name": "hubert_pretraining", "fine_tuning": True, "labels": [_labels(spec)]} | audio
    else:
        task = {"_name": "audio_finetuning", "labels": _labels(spec)} | audio
    model: dict[str, Any] = {
        "_name": spec.family, "data": DATA, "normalize": normalize, "w2v_path": "",
        "w2v_args": {"model": encoder, "task": pretraining, "criterion": None},
    }  # fmt: skip
    if is_hubert:
        model["autoregressive"] = False  # read by the encoder, and a field of no class
    else:
        blank = spec.config["blank"]
        model |= {"blank_weight": blank["weight"], "blank_mode": blank["mode"]}
    return {"model": model, "task": task, "criterion": {"_name": "ctc"}}


def _labels(spec: ModelSpec) -> str:
    """Extension of Fairseq's label files: ltr tells its tools, and ours, that units are letters."""
    return "ltr" if spec.config["text_units"] == LETTERS else "wrd"
