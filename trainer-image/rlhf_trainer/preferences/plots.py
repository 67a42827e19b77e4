"""Plots as SVG text, the same bytes for the same figures. What they show is decided in report_page.py."""

import io
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, RIGHT, WRONG, QUIET = "#1f2933", "#2563a8", "#b4442d", "#9aa5b1"
_WIDTH = 6.4
_ROW = 0.34
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "rlhf",
    # Text stays text: it can be selected and searched, and no font is embedded.
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    # A dollar sign in a name is no formula.
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
}


class Bar(NamedTuple):
    """One line of an interval plot."""

    label: str
    value: float
    interval: tuple[float, float] | None
    note: str = ""
    strong: bool = False


def intervals(bars: Sequence[Bar], axis: str, reference: float | None, limits: tuple[float, float] | None) -> str:
    """Points with their 95 % intervals, one line each, and a dotted line at the reference."""

    def draw(axes: "Axes") -> None:
        for at, bar in enumerate(bars):
            place = len(bars) - 1 - at
            colour = RIGHT if bar.strong else INK
            if bar.interval is not None:
                axes.plot(bar.interval, (place, place), color=colour, linewidth=2, solid_capstyle="butt")
            axes.plot([bar.value], [place], "o", color=colour, markersize=5)
        if reference is not None:
            axes.axvline(reference, color=QUIET, linestyle=":", linewidth=1)
        axes.set_yticks(range(len(bars)), [_label(bar) for bar in reversed(bars)])
        axes.set_ylim(-0.7, len(bars) - 0.3)
        axes.set_xlabel(axis)
        if limits is not None:
            axes.set_xlim(*limits)

    return _svg(draw, 0.9 + _ROW * len(bars))


def histogram(edges: Sequence[float], counts: Sequence[int], axis: str) -> str:
    """Counts between edges; below zero in the colour of what is wrong."""

    def draw(axes: "Axes") -> None:
        widths = [high - low for low, high in pairwise(edges)]
        middles = [(low + high) / 2 for low, high in pairwise(edges)]
        colours = [RIGHT if middle > 0 else WRONG for middle in middles]
        axes.bar(edges[:-1], counts, width=widths, align="edge", color=colours, edgecolor="white", linewidth=0.5)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_xlabel(axis)
        axes.set_ylabel("pairs")

    return _svg(draw, 2.6)


def reliability(confidence: Sequence[float], share: Sequence[float], rows: Sequence[int]) -> str:
    """Confidence against what came true; on the diagonal both are the same. The size of a point follows its rows."""

    def draw(axes: "Axes") -> None:
        axes.plot([0.5, 1.0], [0.5, 1.0], color=QUIET, linestyle=":", linewidth=1)
        most = max(rows, default=1)
        axes.scatter(confidence, share, s=[15 + 120 * each / most for each in rows], color=RIGHT, alpha=0.85)
        axes.set_xlim(0.48, 1.02)
        axes.set_ylim(min(0.45, *share) - 0.03 if share else 0.45, 1.03)
        axes.set_xlabel("probability given to the likelier response")
        axes.set_ylabel("share of judgements for it")

    return _svg(draw, 3.0)


def _label(bar: Bar) -> str:
    short = bar.label if len(bar.label) <= 34 else bar.label[:33] + "…"
    return f"{short}: {bar.note}" if bar.note else short


def _svg(draw: Callable[["Axes"], None], height: float) -> str:
    """Draw one plot. The text starts at `<svg`: without the XML head it can stand inside HTML."""
    # Slow to import, and only the end of a run draws.
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    found = text.getvalue()
    return found[found.index("<svg") :]
