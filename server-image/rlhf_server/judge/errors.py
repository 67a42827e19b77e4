"""What the judge answers when it has no scores: one class per reason, none of them with a text in it.

Refusal
├── Unauthorized      401  the live judge: no key of this rollout
├── BodyTooLarge      413  the body, or one text, is larger than the limit
├── RequestInvalid    422  not JSON, not the schema, or too many items
├── VersionNotHeld    409  another version was asked for than the one that is here
├── QueueFull         429  more texts wait than the queue takes; Retry-After says when to come again
└── Unavailable       503  the engine is away, or does not score as it should: no answer rather than a wrong one
ConfigError                the judge can't start: a file is missing, broken or not the version it should be
"""

from http import HTTPStatus
from typing import ClassVar


class Refusal(Exception):
    """An answer without scores. `reason` is for machines, the message for people."""

    status: ClassVar[HTTPStatus]
    reason = ""

    def __init__(self, message: str, *, reason: str = "", retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.reason or type(self).__name__
        self.retry_after_seconds = retry_after_seconds


class Unauthorized(Refusal):
    """The request proves nothing."""

    status = HTTPStatus.UNAUTHORIZED


class BodyTooLarge(Refusal):
    """The request is larger than the limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class RequestInvalid(Refusal):
    """The request is not what the schema says."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class VersionNotHeld(Refusal):
    """Another version was asked for."""

    status = HTTPStatus.CONFLICT


class QueueFull(Refusal):
    """No room for this request's texts."""

    status = HTTPStatus.TOO_MANY_REQUESTS


class Unavailable(Refusal):
    """No scores for now: the engine is away, is not ready, or gave what is no score."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class ConfigError(Exception):
    """The judge can't start; the message names the file and what is wrong with it."""
