"""What is run for the section "Sensitivity and plans": plans of several sizes from one table, and uniform files to compare with.

Says nothing about how it is run (plans_run.py), stored (plans_results.py) or shown (plans_section.py, plans_plot.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from experiments.plan import Run

RATIOS = (
    0.20,
    0.134,
    0.118,
    0.103,
    0.094,
    0.085,
    0.078,
    0.072,
)  # of the float model's bytes; most lie just below a uniform file
FEW_RATIOS = (0.103, 0.094, 0.078)  # planned from the table of few utterances
TABLE_RATIO = 0.094  # the plan that is made along with a table
OBJECTIVES = ("divergence", "loss")
DENSE, TWO_OF_FOUR, ONE_OF_FOUR, AUTO = "gptq_ls", "gptq_ls, 2:4", "gptq_ls, 1:4", "auto"
FAMILIES = (DENSE, TWO_OF_FOUR, ONE_OF_FOUR, AUTO)


@dataclass(frozen=True)
class Planned:
    """A plan for a file of this fraction of the float model's bytes.

    objective: what it makes least. is_few: from the table that is made with the data's own, small dev set.
    """

    ratio: float
    objective: str = OBJECTIVES[0]
    is_few: bool = False

    @property
    def name(self) -> str:
        """Of its files."""
        loss = "-loss" if self.objective == "loss" else ""
        return f"plan{'-few' if self.is_few else ''}{loss}-{round(1000 * self.ratio):03d}"

    @property
    def label(self) -> str:
        """For a person."""
        return f"plan {100 * self.ratio:g} %"


@dataclass(frozen=True)
class Uniform:
    """A file whose weights all have the same bits and pattern; all of one family are made alike."""

    family: str
    bits: int
    pattern: str | None = None

    @property
    def option(self) -> str:
        """As tables name it: int4+2:4."""
        return f"int{self.bits}" + (f"+{self.pattern}" if self.pattern else "")

    @property
    def run(self) -> Run:
        """Its recipe."""
        options = {"bits": self.bits, "method": "auto" if self.family == AUTO else "gptq_ls"}
        if self.pattern:
            options |= {"pattern": self.pattern, "sparsifier": "sparsegpt"}
        pattern = f"-{self.pattern.replace(':', '-')}" if self.pattern else ""
        return Run(f"uniform-{options['method']}-{self.bits}{pattern}", "uniform", options)

    @property
    def name(self) -> str:
        """Of its files."""
        return self.run.name

    @property
    def label(self) -> str:
        """For a person."""
        return f"{self.option}, {AUTO}" if self.family == AUTO else self.option


@dataclass(frozen=True)
class Scale:
    """How much is run: utterances to plan with and to test on, how many cells are measured, the sizes planned for.

    few_ratios: sizes planned for with the data's own dev set.
    """

    num_dev: int
    num_test: int
    top: int
    sample: int
    ratios: tuple[float, ...]
    few_ratios: tuple[float, ...]

    @property
    def plans(self) -> list[Planned]:
        """By objective, from the largest; those of few utterances last."""
        found = [Planned(ratio, objective) for objective in OBJECTIVES for ratio in self.ratios]
        return found + [Planned(ratio, objective, True) for objective in OBJECTIVES for ratio in self.few_ratios]


FULL = Scale(1000, 2000, 8, 24, RATIOS, FEW_RATIOS)
SMALL = Scale(60, 100, 1, 3, (0.103, 0.094), (0.094,))  # whether everything runs, in minutes; its figures mean nothing


def uniforms() -> list[Uniform]:
    """All uniform files."""
    return [
        *(Uniform(DENSE, bits) for bits in (8, 4, 3, 2)),
        *(Uniform(TWO_OF_FOUR, bits, "2:4") for bits in (8, 4, 3, 2)),
        Uniform(ONE_OF_FOUR, 4, "1:4"),
        *(Uniform(AUTO, bits) for bits in (8, 4, 3, 2)),
    ]
