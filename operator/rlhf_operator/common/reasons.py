"""Reasons of conditions and events: the CamelCase words that machines and people match on. One place for all kinds."""

from enum import StrEnum


class Reason(StrEnum):
    """Why a condition has its status."""

    # Every kind.
    NOT_SUPPORTED_YET = "NotSupportedYet"
    INVALID_SPEC = "InvalidSpec"
    TEMPLATE_INVALID = "TemplateInvalid"
    NAME_TAKEN = "NameTaken"
    WRITE_REFUSED = "WriteRefused"
    READ_FAILED = "ReadFailed"
    NOT_CHECKED = "NotChecked"

    # References.
    RESOLVED = "Resolved"
    REWARD_MODEL_NOT_READY = "RewardModelNotReady"
    CONFIG_MAP_NOT_FOUND = "ConfigMapNotFound"
    CLAIM_NOT_FOUND = "ClaimNotFound"
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105
    KEY_NOT_FOUND = "KeyNotFound"
    DIGEST_MISMATCH = "DigestMismatch"

    # Storage.
    STORAGE_READY = "StorageReady"
    ACCESS_MODE = "AccessMode"
    CLAIM_LOST = "ClaimLost"
    CLAIM_TERMINATING = "ClaimTerminating"

    # Plan.
    PLAN_CHANGED = "PlanChanged"
    PLAN_UNREADABLE = "PlanUnreadable"

    # Queueing.
    NOT_QUEUED = "NotQueued"
    QUEUED = "Queued"
    ADMITTED = "Admitted"
    PREEMPTED = "Preempted"
    KUEUE_NOT_RESPONDING = "KueueNotResponding"

    # Running.
    STARTING = "Starting"
    RUNNING = "Running"
    GUARD_WARNING = "GuardWarning"
    NOT_RUNNING = "NotRunning"
    BACK_OFF = "BackOff"
    COLLECTING = "CollectingResult"
    RESTARTING = "Restarting"
    SUPERSEDED = "Superseded"

    # Suspension.
    SUSPENDED = "Suspended"
    SUSPENDING = "Suspending"
    NOT_SUSPENDED = "NotSuspended"
    BUDGET_EXCEEDED = "BudgetExceeded"

    # Outcome.
    SUCCEEDED = "Succeeded"
    PUBLISHING = "Publishing"
    PUBLISHED = "Published"
    PUBLISH_FAILED = "PublishFailed"
    EVALUATED = "Evaluated"
    NOT_EVALUATED = "NotEvaluated"
    EVALUATION_PENDING = "EvaluationPending"
    GATE_FAILED = "GateFailed"
    GATE_USES_TRAINING_REWARD = "GateUsesTrainingReward"
    COMPLETE = "Complete"
    NOT_FINISHED = "NotFinished"
    CONFIG_ERROR = "ConfigError"
    GUARD_STOPPED = "GuardStopped"
    OUT_OF_MEMORY = "OutOfMemory"
    MAX_RESTARTS_EXCEEDED = "MaxRestartsExceeded"
    ATTEMPT_FAILED = "AttemptFailed"
    ATTEMPT_STARTED = "AttemptStarted"
