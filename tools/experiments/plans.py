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
TABLE_RATIO = 0.094  # the plan that is made along with the table
DENSE, TWO_OF_FOUR, ONE_OF_FOUR, AUTO = "gptq_ls", "gptq_ls, 2:4", "gptq_ls, 1:4", "auto"
FAMILIES = (DENSE, TWO_OF_FOUR, ONE_OF_FOUR, AUTO)


@dataclass(frozen=True)
class Planned:
    """A plan for a file of this fraction of the float model's bytes."""

    ratio: float

    @property
    def name(self) -> str:
        """Of its files."""
        return f"plan-{round(1000 * self.ratio):03d}"

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
    """How much is run: utterances to plan with and to test on, how many cells are measured, the sizes planned for."""

    num_dev: int
    num_test: int
    top: int
    sample: int
    ratios: tuple[float, ...]

    @property
    def plans(self) -> list[Planned]:
        """From the largest."""
        return [Planned(ratio) for ratio in self.ratios]


FULL = Scale(1000, 2000, 8, 24, RATIOS)
SMALL = Scale(60, 100, 1, 3, (0.103, 0.094))  # whether everything runs, in minutes; its figures mean nothing


def uniforms() -> list[Uniform]:
    """All uniform files."""
    return [
        *(Uniform(DENSE, bits) for bits in (8, 4, 3, 2)),
        *(Uniform(TWO_OF_FOUR, bits, "2:4") for bits in (8, 4, 3, 2)),
        Uniform(ONE_OF_FOUR, 4, "1:4"),
        *(Uniform(AUTO, bits) for bits in (8, 4, 3, 2)),
    ]
