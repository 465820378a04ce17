"""The section "Sensitivity and plans" of the page: plans beside uniform files, and what their table says, in numbers."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.plans import OBJECTIVES
from experiments.plans_results import Made, Plans
from experiments.results import Figures
from experiments.sensitive_kinds import claims, divergences_table, kinds_table, parameters_table
from experiments.tables import mark, paired, percent, points, table, wer

SECTION = """\
## Sensitivity and plans

{conditions}

### What was found

{findings}

![Plans and uniform files](experiments/plans.svg)

WER on the composed test set, with intervals. Markers that would cover each other are moved apart sideways. An arrow: beyond the plot.
The line and the band: the float model and its interval.

### Plans

{plans}

What the plans by divergence chose, as shares of the parameters that can be packed, in per cent:

{chosen}

### Uniform files

All weights at the same bits and pattern, by the method that the plans use, `gptq_ls` (patterns by `sparsegpt`), and dense by `auto`.

{uniforms}

WER of a plan (by divergence) less that of a uniform file, in points, on the composed test set; an empty cell: the uniform file is the
smaller one. ▼: the paired 95 % interval lies below 0, so the plan is better; ▲: above 0, so it is worse; no mark: the interval holds 0.

{against}

The same of plans with `--objective loss`:

{against_loss}

### From few utterances

{few}

{costs}### What is sensitive

Is the claim true here that Embedding and Softmax are the sensitive ones? All units of a kind at once at few bits, all else in float, on
the dev set: change of the loss in thousandths of a nat per token · of the WER in points.

{kinds}

Divergence of the output from the float model's, in thousandths of a nat per token: all units of a kind at once · median of its units, one at a time
(measured, else estimated):

{divergences}

The first of these, of kinds of weights, per million parameters:

{parameters}

{claims}

### Run it again

```sh
bash tools/plans.sh ../shared/data/digits build/plans
```

composes both sets, makes the tables, the plans and all files, and writes [plans.json](experiments/plans.json), its plot and this section.
"""


def section(plans: Plans, costs: str = "") -> str:
    """The section, in markdown; `costs` is what was measured of the table's cost."""
    found = [against_found(plans, objective) for objective in OBJECTIVES]
    found += [_beside_found(plans), _floats_found(plans), sizes_found(plans), _ranks(plans)]
    return SECTION.format(
        conditions=_conditions(plans),
        findings="\n".join(f"- {each}" for each in found),
        plans=plans_table(plans),
        chosen=chosen_table(plans),
        uniforms=uniforms_table(plans),
        against=against_table(plans, OBJECTIVES[0]),
        against_loss=against_table(plans, OBJECTIVES[1]),
        few=_few(plans),
        costs=costs,
        kinds=kinds_table(plans),
        divergences=divergences_table(plans),
        parameters=parameters_table(plans),
        claims=claims(plans),
    )


def _conditions(plans: Plans) -> str:
    given, sensitivity = plans.conditions, plans.table
    test, own = given["data"]["eval"], given["data"]["own.eval"]
    dev, options = sensitivity["data"], sensitivity["options"]
    return (
        f"The same model. One table (`sensitivity --top {options['top']} --sample {options['sample']}`, {len(sensitivity['units'])} units, "
        f"{sensitivity['num_cells']:,} cells, {sensitivity['metrics']['num_trials']} exact trials) is made with {dev['num_utterances']:,} utterances "
        f"composed of the data's dev recordings (float loss {sensitivity['metrics']['loss']:.4f} nats per token, WER "
        f"{percent(sensitivity['metrics']['wer'])}); all plans but the last few come from it (`sensitivity --from`, `quantize --plan`). Every "
        f"file is calibrated on {options['calibration_limit']} of these utterances and evaluated, greedy in batches of "
        f"{given['decoding']['eval']['batch_size']}, on {test['num_utterances']:,} utterances composed of the test recordings "
        f"({test['num_words']:,} words) and on the data's own `{own['file']}` ({own['num_utterances']} utterances, {own['num_words']:,} words). "
        f"No recording is in both dev and test, and no plan, scale or code was chosen by a test recording. Intervals as above."
    )


def against_found(plans: Plans, objective: str) -> str:
    """Which plan beats which uniform file of equal or larger size."""
    pairs = [(plan, name, pair) for plan in plans.plans(objective) for name, pair in plan.against.items()]
    lower = [pair for *_, pair in pairs if _delta(pair) < 0]
    clear = [pair for pair in lower if pair.is_better]
    said = (
        f"**Plans by {objective} against uniform files of equal or larger size.** In {len(lower)} of {len(pairs)} pairs the plan has the lower "
        f"WER, in {len(clear)} of them with a paired interval below 0."
    )
    always = [plan.label for plan in plans.plans(objective) if all(_delta(pair) < 0 for pair in plan.against.values())]
    said += f" Lower than every such file: {', '.join(always) or 'none'}."
    others = {
        plan.label: [
            f"{plans.files[name].label} {paired(pair)}" for name, pair in plan.against.items() if _delta(pair) >= 0
        ]
        for plan in plans.plans(objective)
    }
    if any(others.values()):
        listed = "; ".join(f"{label}: {', '.join(found)}" for label, found in others.items() if found)
        worse = sum(pair.is_worse for *_, pair in pairs)
        said += f" Not lower, in points: {listed}; {worse or 'none'} of these intervals above 0."
    nearest = []
    for plan in plans.plans(objective):
        if plan.against:
            name = min(plan.against, key=lambda name: (plans.files[name].size_bytes, name))
            nearest.append(f"{plan.label} to {plans.files[name].label} {paired(plan.against[name])}")
    return said + f" To the next larger uniform file, in points: {'; '.join(nearest)}."


def _beside_found(plans: Plans) -> str:
    def said(*, is_few: bool) -> str:
        found = [(plan, plan.beside) for plan in plans.plans(OBJECTIVES[1], is_few=is_few) if plan.beside]
        return "; ".join(f"{plan.label.removeprefix('plan ')} {paired(beside)}" for plan, beside in found)

    found = [made.beside for made in plans.files.values() if made.beside]
    clear = sum(pair.is_worse or pair.is_better for pair in found)
    number, few = (f"{data['num_utterances']:,}" for data in (plans.table["data"], plans.few["data"]))
    return (
        f"**Objectives.** WER of the plan with `--objective loss` less that of the plan by divergence for the same size, in points. From "
        f"{number} utterances: {said(is_few=False)}. From {few}: {said(is_few=True)}. "
        f"{clear or 'None'} of these {len(found)} intervals {'leave' if clear > 1 else 'leaves'} out 0."
    )


def _floats_found(plans: Plans) -> str:
    own = plans.float_model["eval"]

    def smallest(files: Sequence[Made]) -> str:
        kept = [made for made in files if not made.test.is_worse]
        if not kept:
            return "none"
        made = min(kept, key=lambda made: made.size_bytes)
        return f"{made.label} ({_share(plans, made.size_bytes)}, {percent(made.test.wer)}, {paired(made.test)} points)"

    divergence, loss = (smallest(plans.plans(objective)) for objective in OBJECTIVES)
    return (
        f"**Against the float model**, {percent(own.wer)} [{percent(own.low)}, {percent(own.high)}]: the smallest file whose paired interval does "
        f"not lie above 0 is, of plans by divergence, {divergence}; of plans by loss, {loss}; of uniform files, {smallest(plans.uniforms)}."
    )


def sizes_found(plans: Plans) -> str:
    """How far files are from what was predicted."""
    files = [made for made in plans.files.values() if made.plan]
    errors = [made.size_bytes / made.predicted["size_bytes"] - 1 for made in files]
    exact = sum(made.size_bytes == made.predicted["size_bytes"] for made in files)
    over = [made for made in files if made.size_bytes > made.predicted["budget_bytes"]]
    said = "none exceeds its budget" if not over else f"over their budgets: {', '.join(made.label for made in over)}"
    return (
        f"**Sizes.** {exact} of {len(errors)} planned files have the very size that their plans predicted; the largest error is "
        f"{100 * max(map(abs, errors)):.3f} %, and {said}."
    )


def _ranks(plans: Plans) -> str:
    parts = [
        f"`{pair['proxy']}` with the {'WER' if pair['against'] == 'wer' else pair['against']} {pair['spearman']:.3f} "
        f"[{pair['low']:.3f}, {pair['high']:.3f}]"
        for pair in plans.table["correlation"]
    ]
    number = plans.table["correlation"][0]["num_pairs"]
    return f"**Proxies and measured changes** in this table, Spearman over its {number} measured cells: {'; '.join(parts)}."


def plans_table(plans: Plans) -> str:
    """A row per plan, the float model first."""
    own = plans.float_model
    first = [
        *("float", "", "", f"{plans.float_size_bytes:,}", "100 %"),
        *(_interval(own["eval"]), "", percent(own["own.eval"].wer)),
    ]
    return _plans_table(plans, [first], [made for objective in OBJECTIVES for made in plans.plans(objective)])


def _plans_table(plans: Plans, rows: list[list[str]], files: Sequence[Made]) -> str:
    heading = ["file", "by", "predicted, bytes", "written, bytes", "of float", "WER, composed test", "to float, points"]
    for made in files:
        predicted = int(made.predicted["size_bytes"])
        error = f" ({100 * (made.size_bytes / predicted - 1):+.3f} %)" if made.size_bytes != predicted else ""
        size = [f"{predicted:,}", f"{made.size_bytes:,}{error}", _share(plans, made.size_bytes)]
        rows.append([made.label, made.plan.objective if made.plan else "", *size, *_figures(made)])
    return table([*heading, "WER, own test"], rows)


def _few(plans: Plans) -> str:
    few = plans.few
    files = [made for objective in OBJECTIVES for made in plans.plans(objective, is_few=True)]
    return (
        f"A table, its plans and the calibration of their files from the data's own `{few['data']['file']}`, "
        f"{few['data']['num_utterances']} utterances:\n\n{_plans_table(plans, [], files)}"
    )


def uniforms_table(plans: Plans) -> str:
    """A row per uniform file, the largest first."""
    rows = [
        [made.label, f"{made.size_bytes:,}", _share(plans, made.size_bytes), *_figures(made)] for made in plans.uniforms
    ]
    return table(["file", "bytes", "of float", "WER, composed test", "to float, points", "WER, own test"], rows)


def chosen_table(plans: Plans) -> str:
    """Options down, plans across."""
    files = plans.plans()
    total = sum(num_params for _, num_params in plans.uniforms[0].weights.values())
    rows = []
    for option in (f"int{bits}{pattern}" for bits in (8, 4, 3, 2) for pattern in ("", "+2:4", "+1:4")):
        counts = [made.weights.get(option) for made in files]
        if any(counts):
            rows.append([f"`{option}`", *(f"{100 * count[1] / total:.1f}" if count else "" for count in counts)])
    return table(["option", *(made.label for made in files)], rows)


def against_table(plans: Plans, objective: str) -> str:
    """Uniform files down, plans across."""
    files, rows = plans.plans(objective), []
    for made in plans.uniforms:
        pairs = [plan.against.get(made.name) for plan in files]
        if any(pairs):
            cells = [f"{points(_delta(pair))}{mark(pair)}" if pair else "" for pair in pairs]
            rows.append([f"{made.label}, {_share(plans, made.size_bytes)}", *cells])
    return table(["uniform file", *(made.label for made in files)], rows)


def _figures(made: Made) -> list[str]:
    return [_interval(made.test), paired(made.test), wer(made.evaluations["own.eval"])]


def _interval(figures: Figures) -> str:
    return f"{percent(figures.wer)} [{percent(figures.low)}, {percent(figures.high)}]"


def _delta(figures: Figures) -> float:
    return figures.delta or 0.0


def _share(plans: Plans, size_bytes: int) -> str:
    return f"{100 * size_bytes / plans.float_size_bytes:.2f} %"
