"""Utterances of different lengths in one batch, each with the values it has alone.

Fairseq's encoders mask padding in attention and not in convolutions, which see the frames behind an utterance's end as
sound: biases and what flows over the edge. Here what a convolution or a pooling over time reads there is set to zero, as
it is beyond the end of a batch of one. Layers keep their own code, whether float, swapped, observed or on integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from asrcompress.integers.tensor import Activation

# A module, how many frames of each utterance reach it, and the dimension of its input that is time.
Reader = tuple[nn.Module, Tensor, int]


@contextmanager
def hidden(readers: Sequence[Reader]) -> Iterator[None]:
    """While this is open, `readers` see zeros behind the end of each utterance."""
    with ExitStack() as stack:
        for module, lengths, dim in readers:
            if int(lengths.min()) < int(lengths.max()):
                stack.callback(module.register_forward_pre_hook(_Hide(lengths, dim)).remove)
        yield


class _Hide:
    def __init__(self, lengths: Tensor, dim: int) -> None:
        self.lengths, self.dim = lengths, dim

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Of the inputs, the first is the one over time: (batch, ...)."""
        x, *others = args
        shape = [1] * x.dim()
        shape[0], shape[self.dim] = len(self.lengths), x.shape[self.dim]
        behind = torch.arange(x.shape[self.dim], device=x.device) >= self.lengths.to(x.device)[:, None]
        behind = behind.reshape(shape)
        if isinstance(x, Activation):
            grid = getattr(x, "grid", None)
            return x.like(x.payload.masked_fill(behind, grid.zero_point if grid else 0)), *others
        return x.masked_fill(behind, 0), *others


def subsampler_readers(subsampler: Any, lengths: Tensor) -> tuple[list[Reader], Tensor]:
    """The convolutions of Fairseq's speech-to-text encoders that halve the frames, and the frames that they leave."""
    if hasattr(subsampler, "conv_layers"):  # over one dimension: (batch, channels, time)
        convolutions, dim = list(subsampler.conv_layers), 2
    else:  # over two: (batch, channels, time, bins), with activations between
        convolutions, dim = [layer for layer in subsampler.conv if hasattr(layer, "kernel_size")], 2
    readers = []
    for convolution in convolutions:
        readers.append((convolution, lengths, dim))
        lengths = _frames_out(convolution, lengths)
    return readers, lengths


def conformer_readers(layers: Any, lengths: Tensor) -> list[Reader]:
    """The convolution of each conformer layer, over (batch, channels, time)."""
    return [(layer.conv_module.depthwise_conv, lengths, 2) for layer in layers]


def vgg_readers(blocks: Any, lengths: Tensor) -> list[Reader]:
    """Convolutions and poolings of VGG blocks, over (batch, channels, time, bins).

    What is pooled comes from ReLUs, so a zero is never the largest of a window that holds sound.
    """
    readers = []
    for block in blocks:
        for layer in block.layers:
            if hasattr(layer, "kernel_size"):
                readers.append((layer, lengths, 2))
                lengths = (
                    _frames_pooled(layer, lengths) if isinstance(layer, nn.MaxPool2d) else _frames_out(layer, lengths)
                )
    return readers


def _frames_out(convolution: Any, lengths: Tensor) -> Tensor:
    """Frames that a convolution gives, padded by half its kernel on both sides."""
    kernel, stride = convolution.kernel_size[0], convolution.stride[0]
    return (lengths + 2 * (kernel // 2) - kernel) // stride + 1


def _frames_pooled(pooling: nn.MaxPool2d, lengths: Tensor) -> Tensor:
    """Frames that a pooling gives whose windows touch, the last one maybe cut short."""
    kernel = pooling.kernel_size
    size = kernel if isinstance(kernel, int) else kernel[0]
    return (lengths + size - 1) // size
