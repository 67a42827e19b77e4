"""Builds a plan's scorers: which judge a scorer asks for, and in which order they may be made."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rlhf_operator.api.plan import PlanScorer
from rlhf_operator.api.shared import Grader, OnError

from .errors import ScorerConfigError
from .graded import StoredGraders
from .graders.final_answer import FinalAnswer
from .graders.python import Python
from .graders.text import JSONSchema, Length, Regex
from .graders.unit_tests import UnitTests
from .judge import Judge
from .sandbox.pool import ForkServer
from .scorers import Scorers

_DEADLINE_SECONDS = 300.0


def build_scorers(
    scorers: Sequence[PlanScorer],
    *,
    device: str | None = None,
    python_workers: int = 2,
    deadline_seconds: float = _DEADLINE_SECONDS,
) -> Scorers:
    """Build every scorer of a plan. Raises ScorerConfigError naming the first that can't be.

    device: where reward models run; None: the process's GPU at the time of the first score, else the CPU.
    python_workers: processes per Python grader, at most.
    deadline_seconds: longest time for one call of a judge behind an address, retries included.
    """
    judges: dict[str, Judge] = {}
    with ExitStack() as stack:
        server: ForkServer | None = None
        if any(scorer.grader is not None and _runs_code(scorer.grader) for scorer in scorers):
            server = stack.enter_context(ForkServer())
        # Whatever forks comes before what imports torch and starts its threads.
        for scorer in sorted(scorers, key=_runs_a_model):
            if scorer.name in judges:
                raise ScorerConfigError(scorer.name, "the name is used twice")
            if scorer.grader is not None:
                judge = _grader(scorer, scorer.grader, server, python_workers, deadline_seconds)
            elif (graders := _graders_of(scorer)) is not None:
                # Built as scorers of their own: their names are the version's, not this plan's.
                inner = stack.enter_context(
                    build_scorers([each.scorer for each in graders.graders], python_workers=python_workers)
                )
                judge = graders.judge(scorer, inner)
            else:
                judge = _reward_model(scorer, device, deadline_seconds)
            stack.callback(judge.close)
            judges[scorer.name] = judge
        return Scorers(
            {scorer.name: judges[scorer.name] for scorer in scorers},
            stack.pop_all(),
            strict={each.name for each in scorers if each.grader is None or each.grader.on_error is OnError.FAIL},
        )


def _runs_code(grader: Grader) -> bool:
    return grader.python is not None or grader.unit_tests is not None


def _grader(
    scorer: PlanScorer, grader: Grader, server: ForkServer | None, workers: int, deadline_seconds: float
) -> Judge:
    if grader.final_answer is not None:
        return FinalAnswer(grader.final_answer)
    if grader.regex is not None:
        return Regex(scorer.name, grader.regex)
    if grader.json_schema is not None:
        return JSONSchema(scorer.name, grader.json_schema)
    if grader.length is not None:
        return Length(grader.length)
    if grader.overlap is not None:
        # Here and not at the top: its libraries take seconds to import.
        from .graders.overlap import Overlap

        return Overlap(grader.overlap)
    if grader.python is not None and server is not None:
        return Python(scorer, grader.python, server, workers)
    if grader.unit_tests is not None and server is not None:
        return UnitTests(scorer.name, grader.unit_tests, server, workers)
    # Here and not at the top: other graders need no HTTP client.
    token = None if scorer.token_path is None else Path(scorer.token_path)
    if grader.http is not None:
        from .graders.http import HTTP

        return HTTP(scorer.name, grader.http, token, deadline_seconds)
    if grader.llm_judge is not None:
        from .llm_judge import LLMJudge

        return LLMJudge(scorer.name, grader.llm_judge, token, deadline_seconds)
    raise ScorerConfigError(scorer.name, "it has neither a grader nor a reward model")


def _graders_of(scorer: PlanScorer) -> StoredGraders | None:
    """The graders of a RewardModel whose version is made of some; None for a model, or one behind a URL."""
    model = scorer.reward_model
    if model is None or model.path is None:
        return None
    try:
        return StoredGraders.find(Path(model.path))
    except ValueError as error:
        raise ScorerConfigError(scorer.name, f"the reward model in {model.path} can't be loaded: {error}") from error


def _runs_a_model(scorer: PlanScorer) -> bool:
    model = scorer.reward_model
    return model is not None and model.path is not None and (Path(model.path) / "config.json").is_file()


def _reward_model(scorer: PlanScorer, device: str | None, deadline_seconds: float) -> Judge:
    model = scorer.reward_model
    if model is None:
        raise ScorerConfigError(scorer.name, "it has neither a grader nor a reward model")
    if model.url is not None:
        # Here and not at the top: graders in a judge need no HTTP client.
        from .remote import RemoteRewardModel

        return RemoteRewardModel(scorer.name, model, deadline_seconds)
    # Here and not at the top: graders alone need no torch.
    from .reward_model import RewardModel

    return RewardModel(scorer.name, model, device)
