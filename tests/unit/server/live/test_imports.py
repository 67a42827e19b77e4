"""What the serving process loads: libraries of redaction belong to the worker, where something is redacted."""

import subprocess
import sys

import pytest

HEAVY = ("spacy", "presidio_analyzer", "confusable_homoglyphs", "transformers", "torch")


@pytest.mark.parametrize(("module", "may"), [("middleware", ()), ("worker", ("confusable_homoglyphs",))])
def test_serving_loads_nothing_that_only_redaction_needs(module: str, may: tuple[str, ...]) -> None:
    code = f"import sys, rlhf_server.live.{module}; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert set(found.stdout.split()) == set(may)
