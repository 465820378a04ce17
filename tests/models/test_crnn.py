"""The keyword CRNN: published sizes, an independent forward pass, and state dicts that do not fit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from asrcompress.errors import AsrCompressError
from asrcompress.models.crnn import CRNN

PUBLISHED = {(8, 64): 70_443, (4, 32): 18_071, (4, 16): 6_679, (2, 12): 3_133}


def crnn_by_hand(tensors: dict[str, torch.Tensor], log_mel: torch.Tensor) -> torch.Tensor:
    """The report's model written out: GRU equations step by step, attention as a weighted sum."""
    frames = F.conv2d(log_mel[:, None], tensors["conv.0.weight"], tensors["conv.0.bias"], stride=(2, 8))
    sequence = frames.reshape(frames.shape[0], -1, frames.shape[3]).permute(2, 0, 1)  # (time, batch, channel x band)
    for layer in range(2):
        w_ih, w_hh, b_ih, b_hh = (
            tensors[f"gru.{name}_l{layer}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        hidden = torch.zeros(sequence.shape[1], w_hh.shape[1])
        outputs = []
        for frame in sequence:
            i_r, i_z, i_n = (frame @ w_ih.T + b_ih).chunk(3, dim=1)
            h_r, h_z, h_n = (hidden @ w_hh.T + b_hh).chunk(3, dim=1)
            update = torch.sigmoid(i_z + h_z)
            new = torch.tanh(i_n + torch.sigmoid(i_r + h_r) * h_n)
            hidden = (1 - update) * new + update * hidden
            outputs.append(hidden)
        sequence = torch.stack(outputs)
    energy = torch.tanh(sequence @ tensors["attention.energy.0.weight"].T + tensors["attention.energy.0.bias"])
    energy = energy @ tensors["attention.energy.2.weight"].T + tensors["attention.energy.2.bias"]
    pooled = (sequence * energy.softmax(dim=0)).sum(dim=0)
    return pooled @ tensors["classifier.weight"].T + tensors["classifier.bias"]


@pytest.mark.parametrize(("sizes", "num_params"), PUBLISHED.items())
def test_parameter_counts_are_the_published_ones(sizes, num_params):
    assert sum(p.numel() for p in CRNN(*sizes).parameters()) == num_params


@torch.no_grad()
def test_forward_is_the_equations_written_out():
    model = CRNN(3, 7).eval()
    log_mel = torch.randn(4, 40, 61)
    torch.testing.assert_close(model(log_mel), crnn_by_hand(model.state_dict(), log_mel), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_the_trained_checkpoint_loads_with_sizes_from_its_tensors(kws_dir):
    tensors = torch.load(kws_dir / "crnn_happy.pt", weights_only=True)
    model = CRNN.from_state_dict(tensors)
    assert (model.sizes["num_channels"], model.sizes["hidden_size"], model.sizes["num_layers"]) == (8, 64, 2)
    assert not model.training
    log_mel = torch.randn(2, 40, 101)
    torch.testing.assert_close(model(log_mel), crnn_by_hand(tensors, log_mel), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("sizes", [(2, 12, {}), (3, 5, {"num_layers": 1, "num_classes": 4, "kernel_size": (3, 10)})])
def test_a_state_dict_round_trips(sizes):
    channels, hidden, others = sizes
    model = CRNN(channels, hidden, **others).eval()
    again = CRNN.from_state_dict(model.state_dict())
    assert again.sizes == model.sizes
    log_mel = torch.randn(2, 40, 50)
    assert torch.equal(again(log_mel), model(log_mel))
    assert CRNN(**{**model.sizes, "stride": list(model.sizes["stride"])}).sizes == model.sizes


def test_the_given_tensors_are_copied_and_widened():
    tensors = {name: tensor.half() for name, tensor in CRNN(2, 12).state_dict().items()}
    model = CRNN.from_state_dict(tensors)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    before = tensors["classifier.bias"].clone()
    model.classifier.bias.data.add_(1)
    assert torch.equal(tensors["classifier.bias"], before)


def _drop(tensors, name):
    del tensors[name]


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda t: t.clear(), "conv.0.weight"),
        (lambda t: _drop(t, "gru.bias_hh_l1"), "gru.bias_hh_l1"),
        (lambda t: _drop(t, "gru.weight_hh_l0"), "gru.weight_hh_l0"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra"),
        (lambda t: t.update({"gru.weight_ih_l0_reverse": torch.zeros(36, 36)}), "gru.weight_ih_l0_reverse"),
        (lambda t: t.update({"gru.weight_ih_l900000000": torch.zeros(1)}), "missing"),
        (lambda t: t.update({"gru.weight_ih_l0": torch.zeros(36, 35)}), "gru.weight_ih_l0"),
        (lambda t: t.update({"classifier.bias": torch.zeros(2, dtype=torch.int8)}), "int8"),
        (lambda t: t.update({"classifier.bias": "text"}), "classifier.bias"),
        (lambda t: t.update({"conv.0.weight": torch.zeros(2, 5)}), "conv.0.weight"),
        (lambda t: t.update({"conv.0.weight": torch.zeros(0, 1, 5, 20)}), "conv.0.weight"),
        (lambda t: t.update({"conv.0.weight": torch.zeros(2, 1, 50, 20)}), "mel bins"),
        (lambda t: t.update({"gru.weight_hh_l0": torch.zeros(1, 1).expand(3, 10**7)}), "shape"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused_by_name(spoil, named):
    tensors = dict(CRNN(2, 12).state_dict())
    spoil(tensors)
    with pytest.raises(AsrCompressError, match=named):
        CRNN.from_state_dict(tensors)


def test_another_stride_than_the_tensors_ask_for_is_refused():
    with pytest.raises(AsrCompressError, match="stride"):
        CRNN.from_state_dict(CRNN(2, 12).state_dict(), stride=(1, 8))


@pytest.mark.parametrize("shape", [(1, 40, 19), (1, 39, 101), (40, 101)])
def test_input_of_a_wrong_shape_is_refused(shape):
    with pytest.raises(AsrCompressError, match="40 mel bins"):
        CRNN(2, 12)(torch.zeros(shape))
