"""How near PPO, RLOO and GRPO come to the best there is, on a task that can be solved exactly (TRAINING, section 6).

Five seeds that no setting was chosen on, at KL coefficients of 0.1 and 0.3. PPO and RLOO are held against J*; GRPO
against the fixed point of its own gradient, and its way to J* is told beside it.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from bench.harness import Report, Row
from trainer.core.closed_form import BETAS, SEEDS, Solved, task


def run() -> Report:
    """Train everything, one after the other."""
    found: dict[str, dict[str, Solved]] = {}
    started = time.process_time()
    for algorithm in ("ppo", "rloo", "grpo"):
        found[algorithm] = {}
        for seed in SEEDS:
            for beta in BETAS:
                with tempfile.TemporaryDirectory(prefix="rlhf-bench-") as scratch:
                    solved = task(Path(scratch), algorithm, seed, beta).solve()
                found[algorithm][f"seed {seed}, beta {beta:g}"] = solved
                print(f"{algorithm} seed {seed} beta {beta:g}: {solved.share:.4f} of the way to J*", flush=True)
    return _report(found, time.process_time() - started)


def _report(found: dict[str, dict[str, Solved]], seconds: float) -> Report:
    shares = {name: [solved.share for solved in runs.values()] for name, runs in found.items()}
    own = [solved.own_share for solved in found["grpo"].values()]
    rows = [
        Row("ppo_min_gap_closed", "PPO: least share of J(ref) -> J* closed", min(shares["ppo"]), ">= 0.95"),
        Row("rloo_min_gap_closed", "RLOO: least share of J(ref) -> J* closed", min(shares["rloo"]), ">= 0.95"),
        Row("grpo_min_own_gap_closed", "GRPO: least share of the way to its own fixed point", min(own), ">= 0.95"),
        Row("grpo_min_gap_closed", "GRPO: least share of J(ref) -> J* closed", min(shares["grpo"])),
        Row("runs", "runs", float(sum(map(len, shares.values())))),
        Row("cpu_seconds", "seconds of CPU for all", seconds),
    ]
    details = {
        name: {
            run: {"share": solved.share, "ownShare": solved.own_share, **vars(solved)} for run, solved in runs.items()
        }
        for name, runs in found.items()
    }
    notes = ["a share above 1 of GRPO's own way is possible: its fixed point is not the optimum"]
    return Report(rows, notes, details)
