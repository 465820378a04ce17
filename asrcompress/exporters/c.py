"""A keyword model of level integer-only as one C source and its header, for machines without floating point.

Log-mel frames come in as codes of the artifact's input grid, logits go out as codes; the front-end that makes log-mel of
audio is not in it. Weights stay packed. What does not fit is refused by c_network.py.
"""

from __future__ import annotations

import subprocess
from typing import Any

from asrcompress.exporters import Exported, Folder, Subject
from asrcompress.exporters.c_measure import count_different_steps, has_gcc, measure
from asrcompress.exporters.c_network import read_network
from asrcompress.exporters.c_text import Sources, c_name, write_sources

DEFAULT_SUFFIX = "-c"
WINDOW_S = 1.0  # of audio that the attention sees, as `eval --streaming` has it


def export(subject: Subject, files: Folder) -> Exported:
    """Write NAME.c and NAME.h, NAME after the folder; with gcc at hand, measured and compared with the model.

    Raises:
        AsrCompressError: no keyword model, not integer-only all through, or too large for C's types.
    """
    window_steps = _window_steps(subject)
    network = read_network(subject, window_steps)
    name = c_name(files.stem)
    sources = write_sources(network, name, subject.path.name, subject.sha256, _front_end())
    files.write(f"{name}.c", "C99 source: model and weights, integers alone", sources.source)
    files.write(f"{name}.h", "its header", sources.header)
    record: dict[str, Any] = {
        "name": name,
        "window_steps": window_steps,
        "input_grid": network.input.to_json(),
        "logit_grid": network.logits.to_json(),
        "weight_bits": sorted({product.code_bits for product in network.products}),
        "table_bytes": sources.table_bytes,
        "compiler": None,
        "target": None,
        "stack_bytes": None,
        "num_compared_steps": None,
    }
    if not has_gcc():
        note = (
            "gcc or size is not installed: flash and stack are not measured, nor is the source compared with the model"
        )
        return _exported(name, sources, record, None, None, note)
    try:
        compiled = measure(sources.source, sources.header, name)
        different, compared = count_different_steps(sources.source, sources.header, name, network, subject.module)
    except (subprocess.SubprocessError, OSError) as error:
        note = f"gcc here does not compile it ({_cause(error)}): flash and stack are not measured, nor is it compared with the model"
        return _exported(name, sources, record, None, None, note)
    if different:
        raise ValueError(f"{different} of {compared} steps differ between the C source and the model")
    record |= {
        "compiler": compiled.compiler,
        "target": compiled.target,
        "stack_bytes": compiled.stack_bytes,
        "num_compared_steps": compared,
    }
    note = (
        f"flash {compiled.flash_bytes:,} bytes ({compiled.target}, -Os), of them {sum(sources.table_bytes.values()):,} of numbers; RAM "
        f"{sources.state_bytes:,} bytes a stream and {compiled.stack_bytes:,} of stack; all {compared} steps that were compared are equal"
    )
    return _exported(name, sources, record, compiled.flash_bytes, sources.state_bytes + compiled.stack_bytes, note)


def _exported(
    name: str, sources: Sources, record: dict[str, Any], flash_bytes: int | None, ram_bytes: int | None, note: str
) -> Exported:
    metrics = {
        "flash_bytes": flash_bytes,
        "ram_bytes": ram_bytes,
        "state_bytes": sources.state_bytes,
        "num_different_steps": None if flash_bytes is None else 0,
    }
    return Exported(f"{name}.c", record, metrics, (note,))


def _window_steps(subject: Subject) -> int:
    from asrcompress.models.kws_stream import window_steps

    return window_steps(subject.spec, WINDOW_S) if subject.spec.family == "kws_crnn" else 0


def _front_end() -> dict[str, int]:
    from asrcompress.models.kws_crnn import HOP, SAMPLE_RATE_HZ, WINDOW

    return {"sample_rate_hz": SAMPLE_RATE_HZ, "window_samples": WINDOW, "hop_samples": HOP}


def _cause(error: Exception) -> str:
    said = str(getattr(error, "stderr", None) or error).strip().splitlines()
    return next((line for line in said if "error" in line), said[0] if said else type(error).__name__)
