"""Live signals: names that serving pods, live judge, Prometheus and operator share. No behaviour lives here.

Serving pods and judge read their settings from files that change under them: what is recorded, sampled and judged is no
part of a revision, and no pod restarts for it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from .base import Model
from .plan import PlanScorer
from .policyrollout import Redaction
from .result import Digest
from .scalars import HTTPURL, Rate

LIVE_PORT = 8000
"""Requests whose answers reach a user."""
SHADOW_PORT = 8001
"""Copies of requests; their answers reach nobody."""
ADMIN_PORT = 9402
"""/metrics, /readyz, /livez; in no Service that a route names."""
JUDGE_PORT = 8080
"""The live judge: POST /v1/samples, /metrics, /readyz, /livez."""

SERVED_HEADER = "x-rlhf-served"
"""Revision that the gateway chose; set by the route on every backend: a copy tells whom the original went to."""
REVISION_HEADER = "x-rlhf-revision"
"""Of an answer: the revision that gave it."""
REQUEST_ID_HEADER = "x-request-id"
SESSION_HEADER = "x-session-id"
FEEDBACK_TOKEN_HEADER = "x-rlhf-feedback-token"  # noqa: S105
SLICE_HEADERS = {name: f"x-rlhf-{name}" for name in ("team", "feature", "cohort", "language")}
"""Header of the request that fills each slice label."""
OTHER = "other"
"""Slice label of a value that is not on the allow-list; empty: the request names none."""

SIGNALS_PATH = "/rlhf/signals"
SIGNALS_FILE = "signals.json"
TEXTS_PATH = "/rlhf/texts"
SYSTEM_PROMPT_FILE = "system-prompt.txt"
CHAT_TEMPLATE_FILE = "chat-template.jinja"
KEYS_PATH = "/rlhf/keys"
FEEDBACK_KEY_FILE = "feedback"
PSEUDONYM_KEY_FILE = "pseudonym"
SAMPLES_KEY_FILE = "samples"
"""What serving pods prove themselves to the live judge with: bearer token of POST /v1/samples."""
TRAJECTORIES_PATH = "/rlhf/trajectories"
SPOOL_PATH = "/rlhf/spool"
MODEL_PATH = "/rlhf/model"
JUDGE_PLAN_PATH = "/rlhf/judge"
JUDGE_PLAN_FILE = "judge.json"


class Role(StrEnum):
    """Whether an answer reaches a user."""

    LIVE = "live"
    SHADOW = "shadow"


class RequestOutcome(StrEnum):
    """How a request ended: label `outcome` of rlhf_requests_total."""

    OK = "ok"
    ERROR = "error"
    """5xx, or an answer that the server broke off."""
    CLIENT_ERROR = "client_error"
    CANCELLED = "cancelled"
    """The client went away first."""
    SHED = "shed"
    """A copy that was refused because too many were under way; a live request is never shed."""
    OWN_COPY = "own_copy"
    """A copy of what this revision itself answers live: 204, nothing is generated."""


class PairOutcome(StrEnum):
    """Label `outcome` of rlhf_win_total, seen from the revision that answered the copy."""

    WIN = "win"
    TIE = "tie"
    LOSS = "loss"


# Metrics of serving pods and judges. Labels of all: rlhf_namespace, rlhf_rollout, revision, role; of those of requests
# also the four slices. Never namespace, job or pod: Prometheus would rename them.
IDENTITY_LABELS = ("rlhf_namespace", "rlhf_rollout", "revision", "role")
SLICE_LABELS = tuple(SLICE_HEADERS)
REQUESTS = "rlhf_requests_total"
"""Counter; + outcome, slices."""
REQUEST_SECONDS = "rlhf_request_seconds"
"""Histogram over LATENCY_BUCKETS; + slices. Answered requests only (outcome ok)."""
TIME_TO_FIRST_TOKEN = "rlhf_time_to_first_token_seconds"  # noqa: S105
"""Histogram over LATENCY_BUCKETS; + slices. Streamed answers, and whole ones by their whole time."""
TIME_PER_OUTPUT_TOKEN = "rlhf_time_per_output_token_seconds"  # noqa: S105
"""Histogram over LATENCY_BUCKETS; + slices. Answers of at least two tokens."""
TOKENS = "rlhf_tokens_total"
"""Counter; + direction (input | output), slices."""
TOKENS_SQUARED = "rlhf_output_tokens_squared_total"
"""Counter: sum of squares of an answer's tokens, for the mean's confidence; + slices."""
INPUT_TOKENS_SQUARED = "rlhf_input_tokens_squared_total"
"""Counter: the same of a request's tokens; + slices."""
TOKENS_PRODUCT = "rlhf_input_output_tokens_product_total"
"""Counter: sum of a request's tokens times its answer's; + slices. With the squares it gives those of any cost that is
made of both."""
DIVERSITY_SUM = "rlhf_diversity_sum_total"
"""Counter: sum of the variety, 0 to 1, of answers taken two by two; + slices. So the next two."""
DIVERSITY_SQUARES = "rlhf_diversity_squares_total"
DIVERSITY_PAIRS = "rlhf_diversity_pairs_total"
TRAJECTORIES_DROPPED = "rlhf_trajectories_dropped_total"
"""Counter; + reason."""
TRAJECTORIES_EXPIRED = "rlhf_trajectories_expired_total"
"""Counter: records whose time was over and whose file was deleted, whichever pod had written it; without role."""
FEEDBACK = "rlhf_feedback_total"
"""Counter; + verdict (of the feedback, or `thumbs_up`, `thumbs_down`), slices."""
OUTCOMES = "rlhf_outcome_total"
"""Counter; + name (task_completed, task_not_completed, escalated, not_escalated), slices."""
SHADOWS_IN_FLIGHT = "rlhf_shadows_in_flight"
"""Gauge."""
SAMPLES_DROPPED = "rlhf_samples_dropped_total"
"""Counter: answers that no judge was told of; + reason."""
SETTINGS_STALE = "rlhf_settings_stale"
"""Gauge 1 while signals.json can't be read and former settings are in force; without role."""
# Of the judge; `scorer` is the name of the analysis' metric that asked for it.
REWARD_SUM = "rlhf_reward_sum_total"
"""Counter: sum of the scores' absolute values; + scorer, dimension, sign (positive | negative), slices. A sum that may
fall could not be told from a restarted judge's: the mean is (positive - negative) / count."""
REWARD_SQUARES = "rlhf_reward_squares_total"
"""Counter: sum of the squared scores; + scorer, dimension, slices. So the next."""
REWARD_COUNT = "rlhf_reward_count_total"
WINS = "rlhf_win_total"
"""Counter; + scorer, outcome (win | tie | loss), against (the revision that answered live), slices."""
VIOLATIONS = "rlhf_violation_total"
"""Counter; + scorer, category, slices."""
JUDGED = "rlhf_judged_total"
"""Counter: answers that a scorer has judged, violations or not; + scorer, slices."""
ATTACKS = "rlhf_attack_total"
"""Counter; + scorer, category, result (succeeded | resisted), slices."""
UNPAIRED = "rlhf_unpaired_total"
"""Counter: answers that found no other half; + reason."""
JUDGE_INFO = "rlhf_live_judge_info"
"""Gauge 1; + scorer, version: which version of the scorer judges."""

LATENCY_BUCKETS: tuple[float, ...] = tuple(
    round(mantissa * 10.0**power, 6)
    for power in range(-3, 3)
    for mantissa in (1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0, 5.0, 6.3, 8.0)
)
"""Upper bounds in seconds, ten to the decade from 1 ms to 800 s: a threshold is off by at most a quarter."""


class SignalSettings(Model):
    """signals.json of the serving pods; read again when it changes."""

    judge: HTTPURL | None = None
    """Headless Service of the live judges, with port; none: nothing is judged."""
    judge_sample_rate: Rate = 0.0
    """Share of the requests that goes to the judges: those whose hash of the request id is below it."""
    max_concurrent_shadows: Annotated[int, Field(ge=1, le=10_000)] = 8
    """Copies at a time per pod."""
    trajectory_sample_rate: Rate = 0.0
    """Share of the requests that is recorded; 0: none."""
    redaction: Redaction = Redaction.STRICT
    slices: dict[str, list[str]] = {}
    """Allow-list of label values by slice (team, feature, cohort, language)."""
    feedback_seconds: Annotated[float, Field(gt=0)] = 30 * 24 * 3600.0
    """How long an answer's feedback token is taken."""
    retention_seconds: Annotated[float, Field(gt=0)] = 90 * 24 * 3600.0
    """How long a record may be kept: its expiry, which whoever reads the records obeys, and pods delete by."""


class Purpose(StrEnum):
    """What a live scorer's judgements are counted as."""

    REWARD = "Reward"
    """rlhf_reward_*: its scores."""
    WIN_RATE = "WinRate"
    """rlhf_win_total over pairs, and rlhf_reward_* by the way."""
    VIOLATION = "Violation"
    """rlhf_judged_total, and rlhf_violation_total where the score is below the threshold."""
    ATTACK = "Attack"
    """rlhf_attack_total over requests that are attacks: those that the scorer does not leave out."""


class LiveScorer(PlanScorer):
    """One scorer of the live judge, by the name of the analysis' metric that asks for it."""

    purpose: Purpose
    threshold: float = 0.0
    """A score below it is a violation, or an attack that succeeded."""
    tie_margin: Annotated[float, Field(ge=0)] = 0.0
    """Scores of a pair that differ by no more are a tie."""


class JudgePlan(Model):
    """judge.json of the live judge; read again when it changes."""

    namespace: str
    rollout: str
    scorers: list[LiveScorer] = []
    slices: dict[str, list[str]] = {}
    """Allow-list of label values by slice, as the serving pods have it."""
    pair_seconds: Annotated[float, Field(gt=0)] = 900.0
    """How long one half of a pair waits for the other."""


class Message(Model):
    """One turn of a conversation."""

    role: str
    content: str


class LiveSample(Model):
    """One answered request, as a serving pod tells the judge. Never leaves the cluster."""

    request_id: Annotated[str, Field(min_length=1, max_length=256)]
    prompt_digest: Digest
    """Of the messages or the prompt as the client sent them: two halves of a pair have the same."""
    revision: str
    role: Role
    served: str = ""
    """Revision that answered the live request, as the gateway says."""
    session: str = ""
    """Digest of the conversation's id."""
    prompt: str
    messages: list[Message] = []
    answer: str
    finish_reason: str
    """stop, length, tool_calls …; or error, abort, shed where there is no whole answer."""
    sampling_digest: Digest
    """Of the sampling parameters: a pair needs equal ones."""
    slices: dict[str, str] = {}
    row: dict[str, Any] = {}
    """More columns for graders: retrieval and the like."""
    at: float
    """Seconds since the epoch at which the answer was complete."""


class LiveBatch(Model):
    """The body of POST /v1/samples: 202 when taken, 401 without the rollout's key, 429 with Retry-After when the judge
    is full.
    """

    samples: Annotated[list[LiveSample], Field(min_length=1, max_length=256)]
