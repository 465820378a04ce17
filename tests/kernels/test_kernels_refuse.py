"""What kernels must not be given: torch says what is wrong with it, and what changed is laid out anew."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from asrcompress.kernels import build
from asrcompress.kernels.attention import WIDEST
from asrcompress.modules.attend import attend
from asrcompress.modules.conv import IntegerConv
from tests.kernels.conftest import packed
from tests.kernels.transformer import speech


def conv_of(conv):
    weight = packed(conv.weight.shape[0], conv.weight[0].numel())
    weight.shape = tuple(conv.weight.shape)
    return IntegerConv(conv, weight, activations="int8")


def test_a_wrong_number_of_inputs_is_torchs_error():
    with pytest.raises(RuntimeError):
        packed(6, 8).integer_product(torch.randn(2, 4))


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("shape", [(1, 2, 9), (1, 4, 2)], ids=["channels", "shorter-than-the-kernel"])
def test_an_input_that_a_convolution_cannot_take_is_torchs_error(groups, shape):
    with pytest.raises(RuntimeError):
        conv_of(nn.Conv1d(4, 4, 3, groups=groups))(torch.randn(shape))


def test_scores_that_are_broadcast_are_torchs():
    torch.manual_seed(0)
    q, k, v, extra = (torch.randn(3, 2, 5, 8) for _ in range(4))
    extra = extra[:1, :, :, :5]
    options = {"activations": "int8", "extra_scores": extra}
    found, _ = attend(q, k, v, needs_weights=False, **options)
    assert torch.equal(found, attend(q, k, v, **options)[0])


def test_heads_wider_than_the_kernels_know_are_torchs():
    q, k, v = (torch.randn(1, 1, 2, WIDEST + 4) / 64 for _ in range(3))
    found, _ = attend(q, k, v, activations="int8", needs_weights=False)
    assert torch.equal(found, attend(q, k, v, activations="int8")[0])


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_what_is_no_number_stays_none_through_attention(which, broken):
    torch.manual_seed(0)
    tensors = {name: torch.randn(1, 2, 40, 12) for name in "qkv"}
    tensors[which][0, 0, 2, 3] = broken
    out, _ = attend(*tensors.values(), activations="int8", needs_weights=False)
    hit = out[0, 0] if which != "q" else out[0, 0, 2]
    assert not hit.isfinite().any() and out[0, 1].isfinite().all()


@pytest.mark.parametrize("name", ["fc1", "self_attn.out_proj"])
def test_groups_in_any_part_of_a_layer(name, tmp_path_factory, artifact, without_kernels):
    from asrcompress.ops.load import build_model, open_source
    from asrcompress.ops.quantize import quantize
    from asrcompress.ops.recipe import QuantizeConfig, Rule

    path = tmp_path_factory.mktemp("groups") / "mixed.safetensors"
    rule = Rule((f"encoder.*.{name}", f"encoder.*.{name}.weight"), granularity="per_group:4")
    quantize(artifact.parent / "checkpoint.pt", path, QuantizeConfig(activations="int8", rules=(rule,)))
    found = build_model(open_source(path), fused=True).module
    with torch.no_grad():
        fused = found.encoder(*speech(found))["encoder_out"][0][:, 0]
        by_torch = without_kernels(lambda: found.encoder(*speech(found))["encoder_out"][0][:, 0])
    torch.testing.assert_close(fused, by_torch, rtol=0, atol=0.05)


def test_a_layer_of_another_width_is_torchs_error(model):
    with pytest.raises(RuntimeError), torch.no_grad():
        model.encoder.transformer_layers[0](torch.randn(9, 2, 40), None)


def test_hypotheses_may_become_more(model, without_kernels):
    def widening():
        encoder_out, state = model.encoder(*speech(model)), {}
        tokens = torch.full((3, 1), 2)
        model.decoder.forward(tokens, encoder_out=encoder_out, incremental_state=state)
        order = torch.arange(3).repeat_interleave(4)
        model.decoder.reorder_incremental_state_scripting(state, order)
        encoder_out = model.encoder.reorder_encoder_out(encoder_out, order)
        tokens = torch.cat([tokens[order], 4 + torch.arange(12).view(12, 1) % 5], dim=1)
        return model.decoder.forward(tokens, encoder_out=encoder_out, incremental_state=state)[0]

    with torch.no_grad():
        torch.testing.assert_close(widening(), without_kernels(widening), rtol=0, atol=0.05)


def test_options_of_the_decoder_are_fairseqs(model):
    with torch.no_grad():
        encoder_out, tokens, state = model.encoder(*speech(model)), torch.full((3, 1), 2), {}
        found, _ = model.decoder.forward(tokens, encoder_out=encoder_out, incremental_state={}, features_only=True)
        assert found.shape == (3, 1, 40)
        model.decoder.forward(tokens, encoder_out=encoder_out, incremental_state=state)
        with pytest.raises(ValueError, match="features_only"):
            model.decoder.forward(tokens, encoder_out=encoder_out, incremental_state=state, features_only=True)


def test_weights_that_are_filled_anew_count(model):
    layer, x = model.encoder.transformer_layers[0], torch.randn(9, 2, 48)
    other = model.encoder.transformer_layers[1]
    conv = conv_of(nn.Conv1d(4, 6, 3))
    with torch.no_grad():
        before, clip = layer(x, None), torch.randn(1, 4, 9)
        heard = conv(clip)
        layer.fc1.load_state_dict(other.fc1.state_dict())
        conv.packed.load_state_dict(conv_of(nn.Conv1d(4, 6, 3)).packed.state_dict() | {"scale": conv.packed.scale * 2})
        assert not torch.equal(layer(x, None), before)
        assert torch.allclose(conv(clip) - conv.bias[:, None], 2 * (heard - conv.bias[:, None]), atol=1e-5)
        now = layer(x, None)
        layer.final_layer_norm.weight.data = torch.zeros(48)
        assert not torch.equal(layer(x, None), now)


def test_padding_that_is_changed_in_place_counts(model):
    layer, x, padding = model.encoder.transformer_layers[0], torch.randn(9, 2, 48), torch.zeros(2, 9, dtype=torch.bool)
    padding[1, 5:] = True
    with torch.no_grad():
        before = layer(x, padding)
        padding[1, 3:] = True
        after = layer(x, padding)
    assert not torch.equal(before[:3, 1], after[:3, 1]) and torch.equal(before[:, 0], after[:, 0])


def test_a_user_without_a_home_gets_a_folder_for_the_process(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(build.Path, "home", staticmethod(lambda: (_ for _ in ()).throw(RuntimeError("no home"))))
    folder = build._folder()
    assert folder.is_dir() and build._is_ours(folder)
    folder.rmdir()
