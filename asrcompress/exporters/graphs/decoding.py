"""What the decoders of encoder-decoder models share: caches in and out, and how graphs are held against their model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from asrcompress.exporters import Subject
from asrcompress.exporters.graphs import layers, transformer
from asrcompress.exporters.graphs.graph import FLOAT, INT64, Graph
from asrcompress.models import padding, s2t
from asrcompress.models.targets import END

Numbered = list[tuple[int, Any]]  # layers with attention, by their number in the decoder


def attending(decoder: Any) -> Numbered:
    """The decoder's transformer layers, between which there may be projections."""
    return [(index, layer) for index, layer in enumerate(decoder.layers) if hasattr(layer, "self_attn")]


def give_encoder_outputs(graph: Graph, decoder: Any, x: str, lengths: str, dim: int) -> None:
    """The encoder's outputs: x (batch, time, dim), its lengths, and the keys and values that each decoder layer attends to."""
    graph.output("encoder_out", x, FLOAT, ["batch", "time", dim])
    graph.output("encoder_lengths", lengths, INT64, ["batch"])
    for index, layer in attending(decoder):
        attention = layer.encoder_attn
        found = layers.attention_keys(graph, f"decoder.layers.{index}.encoder_attn", attention, x)
        for kind, value in zip(("key", "value"), found, strict=True):
            shape = ["batch", attention.num_heads, "time", attention.head_dim]
            graph.output(f"cross_{kind}_{index}", value, FLOAT, shape)


class Caches:
    """The decoder's inputs beside tokens, as they are declared, and its layers, which read and grow them.

    `past_key_<layer>` and `past_value_<layer>` (batch, heads, past, width) are `new_key_...` and `new_value_...` of the step
    before, without tokens at first; `cross_...` and `encoder_lengths` are the encoder's.
    """

    def __init__(self, graph: Graph, decoder: Any, tokens: str) -> None:
        self.graph, self.pairs = graph, dict[str, tuple[str, str]]()
        lengths = graph.input("encoder_lengths", INT64, ["batch"])
        for index, layer in attending(decoder):
            for name, attention, length in (("past", layer.self_attn, "past"), ("cross", layer.encoder_attn, "time")):
                shape = ["batch", attention.num_heads, length, attention.head_dim]
                names = (f"{name}_key_{index}", f"{name}_value_{index}")
                self.pairs[f"{name}_{index}"] = (
                    graph.input(names[0], FLOAT, shape),
                    graph.input(names[1], FLOAT, shape),
                )
        first = attending(decoder)[0][0]
        self.past, self.new = graph.shape(self.pairs[f"past_{first}"][0], 2), graph.shape(tokens, 1)
        seen = layers.seen_frames(graph, lengths, graph.shape(self.pairs[f"cross_{first}"][0], 2))
        self.hidden, self.future = layers.hidden_keys(graph, seen), transformer.future(graph, self.past, self.new)

    def run(self, index: int, layer: Any, x: str) -> str:
        """One transformer layer of the decoder; its grown keys and values are given out."""
        given = self.pairs[f"past_{index}"], self.pairs[f"cross_{index}"]
        x, grown = transformer.decoder_layer(
            self.graph, f"decoder.layers.{index}", layer, x, *given, self.future, self.hidden
        )
        for kind, value in zip(("key", "value"), grown, strict=True):
            shape = ["batch", layer.self_attn.num_heads, "past + new", layer.self_attn.head_dim]
            self.graph.output(f"new_{kind}_{index}", value, FLOAT, shape)
        return x


def empty_caches(model: Any, batch: int) -> dict[str, Any]:
    """What the first step is given beside tokens and what the encoder gave."""
    caches: dict[str, Any] = {}
    for index, layer in attending(model.decoder):
        shape = (batch, layer.self_attn.num_heads, 0, layer.self_attn.head_dim)
        caches |= {f"past_{kind}_{index}": np.zeros(shape, dtype=FLOAT) for kind in ("key", "value")}
    for index, layer in enumerate(getattr(model.decoder, "conv_layers", ())):
        if hasattr(layer, "conv"):  # the frames that a causal convolution reaches back to
            weight = layer.conv.packed if hasattr(layer.conv, "packed") else layer.conv.weight
            _, channels, kernel = weight.shape
            caches[f"past_frames_{index}"] = np.zeros((batch, channels, kernel - 1), dtype=FLOAT)
    return caches


def compare(subject: Subject, run: Any) -> tuple[Any, Any]:
    """Logits of a few tokens after noise, from the module at once and from the graphs token by token."""
    module: Any = subject.module
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(2, 119, subject.spec.config["front_end"]["num_mel_bins"], generator=generator)
    lengths = torch.tensor([119, 85])
    source[1, 85:] = 0
    num_units = len(subject.spec.vocabulary or []) + s2t.SPECIAL_SYMBOLS
    tokens = torch.randint(s2t.SPECIAL_SYMBOLS, max(num_units, 5), (2, 8), generator=generator)
    tokens[:, 0] = END
    with torch.inference_mode(), padding.hidden(s2t._readers(module, lengths)):
        expected = module(source, lengths, tokens)[0]
    encoded = run("encoder", {"features": source.numpy(), "lengths": lengths.numpy()})
    del encoded["encoder_out"]
    caches, found = empty_caches(module, 2), []
    for step in range(tokens.shape[1]):
        outputs = run("decoder", {"tokens": tokens[:, step : step + 1].numpy(), **encoded, **caches})
        found.append(outputs.pop("logits"))
        caches = {name.replace("new_", "past_"): value for name, value in outputs.items()}
    return expected.numpy(), np.concatenate(found, axis=1)
