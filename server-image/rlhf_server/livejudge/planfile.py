"""judge.json as it is now: read again when it changes. Says what is wrong with one that can't be used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from rlhf_operator.api.signals import JudgePlan

_LARGEST_BYTES = 4 * 1024 * 1024
_NAMED_ERRORS = 3


@dataclass(slots=True)
class PlanFile:
    """The file, and what it last said."""

    path: Path
    trouble: str = "it has not been read yet"
    """What is wrong with the file as it is; empty when nothing is."""
    _last: bytes | None = None

    def changed(self) -> JudgePlan | None:
        """The plan when it is another than at the last call and can be used."""
        try:
            with self.path.open("rb") as file:
                content = file.read(_LARGEST_BYTES + 1)
        except OSError as error:
            self.trouble = f"{self.path} can't be read: {error.strerror}"
            return None
        if len(content) > _LARGEST_BYTES:
            self.trouble = f"{self.path} is larger than {_LARGEST_BYTES} bytes"
            return None
        if content == self._last:
            return None
        try:
            plan = JudgePlan.model_validate_json(content)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            named = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in found[:_NAMED_ERRORS])
            self.trouble = f"{self.path} is no plan of a live judge: {named}"
            return None
        names = [scorer.name for scorer in plan.scorers]
        if len(set(names)) != len(names):
            self.trouble = f"{self.path} names a scorer twice"
            return None
        self._last = content
        self.trouble = ""
        return plan
