"""The operator's exceptions and the exit codes of its process. What a controller may see lies in `common.reader`.

OperatorError
├── SettingsInvalid            a setting is missing or wrong                        exit 64
├── CredentialsUnusable        no way to reach or to log in to an API server        exit 65
├── ClusterTooOld              the API server is below the floor                    exit 66
├── LeadershipLost             the Lease went to another, or could not be renewed   exit 67
├── Fenced                     a write was tried without holding the Lease          (internal)
└── KubeError                  a request to the API server failed
    ├── Unreachable            no answer: refused, TLS, broken stream
    │   └── TimedOut           connected, perhaps, and then silence
    └── ApiError               an answer with a Status: code, reason, message
        ├── NotFound           404
        ├── Forbidden          401, 403
        ├── Conflict           409 (Conflict, AlreadyExists)
        ├── Gone               410: the resource version is too old
        └── Invalid            400, 422: the same request would be refused again
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ApiError",
    "ClusterTooOld",
    "Conflict",
    "CredentialsUnusable",
    "Fenced",
    "Forbidden",
    "Gone",
    "Invalid",
    "KubeError",
    "LeadershipLost",
    "NotFound",
    "OperatorError",
    "SettingsInvalid",
    "TimedOut",
    "Unreachable",
]

# What every process knows: 1 is a crash (a traceback), 0 a graceful stop.
EXIT_OK = 0
EXIT_CRASH = 1


class OperatorError(Exception):
    """Everything the operator raises by itself. `exit_code` is the process's when it ends the process."""

    exit_code: ClassVar[int] = EXIT_CRASH


class SettingsInvalid(OperatorError):
    """A setting is missing or wrong; the message names the variable."""

    exit_code = 64


class CredentialsUnusable(OperatorError):
    """Neither a pod's service account nor a kubeconfig that can be used."""

    exit_code = 65


class ClusterTooOld(OperatorError):
    """The API server is older than the floor."""

    exit_code = 66


class LeadershipLost(OperatorError):
    """The Lease is another's, or could not be renewed in time: this process must not write any more."""

    exit_code = 67


class Fenced(OperatorError):
    """A write was tried without holding the Lease. Nothing was sent."""


class KubeError(OperatorError):
    """A request to the API server failed."""


class Unreachable(KubeError):
    """No answer from the API server, or a broken one."""


class TimedOut(Unreachable):
    """Silence: nothing refused us, nothing answered."""


class ApiError(KubeError):
    """The API server answered with a Status that is no success."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message

    @property
    def retriable(self) -> bool:
        """Whether the same request may succeed later without anybody changing anything."""
        return self.code in (408, 409, 429) or self.code >= 500


class NotFound(ApiError):
    """404: no such object, or no such API."""


class Forbidden(ApiError):
    """401 or 403: who we are, or what we may do, is not enough."""


class Conflict(ApiError):
    """409: another resource version, another uid, or the name is taken."""


class Gone(ApiError):
    """410: the resource version or continue token is too old; list again."""


class Invalid(ApiError):
    """400 or 422: refused by validation or admission."""


def api_error(code: int, reason: str, message: str) -> ApiError:
    """The exception for an answer of the API server."""
    kind = {400: Invalid, 401: Forbidden, 403: Forbidden, 404: NotFound, 409: Conflict, 410: Gone, 422: Invalid}
    return kind.get(code, ApiError)(code, reason, message)
