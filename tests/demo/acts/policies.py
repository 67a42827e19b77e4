"""Act two: policies are trained against the reward model, each as an RLHFJob."""

from __future__ import annotations

from demo.acts.stage import Stage
from demo.cluster import Object
from demo.report import figures
from demo.run import JOB_TIMEOUT_SECONDS
from demo.watch import Line, follow


def begin(stage: Stage, job: Object) -> None:
    """Apply a job; it trains while other things happen."""
    stage.apply(job)
    stage.voice.say(f"kubectl apply: RLHFJob {job['metadata']['name']}, which trains from now on")


def finish(stage: Stage, job: Object) -> Object:
    """Follow a job to its end; returns it with its artifact."""
    done = follow(stage.cluster, job["metadata"]["name"], JOB_TIMEOUT_SECONDS, Line())
    for line in figures(done, None):
        stage.voice.say(line)
    artifact = done["status"].get("artifact") or {}
    stage.voice.say(f"artifact {artifact.get('digest')}, gate {artifact.get('gate')}")
    return done
