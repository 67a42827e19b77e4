"""Rubrics that ship with the LLM judge: a rubric that is one of these names stands for the text here."""

from importlib.resources import files

NAMES = ("groundedness", "factuality", "safety", "jailbreak")
GUARD = "guard"
"""The model is a guard model with a rubric of its own: it answers `safe`, or `unsafe` and categories."""


def resolve(rubric: str) -> str:
    """The rubric's text: one that ships, or the user's own words."""
    name = rubric.strip()
    if name not in NAMES:
        return rubric
    return files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8")
