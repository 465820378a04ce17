"""What Fairseq's two VGG transformers share: the task speech_recognition of its examples.

That task has no config.yaml. Features are 80 Kaldi filter banks, or as many as the model takes, each
normalised over the utterance; the vocabulary is dict.txt in the folder that training read.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from asrcompress.models import fairseq_data
from asrcompress.models.s2t import SAMPLE_RATE_HZ
from asrcompress.models.vgg_arguments import check_arguments
from asrcompress.models.weight_norm import fold_weight_norm

if TYPE_CHECKING:
    from asrcompress.checkpoints import Checkpoint

DICTIONARY = "dict.txt"
DEFAULT_BINS = 40  # what Fairseq builds when a checkpoint does not say
ENCODER_ARCHITECTURES = ("vggtransformer_enc", "asr_vggtransformer_encoder")
ARCHITECTURES = ("vggtransformer", "asr_vggtransformer", *ENCODER_ARCHITECTURES)


def is_vgg(checkpoint: Checkpoint, *, is_encoder: bool) -> bool:
    """A Fairseq checkpoint of a VGG transformer, with a decoder or without."""
    arch = checkpoint.arch or ""
    return (
        checkpoint.config is not None
        and arch.startswith(ARCHITECTURES)
        and arch.startswith(ENCODER_ARCHITECTURES) == is_encoder
    )


def read_symbols(checkpoint: Checkpoint, data_dir: Path | None) -> tuple[list[str], Path]:
    """The vocabulary without the four specials, and the folder that it came from."""
    if checkpoint.symbols is not None:
        return list(checkpoint.symbols), checkpoint.path
    folder, path = fairseq_data.find_data_dir(checkpoint.path, checkpoint.config or {}, data_dir, needed=DICTIONARY)
    return fairseq_data.read_dictionary(path), folder


def read_config(checkpoint: Checkpoint, family: str) -> dict[str, Any]:
    """Arguments and front-end as plain JSON."""
    model = (checkpoint.config or {})["model"]
    arguments = check_arguments(str(checkpoint.path), model, family)
    num_bins = arguments.get("input_feat_per_channel", DEFAULT_BINS) * arguments.get("in_channels", 1)
    transforms = [{"name": "utterance_mean_variance"}]
    front_end = {"num_mel_bins": num_bins, "sample_rate_hz": SAMPLE_RATE_HZ, "transforms": transforms}
    return {"arguments": arguments, "front_end": front_end}


def clean_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The model's own tensors: weight norms folded, old attention's joint projection split."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in checkpoint.tensors.items():
        stem, _, kind = name.rpartition(".in_proj_")
        if kind in ("weight", "bias") and tensor.dim() and tensor.shape[0] % 3 == 0:
            for part, short in zip(tensor.chunk(3), ("q_proj", "k_proj", "v_proj"), strict=True):
                tensors[f"{stem}.{short}.{kind}"] = part.clone()
        else:
            tensors[name] = tensor
    return fold_weight_norm(checkpoint.path, tensors)
