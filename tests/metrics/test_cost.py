"""MACs against formulas worked out by hand, the same whichever kernel runs, and never silently zero.

Rules for single operations are in test_mac_rules.py.
"""

from __future__ import annotations

import argparse
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from asrcompress.errors import AsrCompressError
from asrcompress.metrics.cost import MacCount, MacRecord, count_macs
from asrcompress.models.crnn import CRNN

MODES = [
    pytest.param(training, context, id=f"{'train' if training else 'eval'}-{context.__name__}")
    for training in (True, False)
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode)
]


@pytest.fixture(scope="module")
def digits_model(digits_dir):
    """The digits transformer built by Fairseq from its checkpoint."""
    s2t = pytest.importorskip("fairseq.models.speech_to_text.s2t_transformer")
    from fairseq.data import Dictionary

    with torch.serialization.safe_globals([argparse.Namespace]):
        checkpoint = torch.load(digits_dir / "checkpoint_best.pt", weights_only=True)
    task = SimpleNamespace(target_dictionary=Dictionary.load(str(digits_dir / "spm_unigram.txt")))
    model = s2t.S2TTransformerModel.build_model(checkpoint["cfg"]["model"], task)
    model.load_state_dict(checkpoint["model"])
    return model


def digits_macs_by_hand(frames: int, tokens: int) -> int:
    """6 encoder and 3 decoder layers, d = 144, feed-forward 576, convolutions 80 -> 256 (GLU 128) -> 288 (GLU 144)."""
    d, feed_forward, units = 144, 576, 30
    half = frames // 2
    t = half // 2
    subsample = half * 256 * 80 * 5 + t * 288 * 128 * 5
    encoder_layer = t * 4 * d * d + 2 * t * t * d + 2 * t * d * feed_forward
    self_attention = tokens * 4 * d * d + 2 * tokens * tokens * d
    cross_attention = tokens * 2 * d * d + t * 2 * d * d + 2 * tokens * t * d
    decoder_layer = self_attention + cross_attention + 2 * tokens * d * feed_forward
    return subsample + 6 * encoder_layer + 3 * decoder_layer + tokens * d * units


@pytest.mark.parametrize(("training", "context"), MODES)
def test_digits_transformer_is_229_6_million_in_every_mode(digits_model, training, context):
    speech, lengths = torch.randn(1, 400, 80), torch.tensor([400])
    tokens = torch.full((1, 12), 5)
    digits_model.train(training)
    with context():
        count = count_macs(digits_model, lambda: digits_model(speech, lengths, tokens))
    assert count.total == digits_macs_by_hand(400, 12) == 229_596_800
    assert f"{count.total / 1e6:.1f}" == "229.6"
    # Fairseq hands q_proj.weight and the others to a function: their MACs are the attention's
    assert count.by_module["encoder.transformer_layers.0.self_attn"] == 100 * 4 * 144**2 + 2 * 100 * 100 * 144
    assert count.by_module["decoder.output_projection"] == 12 * 144 * 30  # tied with the embedding, which does none


@pytest.mark.parametrize(("training", "context"), MODES)
@pytest.mark.parametrize("sizes", [(8, 64), (2, 12)])
def test_keyword_crnn_by_module(sizes, training, context):
    (c, h), batch, t, bands = sizes, 3, 11, 18
    model = CRNN(c, h).train(training)
    with context():
        count = count_macs(model, lambda: model(torch.zeros(batch, 40, 101)))
    assert count.by_module == {
        "conv.0": batch * c * bands * t * 5 * 20,
        "gru": batch * t * 3 * h * ((c * bands + h) + (h + h)),
        "attention.energy.0": batch * t * h * h,
        "attention.energy.2": batch * t * h,
        "attention": batch * t * h,
        "classifier": batch * h * 2,
    }
    assert sum(count.by_op.values()) == sum(count.by_module.values()) == count.total


@pytest.mark.parametrize(("training", "context"), MODES)
def test_torch_transformer_encoder_counts_the_same_fused_or_not(training, context):
    batch, t, d, feed_forward = 2, 5, 16, 32
    layer = nn.TransformerEncoderLayer(d, 2, feed_forward, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).train(training)
    padding = torch.tensor([[False] * 4 + [True], [False] * 5])  # eval turns the batch into a nested tensor
    with context():
        count = count_macs(model, lambda: model(torch.randn(batch, t, d), src_key_padding_mask=padding))
    assert count.total == 2 * batch * (t * 4 * d * d + 2 * t * t * d + 2 * t * d * feed_forward)
    fused = "aten._transformer_encoder_layer_fwd" in count.by_op
    assert fused == (not training and context is not torch.enable_grad)  # counting leaves the fast path on


def test_tied_weights_used_twice_count_twice():
    layer = nn.Linear(4, 3, bias=False)
    model = nn.ModuleDict({"first": layer, "second": nn.Linear(4, 3, bias=False)})
    model["second"].weight = layer.weight
    data = torch.zeros(5, 4)
    count = count_macs(model, lambda: (model["first"](data), model["second"](data), model["first"](data)))
    assert count.by_module == {"first": 2 * 60, "second": 60}


def test_records_tell_integer_operands_from_float_ones():
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 2)

        def forward(self, left, right):
            out = torch._int_mm(left, right)
            scores = torch.bmm(out[None], out[None].transpose(1, 2).contiguous())
            return self.head(scores.float()[..., :8].contiguous())

    model = Mixed()
    left, right = torch.ones(32, 16, dtype=torch.int8), torch.ones(16, 8, dtype=torch.int8)
    count = count_macs(model, lambda: model(left, right))
    assert set(count.records) == {
        MacRecord("", "aten._int_mm", ("int8", "int8"), 32 * 16 * 8),
        MacRecord("", "aten.bmm", ("int32", "int32"), 32 * 32 * 8),
        MacRecord("head", "aten.addmm", ("float32", "float32"), 32 * 8 * 2),
    }
    assert count.operand_dtypes == {"": ["int32", "int8"], "head": ["float32"]}


def test_a_fake_quantised_model_is_seen_to_multiply_floats():
    layer = nn.Linear(8, 4)
    count = count_macs(layer, lambda: nn.functional.linear(torch.ones(2, 8), layer.weight.to(torch.int8).float()))
    assert count.operand_dtypes == {"": ["float32"]}


class Inner(nn.Module):
    """Has a method beside forward, and can fail."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))

    def project(self, data):
        return data @ self.weight

    def forward(self, data, fail=False):
        if fail:
            raise ValueError("by request")
        return self.project(data)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.last = nn.Linear(4, 1)

    def forward(self, data):
        try:
            self.inner(data, fail=True)
        except ValueError:
            data = self.inner.project(data)  # not a call of the module: goes to the module around it
        return self.last(self.inner(data))


def test_methods_go_to_the_module_around_them_and_exceptions_do_not_shift_names():
    model = Outer()
    count = count_macs(model, lambda: model(torch.ones(2, 4)))
    assert count.by_module == {"": 32, "inner": 32, "last": 8}


def test_a_module_that_is_not_part_of_the_model_goes_to_the_one_around_it():
    model, stranger = Outer(), nn.Linear(4, 4)
    model.last = nn.Sequential(model.last)
    model.inner.project = lambda data: stranger(data)
    assert count_macs(model.inner, lambda: model(torch.ones(2, 4))).by_module == {"": 32 + 32 + 8}


def test_nothing_stays_behind_after_success_or_failure():
    model = Outer()
    hooks = torch.nn.modules.module
    before = (len(hooks._global_forward_hooks), len(hooks._global_forward_pre_hooks))
    count_macs(model, lambda: model(torch.ones(2, 4)))
    with pytest.raises(ValueError, match="by request"):
        count_macs(model, lambda: model.inner(torch.ones(2, 4), fail=True))
    with pytest.raises(AsrCompressError):
        count_macs(model, lambda: torch.fft.fft(torch.ones(4)))
    assert (len(hooks._global_forward_hooks), len(hooks._global_forward_pre_hooks)) == before
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert count_macs(model, lambda: None) == MacCount(())


@torch.library.custom_op("asrcompress_test::product", mutates_args=())
def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(left.numpy() @ right.numpy())


class Custom(nn.Module):
    def forward(self, data):
        return torch.ops.asrcompress_test.product(data, data)


class Spectrum(nn.Module):
    def forward(self, data):
        return torch.fft.rfft(data)


class Swallowing(nn.Sequential):
    def forward(self, data):
        try:
            return super().forward(data)
        except Exception:
            return data


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(("model", "op"), [(Custom(), "asrcompress_test.product"), (Spectrum(), "aten._fft_r2c")])
@pytest.mark.parametrize("wrapper", [nn.Sequential, Swallowing])
def test_an_operation_without_a_rule_is_an_error_that_names_it_and_its_module(context, model, op, wrapper):
    outer = wrapper(nn.Identity(), model)
    with context(), pytest.raises(AsrCompressError, match=op) as caught:
        count_macs(outer, lambda: outer(torch.ones(4, 4)))
    assert f"'1' ({type(model).__name__})" in str(caught.value)


@torch.no_grad()
def test_a_script_module_inside_hides_nothing():
    plain = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    data = torch.ones(5, 16)
    script = torch.jit.script(plain.eval())
    for scripted in (script, torch.jit.trace(plain, data), torch.jit.freeze(script)):
        outer = nn.Sequential(scripted, nn.Linear(4, 2))
        for _ in range(3):  # the profiling executor rewrites a graph after its first runs
            scripted(data)
        assert count_macs(outer, lambda outer=outer: outer(data)).by_module == {"0": 5 * (16 * 8 + 8 * 4), "1": 5 * 8}


@torch.no_grad()
def test_a_script_module_rewritten_to_hidden_convolutions_is_an_error():
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval())
    outer = nn.Sequential(torch.jit.optimize_for_inference(scripted))
    data = torch.ones(1, 3, 9, 9)
    if "mkldnn" not in str(outer[0].graph):
        pytest.skip("this torch build has no mkldnn rewriting")
    with pytest.raises(AsrCompressError, match=r"module '0'.*optimize_for_inference"):
        count_macs(outer, lambda: outer(data))


class FusedProduct(nn.Module):
    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.matmul(left, right) + 1.0) * 2


@torch.no_grad()
def test_a_script_module_whose_fuser_swallowed_a_product_is_an_error():
    fuse, llvm = torch._C._jit_can_fuse_on_cpu(), torch._C._jit_get_te_must_use_llvm_cpu()
    torch._C._jit_override_can_fuse_on_cpu(True)
    torch._C._jit_set_te_must_use_llvm_cpu(False)
    try:
        scripted, data = torch.jit.script(FusedProduct()), torch.ones(4, 4)
        assert count_macs(scripted, lambda: scripted(data, data)).total == 4 * 4 * 4  # not fused yet
        for _ in range(4):
            scripted(data, data)
        with pytest.raises(AsrCompressError, match="TensorExpr"):
            count_macs(scripted, lambda: scripted(data, data))
    finally:
        torch._C._jit_override_can_fuse_on_cpu(fuse)
        torch._C._jit_set_te_must_use_llvm_cpu(llvm)
