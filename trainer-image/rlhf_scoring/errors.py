"""Errors of scoring.

ScoringError
├── ScorerConfigError   the scorer can't work as the plan describes it: repeating the run does not help
├── GraderFailed        a grader raised, or returned what is not a score, for a row that is named
├── ArtifactError       an artifact is not what its manifest or its digest says
├── JudgeAway           a judge behind an address does not answer now
└── SandboxError        the grader's helper process is gone: a crash of the run
"""

_TEXT_LIMIT = 500


class ScoringError(Exception):
    """Base of every error of this package."""


class ScorerConfigError(ScoringError):
    """A scorer can't be built from the plan; the message names the scorer and what to change."""

    def __init__(self, scorer: str, problem: str) -> None:
        super().__init__(f"scorer {scorer}: {problem[:_TEXT_LIMIT]}")
        self.scorer = scorer


class GraderFailed(ScoringError):
    """A grader with onError: Fail failed on one row, which the reason names. A score that is merely missing is None."""

    def __init__(self, scorer: str, reason: str) -> None:
        super().__init__(
            f"scorer {scorer} failed on {reason[:_TEXT_LIMIT]}; mend the grader, let it return None where it has no "
            "score, or set its onError to Missing"
        )
        self.scorer = scorer


class ArtifactError(ScoringError):
    """An artifact's files are not what they should be; `reason` is a CamelCase word for machines."""

    def __init__(self, message: str, reason: str = "ArtifactInvalid") -> None:
        super().__init__(message)
        self.reason = reason


class JudgeAway(ScoringError):
    """A judge behind an address does not answer; asking again may help."""


class SandboxError(ScoringError):
    """The process that starts graders ended or can't be reached."""
