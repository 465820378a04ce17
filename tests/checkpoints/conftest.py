"""Small checkpoints made by the real writers: Fairseq's Trainer, torch.save, torch.jit.save, safetensors."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

SETTINGS: dict[str, Any] = {
    "arch": "s2t_transformer_xs",
    "task": "speech_to_text",
    "criterion": "cross_entropy",
    "optimizer": "adam",
    "lr_scheduler": "fixed",
    "data": "some/folder",
    "lr": [0.1],
    "adam_betas": (0.9, 0.98),
    "adam_eps": 1e-8,
    "weight_decay": 0.0,
    "encoder_embed_dim": 144,
    "cpu": True,
}
SYMBOLS = ["▁one", "▁two", "x"]


@pytest.fixture(scope="session")
def fairseq_writer() -> SimpleNamespace:
    """Fairseq's own parts: a trainer that has made one Adam step, its configuration, its way to save."""
    checkpoint_utils = pytest.importorskip("fairseq.checkpoint_utils", exc_type=ImportError)
    from fairseq.criterions.cross_entropy import CrossEntropyCriterion
    from fairseq.data import Dictionary
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.models import BaseFairseqModel
    from fairseq.tasks import FairseqTask
    from fairseq.trainer import Trainer

    class TinyModel(BaseFairseqModel):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.encoder = nn.Linear(4, 4)
            self.output = nn.Linear(4, 7, bias=False)
            self.output.weight = self.embed.weight

    dictionary = Dictionary()
    for symbol in SYMBOLS:
        dictionary.add_symbol(symbol)

    cfg = convert_namespace_to_omegaconf(argparse.Namespace(**SETTINGS))
    cfg.common.cpu = True
    task = FairseqTask(cfg.task)
    task.state.add_factory("target_dictionary", lambda: dictionary)
    assert task.state.target_dictionary is dictionary  # fills the state that is saved
    model = TinyModel()
    criterion = CrossEntropyCriterion(SimpleNamespace(target_dictionary=dictionary), False)
    trainer = Trainer(cfg, task, model, criterion)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    trainer.optimizer.step()
    trainer.consolidate_optimizer()
    return SimpleNamespace(
        trainer=trainer,
        cfg=cfg,
        model=model,
        dictionary=dictionary,
        symbols=SYMBOLS,
        settings=SETTINGS,
        save=checkpoint_utils.torch_persistent_save,
    )


@pytest.fixture(scope="session")
def fairseq_file(fairseq_writer: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as `fairseq-train` leaves it."""
    path = tmp_path_factory.mktemp("fairseq") / "checkpoint_best.pt"
    fairseq_writer.trainer.save_checkpoint(str(path), {"train_iterator": {"epoch": 1}, "val_loss": 1.25, "best": 1.25})
    return path


class KeywordModel(nn.Module):
    """A bit of everything that shows in a state dict: nesting, buffers, tied and repeated parts, loose tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv1d(4, 3, 2), nn.BatchNorm1d(3))
        self.gru = nn.GRU(3, 5, num_layers=2, batch_first=True)
        self.first = nn.Linear(5, 5)
        self.second = nn.Linear(5, 5)
        self.second.weight = self.first.weight
        self.register_buffer("window", torch.linspace(0, 1, 5))
        self.loose = torch.arange(3.0)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.gru(self.conv(features).transpose(1, 2))
        return self.second(self.first(hidden)) * self.window + self.loose.sum()


@pytest.fixture(scope="session")
def keyword_model() -> KeywordModel:
    torch.manual_seed(0)
    return KeywordModel().eval()
