"""From the sidecars of tools/kws.sh to docs/experiments/kws.json: what the page shows, and nothing that is not in a sidecar."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.results import ROOT

FILE = ROOT / "docs" / "experiments" / "kws.json"
PUBLISHED = "base"
# Rows of the page: name of the sidecars -> what it is called. Of several seeds, the name without its end is one row of the spread.
STUDENTS = {"c4h32": "C=4, H=32", "c4h16": "C=4, H=16", "c2h12-s1": "C=2, H=12"}
INT8 = {"base-int8": "base, int8, scales as they come", "c2h12-s1-int8": "C=2, H=12, int8, scales as they come"}
PACKED = {
    "c4h32-int2": "C=4, H=32, int2",
    "c4h16-int2": "C=4, H=16, int2",
    "c2h12-int4": "C=2, H=12, int4",
    "c2h12-int2-s1": "C=2, H=12, int2",
    "c2h12-int2t-s1": "C=2, H=12, int2, a scale a tensor (seed 1)",
    "c2h12-int2t-s3": "C=2, H=12, int2, a scale a tensor (seed 3)",
}
SPREADS = {
    "c2h12": "C=2, H=12, float",
    "c2h12-int2": "C=2, H=12, int2",
    "c2h12-int2t": "C=2, H=12, int2, a scale a tensor",
}
SEEDS = (1, 2, 3)
NO_LOSS, SMALLEST = "c2h12-int2t-s3", "c2h12-int2t-s1"
RUNNING = {"base": "base", "no-loss": PACKED[NO_LOSS], "smallest": PACKED[SMALLEST]}
CUTTINGS = range(1, 21)


def collect(out: Path) -> dict[str, Any]:
    """All figures of the page.

    Raises:
        OSError: a sidecar is missing.
    """
    names = [PUBLISHED, *STUDENTS, *INT8, *PACKED, *(f"{row}-s{seed}" for row in SPREADS for seed in SEEDS)]
    return {
        "num_test": _read(out / f"{PUBLISHED}.eval.json")["metrics"]["num_scored"],
        "files": {name: _file(out, name) for name in dict.fromkeys(names)},
        "streaming": {name: [_streaming(out, name, seed) for seed in CUTTINGS] for name in RUNNING},
        "long_form": {name: _long_form(out, name) for name in RUNNING},
    }


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _file(out: Path, name: str) -> dict[str, Any]:
    measured, counted = _read(out / f"{name}.eval.json"), _read(out / f"{name}.analyze.json")
    if measured["model"]["sha256"] != counted["model"]["sha256"]:
        raise ValueError(f"{name}: eval and analyze are of different files")
    metrics, interval = measured["metrics"], measured["intervals"]["au_fa_fr"]
    levels = {
        "level": counted["honesty"]["reached"],
        "violations": len(counted["honesty"]["violations"]),
        "num_float_ops": len(counted["honesty"]["float_ops"]),
    }
    made = out / f"{name}.safetensors.json"
    training = _read(made).get("training") if made.is_file() else None
    ledger: dict[str, int] = {}
    for entry in counted["ledger"]["entries"]:
        ledger[entry["kind"]] = ledger.get(entry["kind"], 0) + entry["size_bytes"]
    return {
        "num_params": metrics["num_params"],
        "size_bytes": metrics["size_bytes"],
        "sha256": measured["model"]["sha256"],
        "macs": counted["metrics"]["macs"],
        "thop_conv_bias_macs": counted["metrics"]["thop_conv_bias_macs"],
        "au_fa_fr": metrics["au_fa_fr"],
        "interval": [interval["low"], interval["high"]],
        "false_accepts": metrics["false_accepts"],
        "false_rejects": metrics["false_rejects"],
        "ledger": ledger,
        **levels,
        "training": training and {
            "options": training["options"],
            "num_updates": training["num_updates"],
            "best": {key: training["best"][key] for key in ("update", "metric", "loss")},
            "written": training["written"],
        },
    }  # fmt: skip


def _streaming(out: Path, name: str, seed: int) -> dict[str, Any]:
    record = _read(out / f"{name}.streaming-{seed}.json")["streaming"]
    keys = ("chunk_ms", "num_chunks", "num_steps", "max_difference", "num_different", "max_clip_difference", "latency_ms",
            "cpu_real_time_factor", "state_bytes", "algorithmic_latency_ms")  # fmt: skip
    return {key: record[key] for key in keys}


def _long_form(out: Path, name: str) -> dict[str, Any]:
    record = _read(out / f"{name}.long-form.json")["long_form"]
    return {key: value for key, value in record.items() if key not in ("curve", "trace", "false_accept_events")}


def write_results(out: Path) -> None:
    """Write docs/experiments/kws.json."""
    FILE.write_text(json.dumps(collect(out), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
