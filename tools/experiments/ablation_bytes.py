"""What the packed and sparse weights of an artifact take, beside what their bits and patterns take by arithmetic.

    python -m experiments.ablation_bytes ARTIFACT OUTPUT.json

Reads the file's header and its JSON, no tensor; counts for itself, by the formulas of docs/artifact-format.md.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CODES, SCALES = ("packed", "pattern", "values", "bitmask"), ("scale", "zero_point")
FLOAT_BITS = {"float32": 32, "float16": 16, "bfloat16": 16}
TYPE_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "U8": 1, "I8": 1}


def weight_bits(entry: Mapping[str, Any]) -> float:
    """Bits of a weight's codes (or kept values) and group codes, without scales: keep_n/group_m x bits + ceil(log2 C)/group_m a weight.

    Args:
        entry: of `weights` in the artifact's JSON.
    """
    num_params = math.prod(entry["shape"])
    bits = entry["num_bits"] if "num_bits" in entry else FLOAT_BITS[entry["dtype"]]
    pattern = entry.get("pattern")
    if pattern is None:
        return float(num_params * bits)
    keep_n, group_m = map(int, pattern.split(":"))
    group_code = math.ceil(math.log2(math.comb(group_m, keep_n)))
    return num_params / group_m * (keep_n * bits + group_code)


def count(weights: Mapping[str, Any], stored: Mapping[str, Any], coded: Mapping[str, Any]) -> dict[str, float]:
    """Bytes of all packed and sparse weights together.

    Args:
        weights: of the artifact's JSON.
        stored: the header's entries by tensor.
        coded: (type, shape) of entropy coded tensors before they were coded.

    Returns:
        num_params; theoretical: of codes and group codes, by arithmetic; packed: the same in the file before entropy coding;
        scales: of scales and zero points, before; coded: of both, as stored.
    """
    found = {"num_params": 0, "theoretical": 0.0, "packed": 0, "scales": 0, "coded": 0}
    for name, entry in weights.items():
        found["num_params"] += math.prod(entry["shape"])
        found["theoretical"] += weight_bits(entry) / 8
        for key, parts in (("packed", CODES), ("scales", SCALES)):
            for tensor in (f"{name}_{part}" for part in parts):
                if tensor in stored:
                    begin, end = stored[tensor]["data_offsets"]
                    dtype, shape = coded.get(tensor, (stored[tensor]["dtype"], stored[tensor]["shape"]))
                    found[key] += TYPE_BYTES[dtype] * math.prod(shape)
                    found["coded"] += end - begin
    return found


def main(arguments: list[str]) -> int:
    """Count, and write."""
    from asrcompress.artifact_file import read_record

    stored, record = read_record(arguments[0])
    found = count(record["weights"], stored, record.get("coded", {}))
    Path(arguments[1]).write_text(json.dumps(found) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
