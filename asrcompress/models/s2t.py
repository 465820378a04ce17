"""What Fairseq's speech-to-text families share: filter banks in, beam search over pieces or the loss of a reference out.

Features are Kaldi filter banks with the checkpoint's own normalisation. Text comes from the
vocabulary's pieces; no SentencePiece model is needed to decode. A family adds which checkpoints it
recognises, which arguments it checks and what it builds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.models import ModelSpec, fairseq_adapter, fairseq_data, padding
from asrcompress.models.device import device_of
from asrcompress.models.features import fbank, normalize, num_fbank_frames
from asrcompress.models.s2t_arguments import check_arguments
from asrcompress.models.targets import END, encode
from asrcompress.models.text import join_pieces

if TYPE_CHECKING:
    from asrcompress.checkpoints import Checkpoint

TASK = "asr"
CRITERION = "cross_entropy"
SAMPLE_RATE_HZ = 16_000
DEFAULT_DURATION_S = 10.0
TOKENS_PER_SECOND = 4.0
SPECIAL_SYMBOLS = 4  # <s>, <pad>, </s>, <unk>


def read_spec(family: str, checkpoint: Checkpoint, data_dir: Path | None = None) -> ModelSpec:
    """Task speech_to_text: arguments from the checkpoint; features and vocabulary from its config.yaml and dictionary."""
    config = checkpoint.config or {}
    folder, yaml_path = fairseq_data.find_data_dir(checkpoint.path, config, data_dir)
    record = fairseq_data.read_yaml(yaml_path)
    symbols = checkpoint.symbols
    if symbols is None:
        symbols = fairseq_data.read_dictionary(folder / str(record.get("vocab_filename", "dict.txt")))
    check_vocabulary(checkpoint, "decoder.embed_tokens.weight", symbols, folder)
    front_end = fairseq_data.read_front_end(yaml_path, record)
    task_defaults = {"max_source_positions": 6000, "max_target_positions": 1024}
    arguments = task_defaults | check_arguments(str(checkpoint.path), config["model"], family)
    arguments["input_feat_per_channel"] = front_end["num_mel_bins"]
    units = fairseq_data.read_text_units(yaml_path, record)
    return ModelSpec(family, {"arguments": arguments, "front_end": front_end, "text_units": units}, symbols)


def check_vocabulary(checkpoint: Checkpoint, weight_name: str, symbols: list[str], folder: Path) -> None:
    """Raise when the weight that has a row for each output unit has more or fewer rows than the dictionary gives."""
    num_units = count_units(checkpoint, weight_name)
    if num_units not in (None, len(symbols) + SPECIAL_SYMBOLS):
        raise AsrCompressError(
            f"{checkpoint.path}: has {num_units} output units, the dictionary in {folder} gives "
            f"{len(symbols) + SPECIAL_SYMBOLS}; give the folder of its own dictionary with --data-dir"
        )


def count_units(checkpoint: Checkpoint, weight_name: str) -> int | None:
    """Rows of the weight that has one for each output unit; None where the checkpoint lacks it."""
    weight = checkpoint.tensors.get(weight_name)
    return None if weight is None else sum(weight.shape[:1])


def clean_tensors(checkpoint: Checkpoint, spec: ModelSpec, is_computed: Callable[[str], bool]) -> dict[str, Tensor]:
    """Drop what Fairseq computes by itself; fill a tied output projection that was not stored."""
    version = checkpoint.tensors.get("decoder.version")
    if version is not None and version.numel() == 1 and float(version) < 2:
        raise AsrCompressError(
            f"{checkpoint.path}: is of Fairseq's decoder version {float(version):g}; version 2 and later are supported"
        )
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if not is_computed(name)}
    embedding, output = "decoder.embed_tokens.weight", "decoder.output_projection.weight"
    if spec.config["arguments"].get("share_decoder_input_output_embed") and embedding in tensors:
        stored = tensors.setdefault(output, tensors[embedding])
        if not torch.equal(stored, tensors[embedding]):
            raise AsrCompressError(
                f"{checkpoint.path}: says that {output} is tied to {embedding}, and holds two different tensors"
            )
    return tensors


def features(spec: ModelSpec, audio: np.ndarray) -> Tensor:
    """(samples,) in [-1, 1] -> (frames, num_mel_bins), normalised."""
    front_end = spec.config["front_end"]
    frames = fbank(audio, sample_rate_hz=front_end["sample_rate_hz"], num_mel_bins=front_end["num_mel_bins"])
    if len(frames):
        for transform in front_end["transforms"]:
            frames = normalize(frames, transform)
    return frames


def example_inputs(
    spec: ModelSpec, duration_s: float, num_tokens: int | None, batch_size: int
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Silence of this length and one teacher-forced decoder pass over `num_tokens`, to count MACs with."""
    num_frames = num_fbank_frames(duration_s)
    if num_frames < 1:
        raise AsrCompressError(f"--duration-s {duration_s}: is shorter than one 25 ms window")
    if num_tokens is None:
        num_tokens = max(1, round(duration_s * TOKENS_PER_SECOND))
    source = torch.zeros(batch_size, num_frames, spec.config["front_end"]["num_mel_bins"])
    previous = torch.full((batch_size, num_tokens), SPECIAL_SYMBOLS, dtype=torch.long)
    record = {"duration_s": duration_s, "num_frames": num_frames, "num_tokens": num_tokens, "batch_size": batch_size}
    return (source, torch.full((batch_size,), num_frames), previous), record


def pad(batch: list[Tensor], module: nn.Module) -> tuple[Tensor, Tensor]:
    """Features of several utterances -> (batch, frames, bins), padded with zeros, and lengths, on the module's device."""
    device = device_of(module)
    lengths = torch.tensor([len(frames) for frames in batch])
    return nn.utils.rnn.pad_sequence(batch, batch_first=True).to(device), lengths.to(device)


def transcriber(
    spec: ModelSpec,
    module: nn.Module,
    *,
    beam: int = 5,
    lenpen: float = 1.0,
    max_len_a: float = 0.0,
    max_len_b: int = 200,
) -> Callable[[list[Tensor]], list[str]]:
    """A function from a batch of features to texts, through Fairseq's beam search."""
    decode = fairseq_adapter.beam_search(
        module, spec.vocabulary or [], beam=beam, lenpen=lenpen, max_len_a=max_len_a, max_len_b=max_len_b
    )

    def transcribe(batch: list[Tensor]) -> list[str]:
        source, lengths = pad(batch, module)
        with padding.hidden(_readers(module, lengths)):
            return [join_pieces(pieces, spec.config["text_units"]) for pieces in decode(source, lengths)]

    return transcribe


def read_targets(spec: ModelSpec, data_dir: Path, references: list[str]) -> list[Tensor]:
    """Ids of the pieces of each reference, with </s> at the end; see targets.py.

    Raises:
        AsrCompressError: a reference has more tokens than the decoder has positions for.
    """
    encoded = encode(spec, data_dir, references, end=True)
    most = spec.config["arguments"].get("max_target_positions")
    for text, ids in zip(references, encoded, strict=True):
        if most is not None and len(ids) > most:
            raise AsrCompressError(
                f"the reference '{text[:40]}...' has {len(ids)} tokens where the model takes {most}; leave it out of the data"
            )
    return encoded


def log_probs(spec: ModelSpec, module: nn.Module, features: list[Tensor], targets: list[Tensor] | None) -> list[Tensor]:
    """Log-probabilities of every next token, given the reference up to it: (tokens, vocabulary) per utterance.

    Differentiable in the module's parameters. One run of the module, in which no utterance sees its padding.

    Args:
        spec: of the module.
        module: float, swapped or observed.
        features: (frames, bins) each, at least one frame.
        targets: ids of each reference, with </s> at the end; the decoder reads them moved on by one, </s> first.
    """
    if targets is None:
        raise ValueError("a decoder's log-probabilities need targets: it is told what it said before")
    source, lengths = pad(features, module)
    previous = nn.utils.rnn.pad_sequence(
        [torch.cat([ids[-1:], ids[:-1]]) for ids in targets], batch_first=True, padding_value=END
    )
    with padding.hidden(_readers(module, lengths)):
        logits = module(source, lengths, previous.to(source.device))[0]
    return [rows[: len(ids)].float().log_softmax(dim=-1) for rows, ids in zip(logits, targets, strict=True)]


def _readers(module: Any, lengths: Tensor) -> list[padding.Reader]:
    """What looks beyond a frame in the encoders of these families."""
    encoder = module.encoder
    if not hasattr(encoder, "subsample"):
        return padding.vgg_readers(encoder.conv_layers, lengths)
    readers, lengths = padding.subsampler_readers(encoder.subsample, lengths)
    return readers + padding.conformer_readers(getattr(encoder, "conformer_layers", ()), lengths)
