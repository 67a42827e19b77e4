"""The judge's metrics, `rlhf_judge_*`. No text, and no label named namespace, job or pod."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """One registry per judge, so that two in one process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.queue_depth = Gauge(
            "rlhf_judge_queue_depth", "Texts that wait or are being scored", registry=self.registry
        )
        self.queue_limit = Gauge("rlhf_judge_queue_limit", "Texts that the queue takes at most", registry=self.registry)
        self.ready = Gauge(
            "rlhf_judge_ready", "1 while every probe scores as it did at evaluation", registry=self.registry
        )
        self.version = Gauge("rlhf_judge_version_info", "The version that is held", ["version"], registry=self.registry)
        self.requests = Counter(
            "rlhf_judge_requests_total", "Requests to /v1/score by status", ["code"], registry=self.registry
        )
        self.texts = Counter(
            "rlhf_judge_texts_total", "Texts by outcome: scored or missing", ["outcome"], registry=self.registry
        )
        self.outages = Counter(
            "rlhf_judge_outages_total", "Times that the judge became not ready", registry=self.registry
        )
        self.seconds = Histogram(
            "rlhf_judge_request_seconds",
            "Time of answered requests to /v1/score",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.engine_seconds = Histogram(
            "rlhf_judge_engine_seconds", "Time of one batch at the engine", buckets=_SECONDS, registry=self.registry
        )

    def expose(self) -> bytes:
        """The text format."""
        return generate_latest(self.registry)

    def became(self, ready: bool) -> None:
        """Note a change of readiness."""
        self.ready.set(1 if ready else 0)
        if not ready:
            self.outages.inc()
