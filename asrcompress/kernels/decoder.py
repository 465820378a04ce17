"""One step of a transformer decoder in one call, and what it remembers between steps.

Hypotheses of a beam search move between rows; their keys and values stay where they were written, and a table says
where. What the encoder said is kept once an utterance, not once a hypothesis.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asrcompress.kernels.call import check, linear, loaded
from asrcompress.kernels.layers import CNorm, c_norm
from asrcompress.kernels.weights import CWeight, PanelWeight


class CDecoderLayer(ctypes.Structure):
    """`DecoderLayer` of c/decoder.h."""

    _fields_ = (
        ("self_norm", CNorm), ("cross_norm", CNorm), ("ffn_norm", CNorm), ("qkv", CWeight), ("out", CWeight),
        ("cross_q", CWeight), ("cross_out", CWeight), ("fc1", CWeight), ("fc2", CWeight),
    )  # fmt: skip


class CDecoder(ctypes.Structure):
    """`Decoder` of c/decoder.h."""

    _fields_ = (
        ("layers", ctypes.c_void_p), ("final_norm", CNorm), ("output", CWeight),
        ("num_layers", ctypes.c_int32), ("heads", ctypes.c_int32), ("pre_norm", ctypes.c_int32),
    )  # fmt: skip


class CLayerState(ctypes.Structure):
    """`LayerState` of c/decoder.h."""

    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in (
            "keys", "values", "key_scale", "value_scale",
            "cross_keys", "cross_values", "cross_key_scale", "cross_value_scale",
        )
    )  # fmt: skip


class CDecoderState(ctypes.Structure):
    """`DecoderState` of c/decoder.h."""

    _fields_ = (
        ("layers", ctypes.c_void_p), ("slots", ctypes.c_void_p), ("utterance", ctypes.c_void_p), ("mask", ctypes.c_void_p),
        ("rows", ctypes.c_int32), ("capacity", ctypes.c_int32), ("step", ctypes.c_int32), ("max_steps", ctypes.c_int32),
        ("num_keys", ctypes.c_int32), ("mask_stride", ctypes.c_int32),
    )  # fmt: skip


@dataclass(frozen=True)
class DecoderLayerWeights:
    """What one layer holds; `cross_kv`: projections of the encoder's output to keys and values, as one weight."""

    self_norm: nn.LayerNorm
    cross_norm: nn.LayerNorm
    ffn_norm: nn.LayerNorm
    qkv: PanelWeight
    out: PanelWeight
    cross_q: PanelWeight
    cross_kv: PanelWeight
    cross_out: PanelWeight
    fc1: PanelWeight
    fc2: PanelWeight

    def struct(self) -> CDecoderLayer:
        """The layer as the kernel reads it; self must outlive it."""
        norms = (c_norm(norm) for norm in (self.self_norm, self.cross_norm, self.ffn_norm))
        weights = (self.qkv, self.out, self.cross_q, self.cross_out, self.fc1, self.fc2)
        return CDecoderLayer(*norms, *(weight.c for weight in weights))


class DecoderWeights:
    """A decoder for `asrc_decoder_step`. ReLU between fc1 and fc2; norms before (pre_norm) or after the sums.

    Args:
        layers: of one width.
        final_norm: before the output, or None.
        output: (vocabulary, dim).
        num_heads: of all attentions; dim is a multiple of 4 x num_heads.
        pre_norm: as Fairseq's normalize_before.
    """

    def __init__(
        self,
        layers: Sequence[DecoderLayerWeights],
        final_norm: nn.LayerNorm | None,
        output: PanelWeight,
        num_heads: int,
        pre_norm: bool,
    ) -> None:
        self.layers, self.final_norm, self.output, self.num_heads = list(layers), final_norm, output, num_heads
        self.dim = layers[0].out.shape[0]
        self._structs = (CDecoderLayer * len(layers))(*(layer.struct() for layer in layers))
        norm = CNorm(None, None, 0.0) if final_norm is None else c_norm(final_norm)
        self.c = CDecoder(ctypes.addressof(self._structs), norm, output.c, len(layers), num_heads, int(pre_norm))


class DecoderMemory:
    """What decoding one batch remembers.

    Args:
        weights: of the decoder.
        encoded: (keys, utterances, dim) float32, of the encoder.
        padding: (utterances, keys) bool, True = padding, or None.
        utterance: (rows,) which utterance each hypothesis is of.
    """

    STEPS = 32  # room is made for so many more at a time

    def __init__(self, weights: DecoderWeights, encoded: Tensor, padding: Tensor | None, utterance: Tensor) -> None:
        self.weights, self.step, self.max_steps = weights, 0, 0
        self.utterance = utterance.to(torch.int32).contiguous()
        self.capacity = len(utterance)
        self.num_keys, batch, dim = encoded.shape
        self.slots = torch.zeros(self.capacity, 0, dtype=torch.int32)
        self.mask: Tensor | None = None
        if padding is not None and bool(padding.any()):
            self.mask = torch.zeros(batch, -(-self.num_keys // 16) * 16)
            self.mask[:, : self.num_keys].masked_fill_(padding.bool(), -math.inf)
        self._cross = [self._pack(layer, encoded.reshape(-1, dim), batch) for layer in weights.layers]
        self._past: list[list[Tensor]] = []

    def _pack(self, layer: DecoderLayerWeights, encoded: Tensor, batch: int) -> list[Tensor]:
        """Codes and scales of the encoder's keys and values."""
        heads, dim, kernels = self.weights.num_heads, self.weights.dim, loaded()
        kernels.asrc_packed_keys_bytes.restype = kernels.asrc_packed_values_bytes.restype = ctypes.c_int64
        parts, width = batch * heads, dim // heads
        scales = -(-self.num_keys // 64) * 64
        tensors = [
            torch.zeros(parts * kernels.asrc_packed_keys_bytes(self.num_keys, width) + 64, dtype=torch.uint8),
            torch.zeros(parts * kernels.asrc_packed_values_bytes(self.num_keys, width) + 64, dtype=torch.uint8),
            torch.zeros(parts * scales), torch.zeros(parts * scales),
        ]  # fmt: skip
        kv = linear(layer.cross_kv, encoded)
        state = CLayerState(None, None, None, None, *(tensor.data_ptr() for tensor in tensors))
        check(
            kernels.asrc_pack_memory(
                ctypes.c_void_p(kv.data_ptr()),
                self.num_keys,
                batch,
                heads,
                dim,
                ctypes.byref(state),
                torch.get_num_threads(),
            )
        )
        return tensors

    def reorder(self, order: Tensor) -> None:
        """Row i goes on from where row order[i] was. order: (new rows,), more than before, too."""
        more = len(order) - self.capacity
        if more > 0:
            self._past = [[_padded_rows(tensor, more) for tensor in layer] for layer in self._past]
            self.capacity += more
        self.slots = self.slots[order].contiguous()
        self.utterance = self.utterance[order].contiguous()

    def advance(self, x: Tensor) -> Tensor:
        """x (rows, dim): embedded tokens of this step, overwritten -> logits (rows, vocabulary)."""
        rows = len(self.utterance)
        if x.shape != (rows, self.weights.dim) or not x.is_contiguous():
            raise ValueError(f"a step of {tuple(x.shape)} where {rows} hypotheses of {self.weights.dim} are remembered")
        if self.step == self.max_steps:
            self._grow()
        self.slots[:, self.step] = torch.arange(rows, dtype=torch.int32)
        layers = (CLayerState * len(self._past))(
            *(
                CLayerState(*(tensor.data_ptr() for tensor in (*past, *cross)))
                for past, cross in zip(self._past, self._cross, strict=True)
            )
        )
        state = CDecoderState(
            ctypes.addressof(layers), self.slots.data_ptr(), self.utterance.data_ptr(),
            None if self.mask is None else self.mask.data_ptr(), rows, self.capacity, self.step, self.max_steps,
            self.num_keys, 0 if self.mask is None else self.mask.shape[1],
        )  # fmt: skip
        logits = torch.empty(rows, self.weights.output.shape[0])
        check(
            loaded().asrc_decoder_step(
                ctypes.byref(self.weights.c), ctypes.byref(state), ctypes.c_void_p(x.data_ptr()),
                ctypes.c_void_p(logits.data_ptr()), torch.get_num_threads(),
            )
        )  # fmt: skip
        self.step += 1
        return logits

    def _grow(self) -> None:
        """Room for more steps: codes and scales of keys and values, and the table."""
        more, heads, dim = max(self.STEPS, self.max_steps), self.weights.num_heads, self.weights.dim
        fresh = [
            [torch.zeros(more, self.capacity, dim, dtype=torch.int8), torch.zeros(more, self.capacity, dim, dtype=torch.int8),
             torch.zeros(more, self.capacity, heads), torch.zeros(more, self.capacity, heads)]
            for _ in self.weights.layers
        ]  # fmt: skip
        if self._past:
            fresh = [
                [torch.cat(pair) for pair in zip(old, new, strict=True)]
                for old, new in zip(self._past, fresh, strict=True)
            ]
        self._past = fresh
        self.max_steps += more
        self.slots = torch.nn.functional.pad(self.slots, (0, more)).contiguous()


def _padded_rows(tensor: Tensor, more: int) -> Tensor:
    """(steps, rows, width) with so many rows more."""
    return torch.nn.functional.pad(tensor, (0, 0, 0, more)).contiguous()
