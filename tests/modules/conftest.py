"""Fairseq's own modules, small, beside their integer twins."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from asrcompress.grids import Granularity
from asrcompress.modules.swap import find_weights, swap
from asrcompress.quantizers.rtn import quantize

DIM, HEADS = 32, 4


@pytest.fixture(scope="session")
def make_pair():
    """model -> (float model with dequantized weights, integer model); `model` is left alone."""

    def pair(model: nn.Module, *, num_bits: int = 8, activations: str = "none", granularity: str = "per_channel"):
        grid = Granularity.parse(granularity)
        sites = [site for site in find_weights(model) if not site.tied_to]
        packed = {
            site.name: quantize(model.get_parameter(site.name), num_bits=num_bits, granularity=grid, name=site.name)
            for site in sites
        }
        float_model = copy.deepcopy(model).requires_grad_(False)
        for name, weight in packed.items():
            float_model.get_parameter(name).copy_(weight.dequantize())
        return float_model.eval(), swap(copy.deepcopy(model), packed, activations=activations).eval()

    return pair


@pytest.fixture(scope="session")
def make_attention():
    """Fairseq's MultiheadAttention with random biases, as the only child of a model."""
    pytest.importorskip("fairseq")
    from fairseq.modules import MultiheadAttention

    class Holder(nn.Module):
        def __init__(self, **options):
            super().__init__()
            self.attention = MultiheadAttention(DIM, HEADS, **options)

        def forward(self, *args, **kwargs):
            return self.attention(*args, **kwargs)

    def make(**options) -> nn.Module:
        torch.manual_seed(0)
        model = Holder(**options).requires_grad_(False).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
        return model

    return make


@pytest.fixture(scope="session")
def s2t():
    """A small S2TTransformerModel of Fairseq with random weights and tied embeddings; 12 units, 8 bins."""
    pytest.importorskip("fairseq")
    from asrcompress.models.fairseq_adapter import build_s2t_transformer

    sizes = {f"{side}_{what}": size for side in ("encoder", "decoder") for what, size in
             (("embed_dim", DIM), ("ffn_embed_dim", 64), ("layers", 2), ("attention_heads", HEADS))}  # fmt: skip
    arguments = sizes | {
        "conv_channels": 16, "input_feat_per_channel": 8, "decoder_output_dim": DIM, "decoder_input_dim": DIM,
        "share_decoder_input_output_embed": True, "max_source_positions": 200, "max_target_positions": 50,
    }  # fmt: skip
    torch.manual_seed(0)
    model = build_s2t_transformer(arguments, list("abcdefgh")).requires_grad_(False)
    torch.manual_seed(1)
    features, lengths = torch.randn(2, 40, 8), torch.tensor([40, 26])
    features[1, 26:] = 0
    previous = torch.randint(4, 12, (2, 7))
    return SimpleNamespace(model=model, features=features, lengths=lengths, previous=previous)
