"""The page on troubleshooting knows every reason, class and exit code that a user can meet."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_operator.api.exitcodes import EXIT_CODE_OF_CLASS, FailureClass
from rlhf_operator.common.reasons import Reason
from rlhf_scoring import errors as scoring_errors

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/how-to/troubleshooting.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`([A-Za-z]+)`", PAGE))
WORD = re.compile(r"[A-Z][a-z]+[A-Za-z]*|[A-Z]{2,}[a-z]+")
# Caught, and told as another one: ScoringError is the base of all, SandboxError is HelperLost, and only the live judge
# asks whether a judge is away, to come again.
INNER = {"ScoringError", "SandboxError", "ArtifactError", "JudgeAway"}


def spoken_in(tree: ast.AST) -> Iterator[str]:
    """The words given as `reason`: by its name, after an error's message, as a default, or as a constant."""
    for node in ast.walk(tree):
        given: list[ast.expr] = []
        if isinstance(node, ast.Call):
            given = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            if name == "ConfigError":
                given += node.args[1:2]
            elif name == "failure_message":
                given += node.args[3:4]
        elif isinstance(node, ast.arguments):
            named = [*node.posonlyargs, *node.args][-len(node.defaults) :] if node.defaults else []
            given = [value for one, value in zip(named, node.defaults, strict=True) if one.arg == "reason"]
        elif isinstance(node, ast.Assign) and any(
            isinstance(x, ast.Name) and x.id == "HELPER_LOST" for x in node.targets
        ):
            given = [node.value]
        for expression in given:
            for part in ast.walk(expression):
                if isinstance(part, ast.Constant) and isinstance(part.value, str) and WORD.fullmatch(part.value):
                    yield part.value


def spoken() -> dict[str, str]:
    """Every reason that trainer and scoring give, with a file that gives it."""
    files = [path for top in ("rlhf_trainer", "rlhf_scoring") for path in (ROOT / "trainer-image" / top).rglob("*.py")]
    return {word: path.name for path in files for word in spoken_in(ast.parse(path.read_text(encoding="utf-8")))}


def test_the_trainers_words_are_found_where_they_are_spoken() -> None:
    known = {
        "ModelUnreadable",
        "NoGPU",
        "SigningKeyInvalid",
        "ArtifactInvalid",
        "HelperLost",
        "NotFinite",
        "PublishFailed",
    }
    assert known <= spoken().keys()


def test_every_word_of_the_trainer_is_explained() -> None:
    assert {word: where for word, where in spoken().items() if word not in NAMED} == {}


def test_every_reason_of_a_condition_or_event_is_explained() -> None:
    assert [reason.value for reason in Reason if reason.value not in NAMED] == []


def test_every_error_of_scoring_that_ends_a_run_is_explained() -> None:
    errors = {name for name, value in vars(scoring_errors).items() if isinstance(value, type)}
    assert errors - INNER - NAMED == set()


@pytest.mark.parametrize("failure", FailureClass)
def test_every_class_of_an_attempt_is_explained_with_its_exit_code(failure: FailureClass) -> None:
    code = EXIT_CODE_OF_CLASS.get(failure)
    assert f"| `{failure.value}` | {code.value if code is not None else ''}".rstrip() + " |" in PAGE
