"""What is run: one recipe per run, in four parts.

weights: bits x granularity x method at level stored. levels: how far integers go, and how activation grids are chosen.
kinds: one kind of layer alone at few bits, all else at 8 and 16. best: combinations of what the first three say.
Says nothing about how runs are run (run.py) or shown (page.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NEED_SPEECH = ("gptq", "gptq_asymmetric", "auto")
METHODS = ("rtn", "mse", "asymmetric", "gptq", "gptq_asymmetric", "auto", "binary")
METHODS_OF_RANGES = ("minmax", "percentile", "mse", "kl")
CONV = "encoder.subsample.*"
# Groups must divide the inputs of a row: 144 and 576 of Linear, 80 x 5 and 128 x 5 of the convolutions.
GROUPS = {
    "per_channel": "per_channel",
    "per_tensor": "per_tensor",
    "groups of 48": "per_group:48",
    "groups of 16": "per_group:16",
}
OPERANDS = ("*:in", "*_attn:q", "*_attn:k", "*_attn:v", "*:softmax")

Rules = tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Run:
    """One recipe: `options` and `rules` as a recipe file has them."""

    name: str
    part: str
    options: dict[str, Any]
    rules: Rules = ()

    @property
    def needs_speech(self) -> bool:
        """Whether `quantize` asks for --calibrate."""
        methods = [self.options.get("method"), *(rule.get("method") for rule in self.rules)]
        is_static = self.options.get("level") == "integer-only" or self.options.get("bias_correction", False)
        return is_static or any(method in NEED_SPEECH for method in methods)


@dataclass(frozen=True)
class Kind:
    """A kind of layer that goes to few bits alone: `key` names its runs, `globs` fit its weights or sites."""

    key: str
    label: str
    globs: tuple[str, ...]
    bits: tuple[int, ...]
    is_weight: bool = False


KINDS = (
    Kind("embedding", "Embedding: its table and, tied to it, the output projection", ("decoder.embed_tokens",), (4, 3, 2), True),
    Kind("embedding-out", "Embedding: what comes out of it", ("decoder.embed_tokens:out",), (8, 4)),
    Kind("softmax", "Softmax: the weights that come out", ("*:softmax",), (4, 3, 2)),
    Kind("scores", "Softmax: the scores that go in", ("*_attn:scores",), (8, 6, 4)),
    Kind("layernorm", "LayerNorm: what comes out", ("*layer_norm:out",), (8, 6, 4)),
    Kind("qk", "Attention's first product: q and k", ("*_attn:q", "*_attn:k"), (4, 3)),
    Kind("v", "Attention's second product: v", ("*_attn:v",), (4, 3)),
    Kind("attention", "Both products of attention: q, k, v and softmax", ("*_attn:q", "*_attn:k", "*_attn:v", "*:softmax"), (6, 4, 3)),
    Kind("projections-in", "Attention's projections: inputs", ("*_attn.*_proj:in",), (6, 4)),
    Kind("feedforward-in", "Feed-forward: inputs", ("*fc1:in", "*fc2:in"), (6, 4)),
    Kind("conv-in", "Convolutions: inputs", ("encoder.subsample.*:in",), (6, 4)),
    Kind("residual", "Residual additions: sums", ("*:add*",), (8, 6)),
    Kind("projections", "Attention's projections: weights", ("*_attn.*_proj",), (3, 2), True),
    Kind("feedforward", "Feed-forward: weights", ("*.fc1", "*.fc2"), (3, 2), True),
    Kind("conv", "Convolutions: weights", (CONV,), (3, 2), True),
)  # fmt: skip

LEVELS = ("stored", "computed", "integer-only")
LEVELS_OF = ((8, "rtn"), (4, "rtn"), (4, "auto"))
INTEGER = {"bits": 8, "method": "rtn", "level": "integer-only"}
BASE = "levels-8-rtn-integer-only"


def weights_name(granularity: str, bits: int, method: str) -> str:
    """The name of a run of the first part."""
    return f"weights-{granularity.replace(' ', '-')}-{bits}-{method}"


def methods_of(granularity: str, bits: int) -> tuple[str, ...]:
    """The methods that are tried: all of them per channel, fewer elsewhere."""
    if bits == 1:
        return ("binary",) if granularity in ("per_channel", "groups of 48") else ()
    if granularity == "per_channel":
        return ("rtn", "mse", "gptq", "auto") if bits == 8 else METHODS[:-1]
    if granularity == "per_tensor":
        return ("rtn",) if bits > 2 else ()
    if granularity == "groups of 16":
        return ("rtn", "gptq_asymmetric") if bits < 4 else ()
    return ("rtn",) if bits == 8 else ("rtn", "gptq", "gptq_asymmetric")


def grouped(granularity: str) -> tuple[dict[str, Any], Rules]:
    """Options and rules of a granularity: 48 does not divide the convolutions' inputs, so they have groups of 80."""
    rules = ({"modules": CONV, "granularity": "per_group:80"},) if granularity == "groups of 48" else ()
    return {"granularity": GROUPS[granularity]}, rules


def _weights() -> list[Run]:
    runs = []
    for granularity in GROUPS:
        options, rules = grouped(granularity)
        for bits in (8, 4, 3, 2, 1):
            for method in methods_of(granularity, bits):
                name = weights_name(granularity, bits, method)
                runs.append(Run(name, "weights", {"bits": bits, "method": method, **options}, rules))
    return runs


def level_names(bits: int, method: str) -> list[str]:
    """The names of the runs that differ in how far integers go, scales per channel, by level."""
    return [weights_name("per_channel", bits, method), *(f"levels-{bits}-{method}-{level}" for level in LEVELS[1:])]


def operands_name(bits: int, method: str) -> str:
    """The name of a run with operands of few bits, by how ranges are chosen."""
    return BASE if (bits, method) == (8, METHODS_OF_RANGES[0]) else f"levels-operands-{bits}-{method}"


def _levels() -> list[Run]:
    runs = [
        Run(name, "levels", {"bits": bits, "method": method, "level": level})
        for bits, method in LEVELS_OF
        for name, level in zip(level_names(bits, method)[1:], LEVELS[1:], strict=True)
    ]

    def add(name: str, rules: Rules = (), **options: Any) -> None:
        runs.append(Run(name, "levels", INTEGER | options, rules))

    for method in METHODS_OF_RANGES[1:]:
        add(operands_name(8, method), calibration_method=method)
    for bits in (6, 5, 4):
        rules = tuple({"modules": glob, "activations": f"int{bits}"} for glob in OPERANDS)
        for method in METHODS_OF_RANGES if bits == 5 else ("minmax",) if bits == 6 else ("minmax", "mse"):
            add(operands_name(bits, method), rules, calibration_method=method)
    for bits in (12, 8):
        add(f"levels-intermediate-{bits}", intermediate_bits=bits)
    add("levels-utterances-4", calibration_limit=4)
    for bits, method in ((4, "rtn"), (3, "rtn"), (2, "gptq_asymmetric")):
        options = {"bits": bits, "method": method, "bias_correction": True}
        runs.append(Run(f"levels-bias-{bits}-{method}", "levels", options))
    return runs


def kind_name(kind: Kind, bits: int) -> str:
    """The name of a run of the third part."""
    return f"kinds-{kind.key}-{bits}"


def _kinds() -> list[Run]:
    runs = []
    for kind in KINDS:
        for bits in kind.bits:
            low: dict[str, Any] = {"bits": bits} if kind.is_weight else {"activations": f"int{bits}"}
            runs.append(
                Run(kind_name(kind, bits), "kinds", INTEGER, tuple({"modules": glob} | low for glob in kind.globs))
            )
    return runs


def _best() -> list[Run]:
    """Strategies at level integer-only: few bits by the method that did best, more bits where layers are sensitive."""
    wide, narrow = grouped("groups of 48")[0], grouped("groups of 16")[0]
    conv, embedding = {"modules": CONV}, {"modules": "decoder.embed_tokens"}
    conv_groups = conv | {"granularity": "per_group:80"}
    attention, feedforward = {"modules": "*_attn.*_proj"}, {"modules": "*.fc[12]"}
    runs: list[Run] = []

    def add(name: str, options: dict[str, Any], *rules: dict[str, Any]) -> None:
        runs.append(Run(f"best-{name}", "best", INTEGER | {"method": "gptq_asymmetric"} | options, rules))

    add("3", {"bits": 3})
    add("3-feedforward-2", {"bits": 3}, feedforward | {"bits": 2})
    add("3-attention-2", {"bits": 3}, attention | {"bits": 2})
    add("3-decoder-2", {"bits": 3}, {"modules": "decoder.layers.*", "bits": 2})
    add("3-encoder-2", {"bits": 3}, {"modules": "encoder.transformer_layers.*", "bits": 2})
    for half, layers in (("early", "[012]"), ("late", "[345]")):
        encoder = {"modules": f"encoder.transformer_layers.{layers}", "bits": 2}
        add(f"3-decoder-{half}-encoder-2", {"bits": 3}, {"modules": "decoder.layers.*", "bits": 2}, encoder)
    add("2", {"bits": 2})
    add("2-groups", {"bits": 2} | wide, conv_groups)
    add("2-small-groups", {"bits": 2} | narrow)
    add("2-conv-embedding-4", {"bits": 2}, conv | {"bits": 4}, embedding | {"bits": 4})
    add(
        "2-groups-conv-embedding-4",
        {"bits": 2} | wide,
        conv | {"bits": 4, "granularity": "per_channel"},
        embedding | {"bits": 4},
    )
    return runs


def all_runs() -> list[Run]:
    """Every run, in the order in which they are started."""
    return [*_weights(), *_levels(), *_kinds(), *_best()]
