"""Checkpoints by Fairseq's own writer: every style and serialisation gives the same model, and the bytes add up."""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from asrcompress.checkpoints import read_checkpoint, tied_names


def assert_same_model(checkpoint: Any, model: torch.nn.Module) -> None:
    expected = model.state_dict()
    assert list(checkpoint.tensors) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(checkpoint.tensors[name], tensor), name
    assert tied_names(checkpoint.tensors) == {"output.weight": "embed.weight"}


def test_a_file_of_the_trainer(fairseq_writer: SimpleNamespace, fairseq_file: Path) -> None:
    checkpoint = read_checkpoint(fairseq_file)
    assert_same_model(checkpoint, fairseq_writer.model)
    assert (checkpoint.format, checkpoint.arch, checkpoint.symbols) == (
        "fairseq",
        "s2t_transformer_xs",
        fairseq_writer.symbols,
    )
    assert checkpoint.config is not None
    assert checkpoint.config["model"]["encoder_embed_dim"] == 144
    assert checkpoint.config["task"]["_name"] == "speech_to_text"
    assert checkpoint.config["model"]["adam_betas"] == [0.9, 0.98]
    # 7 x 4 tied weights once, 4 x 4 + 4 of the encoder; Adam keeps two numbers for each
    assert checkpoint.ledger["model"] == checkpoint.model_size_bytes == 4 * (28 + 20)
    assert checkpoint.ledger["optimizer"] == 4 * (28 + 20) * 2
    assert sum(checkpoint.ledger.values()) == checkpoint.size_bytes == fairseq_file.stat().st_size


def legacy_save(state: Any, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def test_the_legacy_serialisation_reads_the_same(
    fairseq_writer: SimpleNamespace, fairseq_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "legacy.pt"
    legacy_save(torch.load(fairseq_file, weights_only=False), path)
    checkpoint, modern = read_checkpoint(path), read_checkpoint(fairseq_file)
    assert_same_model(checkpoint, fairseq_writer.model)
    assert (checkpoint.config, checkpoint.arch, checkpoint.symbols) == (modern.config, modern.arch, modern.symbols)
    for part in ("model", "optimizer", "other"):
        assert checkpoint.ledger[part] == modern.ledger[part]
    assert sum(checkpoint.ledger.values()) == path.stat().st_size


@pytest.mark.parametrize("save", ["modern", "legacy"])
def test_the_args_style_of_old_fairseq(fairseq_writer: SimpleNamespace, tmp_path: Path, save: str) -> None:
    from fairseq.logging.meters import AverageMeter, MetersDict, StopwatchMeter, TimeMeter

    meter = AverageMeter(round=3)
    meter.update(torch.tensor(2.0), 5)
    meters = MetersDict()
    meters.add_meter("loss", meter, 10)
    state = {
        "args": argparse.Namespace(**fairseq_writer.settings),
        "model": fairseq_writer.model.state_dict(),
        "optimizer_history": [{"criterion_name": "C", "lr_scheduler_state": {"best": 1.0}, "num_updates": 3}],
        "extra_state": {
            "train_meters": {"loss": meter, "wall": StopwatchMeter(), "wps": TimeMeter(), "gone": None},
            "metrics": meters,
            "counts": defaultdict(int, {"sentences": 3}),
        },
        "last_optimizer_state": fairseq_writer.trainer.optimizer.state_dict(),
        "task_state": {"source_dictionary": fairseq_writer.dictionary},
    }
    path = tmp_path / "old.pt"
    fairseq_writer.save(state, str(path)) if save == "modern" else legacy_save(state, path)
    checkpoint = read_checkpoint(path)
    assert_same_model(checkpoint, fairseq_writer.model)
    settings = {**fairseq_writer.settings, "adam_betas": [0.9, 0.98]}
    assert checkpoint.config == {"model": settings, "task": settings}
    assert (checkpoint.arch, checkpoint.symbols) == ("s2t_transformer_xs", fairseq_writer.symbols)
    assert checkpoint.ledger["other"] == 8  # the meter's value and sum, two float32 scalars
    assert sum(checkpoint.ledger.values()) == path.stat().st_size


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("save", ["modern", "legacy"])
def test_omegaconf_containers_pickled_whole(
    fairseq_writer: SimpleNamespace, tmp_path: Path, save: str, trust: bool
) -> None:
    from fairseq.data.multilingual.multilingual_utils import LangTokSpec
    from fairseq.dataclass.configs import EMAConfig, FairseqBMUFConfig, OptimizationConfig
    from omegaconf import OmegaConf, open_dict

    plain_cfg = OmegaConf.to_container(fairseq_writer.cfg, resolve=True, enum_to_str=True)
    cfg = OmegaConf.create(plain_cfg | {"model": None, "task": None})
    with open_dict(cfg):
        cfg.model = OmegaConf.structured(OptimizationConfig)  # typed lists, and Fairseq's classes named in the metadata
        cfg.model._name = "wav2vec_ctc"
        cfg.model = OmegaConf.merge(OmegaConf.create(cfg.model), {})
        OmegaConf.set_struct(cfg.model, False)
        cfg.model.ema = OmegaConf.structured(EMAConfig)
        cfg.model.style = LangTokSpec.main
        cfg.model.w2v = {"layers": [1, "${model.lr.0}", "${.0}"], "up": "${..max_update}", "text": "at ${task.data}/x"}
        cfg.model.unset = "???"
        cfg.model.elsewhere = "${oc.env:HOME}"
        cfg.task = {
            "_name": "audio_finetuning",
            "data": "${common.folder}",
            "bmuf": OmegaConf.structured(FairseqBMUFConfig),
        }
        cfg.common.folder = "some/folder"
    state = {"args": None, "cfg": cfg, "model": fairseq_writer.model.state_dict(), "task_state": {}}
    path = tmp_path / "hydra.pt"
    fairseq_writer.save(state, str(path)) if save == "modern" else legacy_save(state, path)
    checkpoint = read_checkpoint(path, trust=trust)

    kept = cfg.model.pop("elsewhere"), cfg.model.pop("style")
    expected = {key: OmegaConf.to_container(cfg, resolve=True)[key] for key in ("model", "task")}
    assert checkpoint.config is not None
    assert checkpoint.config["model"].pop("elsewhere") == "${oc.env:HOME}"  # the environment is not part of a file
    assert checkpoint.config["model"].pop("style") == kept[1].value == "main"
    assert checkpoint.config == expected
    assert checkpoint.config["model"]["w2v"] == {"layers": [1, 0.25, 1], "up": 0, "text": "at some/folder/x"}
    assert (checkpoint.arch, checkpoint.symbols) == ("wav2vec_ctc", None)
    assert_same_model(checkpoint, fairseq_writer.model)


def test_the_target_dictionary_is_preferred(fairseq_writer: SimpleNamespace, tmp_path: Path) -> None:
    from fairseq.data import Dictionary

    other = Dictionary()
    other.add_symbol("letter")
    state = {
        "args": argparse.Namespace(**fairseq_writer.settings),
        "model": fairseq_writer.model.state_dict(),
        "task_state": {"dictionaries": [other], "target_dictionary": fairseq_writer.dictionary},
    }
    fairseq_writer.save(state, str(tmp_path / "two.pt"))
    assert read_checkpoint(tmp_path / "two.pt").symbols == fairseq_writer.symbols


def test_the_real_digits_checkpoint(digits_dir: Path) -> None:
    path = digits_dir / "checkpoint_best.pt"
    checkpoint = read_checkpoint(path)
    with zipfile.ZipFile(path) as archive:
        stored = sum(info.file_size for info in archive.infolist() if "/data/" in info.filename)
    assert sum(checkpoint.ledger[part] for part in ("model", "optimizer", "other")) == stored
    assert sum(checkpoint.ledger.values()) == path.stat().st_size
    num_params = sum(t.numel() for n, t in checkpoint.tensors.items() if n not in tied_names(checkpoint.tensors))
    assert checkpoint.ledger["model"] == 4 * num_params
    assert checkpoint.config is not None
    assert checkpoint.config["model"]["encoder_layers"] == 6
    assert checkpoint.config["task"]["config_yaml"] == "config.yaml"
    assert checkpoint.arch == "s2t_transformer_xs"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux what is mapped")
def test_tensors_are_mapped_and_fairseq_is_not_imported(fairseq_file: Path) -> None:
    program = """
import sys
from asrcompress.checkpoints import read_checkpoint
checkpoint = read_checkpoint(sys.argv[1])
address = checkpoint.tensors["embed.weight"].data_ptr()
lines = [line.split() for line in open("/proc/self/maps") if sys.argv[1] in line]
spans = [[int(x, 16) for x in line[0].split("-")] for line in lines]
print(any(a <= address < b for a, b in spans), [m for m in ("fairseq", "omegaconf", "hydra") if m in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(fairseq_file)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True []"
