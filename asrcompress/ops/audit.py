"""The honesty audit of one file: what it claims, what its bytes and a run of its model prove, and what stands in between.

`audit` is used by analyze, on checkpoints and artifacts; `audit_artifact` by every command that writes an artifact.
Judging is in metrics/honesty*.py; here are the file and the run. Writes and prints nothing.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from asrcompress.ahead import in_order
from asrcompress.artifact import ArtifactContent
from asrcompress.artifact_file import byte_ledger, read_record
from asrcompress.errors import AsrCompressError
from asrcompress.grids import QuantizedWeight
from asrcompress.mapped import outlines
from asrcompress.metrics.honesty import LEVELS, Finding, float_ops, holders, judge_run, never_ran, reached
from asrcompress.metrics.honesty_coverage import Stored, coverage
from asrcompress.metrics.honesty_fake import FakeQuantized, examine, fake_quantized
from asrcompress.metrics.honesty_file import judge_file
from asrcompress.metrics.honesty_weight import Claim, WeightFacts, count_weight, miscounts
from asrcompress.metrics.trace import Trace, trace_run
from asrcompress.modules.swap import find_weights
from asrcompress.ops.claims import recipe_claims
from asrcompress.ops.load import LoadedModel, Source, build_float
from asrcompress.sparse import SparseWeight
from asrcompress.stored_weight import PARTS

AUDIT_DURATION_S = 1.0
DECODED_TOKENS = 4
BYTES_AT_WORK = 4  # an element of a weight that is counted
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
    claims = recipe_claims(source)
    facts = _facts(source, claims)
    findings = [*_file_findings(source, facts), *judge_run(loaded.module, trace, unused=unused)]
    traces = {"forward": trace}
    if source.content and source.family.TASK == "asr":
        traces["decoding"] = trace_decoding(loaded)
        known = {finding.text for finding in findings}
        late = judge_run(loaded.module, traces["decoding"], is_whole=False)
        findings += [Finding(f.level, f"while decoding: {f.text}") for f in late if f.text not in known]
    fakes = fake_quantized(source.tensors)
    claimed = source.content.recipe.get("level") if source.content else None
    level = reached(findings, any_packed=bool(_tables(facts)["codes"]))
    return {
        "claimed": claimed,
        "reached": level,
        "violations": _violations(findings, claimed, level, _miscounts(source, facts, claims))
        + [fake.text for fake in fakes],
        "prevents": _prevents(findings, level),
        "unused": unused,
        "coverage": coverage(stored_tensors(source), trace, holders(loaded.module), size_bytes=source.size_bytes),
        "float_ops": _float_ops(traces),
        "crossings": _crossings(traces),
        **_tables(facts),
        "fake_quantized": [fake.record() for fake in fakes],
    }


def audit_file(source: Source, warning: str) -> dict[str, Any]:
    """The `honesty` block of a file whose model was not run: what its bytes prove, which is level stored at most.

    Looks at one weight at a time. What only a run tells is null, and `warning` says why there was none. Levels above are
    not reached, since nothing proves them; that contradicts no claim.
    """
    claims = recipe_claims(source)
    facts, fakes = _read_once(source, claims)
    findings = _file_findings(source, facts)
    claimed = source.content.recipe.get("level") if source.content else None
    unproven = [Finding("computed", warning)]
    level = reached([*findings, *unproven], any_packed=bool(_tables(facts)["codes"]))
    provable = claimed if claimed not in LEVELS or LEVELS.index(claimed) <= LEVELS.index("stored") else "stored"
    return {
        "claimed": claimed,
        "reached": level,
        "violations": _violations(findings, provable, level, _miscounts(source, facts, claims))
        + [fake.text for fake in fakes],
        "prevents": _prevents([*findings, *unproven], level),
        "unused": None,
        "coverage": None,
        "float_ops": None,
        "crossings": None,
        **_tables(facts),
        "fake_quantized": [fake.record() for fake in fakes],
        "warning": warning,
    }


def _facts(source: Source, claims: Mapping[str, Claim]) -> dict[str, WeightFacts]:
    """What is counted in each packed and each sparse weight."""
    return {} if source.content is None else {name: facts for name, facts, _ in _counted(source.content, claims)}


def _read_once(source: Source, claims: Mapping[str, Claim]) -> tuple[dict[str, WeightFacts], list[FakeQuantized]]:
    """`_facts`, and what `fake_quantized` finds in the source's tensors, with every weight read once for both."""
    content = source.content
    if content is None:
        return {}, fake_quantized(source.tensors)
    facts, fakes = {}, fake_quantized(content.floats)
    for name, fact, fake in _counted(content, claims, examines=True):
        facts[name] = fact
        if fake is not None:
            fakes.append(fake)
    return facts, fakes


def _counted(
    content: ArtifactContent, claims: Mapping[str, Claim], *, examines: bool = False
) -> Iterator[tuple[str, WeightFacts, FakeQuantized | None]]:
    """(name, what is counted in it, whether it is a sparse float that is fake-quantized; if asked for) of each weight."""
    groups: tuple[Mapping[str, QuantizedWeight | SparseWeight], ...] = (content.quantized, content.sparse)
    sizes = [{name: math.prod(weight.shape) for name, weight in outlines(group).items()} for group in groups]

    def count(key: tuple[int, str]) -> tuple[WeightFacts, FakeQuantized | None]:
        place, name = key
        weight = groups[place][name]
        is_examined = examines and isinstance(weight, SparseWeight)
        fake = examine(name, weight.dequantize()) if is_examined else None
        return count_weight(name, weight, claims.get(name)), fake

    keys = [(place, name) for place, group in enumerate(groups) for name in group]
    for (_, name), found in in_order(keys, count, lambda key: BYTES_AT_WORK * sizes[key[0]][key[1]]):
        yield name, *found


def _tables(facts: Mapping[str, WeightFacts]) -> dict[str, Any]:
    """A row for every packed weight and, where there are some, every sparse float one."""
    rows = [fact.row for fact in facts.values()]
    sparse = [row for row in rows if "dtype" in row]
    return {"codes": [row for row in rows if "num_bits" in row]} | ({"sparse": sparse} if sparse else {})


def _miscounts(source: Source, facts: Mapping[str, WeightFacts], claims: Mapping[str, Claim]) -> list[str]:
    """Claims about zeros that no count bears out: of stored weights, and of dense floats that the recipe says are sparse."""
    lines = [line for fact in facts.values() for line in fact.miscounts]
    floats = source.content.floats if source.content else {}
    for name, claim in claims.items():
        if name in floats:
            tensor = floats[name]
            lines += miscounts(name, tensor.reshape(len(tensor), -1) != 0, claim, who="the recipe ")
    return lines


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
    found, sizes = [], {}
    if source.content is not None:
        sizes = {entry["name"]: entry["size_bytes"] for entry in byte_ledger(source.path)}
        groups: list[Mapping[str, QuantizedWeight | SparseWeight]] = [source.content.quantized, source.content.sparse]
        for group in groups:
            for name, weight in outlines(group).items():
                size = sum(sizes.get(f"{name}_{part}", 0) for part in PARTS)
                found.append(Stored(name, _dtype(weight), math.prod(weight.shape), size, True))
    seen = set()
    sparse = source.content.sparse if source.content else {}
    for name, tensor in source.tensors.items():
        if name in sparse or (tensor.data_ptr() in seen and tensor.numel()):
            continue
        seen.add(tensor.data_ptr())
        size = sizes.get(name, tensor.numel() * tensor.element_size())
        dtype = str(tensor.dtype).removeprefix("torch.")
        found.append(Stored(name, dtype, tensor.numel(), size, tensor.dim() > 1))
    return found


def _dtype(weight: QuantizedWeight | SparseWeight) -> str:
    if isinstance(weight, QuantizedWeight):
        return f"int{weight.num_bits}"
    return str(weight.values.dtype).removeprefix("torch.")


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


def _file_findings(source: Source, facts: Mapping[str, WeightFacts]) -> list[Finding]:
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
        facts=facts,
        sparse=content.sparse,
    )
    with torch.device("meta"):  # names alone
        model: nn.Module = build_float(source)
    sites = {site.tied_to or site.name: site.kind for site in find_weights(model)}
    for name, kind in sites.items():
        if name in content.sparse:
            dtype = f"sparse {_dtype(outlines(content.sparse)[name])}"
            findings.append(Finding("stored", f"{name} ({kind}): could be packed and is stored in {dtype}"))
        elif name not in content.quantized and name in content.floats:
            dtype = str(outlines(content.floats)[name].dtype).removeprefix("torch.")
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


def _violations(findings: list[Finding], claimed: str | None, level: str, miscounts: list[str]) -> list[str]:
    """What contradicts the claims: lines that rule out the claimed level or one below it, and wrong counts at any level."""
    if claimed not in LEVELS:
        return _capped(miscounts)
    lines = [finding.text for finding in findings if LEVELS.index(finding.level) <= LEVELS.index(claimed)]
    lines += [line for line in miscounts if line not in lines]
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
