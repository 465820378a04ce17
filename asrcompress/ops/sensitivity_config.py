"""Options of `sensitivity`, checked where they enter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asrcompress.errors import AsrCompressError
from asrcompress.ops.recipe import QuantizeConfig
from asrcompress.ops.units import Option
from asrcompress.patterns import Pattern, parse_pattern, pattern_name
from asrcompress.quantizers import needs_statistics, supported_bits
from asrcompress.quantizers.support import require_bits
from asrcompress.sparsifiers import needs_statistics as sparsifier_needs_statistics


@dataclass(frozen=True)
class SensitivityConfig:
    """What is asked about a model.

    bits, patterns: options are each number of bits, alone and with each pattern. method, granularity, sparsifier: how codes are
    found, as for `quantize`. top: units of weights, and of activations, that are measured whole, since the proxy says that they
    matter. sample: further cells, drawn by `seed`. limit: utterances of the data; None for all. calibration_limit: utterances whose
    inputs the method looks at. activations: whether softmax, layer norms and attention products are rows, too. level: of the file
    that is planned. exclude: shell globs over names of weights that are no rows and stay as they are.
    """

    bits: tuple[int, ...] = (8, 4, 3, 2)
    patterns: tuple[str, ...] = ("2:4", "1:4")
    method: str = "gptq_ls"
    granularity: str = "per_channel"
    sparsifier: str = "sparsegpt"
    top: int = 8
    sample: int = 24
    seed: int = 0
    limit: int | None = None
    calibration_limit: int = 64
    activations: bool = True
    level: str = "stored"
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.bits or len(set(self.bits)) < len(self.bits):
            raise AsrCompressError(f"--bits {','.join(map(str, self.bits))}: give each number once, such as 8,4,3,2")
        for num_bits in self.bits:
            if num_bits != 1:  # which has a method of its own
                require_bits(self.method, num_bits, supported_bits(self.method), f"--bits {num_bits}")
        if len({parse_pattern(pattern) for pattern in self.patterns}) < len(self.patterns):
            raise AsrCompressError(f"--patterns {','.join(self.patterns)}: give each pattern once, such as 2:4,1:4")
        for option, value, least in (
            ("--top", self.top, 0),
            ("--sample", self.sample, 0),
            ("--seed", self.seed, 0),
            ("--limit", 1 if self.limit is None else self.limit, 1),
            ("--calibration-limit", self.calibration_limit, 1),
        ):
            if not least <= value <= 10**6:
                raise AsrCompressError(f"{option} {value}: use {least} to {10**6}")
        self.quantize_config()  # checks method and granularity
        sparsifier_needs_statistics(self.sparsifier)

    @classmethod
    def from_json(cls, options: Mapping[str, Any]) -> SensitivityConfig:
        """The options that a record says were asked for.

        Raises:
            AsrCompressError: one is missing or of another type; the line does not name the record.
        """
        known: dict[str, Any] = {}
        for name, kind in _JSON_TYPES.items():
            value: Any = options.get(name)
            if value is None and name in ("limit", "sparsifier", "exclude"):
                continue
            items = value if type(value) is list else []
            if type(value) is not kind or any(type(item) is not (int if name == "bits" else str) for item in items):
                raise AsrCompressError(f"options.{name} is not as asrcompress sensitivity writes it")
            known[name] = tuple(items) if kind is list else value
        return cls(**known)

    def options(self) -> list[Option]:
        """The columns of the table: every number of bits dense, then with each pattern; most bits first."""
        patterns: list[Pattern | None] = [None, *(parse_pattern(pattern) for pattern in self.patterns)]
        return [Option(bits, pattern) for pattern in patterns for bits in sorted(self.bits, reverse=True)]

    def method_of(self, option: Option) -> str:
        """How codes of an option are found: one bit has a method of its own where the method has no grid for it."""
        return self.method if option.num_bits in supported_bits(self.method) else "binary"

    @property
    def looks_at_inputs(self) -> bool:
        """Whether codes are found by what weights are multiplied by."""
        return needs_statistics(self.method) or (bool(self.patterns) and sparsifier_needs_statistics(self.sparsifier))

    def quantize_config(self) -> QuantizeConfig:
        """What `quantize` is told besides bits and patterns."""
        plain = supported_bits(self.method)
        return QuantizeConfig(
            num_bits=max((bits for bits in self.bits if bits in plain), default=max(plain)),
            method=self.method,
            granularity=self.granularity,
            level=self.level,
            calibration_limit=self.calibration_limit,
            exclude=self.exclude,
        )

    def to_json(self) -> dict[str, Any]:
        """What the record says was asked."""
        return {
            "bits": sorted(self.bits, reverse=True),
            "patterns": [pattern_name(parse_pattern(pattern)) for pattern in self.patterns],
            "method": self.method,
            "granularity": self.granularity,
            "sparsifier": self.sparsifier if self.patterns else None,
            "top": self.top,
            "sample": self.sample,
            "seed": self.seed,
            "limit": self.limit,
            "calibration_limit": self.calibration_limit,
            "activations": self.activations,
            "level": self.level,
            "exclude": list(self.exclude),
        }


_JSON_TYPES: dict[str, type] = {
    "bits": list, "patterns": list, "method": str, "granularity": str, "sparsifier": str, "top": int, "sample": int, "seed": int,
    "limit": int, "calibration_limit": int, "activations": bool, "level": str, "exclude": list,
}  # fmt: skip
