"""What a running job says: JSON lines on stdout, Prometheus metrics and its progress over HTTP. Rank 0 only."""

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest

from rlhf_operator.api.result import CheckpointRecord, Progress, ResolvedInput, ScorerReading

from .trackers import ETA, STEPS, Tracker

MAX_WARNINGS = 10
SLOW_SCORER_SECONDS = 1.0


def say(event: str, **fields: Any) -> None:
    """Print one JSON line: what happened, when, and its figures."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
    print(json.dumps(line, default=str), file=sys.stdout, flush=True)


class Reporter:
    """The figures of the run, kept for whoever asks."""

    def __init__(
        self,
        plan_digest: str,
        attempt: int,
        steps: int,
        trackers: Iterable[Tracker] = (),
        sources: Iterable[ResolvedInput] = (),
    ) -> None:
        self._trackers = list(trackers)
        self._lock = threading.Lock()
        self._registry = CollectorRegistry()
        self._gauges: dict[str, Gauge] = {}
        self._of_guards: list[str] = []
        self._of_scorers: list[str] = []
        self._finished_steps = Counter("rlhf_steps", "Steps finished by this attempt.", registry=self._registry)
        self._progress = Progress(
            plan_digest=plan_digest,
            attempt=attempt,
            step=0,
            steps=steps,
            updated_at=datetime.now(UTC),
            sources=list(sources),
        )
        self._server: ThreadingHTTPServer | None = None

    def serve(self, port: int) -> int:
        """Answer GET /metrics and GET /progress from a thread; returns the port, which 0 leaves to the system."""
        reporter = self

        class Handler(BaseHTTPRequestHandler):
            """Two read-only paths."""

            timeout = 10

            def do_GET(self) -> None:
                """Answer one request."""
                if self.path == "/progress":
                    self._answer(200, "application/json", reporter.progress_json())
                elif self.path == "/metrics":
                    self._answer(200, CONTENT_TYPE_LATEST, generate_latest(reporter._registry))
                else:
                    self._answer(404, "text/plain", b"GET /progress or /metrics\n")

            def _answer(self, status: int, content_type: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                # Whoever asked may not have waited; a training log is no place for that.
                with contextlib.suppress(ConnectionError):
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing: stdout is for JSON lines, and polls are many."""

        self._server = ThreadingHTTPServer(("", port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="progress", daemon=True).start()
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop answering."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        self._each_tracker(lambda tracker: tracker.close())

    def progress_json(self) -> bytes:
        """The progress as GET /progress answers it."""
        with self._lock:
            return self._progress.model_dump_json(by_alias=True, exclude_none=True).encode()

    def expect(self, steps: int) -> None:
        """The run has so many steps."""
        self._update(steps=steps)

    def checkpoint(self, record: CheckpointRecord) -> None:
        """A checkpoint is complete."""
        self._update(checkpoint_step=record.step, checkpoint_digest=record.digest)
        say("checkpoint", step=record.step, digest=record.digest)

    def resumed(self, step: int) -> None:
        """The run goes on behind this step."""
        self._update(step=step)

    def step(self, step: int, figures: Mapping[str, float], eta_seconds: float | None, warnings: list[str]) -> None:
        """A step is done; `eta_seconds` is None where nothing is known of those to come."""
        self._of_guards = warnings
        self._update(
            step=step,
            reward=figures.get("reward"),
            # Not measured behind every step by DPO and KTO: the last figure stands.
            kl=figures.get("kl", self._progress.kl),
            entropy=figures.get("entropy", self._progress.entropy),
            loss=figures.get("loss"),
            accuracy=figures.get("accuracy"),
            tokens_per_second=figures.get("tokensPerSecond"),
            eta_seconds=eta_seconds,
            warnings=self._warnings(),
        )
        self._finished_steps.inc()
        self.figures(figures)
        told = {**figures, STEPS: float(self._progress.steps), **({} if eta_seconds is None else {ETA: eta_seconds})}
        self._each_tracker(lambda tracker: tracker.step(step, told))
        # A terminal has the bar.
        if not sys.stdout.isatty():
            say(
                "step",
                step=step,
                **{name: round_figure(value) for name, value in figures.items()},
                warnings=self._warnings(),
            )

    def evaluated(self, step: int, means: Mapping[str, float]) -> None:
        """An evaluation between steps is done. means: mean score by scorer; rlhf_eval_score{scorer="helpful"}."""
        self.figures({f"evalScore/{scorer}": mean for scorer, mean in means.items()})
        say("evaluation", step=step, scores={scorer: round_figure(mean) for scorer, mean in means.items()})

    def scorer_times(self, seconds: Mapping[str, float], failures: Mapping[str, str] | None = None) -> None:
        """The 95th percentile of the time per text, by scorer, on rank 0: rlhf_scorer_seconds_p95{scorer="helpful"}.

        failures: in words, by scorer; they are warned of until the attempt ends.
        """
        self.figures({f"scorerSecondsP95/{scorer}": value for scorer, value in seconds.items()})
        self._of_scorers = [f"scorer {scorer} failed on {words}" for scorer, words in (failures or {}).items()]
        self._of_scorers += [
            f"scorer {scorer} takes {value:.1f} s for a text (95th percentile), and training waits for it: above "
            f"{SLOW_SCORER_SECONDS:g} s it should be made faster, or asked in larger batches behind http"
            for scorer, value in seconds.items()
            if value > SLOW_SCORER_SECONDS
        ]
        readings = [ScorerReading(name=name, p95_seconds=float(f"{value:.2g}")) for name, value in seconds.items()]
        self._update(scorers=readings, warnings=self._warnings())

    def figures(self, figures: Mapping[str, float]) -> None:
        """Set one gauge per figure; `score/helpful` becomes rlhf_score{scorer="helpful"}."""
        for name, value in figures.items():
            metric, _, scorer = name.partition("/")
            if metric not in self._gauges:
                self._gauges[metric] = Gauge(
                    metric_name(metric),
                    f"Figure {metric} of the last step.",
                    ["scorer"] if scorer else [],
                    registry=self._registry,
                )
            gauge = self._gauges[metric]
            (gauge.labels(scorer) if scorer else gauge).set(value)

    def _warnings(self) -> list[str]:
        return [*self._of_guards, *self._of_scorers][:MAX_WARNINGS]

    def _each_tracker(self, do: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                do(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                say("tracker-failed", message=f"{type(tracker).__name__} is let go: {error}"[:500])

    def _update(self, **fields: Any) -> None:
        with self._lock:
            self._progress = self._progress.model_copy(update={**fields, "updated_at": datetime.now(UTC)})


def metric_name(figure: str) -> str:
    """The Prometheus name of a figure: klPerToken becomes rlhf_kl_per_token, secondsP95 rlhf_seconds_p95."""
    return "rlhf_" + "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in figure)


def round_figure(value: float) -> float:
    """Six significant digits: enough to compare, short enough to read."""
    return float(f"{value:.6g}")
