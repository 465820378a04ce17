"""Fine-tuning on CUDA: what trains on the CPU trains there, to the same ends; skipped, visibly, where there is no GPU."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from asrcompress.artifact import ArtifactContent
from asrcompress.errors import AsrCompressError
from asrcompress.models import fairseq_adapter
from asrcompress.models.crnn import CRNN
from asrcompress.ops.content import float_tensors
from asrcompress.ops.finetune import Finetuned, Speech, finetune
from asrcompress.ops.finetune_config import FinetuneConfig
from asrcompress.ops.finetune_data import read_training_set
from asrcompress.ops.finetune_dev import DevelopmentSet
from asrcompress.ops.finetune_job import FinetuneJob
from asrcompress.ops.load import Source, build_model, open_source
from asrcompress.ops.probe_data import read_probe_data
from asrcompress.ops.quantize import quantize_source
from asrcompress.ops.ranks import Ranks
from asrcompress.ops.recipe import QuantizeConfig
from asrcompress.training.attach import freeze_noise
from asrcompress.training.parallel import Parallel, process_group
from asrcompress.training.state import TrainingState

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
FIXTURES = (
    "tiny_s2t", "tiny_kws", "tiny_s2t_conformer", "tiny_vgg", "tiny_vgg_encoder", "tiny_wav2vec_ctc", "tiny_hubert_ctc",
)  # fmt: skip
WORDS = ["go left", "stop", "right go", "lefts", "go"]
LETTERS = ["EAT TO", "A", "TOE TEA", "AT", "OAT"]
CPU, CUDA = Parallel(), Parallel(device="cuda:0")
BRIEF = FinetuneConfig(epochs=2, batch_size=3, learning_rate=2e-3, precision="float32")


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights never say that a sentence ends: four words will do."""

    def beam_search(*arguments: object, search=fairseq_adapter.beam_search, **options: object):
        return search(*arguments, **options | {"max_len_a": 0.0, "max_len_b": 4})

    monkeypatch.setattr(fairseq_adapter, "beam_search", beam_search)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """No operand is rounded: cuDNN would, by default."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def read(model: Path, speech: Path, folder: Path) -> tuple[Source, ArtifactContent, Speech]:
    """A tiny model at 4 bits with half of its weights dropped, and recordings that say what it can write."""
    source = open_source(model)
    content = quantize_source(source, QuantizeConfig(num_bits=4, sparsity=0.5))
    files = [speech.parent / f"{number}.flac" for number in range(5)]
    table = folder / "said.tsv"
    if source.family.TASK == "keyword":
        table.write_text("path\tword\n" + "".join(f"{file}\t{'ab'[file.stem in '024']}\n" for file in files))
        options: dict[str, Any] = {"keyword": "a"}
    else:
        texts = LETTERS if source.spec.config["text_units"] == "letters" else WORDS
        rows = [f"{file.stem}\t{file}\t100\t{text}\tnobody" for file, text in zip(files, texts, strict=True)]
        table.write_text("\n".join(["id\taudio\tn_frames\ttgt_text\tspeaker", *rows]) + "\n")
        options = {}
    train = read_training_set(source, table, **options)
    return source, content, Speech(train, DevelopmentSet(read_probe_data(source, table, **options)))


def history(result: Finetuned) -> list[dict[str, Any]]:
    return result.record["history"]


@on_cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("fixture", FIXTURES)
def test_every_family_trains_with_masks_that_move(
    fixture: str, precision: str, request: pytest.FixtureRequest, tiny_speech: Path, tmp_path: Path, exact: None
) -> None:
    source, content, speech = read(request.getfixturevalue(fixture), tiny_speech, tmp_path)
    config = replace(BRIEF, epochs=4, precision=precision, mask_schedule="every-step", mask_until=1.0)
    result = finetune(source, content, config, speech, parallel=CUDA)
    lines = history(result)
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert sum(line["mask_divergence"] for line in lines) > 0
    assert lines[-1]["training_loss"] < lines[1]["training_loss"]
    before = speech.dev.measure(built(source, content))
    assert (lines[0]["metric"], lines[0]["loss"]) == pytest.approx(before, rel=1e-3)
    after = speech.dev.measure(built(source, result.content))
    assert (result.record["best"]["metric"], result.record["best"]["loss"]) == pytest.approx(after, rel=1e-3)
    for name, weight in result.content.quantized.items():
        assert weight.codes.device.type == "cpu"
        assert int((weight.codes != 0).sum()) <= weight.codes.numel() - weight.codes.numel() // 2, name


def built(source: Source, content: ArtifactContent) -> Any:
    return build_model(replace(source, tensors=float_tensors(content), checkpoint=None, content=content))


@on_cuda
@pytest.mark.parametrize("fixture", ["tiny_s2t", "tiny_kws", "tiny_wav2vec_ctc"])
def test_float32_learns_what_the_cpu_learns(
    fixture: str, request: pytest.FixtureRequest, tiny_speech: Path, tmp_path: Path, exact: None
) -> None:
    source, content, speech = read(request.getfixturevalue(fixture), tiny_speech, tmp_path)
    here, there = (finetune(source, content, BRIEF, speech, parallel=parallel) for parallel in (CPU, CUDA))
    for ours, theirs in zip(history(here), history(there), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-3)
    first, last = history(here)[0]["loss"], history(here)[-1]["loss"]
    assert abs(last / first - 1) > 0.01
    for name, weight in here.content.quantized.items():
        assert (weight.codes == there.content.quantized[name].codes).float().mean() > 0.9, name


@on_cuda
@pytest.mark.parametrize(("first", "second"), [("cuda:0", "cpu"), ("cpu", "cuda:0")])
def test_what_stopped_on_one_device_goes_on_on_another(
    first: str, second: str, tiny_s2t: Path, tiny_speech: Path, tmp_path: Path, exact: None
) -> None:
    source, content, speech = read(tiny_s2t, tiny_speech, tmp_path)
    whole = finetune(source, content, BRIEF, speech, parallel=CPU)
    path = tmp_path / "state.safetensors"

    def stop(progress: Any, total: int) -> None:
        if progress.update:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        state = TrainingState(path, "same")
        finetune(source, content, BRIEF, speech, parallel=Parallel(device=first), state=state, on_evaluation=stop)
    state = TrainingState(path, "same", resume=True)
    rest = finetune(source, content, BRIEF, speech, parallel=Parallel(device=second), state=state)
    assert [line["update"] for line in history(rest)] == [line["update"] for line in history(whole)]
    assert history(rest)[-1]["loss"] == pytest.approx(history(whole)[-1]["loss"], rel=2e-3)


@on_cuda
@pytest.mark.parametrize("is_sharded", [False, True])
def test_a_group_over_nccl_learns_what_one_process_learns(
    is_sharded: bool, tiny_s2t: Path, tiny_speech: Path, tmp_path: Path, exact: None
) -> None:
    source, content, speech = read(tiny_s2t, tiny_speech, tmp_path)
    alone = finetune(source, content, BRIEF, speech, parallel=CUDA)
    with process_group(None, 0, 1, "cuda:0"):
        group = Parallel(device="cuda:0", is_sharded=is_sharded)
        grouped = finetune(source, content, BRIEF, speech, parallel=group)
        torch.distributed.barrier(device_ids=[0])
    for ours, theirs in zip(history(alone), history(grouped), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)


@on_cuda
def test_recurrent_layers_stay_out_of_half_precision() -> None:
    seen = {}
    model = freeze_noise(CRNN(2, 12)).cuda()
    for name in ("conv", "gru", "classifier"):
        model.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: seen.update({name: (out[0] if isinstance(out, tuple) else out).dtype})
        )
    with torch.autocast("cuda", torch.bfloat16):
        model(torch.randn(3, 40, 101, device="cuda")).sum().backward()
    assert seen == {"conv": torch.bfloat16, "gru": torch.float32, "classifier": torch.bfloat16}
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@on_cuda
def test_float32_is_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(64, 64, 3), torch.randn(4, 64, 20, 20)
    expected = layer.double()(x.double())
    layer = layer.float().cuda()
    job = FinetuneJob(tmp_path, BRIEF, device="cuda")
    with job._parallel(Ranks()):
        error = (layer(x.cuda()).double().cpu() - expected).abs().max()
    assert float(error) < 1e-5


def test_more_ranks_than_gpus_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    job = FinetuneJob(tmp_path, BRIEF, device="cuda")
    assert job.device_of(Ranks(0, 2)) == "cuda:0"
    with pytest.raises(AsrCompressError, match="more ranks on this machine than its 1 GPUs"):
        job.device_of(Ranks(1, 2))
