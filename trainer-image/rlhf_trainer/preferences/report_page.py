"""report.html: one page with everything in it, nothing fetched, nothing that runs; every text from outside escaped."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from rlhf_operator.api.scorerfile import REPORT_FILE, REPORT_PAGE
from rlhf_trainer.files import write_durably

from . import plots
from .datareport import AgreementFigures, DataReport, DatasetReport
from .measures import Accuracy, DimensionReport
from .plots import Bar
from .report import RewardReport

SLICES_SHOWN = 30
"""Slices on the page, the largest first; all are in report.json."""
_CUT = 240
_NOT_MEASURED = "not measured"
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1f2933; background: #fff; max-width: 62rem; margin: 2rem auto;
 padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; margin-bottom: 0; }}
h2 {{ font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #cbd2d9; }}
h3 {{ font-size: 1rem; margin-bottom: .3rem; }}
table {{ border-collapse: collapse; margin: .5rem 0 1rem; }}
th, td {{ text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top; border-bottom: 1px solid #e4e7eb; }}
th.n, td.n {{ text-align: right; font-variant-numeric: tabular-nums; }}
code {{ font-size: .85em; overflow-wrap: anywhere; }}
.quiet {{ color: #52606d; }}
figure {{ margin: .5rem 0 1rem; }} svg {{ max-width: 100%; height: auto; }}
figcaption {{ color: #52606d; }}
</style>
</head>
<body>
"""


def write_report(report: RewardReport, folder: Path) -> None:
    """Write report.json and report.html into a version's folder."""
    write_durably(folder / REPORT_FILE, report.model_dump_json(by_alias=True, indent=2).encode())
    write_durably(folder / REPORT_PAGE, page(report).encode())


def page(report: RewardReport) -> str:
    """The whole page."""
    title = f"Reward model {report.name}"
    parts = [
        _HEAD.format(title=escape(title)),
        f"<h1>{escape(title)}</h1>",
        f'<p class="quiet">Plan <code>{escape(report.plan_digest)}</code></p>',
        _summary(report.dimensions),
        *(part for dimension in report.dimensions for part in _dimension(dimension)),
    ]
    if report.data is not None:
        parts += _data(report.data)
    return "\n".join((*parts, "</body>", "</html>", ""))


def _summary(dimensions: Sequence[DimensionReport]) -> str:
    if not dimensions:
        return "<p>Nothing was measured.</p>"
    rows = [
        (
            each.dimension,
            _accuracy(each.accuracy),
            _accuracy(each.length.rule),
            _over(each),
            _number(each.calibration_error),
            _number(each.length.spearman),
        )
        for each in dimensions
    ]
    head = ("dimension", "accuracy", "longer answer wins", "difference", "calibration error", "length bias")
    return "<h2>Held-out judgements</h2>" + _table(head, rows)


def _dimension(found: DimensionReport) -> Iterable[str]:
    yield f"<h2>Dimension {escape(found.dimension)}</h2>"
    if found.accuracy is None:
        yield "<p>No held-out comparison has a winner and two scores.</p>"
    else:
        yield _accuracy_plot(found)
        yield f"<p>{escape(_verdict_on_length(found))}</p>"
    counts = [
        (found.ties, f"{_plural(found.ties, 'tie')}, not judged for accuracy"),
        (
            found.lone,
            f"{_plural(found.lone, 'response')} judged alone, {_plural(found.lone_pairs, 'pair')} made of them",
        ),
        (found.unscored, f"{_plural(found.unscored, 'comparison')} without a score, left out"),
    ]
    words = "; ".join(what for count, what in counts if count)
    if words:
        yield f'<p class="quiet">{escape(words)}.</p>'
    if found.margins is not None:
        caption = "Score of the preferred response minus that of the other; left of 0 the model is wrong."
        yield _figure(plots.histogram(found.margins.edges, found.margins.counts, "margin"), caption)
    if found.reliability:
        bins = found.reliability
        drawn = plots.reliability(
            [each.confidence for each in bins], [each.share for each in bins], [each.rows for each in bins]
        )
        yield _figure(drawn, _calibration_words(found))
    yield from _slices(found)
    yield from _biases(found)
    yield from _must_prefer(found)


def _accuracy_plot(found: DimensionReport) -> str:
    named: tuple[tuple[str, Accuracy | None, bool], ...] = (
        ("model", found.accuracy, True),
        ("longer answer wins", found.length.rule, False),
        ("model, pairs of equal length", found.length.matched, True),
    )
    bars = [
        Bar(name, each.value, each.interval, f"{each.value:.3f} of {each.pairs}", strong)
        for name, each, strong in named
        if each is not None
    ]
    share = 100 * (1 - found.length.tolerance)
    caption = (
        "Accuracy with 95 % intervals (bootstrap by prompt; Wilson's where every prompt has one pair). Equal length: "
        f"the shorter response has at least {share:.0f} % of the longer one's characters."
    )
    return _figure(plots.intervals(bars, "accuracy", 0.5, (0.0, 1.0)), caption)


def _verdict_on_length(found: DimensionReport) -> str:
    over = found.length.over_rule
    if over is None:
        return "No pair of two responses was held out: there is no length to compare with."
    words = f"{over[0]:+.3f} (95 % interval {over[1]:+.3f} to {over[2]:+.3f}, paired bootstrap by prompt)"
    if over[1] > 0:
        return f"The model is better than the rule that the longer answer wins, by {words}."
    if over[2] < 0:
        return f"The model is worse than the rule that the longer answer wins, by {words}."
    return f"The model is not shown to be better than the rule that the longer answer wins: {words}."


def _calibration_words(found: DimensionReport) -> str:
    temperatures = ", ".join(
        f"{each.value:.3g}" if each.fitted else f"{each.value:g} (not fitted)" for each in found.temperatures
    )
    return (
        f"Calibration: expected error {_number(found.calibration_error)} in 10 bins of equal width between ½ and 1; "
        f"temperature {temperatures or '1'}, fitted on a split of its own."
    )


def _slices(found: DimensionReport) -> Iterable[str]:
    if not found.slices:
        return
    shown = sorted(found.slices, key=lambda each: (-each.pairs, each.column, each.slice))[:SLICES_SHOWN]
    bars = [
        Bar(f"{each.slice} ({each.column})", each.value, each.interval, f"{each.pairs}", each == found.worst_slice)
        for each in shown
    ]
    worst = found.worst_slice
    words = (
        f"Lowest with at least {found.slice_min_samples} pairs: {worst.column} {worst.slice!r}, {worst.value:.3f} of "
        f"{worst.pairs} pairs (marked)."
        if worst is not None
        else f"No slice has {found.slice_min_samples} pairs."
    )
    more = f" The {len(shown)} largest of {len(found.slices)} are shown." if len(shown) < len(found.slices) else ""
    yield "<h3>Slices</h3>"
    yield _figure(plots.intervals(bars, "accuracy", 0.5, (0.0, 1.0)), words + more)


def _biases(found: DimensionReport) -> Iterable[str]:
    if not found.biases:
        return
    yield "<h3>Bias probes</h3>"
    bars = [
        Bar(each.probe, each.effect, each.interval, f"{each.effect:+.2f}")
        for each in found.biases
        if each.effect is not None
    ]
    if bars:
        caption = (
            "Mean change of the score when a text is changed without new content, in standard deviations of the "
            "scores, with 95 % intervals. Right of 0 the change pays."
        )
        yield _figure(plots.intervals(bars, "effect in standard deviations", 0.0, None), caption)
    rows = [(each.probe, each.what, str(each.texts), _share(each.share_raised), each.note) for each in found.biases]
    yield _table(("probe", "change", "texts", "scores raised", "note"), rows)


def _must_prefer(found: DimensionReport) -> Iterable[str]:
    if found.must_prefer is None:
        return
    missed = found.must_prefer.missed
    yield "<h3>mustPrefer</h3>"
    yield f"<p>{found.must_prefer.pairs - len(missed)} of {found.must_prefer.pairs} pairs came out right.</p>"
    if missed:
        rows = [
            (str(each.row), each.prompt, _number(each.chosen_score), _number(each.rejected_score))
            for each in missed[:SLICES_SHOWN]
        ]
        yield _table(("row", "prompt", "score of chosen", "score of rejected"), rows)


def _data(data: DataReport) -> Iterable[str]:
    yield "<h2>Data</h2>"
    yield (
        f"<p>Aggregation {escape(data.method)}, minAgreement {data.min_agreement:g}, ties {escape(data.ties)}. "
        f"{data.prompt_groups} prompts (nearly equal ones counted once); {escape(data.split)}.</p>"
    )
    rows = [
        (
            f"{at + 1}" if at + 1 < len(data.rounds) or len(data.rounds) == 1 else "the version itself",
            *(
                f"{part.comparisons} of {part.prompts} prompts"
                for part in (each.train, each.calibration, each.held_out)
            ),
        )
        for at, each in enumerate(data.rounds)
    ]
    if rows:
        yield _table(("round", "trained on", "temperature fitted on", "held out"), rows)
    for dataset in data.datasets:
        yield from _dataset(dataset)


def _dataset(found: DatasetReport) -> Iterable[str]:
    yield f"<h3>{escape(found.record.name)}: {escape(found.ref)}</h3>"
    yield (
        f"<p>{found.record.used} of {found.record.rows} rows used: {found.comparisons} comparisons, of which "
        f"{found.ties} are ties and {found.lone} lone responses.</p>"
    )
    dropped = [
        (
            reason.value,
            str(tally.count),
            "\n".join(f"row {each.row}: {each.detail}" for each in tally.examples[:3]),
        )
        for reason, tally in found.dropped.items()
    ]
    if dropped:
        yield _table(("dropped because", "rows", "first examples"), dropped)
    odd = [
        (each.name, str(each.count), each.message, ", ".join(str(example.row) for example in each.examples))
        for each in found.findings
    ]
    if odd:
        yield _table(("found", "rows", "what", "first rows"), odd)
    for figures in found.agreement:
        yield from _agreement(figures)


def _agreement(found: AgreementFigures) -> Iterable[str]:
    yield f"<h3>Annotators on {escape(found.dimension)}</h3>"
    if not found.measurable:
        yield "<p>No comparison was judged by two annotators: agreement can't be measured.</p>"
        return
    interval = found.alpha_interval
    within = f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})" if interval is not None else ""
    yield (
        f"<p>Krippendorff's alpha {_number(found.alpha)}{within} over {found.comparisons} comparisons; Fleiss' kappa "
        f"{_number(found.fleiss_kappa)} over {found.fleiss_comparisons}.</p>"
    )
    bars = [
        Bar(each.name, each.agreement, None, f"{each.agreement:.3f} of {each.votes}")
        for each in found.annotators
        if each.agreement is not None
    ]
    bars += [
        Bar(f"on gold rows: {each.name}", each.gold_accuracy, each.gold_interval, f"{each.gold_rows}", True)
        for each in found.annotators
        if each.gold_accuracy is not None
    ]
    bars += [
        Bar(f"inferred reliability: {each.name}", each.reliability, None, f"{each.reliability:.3f}", True)
        for each in found.annotators
        if each.reliability is not None
    ]
    if bars:
        yield _figure(plots.intervals(bars, "share of equal verdicts", None, (0.0, 1.0)), "Agreement with the others.")
    pairs = [
        (f"{each.first} and {each.second}", str(each.rows), _share(each.same), _number(each.kappa))
        for each in found.pairs
    ]
    yield _table(("pair", "rows", "same verdict", "Cohen's kappa"), pairs)


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a column of nothing but figures stands to the right, its name too."""
    found = list(rows)
    figures = [any(row[at] for row in found) and all(_is_figure(row[at]) for row in found) for at in range(len(head))]
    names = "".join(_cell("th", name, figure) for name, figure in zip(head, figures, strict=True))
    body = "".join(
        "<tr>" + "".join(_cell("td", value, figure) for value, figure in zip(row, figures, strict=True)) + "</tr>"
        for row in found
    )
    return f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"


def _cell(name: str, value: str, figure: bool) -> str:
    text = escape(value[:_CUT]).replace("\n", "<br>")
    return f'<{name} class="n">{text}</{name}>' if figure else f"<{name}>{text}</{name}>"


def _is_figure(value: str) -> bool:
    """Whether a cell holds one figure, or none where there is none to give."""
    bare = value.removesuffix(" %").removeprefix("-").replace(".", "", 1)
    return not bare or bare.isdecimal() or value == _NOT_MEASURED


def _accuracy(found: Accuracy | None) -> str:
    if found is None:
        return _NOT_MEASURED
    lower, upper = found.interval
    return f"{found.value:.3f} ({lower:.3f} to {upper:.3f}), {found.pairs} pairs of {found.prompts} prompts"


def _over(found: DimensionReport) -> str:
    over = found.length.over_rule
    return _NOT_MEASURED if over is None else f"{over[0]:+.3f} ({over[1]:+.3f} to {over[2]:+.3f})"


def _number(value: float | None) -> str:
    return _NOT_MEASURED if value is None else f"{value:.3f}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"
