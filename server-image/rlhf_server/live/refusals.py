"""What the feedback endpoint answers when it takes nothing: one class per reason, none of them with a text in it.

Refusal
├── TokenInvalid       401
│   ├── TokenMissing        no header x-rlhf-feedback-token
│   ├── TokenMalformed      cut off, or not ours
│   ├── TokenForged         signed by no key that is held
│   └── TokenExpired        too old
├── BodyTooLarge       413  larger than the limit
├── FeedbackInvalid    422  not JSON, or not the schema
├── FeedbackConflict   409  the same id was used before for other contents
├── TooManyRequests    429  Retry-After says when to come again
└── NotStored          503  neither the volume nor the spool takes it: nothing was counted
"""

from http import HTTPStatus
from typing import ClassVar


class Refusal(Exception):
    """Feedback that is not taken. `reason` is for machines, the message for people; it quotes nothing that was sent."""

    status: ClassVar[HTTPStatus]

    def __init__(self, message: str, *, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = type(self).__name__
        self.retry_after_seconds = retry_after_seconds


class TokenInvalid(Refusal):
    """The feedback token does not count."""

    status = HTTPStatus.UNAUTHORIZED


class TokenMissing(TokenInvalid):
    """No token was sent."""


class TokenMalformed(TokenInvalid):
    """The token has not the form of one."""


class TokenForged(TokenInvalid):
    """No key that is held signed the token."""


class TokenExpired(TokenInvalid):
    """The token is too old."""


class BodyTooLarge(Refusal):
    """The body is larger than the limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class FeedbackInvalid(Refusal):
    """The body is not what the schema says."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class FeedbackConflict(Refusal):
    """The feedback's id is taken by other contents."""

    status = HTTPStatus.CONFLICT


class TooManyRequests(Refusal):
    """One token, or all together, sent too much."""

    status = HTTPStatus.TOO_MANY_REQUESTS


class NotStored(Refusal):
    """It could not be written down, so it was not taken."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
