"""Loss, reward and KL over the steps as one picture, for people."""

import io
import math
from collections.abc import Mapping

CURVES_FILE = "curves.png"
_CURVES = {
    "reward": "reward",
    "loss": "loss",
    "policyLoss": "policy loss",
    "valueLoss": "value loss",
    "kl": "KL, nats per response",
    "entropy": "entropy, nats per token",
    "responseTokens": "tokens per response",
}
_INK, _LINE, _WIDTH, _HEIGHT = "#1f2933", "#2563a8", 7.0, 1.7


def draw_curves(history: Mapping[int, Mapping[str, float]]) -> bytes | None:
    """A PNG with one plot per figure that there is; None when there is none."""
    present = [name for name in _CURVES if any(math.isfinite(each.get(name, math.nan)) for each in history.values())]
    if not present:
        return None
    # Slow to import, and only the end of a run draws.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT * len(present)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(len(present), sharex=True, squeeze=False)[:, 0], present, strict=True):
        steps = [step for step, figures in history.items() if name in figures]
        axes.plot(steps, [history[step][name] for step in steps], color=_LINE, linewidth=1.2)
        axes.set_ylabel(_CURVES[name], fontsize=8, color=_INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.axes[-1].set_xlabel("step", fontsize=8)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    return png.getvalue()
