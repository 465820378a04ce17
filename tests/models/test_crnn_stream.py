"""The CRNN over pieces of a sequence: the steps of the whole, which are what the clip model says of its beginnings."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.models.crnn import CRNN
from asrcompress.models.crnn_stream import AtOnce, Memory

CLOSE = {"rtol": 0.0, "atol": 1e-5}


@pytest.fixture
def model() -> CRNN:
    torch.manual_seed(0)
    return CRNN(4, 12).eval()


@pytest.fixture
def log_mel() -> Tensor:
    return torch.randn(1, 40, 220, generator=torch.Generator().manual_seed(1))


def pieces(model: CRNN, log_mel: Tensor, memory: Memory, size: int) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model(part, memory) for part in log_mel.split(size, dim=2)])


@torch.inference_mode()
def test_steps_are_the_clip_model_on_beginnings(model: CRNN, log_mel: Tensor) -> None:
    """Step k covers frames 0 to 8 k + 19, as long as the window is not full."""
    steps = model(log_mel, AtOnce(window=100))
    assert steps.shape == (26, 2)
    for k in range(26):
        torch.testing.assert_close(steps[k : k + 1], model(log_mel[:, :, : 8 * k + 20]), **CLOSE)


@torch.inference_mode()
def test_a_window_of_one_step_is_no_attention(model: CRNN, log_mel: Tensor) -> None:
    """A softmax over one step is 1: the classifier on the GRU's output."""
    hidden, _ = model.gru(model.conv(log_mel.unsqueeze(1)).transpose(1, 2))
    torch.testing.assert_close(model(log_mel, AtOnce(window=1)), model.classifier(hidden[0]), **CLOSE)


@torch.inference_mode()
def test_the_attention_sees_the_window_and_the_gru_all(model: CRNN, log_mel: Tensor) -> None:
    hidden, _ = model.gru(model.conv(log_mel.unsqueeze(1)).transpose(1, 2))
    first, _, last = model.attention.energy
    energies = (torch.tanh(hidden[0] @ first.weight.T + first.bias) @ last.weight.T + last.bias)[:, 0]
    seen = slice(25 - 4, 26)
    context = energies[seen].softmax(0) @ hidden[0, seen]
    torch.testing.assert_close(
        model(log_mel, AtOnce(window=5))[25], context @ model.classifier.weight.T + model.classifier.bias, **CLOSE
    )


@pytest.mark.parametrize("size", [1, 3, 7, 8, 19, 20, 21, 64, 220])
@pytest.mark.parametrize("window", [1, 2, 11, 100])
def test_pieces_give_the_steps_of_the_whole(model: CRNN, log_mel: Tensor, window: int, size: int) -> None:
    with torch.inference_mode():
        whole = model(log_mel, AtOnce(window))
    torch.testing.assert_close(pieces(model, log_mel, Memory(window), size), whole, **CLOSE)


@pytest.mark.parametrize(("kernel", "stride"), [((5, 20), (2, 20)), ((5, 3), (2, 1)), ((40, 1), (1, 1))])
def test_other_kernels_and_strides(log_mel: Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = CRNN(2, 8, num_layers=1, kernel_size=kernel, stride=stride).eval()
    with torch.inference_mode():
        whole = model(log_mel, AtOnce(6))
    torch.testing.assert_close(pieces(model, log_mel, Memory(6), 9), whole, **CLOSE)


def test_forgetting_is_beginning_anew_at_the_next_step(model: CRNN, log_mel: Tensor) -> None:
    """After 100 frames 11 steps are out, and the next begins at frame 88."""
    memory = Memory(window=11)
    pieces(model, log_mel[:, :, :100], memory, 25)
    memory.forget()
    after = pieces(model, log_mel[:, :, 100:], memory, 25)
    torch.testing.assert_close(after, pieces(model, log_mel[:, :, 88:], Memory(11), 25), **CLOSE)


def test_what_is_kept_is_bounded_and_owns_its_bytes(model: CRNN, log_mel: Tensor) -> None:
    memory = Memory(window=11)
    for _ in range(3):
        pieces(model, log_mel, memory, 220)
        assert sum(x.untyped_storage().nbytes() for x in memory.tensors()) <= 4 * (40 * 19 + 2 * 12 + 10 * 12 + 10)


def test_clips_need_a_kernel_of_frames_and_pieces_do_not(model: CRNN, log_mel: Tensor) -> None:
    for stream in (None, AtOnce(11)):
        with pytest.raises(AsrCompressError, match="at least 20 frames"):
            model(log_mel[:, :, :19], stream)
    assert model(log_mel[:, :, :19], Memory(11)).shape == (0, 2)
