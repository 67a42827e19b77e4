"""The win rate as it would be at equal lengths (Dubois et al. 2024, "Length-controlled AlpacaEval"). Pure arithmetic.

logit P(win) = θ + φ · tanh(Δ / s), where Δ is the difference in length and s its root mean square; the
length-controlled win rate is sigmoid(θ), the one at Δ = 0. AlpacaEval's third term, the difficulty of each instruction,
is fitted over many models and left out. Weak priors keep θ and φ finite where every text wins, or the longer one always
does; what length and quality explain alike is then shared between them.
"""

import numpy as np
from numpy.typing import NDArray

_PRECISION = 0.1
"""Of the normal prior on θ and φ: deviation 3.2 logits, a tenth of one prompt's weight near ½."""
_ROUNDS = 100
_TOLERANCE = 1e-10


def length_controlled(outcomes: NDArray[np.float64], differences: NDArray[np.float64]) -> float:
    """The length-controlled win rate.

    outcomes: [rows], 1 a win, ½ a tie, 0 a loss; differences: [rows], length of the policy's text minus the baseline's.
    Turning both sides round gives 1 minus the same number.
    """
    scale = float(np.sqrt(np.mean(differences**2)))
    lengths = np.tanh(differences / scale) if scale > 0 else np.zeros_like(outcomes)
    columns = np.stack([np.ones_like(outcomes), lengths], axis=1)
    weights = np.zeros(2)
    for _ in range(_ROUNDS):
        rates = _sigmoid(columns @ weights)
        gradient = columns.T @ (outcomes - rates) - _PRECISION * weights
        curvature = columns.T @ (columns * (rates * (1 - rates))[:, None]) + _PRECISION * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        # Newton's steps may overshoot where the curve is flat: at most 2 logits at a time.
        weights += step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-300))
        if float(np.abs(step).max()) < _TOLERANCE:
            break
    return float(_sigmoid(weights[:1])[0])


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (1.0 + np.tanh(0.5 * values))
