"""A checkpoint that Fairseq itself loads, with what it wants beside it: dictionary, config.yaml, SentencePiece model.

Fairseq has no packed weights: they are dequantized to float32, and both the file's name and the sidecar say so. Its format is
torch's, a pickle; all that is in it are tensors and plain containers, which torch reads without running code. Weight norm,
which reading a checkpoint folds, is put back where Fairseq's class has it. Integer activations stay behind.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.exporters import Exported, Folder, Subject
from asrcompress.exporters.fairseq_config import CTC, FAMILIES, S2T, config_yaml, dictionary, settings, task_state
from asrcompress.models.targets import find_sentencepiece
from asrcompress.models.text import SENTENCEPIECE

DEFAULT_SUFFIX = ".dequantized"
STATISTICS = "gcmvn.npz"
# The decoder's convolutions of asr_vggtransformer, where they are torch's here: (out, in, kernel), theirs (kernel, in, out).
VGG_CONVOLUTION = re.compile(r"(decoder\.conv_layers\.\d+)\.conv\.(weight|bias)")
POSITIONS = re.compile(r"w2v_encoder\.w2v_model\.encoder\.pos_conv\.0\.weight")
MASK = "w2v_encoder.w2v_model.mask_emb"


def export(subject: Subject, files: Folder) -> Exported:
    """Write `<stem>.dequantized.pt` and what Fairseq reads beside it.

    Raises:
        AsrCompressError: Fairseq has no such model; or `data_dir` lacks the SentencePiece model that it was given for.
        OSError: a file cannot be written.
    """
    spec = subject.spec
    if spec.family not in FAMILIES:
        raise AsrCompressError(f"{subject.path}: is a {spec.family}, which Fairseq has no model for; use --to onnx")
    main = f"{files.stem}.dequantized.pt"
    state = {
        "args": None,
        "cfg": settings(spec),
        "model": fairseq_tensors(subject),
        "optimizer_history": [
            {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {"best": None}, "num_updates": 0}
        ],
        "task_state": task_state(spec),
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        "last_optimizer_state": None,
    }
    try:
        torch.save(state, files.path(main, "Fairseq's checkpoint, weights dequantized to float32"))
    except RuntimeError as error:  # torch does not say what the system said
        cause = str(error).partition("\n")[0]
        raise OSError(f"torch.save says {cause!r}; is the disk full?") from error
    name, text = dictionary(spec)
    files.write(name, "dictionary", text)
    notes = _write_data(subject, files) if spec.family in S2T else []
    if spec.family == "hubert_ctc":
        notes.append(
            "note: Fairseq loads hubert_ctc with a setting added, see docs/export.md (facebookresearch/fairseq#4916)"
        )
    content = subject.content
    activations = str(content.recipe.get("activations") or "none") if content else "none"
    if activations != "none":
        notes.append(
            f"note: {subject.path} computes on {activations} activations; Fairseq computes in float, so words may differ"
        )
    packed = list(content.quantized) if content else []
    return Exported(
        main,
        {"is_dequantized": bool(packed), "num_dequantized_weights": len(packed), "float_type": "float32"},
        notes=tuple(notes),
    )


def fairseq_tensors(subject: Subject) -> dict[str, Tensor]:
    """The whole state dict of Fairseq's own class, float32, tied tensors once for each of their names."""
    module = _float_model(subject)
    tensors = {
        name: tensor.detach().float() if tensor.is_floating_point() else tensor
        for name, tensor in module.state_dict().items()
    }
    converted: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found = VGG_CONVOLUTION.fullmatch(name)
        if found and found[2] == "weight":
            converted |= weight_norm(found[1], tensor.permute(2, 1, 0).contiguous(), axis=2)
        elif found:
            converted[f"{found[1]}.bias"] = tensor
        elif POSITIONS.fullmatch(name):
            converted |= weight_norm(name.removesuffix(".weight"), tensor, axis=2)
        else:
            converted[name] = tensor
    if subject.spec.family in CTC:  # read where training masks frames; inference does not
        converted[MASK] = torch.zeros(subject.spec.config["arguments"]["encoder_embed_dim"])
    return converted


def weight_norm(stem: str, weight: Tensor, *, axis: int) -> dict[str, Tensor]:
    """`weight` as a length for each slice along `axis` and a direction, whose product is `weight` again to the bit.

    A slice of zeros has no direction: it gets ones, and the length 0.
    """
    direction = weight.clone()
    shape = [1] * weight.dim()
    shape[axis] = -1
    is_zero = (weight.transpose(0, axis).flatten(1) == 0).all(dim=1).view(shape)
    direction = torch.where(is_zero, torch.ones_like(direction), direction)
    # The lengths as the kernel itself finds them, so that its quotient is 1.
    _, lengths = torch._weight_norm_interface(direction, torch.ones(direction.shape[axis]).view(shape), axis)
    lengths = torch.where(is_zero, torch.zeros_like(lengths.view(shape)), lengths.view(shape))
    return {f"{stem}.weight_g": lengths, f"{stem}.weight_v": direction}


def _float_model(subject: Subject) -> nn.Module:
    """The float model, filled with what the file holds; a checkpoint's is the subject's own."""
    content = subject.content
    if content is None:
        return subject.module
    module: nn.Module = subject.family.build(subject.spec)
    tensors = {name: content.quantized[name].dequantize() for name in content.quantized}
    tensors |= {name: content.sparse[name].dequantize() for name in content.sparse}
    tensors |= {name: content.floats[name] for name in content.floats}
    tensors |= {alias: tensors[name] for alias, name in content.tied.items() if name in tensors}
    missing, unexpected = nn.Module.load_state_dict(module, tensors, strict=False)
    missing = [name for name in missing if not subject.family.is_computed(name)]
    if missing or unexpected:
        raise ValueError(f"{subject.path}: {missing} are missing and {unexpected} have no place in the float model")
    return module


def _write_data(subject: Subject, files: Folder) -> list[str]:
    """config.yaml of the task speech_to_text and what it names; returns lines for the person."""
    import yaml

    notes: list[str] = []
    statistics = None
    for transform in subject.spec.config["front_end"]["transforms"]:
        if transform["name"] == "global_cmvn":
            statistics = STATISTICS
            buffer = io.BytesIO()
            np.savez(buffer, mean=_narrow(transform["mean"]), std=_narrow(transform["std"]))
            notes.append(
                f"note: Fairseq looks for {STATISTICS} where it is started; start it in that folder, or write a whole path into config.yaml"
            )
            files.write(statistics, "statistics of global CMVN", buffer.getvalue())
    pieces = _sentencepiece(subject, notes) if subject.spec.config["text_units"] == SENTENCEPIECE else None
    if pieces is not None:
        files.write(pieces.name, "SentencePiece model, as it lay beside the source", pieces.read_bytes())
    record = config_yaml(subject.spec, statistics=statistics, sentencepiece=pieces.name if pieces else None)
    files.write("config.yaml", "features and names of the files", yaml.safe_dump(record, sort_keys=False))
    return notes


def _narrow(values: list[float]) -> np.ndarray:
    """As float32 where that loses nothing: what training wrote, in all likelihood."""
    wide = np.asarray(values, dtype=np.float64)
    narrow = wide.astype(np.float32)
    return narrow if (narrow == wide).all() else wide


def _sentencepiece(subject: Subject, notes: list[str]) -> Path | None:
    """The SentencePiece model where it can be found; artifacts hold the pieces alone."""
    try:
        return find_sentencepiece(subject.data_dir or subject.path.parent, subject.spec.vocabulary or [])
    except AsrCompressError:
        if subject.data_dir is not None:
            raise
        notes.append(
            f"note: no SentencePiece model lies beside {subject.path}, so config.yaml names none: hypotheses are pieces, which "
            "--post-process sentencepiece joins; --data-dir FOLDER adds the model"
        )
        return None
