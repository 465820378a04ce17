"""The section "Few bits and few weights together" of the page: its tables, and what they say, in numbers."""

from __future__ import annotations

from typing import Any

from experiments.ablation import ABLATED, CONFIGURATIONS, VARIED, Configuration, one_shot, tuned, variant
from experiments.ablation_results import Ablation, Made, Relative
from experiments.tables import BETTER, NONE, WORSE, paired, percent, table, wer

CHECKPOINT_BYTES = (
    11_285_451  # of a Fairseq checkpoint with this model and no optimizer state, as the data's README has it
)
USM_LITE_SIZE, USM_LITE_RELATIVE = (
    0.094,
    0.073,
)  # int4 + 2:4 there (arXiv 2312.08553): share of float32, by arithmetic, and relative WER
SCHEDULES = {"every-step": "every-step, SR-STE", "few-shot": "few-shot, SR-STE"}

SECTION = """\
## Few bits and few weights together

{conditions}

### What was found

{findings}

![WER against size, one-shot and fine-tuned](experiments/ablation.svg)

WER, greedy, on the composed test set, both axes logarithmic; size of the whole file. Hollow: one-shot; filled: fine-tuned, with its
interval. The line and the band: the float model and its interval. Dashed: what USM-Lite has for int4+2:4, {usm_size} and {usm_relative}.

### Sizes

Of the fine-tuned files, whole: header, scales, floats, vocabulary and all. Per cent of the float model's {model_bytes} bytes of parameters and
buffers (`model_size_ratio` in the sidecar) · of the {checkpoint_bytes} bytes of a Fairseq checkpoint without optimizer state.

{sizes}

What is packed, in bytes: bits of codes (or kept floats) and group codes by arithmetic (4 bits with 2:4: 2 × 4 + 3 bits for every 4
weights), the same in the file, without and with the scales, before entropy coding; and all of it with entropy coding.

{packed}

### Error rates

{wers}

▲: the paired 95 % interval of the difference to float lies above 0; ▼: below. Relative: WER / float's - 1.

### What training takes

Of {varied}, one option at a time. Dev: the WER that training is judged by, before and of the weights that were kept. Masks: the share of
mask bits that changed over the training, summed from evaluation to evaluation.

{trained}

Options of every training:

{options}

### Run it again

```sh
bash tools/ablation.sh ../shared/data/digits build/ablation --jobs 2
```

composes both sets, makes and evaluates all files, and writes [ablation.json](experiments/ablation.json), its plot and this section;
`--device cuda --jobs 16` trains on a GPU. `--only {varied} --set learning_rate=1e-5,1e-4` runs variations, judged on composed dev utterances.
"""


def section(ablation: Ablation) -> str:
    """The section, in markdown."""
    return SECTION.format(
        conditions=_conditions(ablation),
        findings="\n".join(f"- {each}" for each in findings(ablation)),
        usm_size=percent(USM_LITE_SIZE),
        usm_relative=_signed(USM_LITE_RELATIVE),
        model_bytes=f"{ablation.model_size_bytes:,}",
        checkpoint_bytes=f"{CHECKPOINT_BYTES:,}",
        sizes=sizes_table(ablation),
        packed=packed_table(ablation),
        wers=wers_table(ablation),
        varied=VARIED,
        trained=trained_table(ablation),
        options=options_table(ablation),
    )


def _conditions(ablation: Ablation) -> str:
    given = ablation.conditions
    test, own, train, dev = given["data"]["eval"], given["data"]["own.eval"], given["train"], given["dev"]
    trained = given["trained_on"] or {}
    where = trained.get("name") or (trained.get("device") or "").upper() or "unknown"
    return (
        f"The same model. Every file is made one-shot, calibrated on utterances composed of the data's dev recordings, and once more with "
        f"`--finetune`: on {train['num_utterances']:,} utterances (all training recordings alone, the others composed of them), the best weights "
        f"chosen by {dev['num_utterances']} composed of dev recordings (trained on: {where}). Evaluated, greedy in batches of "
        f"{given['decoding']['eval']['batch_size']}, on {test['num_utterances']:,} utterances composed of the test recordings "
        f"({test['num_words']:,} words) and on the data's own `{own['file']}` ({own['num_utterances']} utterances, {own['num_words']:,} words). No "
        f"recording is in two of train, dev and test, and no option or weight was chosen by a test recording. Intervals as above; those of "
        f"relative differences are of the same draws."
    )


def both(ablation: Ablation, configuration: Configuration) -> tuple[Made, Made]:
    """The one-shot and the fine-tuned file."""
    return ablation.rows[one_shot(configuration).name], ablation.rows[tuned(configuration).name]


def _both_of(ablation: Ablation, label: str) -> tuple[Made, Made]:
    return both(ablation, next(each for each in CONFIGURATIONS if each.label == label))


# ---------------------------------------------------------------- findings


def findings(ablation: Ablation) -> list[str]:
    """What the tables say."""
    return [
        _yardstick(ablation),
        _training_alone(ablation),
        _main(ablation),
        _collapse(ablation),
        _alike(ablation),
        _packed(ablation),
        _spread(ablation),
    ]


def _yardstick(ablation: Ablation) -> str:
    one, own = ablation.float_model["eval"], ablation.float_model["own.eval"]
    return (
        f"**The yardstick.** Float has {percent(one.wer)} [{percent(one.low)}, {percent(one.high)}] on the composed test set ({one.num_errors} "
        f"errors) and {percent(own.wer)} [{percent(own.low)}, {percent(own.high)}] on the data's own ({own.num_errors})."
    )


def _training_alone(ablation: Ablation) -> str:
    """How much of the gain is training's own: 8 bits cost next to nothing, so their training shows it."""
    before, after = _both_of(ablation, "int8")
    against = "; ".join(
        f"{label} {_signed(_both_of(ablation, label)[1].test.wer / after.test.wer - 1)}"
        for label in ("int4", "int2", "2:4", "1:4", "int4+2:4", "int2+2:4", "int2+1:4")
    )
    return (
        f"**Training helps by itself**: 8 bits alone go from {percent(before.test.wer)} to "
        f"{percent(after.test.wer)}. Against int8 trained alike, the other fine-tuned files are at, relative: {against}."
    )


def _main(ablation: Ablation) -> str:
    before, after = _both_of(ablation, VARIED)
    size, coded = after.uncoded_bytes / ablation.model_size_bytes, after.size_bytes / ablation.model_size_bytes
    relative = after.relative["eval"]
    kept = relative is not None and (relative.value <= USM_LITE_RELATIVE or relative.low <= 0)
    return (
        f"**int4 + 2:4**, fine-tuned, is {percent(size)} of float, {percent(coded)} with entropy coding (USM-Lite's "
        f"{percent(USM_LITE_SIZE)} are codes and indices alone), at {percent(after.test.wer)}, relative {relative_text(relative)} (own test set: "
        f"{relative_text(after.relative['own.eval'])}); one-shot {percent(before.test.wer)}, {relative_text(before.relative['eval'])}. "
        f"At most {_signed(USM_LITE_RELATIVE)}, or not worse than float: {'yes' if kept else 'no'}."
    )


def _collapse(ablation: Ablation) -> str:
    said = []
    for label in ("int2", "1:4", "int2+2:4", "int2+1:4"):
        before, after = _both_of(ablation, label)
        said.append(f"{label}: {percent(before.test.wer)} → {wer(after.test)}, {relative_text(after.relative['eval'])}")
    return f"**What is too little without training**, one-shot → fine-tuned: {'; '.join(said)}."


def _alike(ablation: Ablation) -> str:
    pairs = {each.label: both(ablation, each) for each in CONFIGURATIONS}
    said = []
    for kind, position in (("one-shot", 0), ("fine-tuned", 1)):
        fine = [label for label, found in pairs.items() if not found[position].test.is_worse]
        said.append(f"{kind}: {', '.join(fine) or 'none'}")
    return f"**Not worse than float** on the composed test set (the paired interval reaches 0 or below): {'; '.join(said)}."


def _packed(ablation: Ablation) -> str:
    found = {name: made.bytes["theoretical"] / made.bytes["packed"] for name, made in ablation.rows.items()}
    scales = {
        name: made.bytes["theoretical"] / (made.bytes["packed"] + made.bytes["scales"])
        for name, made in ablation.rows.items()
    }
    return (
        f"**Packed layers** take what arithmetic says: theoretical / achieved bytes are at least {min(found.values()):.4f} in every file, "
        f"{min(scales.values()):.3f} with scales."
    )


def _spread(ablation: Ablation) -> str:
    found = [ablation.rows[variant("seed", seed).name].test.wer for seed in ABLATED["seed"]]
    return (
        f"**The spread over seeds** of {VARIED}, fine-tuned: {', '.join(percent(one) for one in found)}, so "
        f"{100 * (max(found) - min(found)):.2f} points from the lowest to the highest."
    )


# ---------------------------------------------------------------- tables


def sizes_table(ablation: Ablation) -> str:
    """Whole files."""

    def shares(size_bytes: int) -> str:
        return f"{percent(size_bytes / ablation.model_size_bytes)} · {percent(size_bytes / CHECKPOINT_BYTES)}"

    rows = [["float", f"{ablation.model_size_bytes:,}", shares(ablation.model_size_bytes), NONE, NONE, NONE, NONE]]
    for each in CONFIGURATIONS:
        before, after = both(ablation, each)
        coded = f"{after.size_bytes:,}"
        saved = percent(1 - after.size_bytes / after.uncoded_bytes)
        rows.append(
            [each.label, f"{after.uncoded_bytes:,}", shares(after.uncoded_bytes), coded, shares(after.size_bytes), saved,
             f"{before.size_bytes:,}"]
        )  # fmt: skip
    heading = ["weights", "bytes", "of float", "with zstd", "of float", "saved", "one-shot, with zstd"]
    return table(heading, rows)


def packed_table(ablation: Ablation) -> str:
    """Codes and group codes, by arithmetic and in the file."""
    rows = []
    for each in CONFIGURATIONS:
        found = both(ablation, each)[1].bytes
        theoretical, packed, scales = (found[key] for key in ("theoretical", "packed", "scales"))
        rows.append(
            [each.label, f"{8 * theoretical / found['num_params']:.2f}", f"{theoretical:,.0f}", f"{packed:,.0f}", f"{theoretical / packed:.4f}",
             f"{scales:,.0f}", f"{theoretical / (packed + scales):.4f}", f"{found['coded']:,.0f}"]
        )  # fmt: skip
    heading = [
        "weights",
        "bits a weight",
        "theoretical",
        "achieved",
        "ratio",
        "scales",
        "ratio with scales",
        "all with zstd",
    ]
    return table(heading, rows)


def wers_table(ablation: Ablation) -> str:
    """Error rates on both sets, one-shot and fine-tuned."""
    floats = ablation.float_model
    rows = [["float", percent(floats["eval"].wer), NONE, NONE, NONE, percent(floats["own.eval"].wer), NONE, NONE]]
    for each in CONFIGURATIONS:
        before, after = both(ablation, each)
        cells = []
        for made in (before, after):
            cells += [wer(made.test), relative_text(made.relative["eval"])]
        cells += [wer(before.evaluations["own.eval"]), wer(after.evaluations["own.eval"])]
        rows.append([each.label, *cells, relative_text(after.relative["own.eval"])])
    heading = [
        "weights", "one-shot", "relative", "fine-tuned", "relative", "own set, one-shot", "own set, fine-tuned", "relative",
    ]  # fmt: skip
    return table(heading, rows)


def trained_table(ablation: Ablation) -> str:
    """The variations of one configuration."""
    rows = []
    for key, values in ABLATED.items():
        for value in values:
            made = ablation.rows[variant(key, value).name]
            training = made.training or {}
            divergence = training.get("mask_divergence")
            dev = f"{percent(training['before'][0])} → {percent(training['best'][0])}"
            changed = NONE if not divergence else percent(divergence)
            rows.append(
                [f"{key.replace('_', ' ')}: {SCHEDULES.get(value, value)}", wer(made.test), relative_text(made.relative["eval"]),
                 paired(made.test), dev, changed]
            )  # fmt: skip
    return table(["option", "WER", "relative", "less float's, points", "dev", "masks"], rows)


def options_table(ablation: Ablation) -> str:
    """How each configuration is made and trained."""
    keys = ("learning_rate", "epochs", "batch_size", "distillation", "mask_schedule", "scales")
    rows = []
    for each in CONFIGURATIONS:
        options, training = each.options, both(ablation, each)[1].training or {}
        method = [f"`{options[key]}`" for key in ("method", "sparsifier") if key in options]
        rows.append([each.label, ", ".join(method), *(_option(training["options"][key]) for key in keys)])
        rows[-1].append(f"{training['num_updates']:,}, best at epoch {training['best_epoch']:g}")
    return table(["weights", "made by", *(key.replace("_", " ") for key in keys), "updates"], rows)


def _option(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float | int) else str(value)


def relative_text(relative: Relative | None) -> str:
    """A relative difference with its interval, in per cent."""
    if relative is None:
        return NONE
    marked = f" {WORSE}" if relative.low > 0 else f" {BETTER}" if relative.high < 0 else ""
    return f"{_signed(relative.value)} [{_signed(relative.low)}, {_signed(relative.high)}]{marked}"


def _signed(fraction: float) -> str:
    return f"{100 * fraction:+.1f} %"
