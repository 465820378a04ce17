"""Make docs/experiments.md and docs/experiments/*.svg of docs/experiments/*.json, and of nothing else.

python -m experiments.page              writes them (from tools/)
python -m experiments.page --check      says whether they are up to date (exit 1 if not)
"""

from __future__ import annotations

import sys

from experiments import ablation_results, ablation_section, costs, plans_results, tables
from experiments.ablation_plot import ablation_plot
from experiments.best import CRITERIA, SCOPES, winners
from experiments.findings import findings
from experiments.plan import all_runs
from experiments.plans_plot import fronts_plot
from experiments.plans_section import section
from experiments.plots import MOST_POINTS, MOST_WER, kinds_plot, sizes_plot
from experiments.results import ROOT, Results, read_results
from experiments.run import recipe_text

PAGE = """\
<!-- made by tools/experiments.sh, tools/plans.sh and tools/ablation.sh from docs/experiments/*.json; do not edit -->
# Experiments

What bits, granularity, method and level cost in word error rate and save in file size, what single kinds of layers cost when
they alone go to few bits, which strategy is best, and what plans made from a sensitivity table gain: for one model, measured.

{conditions}

## What was found

{findings}

![WER against size](experiments/sizes.svg)

All runs but those of part 3 with a WER below {most_wer}; labelled, with their intervals, the winners of part 4.
The diamond is the float model, the band its interval.

## 1. Weights: bits, granularity, method

Level stored. A cell is WER and file size; ▲ where the paired 95 % interval of the difference to float lies above 0, ▼ where it lies below.

{weights}
## 2. Levels and activations

{levels}

Bits of all operands of products (inputs of layers, q, k, v, softmax's weights) at level integer-only, weights of 8 bits, by how the ranges of their
grids are chosen (`--calibration-method`):

{operands}

Single options:

{others}

## 3. What each kind costs alone

Level integer-only, `rtn`, weights and operands of 8 bits and grids of 16 between products, except for the one kind that a rule of the recipe puts at
few bits. Paired differences to the float model in points of WER; an empty cell was not run. LayerNorm, additions, scores and what comes out of the
embedding have 16 bits otherwise; what then enters a product has 8 bits anyway. This model's embedding is tied to its output projection, so the
table's bits are both layers'.

{kinds}

![What each kind costs alone](experiments/kinds.svg)

Red: the paired interval lies above 0; green: below. An arrow: more than {most_points:g} points.

## 4. The best strategy

{best}

Differences in brackets are paired, in points. All strategies that were made for this part, with the winners; dashes: not evaluated there.

{strategies}

The winners' recipes, for `asrcompress quantize --config`:

{recipes}
## Run it again

```sh
bash tools/experiments.sh ../shared/data/digits build/experiments
```

runs all of this through the command line (`asrcompress quantize --config ... | asrcompress eval ...`), two processes at a time, and
writes [results.json](experiments/results.json) from the sidecars, and the plots and this page from that. What is done already is not run again.

{plans}{ablation}"""


def render() -> dict[str, str]:
    """File names below docs/ and their text."""
    results, plans = read_results(), plans_results.read_results()
    ablation = ablation_results.read_results() if ablation_results.FILE.is_file() else None
    runs = {run.name: run for run in all_runs()}
    found = winners(results)
    chosen = {run.name: run for run in found.values()}
    shown = {name: run for name, run in results.runs.items() if name.startswith("best-")} | chosen
    recipes = "\n".join(f"`{name}`\n\n```toml\n{recipe_text(runs[name])}```\n" for name in chosen)
    text = PAGE.format(
        conditions=_conditions(results),
        findings=findings(results),
        most_wer=f"{100 * MOST_WER:g} %",
        most_points=MOST_POINTS,
        weights=tables.weights_tables(results),
        levels=tables.levels_table(results),
        operands=tables.operands_table(results),
        others=tables.others_table(results),
        kinds=tables.kinds_table(results),
        best=_best(results),
        strategies=tables.best_table(results, list(shown.values())),
        recipes=recipes,
        plans=section(plans, _costs()),
        ablation="\n" + ablation_section.section(ablation) if ablation else "",
    )
    labels = {name: name.removeprefix("weights-") for name in chosen}
    more = {"experiments/ablation.svg": ablation_plot(ablation)} if ablation else {}
    return more | {
        "experiments.md": text,
        "experiments/sizes.svg": sizes_plot(results, labels),
        "experiments/kinds.svg": kinds_plot(results),
        "experiments/plans.svg": fronts_plot(plans),
    }


def _conditions(results: Results) -> str:
    given = results.conditions
    data, model, environment = given["data"]["eval"], given["model"], given["environment"]
    num_params, file_size = f"{model['num_params']:,}", tables.size(results.float_size_bytes)
    batch_size, interval = given["decoding"]["eval"]["batch_size"], given["interval"]
    return (
        f"The model is `{model['family']}`, {num_params} parameters, trained on connected digits; {file_size} in float32 without optimizer "
        f"state. All {data['num_utterances']} utterances of `{data['file']}` ({data['num_words']:,} words), normaliser "
        f"`{given['normalizer']}`, greedy search (`--beam 1`) in batches of {batch_size} unless said otherwise, calibration on "
        f"`{given['data']['dev.eval']['file']}`, no training. {interval['confidence']:.0%} intervals are bootstraps of "
        f"{interval['num_resamples']:,} draws over utterances, paired ones over the same utterances for both models. asrcompress "
        f"{given['asrcompress']}, torch {environment['torch']}, {environment['device'].upper()}; integers multiplied by torch, before "
        "there were [kernels](speed.md), with which a word here and there is another one."
    )


def _costs() -> str:
    return costs.section(costs.read_costs()) if costs.FILE.is_file() else ""


def _best(results: Results) -> str:
    found = winners(results)
    rows = []
    for criterion in CRITERIA:
        cells = []
        for scope in SCOPES:
            run = found.get((criterion, scope))
            cells.append(
                f"`{run.name}`, {tables.size(run.size_bytes)}, {tables.percent(run.test.wer)}" if run else "none"
            )
        rows.append([criterion, *cells])
    return tables.table(["smallest file with", *SCOPES], rows)


def write_page() -> None:
    """Write the page and the plots."""
    for name, text in render().items():
        (ROOT / "docs" / name).write_text(text, encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Write, or compare."""
    if "--check" in arguments:
        return int(any((ROOT / "docs" / name).read_text(encoding="utf-8") != text for name, text in render().items()))
    write_page()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
