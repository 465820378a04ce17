"""What wav2vec_ctc and hubert_ctc share: a convolutional extractor over the waveform, a transformer encoder, CTC.

Both are Fairseq's encoders with one projection to the units. `CtcModel` runs them without what only training needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.models import ModelSpec, ctc
from asrcompress.models.device import device_of
from asrcompress.models.fairseq_data import read_dictionary
from asrcompress.models.features import same_length
from asrcompress.models.targets import encode
from asrcompress.models.wav2vec_arguments import check_arguments, encoder_arguments

if TYPE_CHECKING:
    from asrcompress.checkpoints import Checkpoint

SAMPLE_RATE_HZ = 16_000
CRITERION = "ctc"
UNUSED_OPTIONS = ("lenpen", "max_len_a", "max_len_b")  # of a search that makes one unit after another
OUTPUT = "w2v_encoder.proj.weight"
# Left over from pre-training: the mask's embedding, codebooks, targets and their projections.
PRETRAINING = re.compile(
    r"w2v_encoder\.w2v_model\.(mask_emb$|label_embs_concat$|(quantizer|project_q|final_proj|target_glu)\.)"
)
WEIGHT_NORM = {
    ".weight_g": ".weight_v",  # torch.nn.utils.weight_norm
    ".parametrizations.weight.original0": ".parametrizations.weight.original1",  # torch.nn.utils.parametrizations
}
LABELS = re.compile(r"[\w-]{1,32}")


class CtcModel(nn.Module):
    """Fairseq's encoder, run for inference alone; tensors keep their names in Fairseq's checkpoints.

    Fairseq's own forward also computes a penalty for training and lengths in floating point, and HuBERT's rounds
    padding up by some frames. Here lengths are integers and exact, and every module is called as there.
    """

    def __init__(self, encoder: nn.Module, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.w2v_encoder = encoder
        self.conv_layers = arguments["conv_feature_layers"]
        self.crop_multiple = arguments.get("crop_seq_to_multiple", 1)

    def forward(self, source: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Waveforms to logits.

        Args:
            source: (batch, samples), padded with zeros.
            lengths: (batch,) samples of each that are not padding; None when all are as long as the batch.

        Returns:
            logits (frames, batch, units), and a mask (batch, frames), True = padding; None without padding.
        """
        encoder: Any = self.w2v_encoder
        model = encoder.w2v_model
        x = model.layer_norm(model.feature_extractor(source).transpose(1, 2))
        x = x[:, : x.shape[1] - x.shape[1] % self.crop_multiple]
        mask = None
        if lengths is not None:
            ends = num_frames(lengths, self.conv_layers)
            ends = ends - ends % self.crop_multiple
            padded = torch.arange(x.shape[1], device=source.device)[None, :] >= ends.to(source.device)[:, None]
            mask = padded if bool(padded.any()) else None
        if model.post_extract_proj is not None:
            x = model.post_extract_proj(x)
        x, _ = model.encoder(x, padding_mask=mask)
        return encoder.proj(x.transpose(0, 1)), mask


def num_frames(num_samples: Any, layers: list[list[int]]) -> Any:
    """Frames that the extractor makes of so many samples: an integer, or a tensor of integers."""
    for _, kernel, stride in layers:
        num_samples = (num_samples - kernel) // stride + 1
    return num_samples


def min_samples(arguments: dict[str, Any]) -> int:
    """The shortest audio that gives a frame."""
    needed = arguments.get("crop_seq_to_multiple", 1)
    for position, (_, kernel, stride) in reversed(list(enumerate(arguments["conv_feature_layers"]))):
        if position == 0 and arguments.get("extractor_mode", "default") == "default":
            needed = max(needed, 2)  # its norm over time is not defined for one frame
        needed = (needed - 1) * stride + kernel
    return needed


def read_spec(checkpoint: Checkpoint, data_dir: Path | None, *, family: str, encoder: str) -> ModelSpec:
    """Arguments, the vocabulary and how its units become text: from the checkpoint and `dict.<labels>.txt`."""
    config, where = checkpoint.config or {}, str(checkpoint.path)
    model, task = config.get("model", {}), config.get("task", {})
    arguments = encoder_arguments(where, model, encoder)
    normalize, rate = task.get("normalize") or False, task.get("sample_rate", SAMPLE_RATE_HZ)
    if normalize not in (True, False) or rate != SAMPLE_RATE_HZ:
        raise AsrCompressError(
            f"{where}: its task has normalize={str(normalize)[:20]!r} and sample_rate={str(rate)[:20]!r}; "
            f"true or false and {SAMPLE_RATE_HZ} are supported"
        )
    labels = task.get("labels") or "ltr"
    labels = labels[0] if isinstance(labels, list) and labels else labels
    if not isinstance(labels, str) or not LABELS.fullmatch(labels):
        raise AsrCompressError(
            f"{where}: its task has labels={str(labels)[:40]!r}, which is no extension of label files"
        )
    symbols = _symbols(checkpoint, task, labels, data_dir)
    settings = {
        "arguments": arguments,
        "front_end": {"sample_rate_hz": SAMPLE_RATE_HZ, "normalize": bool(normalize)},
        "text_units": ctc.text_units(labels, symbols),
        "blank": _blank(where, model),
    }
    return ModelSpec(family, settings, symbols)


def _symbols(checkpoint: Checkpoint, task: dict[str, Any], labels: str, data_dir: Path | None) -> list[str]:
    """The checkpoint's own dictionary where it has one that fits, else the file that Fairseq would read."""
    rows = checkpoint.tensors.get(OUTPUT)
    num_units = None if rows is None else rows.shape[0]
    symbols = checkpoint.symbols
    if symbols is not None and num_units in (None, len(symbols) + ctc.NUM_SPECIAL_UNITS):
        return symbols
    if data_dir and not data_dir.is_dir():
        raise AsrCompressError(f"--data-dir {data_dir}: is not a folder; give the one that holds dict.{labels}.txt")
    named = [task.get(key) for key in ("target_dictionary", "label_dir", "data")]
    folders = (
        [data_dir] if data_dir else [checkpoint.path.parent, *(Path(name) for name in named if isinstance(name, str))]
    )
    path = next((path for folder in folders if (path := folder / f"dict.{labels}.txt").is_file()), None)
    if path is None:
        raise AsrCompressError(
            f"{checkpoint.path}: its dictionary, dict.{labels}.txt, is in none of "
            f"{', '.join(dict.fromkeys(map(str, folders)))}; put it beside the checkpoint or give its folder with --data-dir"
        )
    symbols = read_dictionary(path)
    if num_units not in (None, len(symbols) + ctc.NUM_SPECIAL_UNITS):
        raise AsrCompressError(
            f"{checkpoint.path}: has {num_units} output units, {path} gives {len(symbols) + ctc.NUM_SPECIAL_UNITS}; "
            "give the folder of its own dictionary with --data-dir"
        )
    return symbols


def _blank(where: str, model: dict[str, Any]) -> dict[str, Any]:
    """What wav2vec_ctc does to the blank's logit before decoding: nothing, unless its configuration says so."""
    weight, mode = model.get("blank_weight") or 0.0, model.get("blank_mode") or "add"
    if type(weight) not in (int, float) or not abs(weight) < 1e6 or mode not in ("add", "set"):
        raise AsrCompressError(
            f"{where}: blank_weight is {str(weight)[:20]!r} and blank_mode {str(mode)[:20]!r}; a number and add or set are due"
        )
    return {"weight": float(weight), "mode": mode}


def is_computed(name: str) -> bool:
    """Whether a tensor of the built module is not learned, and so never stored."""
    return name.endswith(".num_batches_tracked")


def clean_tensors(checkpoint: Checkpoint, spec: ModelSpec) -> dict[str, Tensor]:
    """Drop what pre-training left behind; fold weight normalisation into plain weights.

    Raises:
        AsrCompressError: half of a normalised weight is missing, or it is not normalised as these models are.
    """
    tensors = {}
    found = checkpoint.tensors
    for name, tensor in found.items():
        if PRETRAINING.match(name) or is_computed(name):
            continue
        for magnitude, direction in WEIGHT_NORM.items():
            if name.endswith(magnitude):
                base = name.removesuffix(magnitude)
                tensors[f"{base}.weight"] = _fold(checkpoint.path, base, tensor, found.get(base + direction))
                break
            if name.endswith(direction) and name.removesuffix(direction) + magnitude in found:
                break
        else:
            tensors[name] = tensor
    return tensors


def _fold(path: Path, name: str, magnitude: Tensor, direction: Tensor | None) -> Tensor:
    """g v / |v|, one norm for each tap of the kernel: magnitude (1, 1, kernel), direction (out, in, kernel)."""
    if (
        direction is None
        or direction.dim() != 3
        or magnitude.shape != (1, 1, direction.shape[2])
        or not magnitude.numel()
    ):
        raise AsrCompressError(f"{path}: {name}: its weight normalisation is not that of a positional convolution")
    # torch's own kernel of nn.utils.weight_norm, so that the digits are those that Fairseq computes with. It does not
    # check shapes: they are checked above.
    return torch._weight_norm(direction.float().contiguous(), magnitude.float().contiguous(), 2)


def build(spec: ModelSpec, make_encoder: Callable[[dict[str, Any], int], nn.Module], encoder: str) -> nn.Module:
    """The model in eval mode, weights not loaded."""
    arguments = check_arguments("the model's configuration", spec.config["arguments"], encoder)
    num_units = len(spec.vocabulary or []) + ctc.NUM_SPECIAL_UNITS
    return CtcModel(make_encoder(arguments, num_units), arguments).eval()


def features(spec: ModelSpec, audio: np.ndarray) -> Tensor:
    """(samples,) in [-1, 1] -> the same, normalised over the utterance where the model was trained so.

    Audio too short for a frame gives none: (0,).
    """
    waveform = torch.from_numpy(np.array(audio, dtype=np.float32))
    if len(waveform) < min_samples(spec.config["arguments"]):
        return waveform[:0]
    return F.layer_norm(waveform, waveform.shape) if spec.config["front_end"]["normalize"] else waveform


def example_inputs(
    spec: ModelSpec, duration_s: float, num_tokens: int | None, batch_size: int
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Silence of this length, to count MACs with; `num_tokens` has no meaning, as nothing is fed back."""
    arguments, num_samples = spec.config["arguments"], round(duration_s * SAMPLE_RATE_HZ)
    if num_samples < min_samples(arguments):
        raise AsrCompressError(
            f"--duration-s {duration_s}: is too short for a frame; use {min_samples(arguments) / SAMPLE_RATE_HZ} or more"
        )
    frames = num_frames(num_samples, arguments["conv_feature_layers"])
    record = {"duration_s": duration_s, "num_frames": frames, "num_tokens": None, "batch_size": batch_size}
    return (torch.zeros(batch_size, num_samples),), record


def pads_exactly(arguments: dict[str, Any]) -> bool:
    """Whether padding leaves an utterance's logits as they are.

    It does not where the extractor's first norm runs over time (mode `default`), nor where the positional
    convolution is normalised or repeated, which makes padding differ from zero.
    """
    return (
        arguments.get("extractor_mode", "default") == "layer_norm"
        and not arguments.get("conv_pos_batch_norm")
        and arguments.get("pos_conv_depth", 1) == 1
    )


def search_method(beam: int) -> str:
    """What `eval` records: how `transcriber` decodes with this beam."""
    return "ctc_best_path" if beam == 1 else "ctc_prefix_beam_search"


def transcriber(
    spec: ModelSpec, module: nn.Module, *, beam: int = 5, **_: float
) -> Callable[[list[Tensor]], list[str]]:
    """A function from a batch of waveforms to texts: the best path with `beam` 1, else prefix beam search.

    CTC has one output per frame, so a length penalty and limits of length have no meaning and are not used.
    A batch gives the texts of its utterances one by one: those that padding would change are run one by one.
    """
    blank, kind, symbols = spec.config["blank"], spec.config["text_units"], spec.vocabulary or []

    def decode(logits: Tensor) -> str:
        """logits (frames, units) of one utterance."""
        log_probs = weigh_blank(logits.double().cpu(), blank).log_softmax(dim=-1).numpy()
        units = ctc.greedy(log_probs) if beam == 1 else ctc.prefix_beam_search(log_probs, beam)[0]
        return ctc.to_text(units, symbols, kind)

    def transcribe(batch: list[Tensor]) -> list[str]:
        with torch.inference_mode():
            return [decode(rows) for rows in logits(spec, module, batch)]

    return transcribe


def log_probs(
    spec: ModelSpec, module: nn.Module, features: list[Tensor], targets: list[Tensor] | None = None
) -> list[Tensor]:
    """Log-probabilities of the units: (frames, units) per utterance, differentiable. Nothing is fed back, so targets do not matter."""
    blank = spec.config["blank"]
    return [weigh_blank(rows.float(), blank).log_softmax(dim=-1) for rows in logits(spec, module, features)]


def logits(spec: ModelSpec, module: nn.Module, batch: list[Tensor]) -> list[Tensor]:
    """Scores of each utterance, (frames, units), in one run where padding changes nothing, else in one a length."""
    if pads_exactly(spec.config["arguments"]):
        groups = [list(range(len(batch)))]
    else:
        groups = same_length(batch)
    device = device_of(module)
    found: dict[int, Tensor] = {}
    for positions in groups:
        chosen = [batch[position] for position in positions]
        lengths = torch.tensor([len(waveform) for waveform in chosen])
        output, mask = module(nn.utils.rnn.pad_sequence(chosen, batch_first=True).to(device), lengths.to(device))
        ends = [output.shape[0]] * len(chosen) if mask is None else (~mask).sum(dim=1).tolist()
        found |= {position: output[:end, row] for row, (position, end) in enumerate(zip(positions, ends, strict=True))}
    return [found[position] for position in range(len(batch))]


def weigh_blank(scores: Tensor, blank: dict[str, Any]) -> Tensor:
    """(frames, units) with the blank's score as the configuration wants it."""
    if not blank["weight"]:
        return scores
    column = scores[:, : ctc.BLANK + 1]
    return torch.cat([column * (blank["mode"] == "add") + blank["weight"], scores[:, ctc.BLANK + 1 :]], dim=1)


def read_targets(spec: ModelSpec, data_dir: Path, references: list[str]) -> list[Tensor]:
    """Ids of the units of each reference, without blanks; see targets.py."""
    return encode(spec, data_dir, references, end=False)


def blank_unit(spec: ModelSpec) -> int:
    """The unit that CTC says between others."""
    return ctc.BLANK
