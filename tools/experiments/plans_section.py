"""The section "Sensitivity and plans" of the page: plans beside uniform files, and what their table says, in numbers."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.plans import AUTO, Planned, uniforms
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

WER on the composed test set, with intervals. Markers that would cover each other are moved to the right. An arrow: beyond the plot.
The line and the band: the float model and its interval.

### Plans

{plans}

What the plans chose, as shares of the parameters that can be packed, in per cent:

{chosen}

### Uniform files

All weights at the same bits and pattern, by the method that the plans use, `gptq_ls` (patterns by `sparsegpt`), and dense by `auto`.

{uniforms}

WER of a plan less that of a uniform file, in points, on the composed test set; an empty cell: the uniform file is the smaller one.
▼: the paired 95 % interval lies below 0, so the plan is better; ▲: above 0, so it is worse; no mark: the interval holds 0.

{against}

### What is sensitive

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

composes both sets, makes the table, the plans and all files, and writes [plans.json](experiments/plans.json), its plot and this section.
"""


def section(plans: Plans) -> str:
    """The section, in markdown."""
    return SECTION.format(
        conditions=_conditions(plans),
        findings="\n".join(
            f"- {found}" for found in (against_found(plans), _floats_found(plans), sizes_found(plans), _ranks(plans))
        ),
        plans=plans_table(plans),
        chosen=chosen_table(plans),
        uniforms=uniforms_table(plans),
        against=against_table(plans),
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
        f"{percent(sensitivity['metrics']['wer'])}); all plans come from it (`sensitivity --from`, `quantize --plan`). Every file is calibrated on "
        f"{options['calibration_limit']} of these utterances and evaluated, greedy in batches of {given['decoding']['batch_size']}, on "
        f"{test['num_utterances']:,} utterances composed of the test recordings ({test['num_words']:,} words) and on the data's own `{own['file']}` "
        f"({own['num_utterances']} utterances, {own['num_words']:,} words). No recording is in both dev and test, and no plan, scale or code was "
        f"chosen by a test recording. Intervals as above."
    )


def against_found(plans: Plans) -> str:
    """Which plan beats which uniform file of equal or larger size."""
    pairs = [(plan, name, pair) for plan in plans.plans for name, pair in plan.against.items()]
    lower = [pair for *_, pair in pairs if _delta(pair) < 0]
    clear = [pair for pair in lower if pair.is_better]
    said = (
        f"**Plans against uniform files of equal or larger size.** In {len(lower)} of {len(pairs)} pairs the plan has the lower WER, in "
        f"{len(clear)} of them with a paired interval below 0."
    )
    others = [(plan, name, pair) for plan, name, pair in pairs if _delta(pair) >= 0]
    if others:
        listed = "; ".join(f"{_label(plan)} and {_uniform_label(name)} ({paired(pair)})" for plan, name, pair in others)
        worse = sum(pair.is_worse for *_, pair in others)
        said += f" Not lower: {listed}" + (
            f", {worse} of them with an interval above 0." if worse else "; all these intervals hold 0."
        )
    nearest = []
    for plan in plans.plans:
        if plan.against:
            name = min(plan.against, key=lambda name: (plans.files[name].size_bytes, name))
            nearest.append(f"{_label(plan)} to {_uniform_label(name)} {paired(plan.against[name])}")
    return said + f" To the next larger uniform file, in points: {'; '.join(nearest)}."


def _floats_found(plans: Plans) -> str:
    own = plans.float_model["eval"]
    kept = [plan for plan in plans.plans if not plan.test.is_worse]
    kept_uniform = [made for made in plans.files.values() if not made.ratio and not made.test.is_worse]

    def smallest(files: Sequence[Made]) -> str:
        if not files:
            return "none"
        made = min(files, key=lambda made: made.size_bytes)
        label = _label(made) if made.ratio else _uniform_label(made.name)
        return f"{label} ({_share(plans, made.size_bytes)}, {percent(made.test.wer)}, {paired(made.test)} points)"

    return (
        f"**Against the float model**, {percent(own.wer)} [{percent(own.low)}, {percent(own.high)}]: the smallest plan whose paired interval does "
        f"not lie above 0 is {smallest(kept)}; the smallest such uniform file is {smallest(kept_uniform)}."
    )


def sizes_found(plans: Plans) -> str:
    """How far files are from what was predicted."""
    errors = [made.size_bytes / made.predicted["size_bytes"] - 1 for made in plans.plans]
    exact = sum(made.size_bytes == made.predicted["size_bytes"] for made in plans.plans)
    over = [made for made in plans.plans if made.size_bytes > made.predicted["budget_bytes"]]
    said = "none exceeds its budget" if not over else f"over their budgets: {', '.join(map(_label, over))}"
    return (
        f"**Sizes.** {exact} of {len(errors)} files have the very size that their plans predicted; the largest error is "
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
    heading = [
        "file",
        "predicted, bytes",
        "written, bytes",
        "of float",
        "WER, composed test",
        "to float, points",
        "WER, own test",
    ]
    rows = [
        ["float", "", f"{plans.float_size_bytes:,}", "100 %", _interval(own["eval"]), "", percent(own["own.eval"].wer)]
    ]
    for made in plans.plans:
        predicted = int(made.predicted["size_bytes"])
        error = f" ({100 * (made.size_bytes / predicted - 1):+.3f} %)" if made.size_bytes != predicted else ""
        cells = [f"{predicted:,}", f"{made.size_bytes:,}{error}", _share(plans, made.size_bytes)]
        rows.append([_label(made), *cells, *_figures(made)])
    return table(heading, rows)


def uniforms_table(plans: Plans) -> str:
    """A row per uniform file, the largest first."""
    rows = [
        [_uniform_label(made.name), f"{made.size_bytes:,}", _share(plans, made.size_bytes), *_figures(made)]
        for made in _by_size(plans)
    ]
    return table(["file", "bytes", "of float", "WER, composed test", "to float, points", "WER, own test"], rows)


def chosen_table(plans: Plans) -> str:
    """Options down, plans across."""
    total = sum(num_params for _, num_params in plans.plans[0].weights.values())
    options = {option: None for bits in (8, 4, 3, 2) for option in (f"int{bits}", f"int{bits}+2:4", f"int{bits}+1:4")}
    rows = []
    for option in options:
        counts = [made.weights.get(option) for made in plans.plans]
        if any(counts):
            rows.append([f"`{option}`", *(f"{100 * count[1] / total:.1f}" if count else "" for count in counts)])
    return table(["option", *map(_label, plans.plans)], rows)


def against_table(plans: Plans) -> str:
    """Uniform files down, plans across."""
    rows = []
    for made in _by_size(plans):
        pairs = [plan.against.get(made.name) for plan in plans.plans]
        if any(pairs):
            cells = [f"{points(_delta(pair))}{mark(pair)}" if pair else "" for pair in pairs]
            rows.append([f"{_uniform_label(made.name)}, {_share(plans, made.size_bytes)}", *cells])
    return table(["uniform file", *map(_label, plans.plans)], rows)


def _by_size(plans: Plans) -> list[Made]:
    return sorted((made for made in plans.files.values() if not made.ratio), key=lambda made: -made.size_bytes)


def _figures(made: Made) -> list[str]:
    return [_interval(made.test), paired(made.test), wer(made.evaluations["own.eval"])]


def _interval(figures: Figures) -> str:
    return f"{percent(figures.wer)} [{percent(figures.low)}, {percent(figures.high)}]"


def _delta(figures: Figures) -> float:
    return figures.delta or 0.0


def _label(made: Made) -> str:
    return Planned(made.ratio or 0.0).label


def _uniform_label(name: str) -> str:
    option, family = next((uniform.option, uniform.family) for uniform in uniforms() if uniform.name == name)
    return f"`{option}`" + (f" ({AUTO})" if family == AUTO else "")


def _share(plans: Plans, size_bytes: int) -> str:
    return f"{100 * size_bytes / plans.float_size_bytes:.2f} %"
