"""A Fairseq checkpoint of any size with random weights, written tensor by tensor: for measuring memory, not quality.

    python -m tests.bench.big_checkpoint big.pt                      # 2.16 billion parameters, shaped as XLS-R 2B
    python -m tests.bench.big_checkpoint big.pt --dtype bfloat16
    python -m tests.bench.big_checkpoint small.pt --layers 3 --dim 768

It is what fairseq-train leaves of wav2vec_ctc, less the optimizer: OmegaConf configuration, dictionary, weight norm and all.
"""

from __future__ import annotations

import argparse
import json
import resource
import zipfile
from pathlib import Path

import torch
from torch import nn

LAYERS, DIM = 48, 1920  # XLS-R 2B (Babu et al. 2021, arXiv 2111.09296)
CONV_LAYERS = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] * 2"
LETTERS = [*"|EATOINSRHLDUCMGPFWYBVK'XJQZ"]
STD = 0.02


def outline(layers: int, dim: int) -> tuple[nn.Module, object, dict[str, object]]:
    """(Fairseq's model on device meta, its configuration, the task's state)."""
    from asrcompress.models.fairseq_adapter import import_fairseq, quiet
    from asrcompress.models.fairseq_ctc import _without_random_weights
    from tests.fixtures.ctc import fine_tuned

    encoder = {
        "encoder_layers": layers, "encoder_embed_dim": dim, "encoder_ffn_embed_dim": 4 * dim,
        "encoder_attention_heads": 16, "conv_feature_layers": CONV_LAYERS, "extractor_mode": "layer_norm",
        "conv_bias": True, "layer_norm_first": True, "conv_pos": 128, "conv_pos_groups": 16,
    }  # fmt: skip
    import_fairseq()
    with quiet(), torch.device("meta"), _without_random_weights():
        model, config, dictionary = fine_tuned("wav2vec_ctc", encoder, LETTERS, normalize=True)
    return model, config, {"target_dictionary": dictionary}


def write(
    path: Path, *, layers: int = LAYERS, dim: int = DIM, dtype: torch.dtype = torch.float32, seed: int = 0
) -> dict[str, int]:
    """Write the checkpoint; returns its number of parameters, its size and that of its largest tensor."""
    model, config, task_state = outline(layers, dim)
    # Memory that is asked for and never touched is not used; `skip_data` leaves room for the storages in the file.
    tensors = {
        name: torch.empty(tensor.shape, dtype=dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in model.state_dict().items()
    }
    state = {"args": None, "cfg": config, "model": tensors, "task_state": task_state, "extra_state": {"epoch": 1}}
    with torch.serialization.skip_data():
        torch.save(state, path)
    fill(path, list(tensors.items()), seed)
    return {
        "num_params": sum(tensor.numel() for tensor in tensors.values()),
        "size_bytes": path.stat().st_size,
        "largest_tensor_bytes": max(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
    }


def fill(path: Path, tensors: list[tuple[str, torch.Tensor]], seed: int) -> None:
    """Write values where torch.save left room: norms near 1, everything else normal with a deviation of 0.02."""
    from asrcompress.checkpoints.torch_zip import open_torch_zip

    archive = open_torch_zip(path)
    keys = [f"data/{index}" for index in range(len(tensors))]
    generator = torch.Generator().manual_seed(seed)
    with zipfile.ZipFile(path) as index, open(path, "r+b") as handle:
        assert len([name for name in index.namelist() if "/data/" in name]) == len(keys)
        for key, (name, tensor) in zip(keys, tensors, strict=True):
            values = torch.randn(tensor.shape, generator=generator) * STD
            if ("norm" in name and name.endswith("weight")) or name.endswith("weight_g"):
                values += 1
            data = values.to(tensor.dtype).contiguous().flatten().view(torch.uint8)
            assert archive.records[key].file_size == data.numel()
            handle.seek(archive.offset(key))
            handle.write(data.numpy())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--dim", type=int, default=DIM)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    options = parser.parse_args()
    facts = write(options.path, layers=options.layers, dim=options.dim, dtype=getattr(torch, options.dtype))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(facts | {"peak_rss_bytes": peak}))
