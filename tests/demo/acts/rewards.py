"""Act one: preferences become a reward model that is gated, versioned and served."""

from __future__ import annotations

from demo.acts.stage import START_SECONDS, Stage
from demo.report import number
from demo.watch import Line, follow


def play(stage: Stage) -> None:
    """Train, judge and serve the reward model; returns once it answers."""
    model = stage.scene.reward_model
    stage.apply(model)
    seen = follow(stage.cluster, model["metadata"]["name"], START_SECONDS, Line(), kind="RewardModel", end="Ready")
    status = seen["status"]
    version = next(each for each in status["versions"] if each["digest"] == status["currentVersion"])
    low, high = version.get("accuracyInterval") or (None, None)
    stage.voice.say(
        f"of the held-out pairs {number(version.get('accuracy'), 2)} come out right "
        f"(95 % {number(low, 2)} to {number(high, 2)}); "
        f"Krippendorff's alpha of the annotators is {number(version.get('agreementAlpha'), 2)}"
    )
    stage.voice.say(f"version {version['digest']}, gate {version['gate']}, asked at {status.get('url')}")
