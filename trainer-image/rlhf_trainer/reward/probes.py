"""The texts by which a served version is recognised: some of its data and the edges of what it may be asked."""

from collections.abc import Sequence
from pathlib import Path

from rlhf_operator.api.scorerfile import PROBES_FILE, Probe
from rlhf_trainer.files import write_durably
from rlhf_trainer.preferences.judged import Judged

PROBES = 32
_CHARACTERS = 2000
"""Longest probe taken from data: the file is read at every start of a judge."""

EDGES: tuple[tuple[str, str], ...] = (
    ("Say nothing.", ""),
    ("", "An answer to no question."),
    ("One word?", "Yes"),
    ("Repeat after me.", "again " * 3000),
    ("A long question. " * 1500, "A short answer."),
    ("Wie heißt die Hauptstadt von Österreich?", "Sie heißt Wien."),
    ("¿Cuál es la capital de España?", "La capital es Madrid."),
    ("日本の首都はどこですか。", "東京です。"),
    ("ما هي عاصمة مصر؟", "القاهرة."),
    ("Write a function that adds.", "```python\ndef add(a: int, b: int) -> int:\n    return a + b\n```"),
    ("How do you feel?", "Great! 🎉🎉🎉"),
    ("List three colours.", "- red\n- green\n\n\n- **blue**\t\n"),
)
"""Empty, very long (cut from the left and from the right), other scripts, code, marks."""


def probe_texts(rows: Sequence[Judged], count: int = PROBES) -> list[tuple[str, str]]:
    """Prompts and responses: the edges, and responses spread evenly over the rows."""
    wanted = max(0, count - len(EDGES))
    step = max(1, len(rows) // wanted) if wanted else 1
    taken = [rows[at] for at in range(0, len(rows), step)][:wanted]
    texts = [
        (row.prompt, row.first if at % 2 == 0 or row.second is None else row.second) for at, row in enumerate(taken)
    ]
    return [*EDGES, *((prompt[-_CHARACTERS:], response[:_CHARACTERS]) for prompt, response in texts)]


def write_probes(folder: Path, probes: Sequence[Probe]) -> None:
    """Write probes.jsonl."""
    lines = [probe.model_dump_json(by_alias=True) for probe in probes]
    write_durably(folder / PROBES_FILE, ("\n".join(lines) + "\n").encode())
