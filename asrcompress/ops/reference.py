"""How close a model's logits are to those of the model that it was made from, on the same speech.

Both run one forward pass an utterance; a decoder is given the same arbitrary tokens on both sides. What a difference of logits
costs in words is `eval`'s to measure.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.metrics.noise import sqnr_db
from asrcompress.ops.calibrate import read_calibration
from asrcompress.ops.load import LoadedModel, build_model, open_source

NUM_UTTERANCES = 16


def compare_with_reference(
    loaded: LoadedModel,
    reference: Path,
    data: Path,
    *,
    split: str | None = None,
    data_dir: Path | None = None,
    trust: bool = False,
) -> dict[str, Any]:
    """The `reference` block of analyze's sidecar: {"file", "sha256", "data": {...}, "num_logits", "sqnr_db"}.

    Args:
        loaded: the compressed model.
        reference: the checkpoint or artifact that counts as the signal.
        data: up to 16 utterances of this set are run, spread evenly.
        split: of a keyword set.
        data_dir: of the reference checkpoint.
        trust: as for reading any checkpoint.

    Raises:
        AsrCompressError: another family or other features, data that cannot be read, or logits that are not finite.
    """
    source = open_source(reference, data_dir=data_dir, trust=trust)
    own = loaded.source
    if source.spec.family != own.spec.family or source.spec.vocabulary != own.spec.vocabulary:
        raise AsrCompressError(
            f"--reference {reference}: is a {source.spec.family} with another vocabulary than {own.path}, or of another family; give the "
            "model that it was made from"
        )
    whole = build_model(source)
    heard = read_calibration(own.family, own.spec, data, NUM_UTTERANCES, split=split, option="--reference-split")
    signal, quantized = [], []
    for features in heard.features:
        inputs = _inputs(own, features)
        with torch.inference_mode():
            signal.append(_logits(whole, inputs).flatten())
            quantized.append(_logits(loaded, inputs).flatten())
    try:
        noise = sqnr_db(torch.cat(signal), torch.cat(quantized))
    except ValueError as error:
        raise AsrCompressError(f"--reference {reference}: {error}, so there is no ratio") from error
    if noise == float("inf"):
        raise AsrCompressError(
            f"--reference {reference}: its logits are equal to the bit; give the float model, not the same one"
        )
    return {
        "file": reference.name,
        "sha256": source.sha256,
        "data": heard.describe(),
        "num_logits": sum(part.numel() for part in signal),
        "sqnr_db": noise,
    }


def _inputs(source: Any, features: Tensor) -> tuple[Tensor, ...]:
    """A batch of one, with the tokens of example_inputs where the family's forward takes some."""
    seconds = source.family.DEFAULT_DURATION_S
    example, _ = source.family.example_inputs(source.spec, seconds, None, 1)
    inputs = [features.unsqueeze(0), *example[1:]]
    if len(inputs) > 1:
        inputs[1] = torch.tensor([len(features)])
    return tuple(inputs)


def _logits(loaded: LoadedModel, inputs: tuple[Tensor, ...]) -> Tensor:
    out = loaded.module(*inputs)
    out = out[0] if isinstance(out, tuple) else out
    logits: Tensor = out["encoder_out"] if isinstance(out, dict) else out
    return logits
