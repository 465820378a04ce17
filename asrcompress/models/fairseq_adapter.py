"""The one place that imports Fairseq: its model classes, its Dictionary, its beam search."""

from __future__ import annotations

import argparse
import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from asrcompress.errors import AsrCompressError

INSTALL = "READTHEDOCS=1 pip install --no-build-isolation --no-deps fairseq-fixed==0.12.3.1"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Fairseq logs and warns while it is imported; none of it concerns our user."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def import_fairseq() -> Any:
    """The parts of Fairseq that are used here, as attributes. Raises AsrCompressError where it is not installed."""
    try:
        with quiet():
            import fairseq.models.speech_to_text.s2t_conformer as conformer
            import fairseq.models.speech_to_text.s2t_transformer as s2t
            from fairseq.data import Dictionary
            from fairseq.sequence_generator import SequenceGenerator
    except ImportError as error:
        raise AsrCompressError(f"Fairseq cannot be imported ({error}); install it: {INSTALL}") from error
    return SimpleNamespace(s2t=s2t, conformer=conformer, Dictionary=Dictionary, SequenceGenerator=SequenceGenerator)


def make_dictionary(symbols: list[str]) -> Any:
    """Fairseq's Dictionary: the four specials, then these symbols in order."""
    dictionary = import_fairseq().Dictionary()
    for symbol in symbols:
        dictionary.add_symbol(symbol, overwrite=True)
    return dictionary


def build_s2t_transformer(arguments: dict[str, Any], symbols: list[str]) -> nn.Module:
    """Fairseq's S2TTransformerModel with these arguments, which must be checked ones, and this vocabulary.

    What `arguments` leaves out is the architecture's default. Weights are random.
    """
    s2t = import_fairseq().s2t
    return _build(s2t.S2TTransformerModel, s2t.base_architecture, arguments, symbols)


def build_s2t_conformer(arguments: dict[str, Any], symbols: list[str]) -> nn.Module:
    """Fairseq's S2TConformerModel; as `build_s2t_transformer`.

    Its constructor wants to know whether training was in fp16, and then makes no use of it.
    """
    conformer = import_fairseq().conformer
    return _build(
        conformer.S2TConformerModel, conformer.conformer_base_architecture, arguments | {"fp16": False}, symbols
    )


def whole_s2t_arguments(arguments: dict[str, Any], family: str) -> dict[str, Any]:
    """The arguments of s2t_transformer or s2t_conformer with the architecture's defaults for what they leave out."""
    fairseq = import_fairseq()
    namespace = argparse.Namespace(**arguments)
    if family == "s2t_conformer":
        fairseq.conformer.conformer_base_architecture(namespace)
    else:
        fairseq.s2t.base_architecture(namespace)
    return vars(namespace)


def _build(model: Any, architecture: Callable[[Any], None], arguments: dict[str, Any], symbols: list[str]) -> nn.Module:
    namespace = argparse.Namespace(**arguments)
    task = SimpleNamespace(target_dictionary=make_dictionary(symbols), source_dictionary=None)
    with quiet():
        architecture(namespace)
        built: nn.Module = model.build_model(namespace, task).eval()
        subsampler = _subsampler()
    for module in built.modules():
        if type(module) is subsampler.__base__:
            module.__class__ = subsampler
    return built


@cache
def _subsampler() -> Any:
    """Fairseq's Conv2dSubsampler with another way to the same lengths: its own limits them by a tensor of ones in float."""
    from fairseq.models.speech_to_text.modules.convolution import Conv2dSubsampler

    class Subsampler(Conv2dSubsampler):  # type: ignore[misc,unused-ignore]
        def forward(self, src_tokens: Tensor, src_lengths: Tensor) -> tuple[Tensor, Tensor]:
            """(batch, frames, bins) and lengths -> (frames / 4, batch, dim) and lengths."""
            x = self.conv(src_tokens.unsqueeze(1))
            batch, _, num_frames, _ = x.shape
            x = self.out(x.transpose(1, 2).transpose(0, 1).reshape(num_frames, batch, -1))
            factor = int(src_tokens.shape[1] / num_frames + 0.5)
            return x, (src_lengths.float() / factor).ceil().long().clamp(max=num_frames)

    return Subsampler


def beam_search(
    model: nn.Module, symbols: list[str], *, beam: int, lenpen: float, max_len_a: float, max_len_b: int
) -> Callable[[Tensor, Tensor], list[list[str]]]:
    """Fairseq's beam search over one model.

    Returns a function: features (batch, frames, bins) and lengths (batch,) -> the best
    hypothesis's symbols per utterance, specials left out.
    """
    dictionary = make_dictionary(symbols)
    generator = import_fairseq().SequenceGenerator(
        [model], dictionary, beam_size=beam, len_penalty=lenpen, max_len_a=max_len_a, max_len_b=max_len_b
    )
    specials = {dictionary.bos(), dictionary.pad(), dictionary.eos()}

    def decode(features: Tensor, lengths: Tensor) -> list[list[str]]:
        with torch.no_grad():
            finalized = generator.forward({"net_input": {"src_tokens": features, "src_lengths": lengths}})
        best = [hypotheses[0]["tokens"].tolist() if hypotheses else [] for hypotheses in finalized]
        return [[dictionary[token] for token in tokens if token not in specials] for tokens in best]

    return decode
