"""What is run for the section "Few bits and few weights together": what is stored, one-shot and fine-tuned, and how training is done.

CONFIGURATIONS is the one place where methods and hyperparameters of every row stand; ABLATED says what is varied of one of them.
Says nothing about how rows are run (ablation_run.py), stored (ablation_results.py) or shown (ablation_section.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

Options = dict[str, Any]

# Of every row that is fine-tuned; options as a recipe's table [finetune] has them.
FINETUNE: Options = {
    "epochs": 6,
    "limit": 3000,
    "batch_size": 32,
    "distillation": 0.7,
    "mask_schedule": "one-shot",
    "scales": "learned",
    "seed": 1,
}


@dataclass(frozen=True)
class Configuration:
    """What is stored of the weights.

    options: of quantize, or of sparsify where there are no bits. finetune: what differs from FINETUNE.
    """

    label: str
    options: Options
    finetune: Options

    @property
    def name(self) -> str:
        """Of its files."""
        return self.label.replace("+", "-").replace(":", "-")


CONFIGURATIONS = (
    Configuration("int8", {"bits": 8, "method": "gptq"}, {"learning_rate": 1e-4}),
    Configuration("int4", {"bits": 4, "method": "gptq"}, {"learning_rate": 3e-5}),
    Configuration("int2", {"bits": 2, "method": "gptq_ls"}, {"learning_rate": 1e-4}),
    Configuration("2:4", {"pattern": "2:4", "method": "sparsegpt"}, {"learning_rate": 5e-5}),
    Configuration("1:4", {"pattern": "1:4", "method": "sparsegpt"}, {"learning_rate": 1e-3}),
    Configuration(
        "int4+2:4", {"bits": 4, "method": "gptq", "pattern": "2:4", "sparsifier": "sparsegpt"}, {"learning_rate": 1e-4}
    ),
    Configuration(
        "int2+2:4",
        {"bits": 2, "method": "gptq_ls", "pattern": "2:4", "sparsifier": "sparsegpt"},
        {"learning_rate": 3e-4},
    ),
    Configuration(
        "int2+1:4",
        {"bits": 2, "method": "gptq_ls", "pattern": "1:4", "sparsifier": "sparsegpt"},
        {"learning_rate": 1e-3},
    ),
)
VARIED = "int4+2:4"  # the configuration whose training is varied, one option at a time
ABLATED: dict[str, tuple[Any, ...]] = {
    "mask_schedule": ("one-shot", "few-shot", "every-step"),
    "distillation": (0.0, 0.7, 1.0),
    "scales": ("learned", "fixed"),
    "seed": (1, 2, 3),
}


@dataclass(frozen=True)
class Row:
    """One file: `options` make it, `finetune` trains it (None: it stays as it is made)."""

    name: str
    label: str
    options: Options
    finetune: Options | None = None

    @property
    def command(self) -> str:
        """The command that makes it."""
        return "quantize" if "bits" in self.options else "sparsify"


@dataclass(frozen=True)
class Scale:
    """How much is run.

    num_train, num_select, num_test: utterances that are composed: to train on, to choose the best weights by, to test.
    num_dev: likewise, for sweeps. limit: of utterances that are trained on. own_limit: of the data's own test set.
    calibration_limit: utterances. finetune: what differs in every training.
    """

    num_train: int
    num_select: int
    num_test: int
    num_dev: int
    own_limit: int | None
    calibration_limit: int
    finetune: Options


FULL = Scale(4000, 400, 2000, 1000, None, 64, {})
SMALL = Scale(10, 16, 20, 20, 20, 8, {"limit": 32, "epochs": 1})  # whether everything runs; its figures mean nothing


def one_shot(configuration: Configuration) -> Row:
    """The row of a configuration that is not trained."""
    return Row(f"{configuration.name}-one-shot", configuration.label, configuration.options)


def tuned(configuration: Configuration) -> Row:
    """The row of a configuration that is."""
    return Row(
        f"{configuration.name}-tuned", configuration.label, configuration.options, FINETUNE | configuration.finetune
    )


def variant(key: str, value: Any) -> Row:
    """The fine-tuned VARIED with this option; the row of the table itself where it has that already."""
    base = tuned(next(each for each in CONFIGURATIONS if each.label == VARIED))
    return changed(base, {key: value})


def changed(row: Row, overrides: Options) -> Row:
    """A row with other options: of training, where training has such an option, else of what makes it."""
    from dataclasses import fields

    from asrcompress.ops.finetune_config import FinetuneConfig

    known = {field.name for field in fields(FinetuneConfig)}
    options, finetune, name = dict(row.options), dict(row.finetune or {}), row.name
    for key, value in overrides.items():
        into = finetune if key in known else options
        if key not in into or into[key] != value:
            into[key] = value
            name += f"-{key}-{value}".replace("_", "-").replace(".", "_").replace(":", "-")
    return replace(row, name=name, options=options, finetune=finetune or None)


def rows() -> list[Row]:
    """Every file, the fine-tuned ones first: they take the longest."""
    varied = [variant(key, value) for key, values in ABLATED.items() for value in values]
    found = [*map(tuned, CONFIGURATIONS), *varied, *map(one_shot, CONFIGURATIONS)]
    return list({row.name: row for row in found}.values())
