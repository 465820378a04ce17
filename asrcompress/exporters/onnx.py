"""ONNX graphs with the artifact's own codes in them, checked with ONNX Runtime against the artifact where it is installed.

One graph for each part that a program calls by itself: graphs/ has them, by family. Weights are never stored as floats where
the artifact has integers. Each graph is written with its constants inside, or, from 1 GB on, beside it in `<name>.onnx.data`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from asrcompress.errors import AsrCompressError
from asrcompress.exporters import Exported, Folder, Subject
from asrcompress.exporters.graphs.graph import IR_VERSION, OPSET, PRODUCTS, Graph
from asrcompress.models.targets import SPECIALS

DEFAULT_SUFFIX = "-onnx"
# Family -> a module with graphs(subject) -> list[Graph], and compare(subject, run), which gives (expected, found) logits.
MAPS = {
    "kws_crnn": "asrcompress.exporters.graphs.kws",
    "s2t_transformer": "asrcompress.exporters.graphs.s2t",
    "s2t_conformer": "asrcompress.exporters.graphs.s2t",
    "asr_vggtransformer": "asrcompress.exporters.graphs.vgg_decoder",
    "asr_vggtransformer_encoder": "asrcompress.exporters.graphs.vgg",
    "wav2vec_ctc": "asrcompress.exporters.graphs.wav2vec",
    "hubert_ctc": "asrcompress.exporters.graphs.wav2vec",
}
INLINE_BYTES = 1 << 30  # protobuf holds 2 GB at most
Run = Callable[[str, dict[str, Any]], dict[str, Any]]


def export(subject: Subject, files: Folder) -> Exported:
    """Write one `.onnx` file a graph, the list of output units, and compare logits.

    Raises:
        AsrCompressError: the package onnx is missing, the family has no graphs, or a module of the model has no ONNX form.
    """
    try:
        import onnx
    except ImportError as error:
        raise AsrCompressError(
            f"{subject.path}: export to ONNX needs the package onnx ({error}); install it: pip install 'onnx>=1.17,<2' 'onnxruntime>=1.32,<2'"
        ) from error
    family = subject.spec.family
    if family not in MAPS:
        raise AsrCompressError(
            f"{subject.path}: is a {family}, which has no ONNX graphs yet; these have: {', '.join(MAPS)}"
        )
    family_map = import_module(MAPS[family])
    try:
        graphs: list[Graph] = family_map.graphs(subject)
    except AsrCompressError as error:
        raise AsrCompressError(f"{subject.path}: {error}") from error
    metadata = _metadata(subject)
    models = {graph.name: graph.model(metadata) for graph in graphs}
    paths = {graph.name: _save(onnx, models[graph.name], graph, files) for graph in graphs}
    if subject.spec.vocabulary is not None:
        lines = (f"{symbol} {number}\n" for number, symbol in enumerate((*SPECIALS, *subject.spec.vocabulary)))
        files.write("units.txt", "output units and their numbers", "".join(lines))
    check = _check(family_map, subject, paths)
    counts = Counter(node.op_type for graph in graphs for node in graph.nodes)
    record = {
        "opset": OPSET,
        "ir_version": IR_VERSION,
        "products": {kind: counts[kind] for kind in PRODUCTS if counts[kind]},
        "graphs": {f"{graph.name}.onnx": _signature(models[graph.name]) for graph in graphs},
        "check": check,
    }
    notes = [_told(check)]
    difference = None if check is None else check["max_logit_difference"]
    main = f"{graphs[0].name}.onnx" if len(graphs) == 1 else None
    return Exported(main, record, {"max_logit_difference": difference}, tuple(notes))


def _metadata(subject: Subject) -> dict[str, str]:
    """What a program that has only the graph may want to know, as the file's metadata."""
    config = subject.spec.config
    return {
        "asrcompress.family": subject.spec.family,
        "asrcompress.sha256": subject.sha256,
        **({"asrcompress.front_end": json.dumps(config["front_end"], sort_keys=True)} if "front_end" in config else {}),
    }


def _save(onnx: Any, model: Any, graph: Graph, files: Folder) -> Path:
    name = f"{graph.name}.onnx"
    path = files.path(name, graph.role)
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size < INLINE_BYTES:
        path.write_bytes(model.SerializeToString(deterministic=True))
        return path
    data = files.path(f"{name}.data", f"constants of {name}")
    onnx.save_model(model, path, save_as_external_data=True, location=data.name, size_threshold=1024)
    return path


def _signature(model: Any) -> dict[str, dict[str, str]]:
    """Inputs and outputs with type and shape; free sizes are words."""
    from onnx import TensorProto

    def described(values: Any) -> dict[str, str]:
        found = {}
        for value in values:
            kind = value.type.tensor_type
            sizes = ", ".join(size.dim_param or str(size.dim_value) for size in kind.shape.dim)
            found[value.name] = f"{TensorProto.DataType.Name(kind.elem_type).lower()} [{sizes}]"
        return found

    return {"inputs": described(model.graph.input), "outputs": described(model.graph.output)}


def _check(family_map: Any, subject: Subject, paths: dict[str, Path]) -> dict[str, Any] | None:
    """Logits of the graphs against the model's own; None where ONNX Runtime is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    sessions: dict[str, Any] = {}

    def run(name: str, feeds: dict[str, Any]) -> dict[str, Any]:
        if name not in sessions:
            sessions[name] = onnxruntime.InferenceSession(paths[name], options, providers=["CPUExecutionProvider"])
        outputs = [value.name for value in sessions[name].get_outputs()]
        return dict(zip(outputs, sessions[name].run(outputs, feeds), strict=True))

    expected, found = family_map.compare(subject, run)
    difference = np.abs(found - expected)
    if not np.isfinite(difference).all():
        raise AsrCompressError(f"{subject.path}: its ONNX graphs give numbers that are none; report this model")
    return {
        "runtime": f"onnxruntime {onnxruntime.__version__}",
        "num_logits": int(expected.size),
        "max_logit": float(np.abs(expected).max()),
        "max_logit_difference": float(difference.max()),
        "mean_logit_difference": float(difference.mean()),
        "same_best_share": float((found.argmax(-1) == expected.argmax(-1)).mean()),
    }


def _told(check: dict[str, Any] | None) -> str:
    if check is None:
        return "not checked against the model: onnxruntime is not installed (pip install 'onnxruntime>=1.32,<2')"
    return (
        f"checked with {check['runtime']}: logits differ from the model's by {check['max_logit_difference']:.2g} at most, "
        f"{check['mean_logit_difference']:.2g} on average, where the largest is {check['max_logit']:.3g}"
    )
