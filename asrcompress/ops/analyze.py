"""analyze: what a file holds and what its model costs. Every module with class, shape, parameters, stored bytes and MACs.

Bytes come from the file, MACs from a run on a stated input whose operations are counted as they are
dispatched. The honesty level that file and run prove is audit.py's; quality is not judged here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asrcompress.artifact_file import byte_ledger
from asrcompress.errors import AsrCompressError
from asrcompress.files import check_outputs, write_json
from asrcompress.metrics.cost import MacCount
from asrcompress.metrics.thop_convention import CONVENTIONS, thop_macs
from asrcompress.metrics.trace import trace_run
from asrcompress.modules.swap import find_weights
from asrcompress.modules.twins import find_twin
from asrcompress.ops.audit import audit, noise
from asrcompress.ops.load import (
    Source,
    build_model,
    count_params,
    describe,
    environment,
    open_source,
    require_model_file,
)
from asrcompress.ops.reference import compare_with_reference
from asrcompress.sidecar import build, sidecar_path
from asrcompress.stored_weight import PARTS

MACS_CONVENTIONS = ("true", *CONVENTIONS)
MAX_COUNT = 10**6  # inputs and tokens
BYTES_PER_INPUT_BYTE = 8  # that a run takes, as measured with s2t_transformer; an estimate
INTEGER_DTYPES = {"int8", "uint8", "int16", "int32"}


@dataclass(frozen=True)
class AnalyzeConfig:
    """Options of `analyze`. duration_s and num_tokens None: the family's defaults. reference: a model to compare logits with."""

    duration_s: float | None = None
    num_tokens: int | None = None
    batch_size: int = 1
    macs_convention: str = "true"
    reference: Path | None = None
    reference_data: Path | None = None
    reference_split: str | None = None

    def __post_init__(self) -> None:
        if self.macs_convention not in MACS_CONVENTIONS:
            raise AsrCompressError(
                f"--macs-convention {self.macs_convention}: use one of {', '.join(MACS_CONVENTIONS)}"
            )
        if self.duration_s is not None and not 0 < self.duration_s <= 3600:
            raise AsrCompressError(f"--duration-s {self.duration_s}: give seconds above 0 and up to 3600")
        if (self.reference is None) != (self.reference_data is None):
            raise AsrCompressError(
                "--reference and --reference-data go together: the float model, and speech to run both on"
            )
        for option, value in (("--batch-size", self.batch_size), ("--tokens", self.num_tokens)):
            if value is not None and not 1 <= value <= MAX_COUNT:
                raise AsrCompressError(f"{option} {value}: is out of range; use 1 to {MAX_COUNT}")


def analyze(
    path: str | Path,
    config: AnalyzeConfig,
    *,
    output: str | Path | None = None,
    data_dir: Path | None = None,
    trust: bool = False,
    force: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Path, dict[str, Any]]:
    """Describe `path`; write `<path>.analyze.json` (or `output`).

    Raises:
        AsrCompressError: unreadable model, or an operation whose MACs no rule knows; nothing is written.
    """
    path = Path(path)
    require_model_file(path)
    output = Path(output) if output else sidecar_path(path, "analyze")
    check_outputs([output], [path], force=force)
    source = open_source(path, data_dir=data_dir, trust=trust)
    loaded = build_model(source)
    duration_s = config.duration_s if config.duration_s is not None else source.family.DEFAULT_DURATION_S
    float_module = source.family.build(source.spec)
    with _running(path, duration_s, config), torch.no_grad():
        inputs, input_record = source.family.example_inputs(
            source.spec, duration_s, config.num_tokens, config.batch_size
        )
        if config.num_tokens is not None and input_record["num_tokens"] is None:
            raise AsrCompressError(
                f"--tokens {config.num_tokens}: {path} has no decoder that takes tokens; leave it out"
            )
        _check_memory(inputs)
        inputs = noise(inputs)
        trace = trace_run(loaded.module, lambda: loaded.module(*inputs))
        count = trace.macs
        # thop knows torch's own classes only: it is shown what the float model would cost.
        thop = {convention: thop_macs(float_module, inputs, convention=convention) for convention in CONVENTIONS}
    honesty = audit(source, loaded, trace, inputs)
    reference = None
    if config.reference is not None and config.reference_data is not None:
        reference = compare_with_reference(
            loaded,
            config.reference,
            config.reference_data,
            split=config.reference_split,
            data_dir=data_dir,
            trust=trust,
        )
    macs = count.total if config.macs_convention == "true" else thop[config.macs_convention]
    model = describe(source, count_params(source))
    layers = layer_rows(source, float_module, count)
    entries = ledger_entries(source)
    record = build(
        "analyze",
        model=model,
        environment=environment("cpu"),
        ledger={"entries": entries, "size_bytes": sum(entry["size_bytes"] for entry in entries)},
        input=input_record,
        macs_convention=config.macs_convention,
        layers=layers,
        totals=totals(layers),
        level=level(source, count),
        honesty=honesty,
        reference=reference,
        metrics={
            "size_bytes": model["size_bytes"],
            "model_size_bytes": model["model_size_bytes"],
            "optimizer_size_bytes": model["optimizer_size_bytes"],
            "num_params": model["num_params"],
            "macs": macs,
            "true_macs": count.total,
            "thop_macs": thop["thop"],
            "thop_conv_bias_macs": thop["thop-conv-bias"],
            "sqnr_db": reference["sqnr_db"] if reference else None,
        },
    )
    write_json(output, record, force=force)
    return output, record


@contextmanager
def _running(path: Path, duration_s: float, config: AnalyzeConfig) -> Iterator[None]:
    """What torch says of an input that is too large, or longer than the model's positions, in one line."""
    try:
        yield
    except (RuntimeError, IndexError, MemoryError) as error:
        tokens = f", {config.num_tokens} tokens" if config.num_tokens is not None else ""
        cause = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise AsrCompressError(
            f"{path}: does not run on a batch of {config.batch_size}, {duration_s:g} s{tokens} ({cause[0]}); "
            "lower --batch-size, --duration-s or --tokens"
        ) from error


def _check_memory(inputs: tuple[Tensor, ...]) -> None:
    """Raise before the system would end the process without a word."""
    needed = BYTES_PER_INPUT_BYTE * sum(tensor.numel() * tensor.element_size() for tensor in inputs)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise MemoryError(f"about {needed / 1e9:.0f} GB would be needed, {there / 1e9:.0f} GB are there")


def ledger_entries(source: Source) -> list[dict[str, Any]]:
    """Every byte of the file: tensor by tensor for an artifact, by purpose for a checkpoint."""
    if source.checkpoint is None:
        return byte_ledger(source.path)
    return [{"name": kind, "kind": kind, "size_bytes": size} for kind, size in source.checkpoint.ledger.items()]


def layer_rows(source: Source, module: nn.Module, count: MacCount) -> list[dict[str, Any]]:
    """One row per module that holds tensors or does MACs, in the model's order; kinds as twins.py calls them."""
    quantized = source.content.quantized if source.content else {}
    sites = {site.name: site for site in find_weights(module)}
    stored = stored_bytes(source)
    macs = dict(count.by_module)
    names = {name.rpartition(".")[0] for name in [*source.tensors, *quantized, *sites]}
    rows = []
    for name, child in module.named_modules(remove_duplicate=False):
        own = [key for key in [*child.state_dict()] if "." not in key]
        full = [f"{name}.{key}" if name else key for key in own]
        module_macs = macs.pop(name, 0)
        if name not in names and not module_macs:
            continue
        weight = next((key for key in full if key in sites), None)
        first = (sites[weight].tied_to or weight) if weight else None
        shapes = [list(tensor.shape) for key, tensor in child.state_dict().items() if "." not in key]
        rows.append(
            {
                "name": name,
                "class": type(child).__name__,
                "kind": sites[weight].kind if weight else kind_of(child),
                "shape": shapes[0] if shapes else None,
                "num_params": sum(numel for key in full if (numel := stored.get(key, (0, 0))[0])),
                "size_bytes": sum(stored.get(key, (0, 0))[1] for key in full),
                "macs": module_macs,
                "num_bits": quantized[first].num_bits if first is not None and first in quantized else None,
                "tied_to": sites[weight].tied_to if weight else None,
            }
        )
    for name, module_macs in macs.items():  # modules that only the integer model has
        rows.append(
            {"name": name, "class": "", "kind": "other", "shape": None, "num_params": 0, "size_bytes": 0,
             "macs": module_macs, "num_bits": None, "tied_to": None}
        )  # fmt: skip
    return rows


def stored_bytes(source: Source) -> dict[str, tuple[int, int]]:
    """Tensor name -> (parameters, bytes) as the file stores them; a tied tensor counts under its first name."""
    if source.content:
        sizes = {entry["name"]: entry["size_bytes"] for entry in byte_ledger(source.path)}
        weights = {name: weight.codes.numel() for name, weight in source.content.quantized.items()}
        weights |= {name: weight.mask.numel() for name, weight in source.content.sparse.items()}
        stored = {name: (tensor.numel(), sizes[name]) for name, tensor in source.tensors.items() if name not in weights}
        for name, count in weights.items():
            stored[name] = (count, sum(sizes.get(f"{name}_{part}", 0) for part in PARTS))
        return stored
    stored, seen = {}, set()
    for name, tensor in source.tensors.items():
        first = tensor.data_ptr() not in seen
        seen.add(tensor.data_ptr())
        stored[name] = (tensor.numel(), tensor.numel() * tensor.element_size()) if first else (0, 0)
    return stored


def kind_of(module: nn.Module) -> str:
    """A word for modules that hold no packable weight of their own."""
    twin = find_twin(module)
    if twin is not None:
        return twin.kind
    return "norm" if "norm" in type(module).__name__.lower() else "other"


def totals(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Parameters, bytes and MACs by kind, largest first."""
    kinds: dict[str, dict[str, Any]] = {}
    for row in layers:
        total = kinds.setdefault(row["kind"], {"kind": row["kind"], "num_params": 0, "size_bytes": 0, "macs": 0})
        for key in ("num_params", "size_bytes", "macs"):
            total[key] += row[key]
    return sorted(kinds.values(), key=lambda total: -total["size_bytes"])


def level(source: Source, count: MacCount) -> dict[str, Any]:
    """What the file claims, and what the run showed: the share of MACs whose operands were all integers."""
    on_integers = sum(record.macs for record in count.records if set(record.operand_dtypes) <= INTEGER_DTYPES)
    packed = sum(weight.codes.numel() for weight in source.content.quantized.values()) if source.content else 0
    num_params = count_params(source)
    return {
        "claimed": source.content.recipe.get("level") if source.content else None,
        "packed_params_share": packed / num_params if num_params else None,
        "integer_macs_share": on_integers / count.total if count.total else None,
        "float_modules": sorted({r.module for r in count.records if not set(r.operand_dtypes) <= INTEGER_DTYPES})
        if source.content and source.content.recipe.get("activations") == "int8"
        else None,
    }
