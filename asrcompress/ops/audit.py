"""The honesty audit of one file: what it claims, what its bytes and a run of its model prove, and what stands in between.

`audit` is used by analyze, on checkpoints and artifacts; `audit_artifact` by every command that writes an artifact.
Judging is in metrics/honesty*.py; here are the file and the run. Writes and prints nothing.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from asrcompress.artifact import byte_ledger, read_record
from asrcompress.errors import AsrCompressError
from asrcompress.metrics.honesty import LEVELS, Finding, float_ops, holders, judge_run, never_ran, reached
from asrcompress.metrics.honesty_coverage import Stored, coverage
from asrcompress.metrics.honesty_fake import fake_quantized
from asrcompress.metrics.honesty_file import code_table, judge_file
from asrcompress.metrics.trace import Trace, trace_run
from asrcompress.modules.swap import find_weights
from asrcompress.ops.load import LoadedModel, Source, build_float

AUDIT_DURATION_S = 1.0
DECODED_TOKENS = 4
MOST_LINES = 50  # per level, of what rules it out


def audit_artifact(source: Source, loaded: LoadedModel) -> dict[str, Any]:
    """The `honesty` block of a sidecar, from a run on a second of noise and, where there is a decoder, a short search."""
    inputs = noise(example_inputs(source, AUDIT_DURATION_S))
    with torch.no_grad():
        trace = trace_run(loaded.module, lambda: loaded.module(*inputs))
    return audit(source, loaded, trace, inputs)


def audit(source: Source, loaded: LoadedModel, trace: Trace, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
    """The `honesty` block: claimed and reached level, what contradicts them, coverage, floats left, codes.

    Args:
        source: the file.
        loaded: its model, on CPU.
        trace: a forward pass of it, meant to reach every module.
        inputs: what that pass was given.
    """
    unused = _unused(source, loaded, trace, inputs)
    findings = [*_file_findings(source), *judge_run(loaded.module, trace, unused=unused)]
    traces = {"forward": trace}
    if source.content and source.family.TASK == "asr":
        traces["decoding"] = trace_decoding(loaded)
        known = {finding.text for finding in findings}
        late = judge_run(loaded.module, traces["decoding"], is_whole=False)
        findings += [Finding(f.level, f"while decoding: {f.text}") for f in late if f.text not in known]
    fakes = fake_quantized(source.tensors)
    claimed = source.content.recipe.get("level") if source.content else None
    quantized = source.content.quantized if source.content else {}
    level = reached(findings, any_packed=bool(quantized))
    return {
        "claimed": claimed,
        "reached": level,
        "violations": _violations(findings, claimed, level) + [fake.text for fake in fakes],
        "prevents": _prevents(findings, level),
        "unused": unused,
        "coverage": coverage(stored_tensors(source), trace, holders(loaded.module), size_bytes=source.size_bytes),
        "float_ops": _float_ops(traces),
        "crossings": _crossings(traces),
        "codes": code_table(quantized),
        "fake_quantized": [fake.record() for fake in fakes],
    }


def check_level(level: str) -> None:
    """Raise AsrCompressError when there is no such level."""
    if level not in LEVELS:
        raise AsrCompressError(f"--require-level {level}: use one of {', '.join(LEVELS)}")


def shortfall(honesty: dict[str, Any], level: str) -> str | None:
    """One line that says why a file does not reach `level`, the first reasons named; None when it does."""
    check_level(level)
    if LEVELS.index(honesty["reached"]) >= LEVELS.index(level):
        return None
    reasons = [line for name in LEVELS[: LEVELS.index(level) + 1] for line in honesty["prevents"].get(name, [])]
    more = "; more in the sidecar" if len(reasons) > 3 else ""
    return f"level {level} is required, {honesty['reached']} is reached: {'; '.join(reasons[:3])}{more}"


def example_inputs(source: Source, duration_s: float) -> tuple[Tensor, ...]:
    """What the family's forward takes, of this length."""
    inputs: tuple[Tensor, ...] = source.family.example_inputs(source.spec, duration_s, None, 1)[0]
    return inputs


def noise(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same shapes with noise in the place of silence, so that the codes of a run are not all zero; repeatable."""
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype) if tensor.is_floating_point() else tensor
        for tensor in inputs
    )


def trace_decoding(loaded: LoadedModel) -> Trace:
    """A greedy transcription of a second of noise, as `eval` decodes; a few tokens where a decoder writes them."""
    family, spec = loaded.source.family, loaded.source.spec
    samples = np.random.default_rng(0).standard_normal(int(AUDIT_DURATION_S * family.SAMPLE_RATE_HZ)) * 0.1
    features = family.features(spec, samples.astype(np.float32))
    transcribe = family.transcriber(spec, loaded.module, beam=1, max_len_b=DECODED_TOKENS)
    with torch.no_grad():
        return trace_run(loaded.module, lambda: transcribe([features]))


def stored_tensors(source: Source) -> list[Stored]:
    """Every tensor of the model with its bytes in the file, tied ones once."""
    found = []
    if source.content is not None:
        sizes = {entry["name"]: entry["size_bytes"] for entry in byte_ledger(source.path)}
        for name, weight in source.content.quantized.items():
            size = sum(sizes.get(f"{name}_{part}", 0) for part in ("packed", "pattern", "scale", "zero_point"))
            found.append(Stored(name, f"int{weight.num_bits}", weight.codes.numel(), size, True))
    seen = set()
    for name, tensor in source.tensors.items():
        if tensor.data_ptr() in seen and tensor.numel():
            continue
        seen.add(tensor.data_ptr())
        size = tensor.numel() * tensor.element_size()
        dtype = str(tensor.dtype).removeprefix("torch.")
        found.append(Stored(name, dtype, tensor.numel(), size, tensor.dim() > 1))
    return found


def _unused(source: Source, loaded: LoadedModel, trace: Trace, inputs: tuple[Tensor, ...]) -> list[str]:
    """Packed modules that never ran because the model has no use for them: its float version takes in none of their
    parameters either (a head that only training needs)."""
    idle = never_ran(holders(loaded.module), trace)
    if not idle:
        return []
    model = build_float(source)
    with torch.no_grad():
        used = trace_run(model, lambda: model(*inputs)).parameters
    names = {holder.name: [name for name in _names(model) if name.startswith(f"{holder.name}.")] for holder in idle}
    return [name for name, parameters in names.items() if parameters and used.isdisjoint(parameters)]


def _names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters(remove_duplicate=False)]


def _float_ops(traces: dict[str, Trace]) -> list[dict[str, Any]]:
    """Every float operation of every run; what decoding shares with the forward pass is listed once."""
    listed: dict[tuple[str, str], dict[str, Any]] = {}
    for run, trace in traces.items():
        for entry in float_ops(trace):
            listed.setdefault((entry["module"], entry["op"]), {"run": run, **entry})
    return list(listed.values())


def _crossings(traces: dict[str, Trace]) -> list[dict[str, Any]]:
    keys = ("module", "op", "shape", "num_bits", "fault")
    return [
        {"run": run} | {key: getattr(crossing, key) for key in keys} | {"shape": list(crossing.shape)}
        for run, trace in traces.items()
        for crossing in trace.crossings
    ]


def _file_findings(source: Source) -> list[Finding]:
    """What the file alone shows: hidden copies, sizes, patterns, and weights that could be packed and are not."""
    content = source.content
    if content is None:
        return [Finding("partial", "no weight is packed: the file holds floats")]
    gaps, record = unclaimed(source.path)
    findings = judge_file(
        content.quantized,
        content.floats,
        byte_ledger(source.path),
        size_bytes=source.size_bytes,
        gaps=gaps,
        record=record,
    )
    model: nn.Module = build_float(source)
    sites = {site.tied_to or site.name: site.kind for site in find_weights(model)}
    for name, kind in sites.items():
        if name not in content.quantized and name in content.floats:
            dtype = str(content.floats[name].dtype).removeprefix("torch.")
            findings.append(Finding("stored", f"{name} ({kind}): could be packed and is stored in {dtype}"))
    return findings


def unclaimed(path: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """(bytes of an artifact that no tensor claims, by where they are; its JSON record). Reads no tensor but that."""
    tensors, record = read_record(path)
    with open(path, "rb") as handle:
        (length,) = struct.unpack("<Q", handle.read(8))
        text = handle.read(length)
        gaps: dict[str, bytes] = {}
        padding = text[len(text.rstrip(b" ")) :]
        if len(padding) >= 64:  # safetensors aligns the data with a few spaces
            gaps["header, behind its JSON"] = padding
        for key, value in json.loads(text).get("__metadata__", {}).items():
            if key != "format":
                gaps[f"header, metadata '{key}'"] = str(value).encode()
        covered = 0
        for name, entry in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = entry["data_offsets"]
            if begin > covered:
                handle.seek(8 + length + covered)
                gaps[f"gap before {name}"] = handle.read(begin - covered)
            covered = max(covered, end)
        handle.seek(8 + length + covered)
        if rest := handle.read():
            gaps["gap at the end"] = rest
    return gaps, record


def _violations(findings: list[Finding], claimed: str | None, level: str) -> list[str]:
    """What contradicts the claim: lines that rule out the claimed level or one below it."""
    if claimed not in LEVELS:
        return []
    lines = [finding.text for finding in findings if LEVELS.index(finding.level) <= LEVELS.index(claimed)]
    if LEVELS.index(level) < LEVELS.index(claimed):
        lines.insert(0, f"claims level {claimed}, reaches {level}")
    return _capped(lines)


def _prevents(findings: list[Finding], level: str) -> dict[str, list[str]]:
    """Level -> what rules it out, for the levels that are not reached."""
    return {
        name: _capped(lines)
        for name in LEVELS[LEVELS.index(level) + 1 :]
        if (lines := [finding.text for finding in findings if finding.level == name])
    }


def _capped(lines: list[str]) -> list[str]:
    return lines if len(lines) <= MOST_LINES else [*lines[:MOST_LINES], f"and {len(lines) - MOST_LINES} more"]
