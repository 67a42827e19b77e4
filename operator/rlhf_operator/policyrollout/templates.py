"""Fills `{{ .Name }}` into PromQL so that no value can leave its place. Asking the queries is prometheus/."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

_LONGEST_QUERY = 16_384
_PLACEHOLDER = re.compile(r"\{\{\s*\.([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)\s*\}\}")
_NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?([eE][-+]?[0-9]{1,3})?")
_DURATION = re.compile(r"([0-9]{1,10}(ms|[smhdwy]))+")


class TemplateProblem(ValueError):
    """A template that can't be filled in. The message is for the person who wrote it."""


class MissingStable(TemplateProblem):
    """The template compares with stable, and there is none yet."""


@dataclass(frozen=True, slots=True)
class TemplateValues:
    """What templates may name.

    candidate, stable: revisions; stable is None before the first promotion.
    window: a PromQL duration, `90s`.
    """

    candidate: str
    stable: str | None
    window: str
    namespace: str
    name: str
    args: Mapping[str, str] = field(default_factory=dict)

    def _known(self) -> dict[str, str | None]:
        return {
            "Stable": self.stable,
            "Candidate": self.candidate,
            "Window": self.window,
            "Namespace": self.namespace,
            "Name": self.name,
            **{f"Args.{name}": value for name, value in self.args.items()},
        }

    def lookup(self, name: str) -> str:
        """The value of `.name`. Raises TemplateProblem."""
        known = self._known()
        if name not in known:
            listed = ", ".join(f".{each}" for each in known)
            raise TemplateProblem(f"{{{{ .{name} }}}} is not known; there are {listed}")
        value = known[name]
        if value is None:
            raise MissingStable(f"{{{{ .{name} }}}}: no revision is stable yet")
        return value


class _Place(Enum):
    """Where in PromQL a character stands."""

    BARE = "outside quotes"
    DOUBLE = '"'
    SINGLE = "'"
    RAW = "`"
    COMMENT = "#"


_QUOTES = {place.value: place for place in (_Place.DOUBLE, _Place.SINGLE, _Place.RAW)}


def names(template: str) -> frozenset[str]:
    """The names that a template asks for: `Candidate`, `Args.tool`. Raises TemplateProblem."""
    return frozenset(part[0] for part in _parts(template) if isinstance(part, tuple))


def render(template: str, values: TemplateValues) -> str:
    """The template with every `{{ .Name }}` filled in. Raises TemplateProblem.

    Inside a string a value is escaped, so that the string holds exactly the value. Outside strings only numbers and
    durations may stand: whatever a value is, it can't become another matcher, operator or query.
    """
    parts: list[str] = []
    for part in _parts(template):
        if isinstance(part, tuple):
            name, place = part
            parts.append(_fitted(name, values.lookup(name), place))
        else:
            parts.append(part)
    query = "".join(parts)
    if len(query) > _LONGEST_QUERY:
        raise TemplateProblem(
            f"the query has {len(query)} characters once filled in; at most {_LONGEST_QUERY} are sent"
        )
    return query


def _parts(template: str) -> Iterator[str | tuple[str, _Place]]:
    """The template's own text, and its placeholders with the place where they stand."""
    place, start, at = _Place.BARE, 0, 0
    while at < len(template):
        if template.startswith("{{", at):
            match = _PLACEHOLDER.match(template, at)
            if match is None:
                raise TemplateProblem(
                    f"{template[at : at + 30]!r}: between {{{{ and }}}} stands a name such as .Candidate, nothing else"
                )
            yield template[start:at]
            yield match[1], place
            start = at = match.end()
            continue
        step, place = _next(template, at, place)
        at += step
    if place in _QUOTES.values():
        raise TemplateProblem(f"a string that begins with {place.value} does not end")
    yield template[start:]


def _next(template: str, at: int, place: _Place) -> tuple[int, _Place]:
    """How many characters to go on, and the place there. As Prometheus's own lexer sees it (promql/parser/lex.go)."""
    letter = template[at]
    if place is _Place.BARE:
        if letter == "#":
            return 1, _Place.COMMENT
        return 1, _QUOTES.get(letter, place)
    if place is _Place.COMMENT:
        return 1, _Place.BARE if letter in "\r\n" else place
    if letter == "\\" and place is not _Place.RAW:
        if template.startswith("{{", at + 1):
            raise TemplateProblem("a backslash before {{ would change what is filled in: take it out")
        return 2, place
    if letter == "\n" and place is not _Place.RAW:
        raise TemplateProblem(f"a string that begins with {place.value} does not end on its line")
    return 1, _Place.BARE if letter == place.value else place


def _fitted(name: str, value: str, place: _Place) -> str:
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise TemplateProblem(f"the value of {{{{ .{name} }}}} is not Unicode text")
    if place is _Place.BARE:
        if not (_NUMBER.fullmatch(value) or _DURATION.fullmatch(value)):
            raise TemplateProblem(
                f"{{{{ .{name} }}}} stands outside quotes, where only a number or a duration can be filled in; "
                'put it into a string, for a metric\'s name: {__name__="{{ .%s }}"}' % name
            )
        return value
    if place is _Place.RAW:
        if "`" in value or "\ufffd" in value:
            raise TemplateProblem(f"the value of {{{{ .{name} }}}} can't stand between backticks: use other quotes")
        return value
    # A comment ends where its line does: escaped like a string, a value stays on it.
    return _escaped(value, "'" if place is _Place.SINGLE else '"')


def _escaped(value: str, quote: str) -> str:
    letters = []
    for letter in value:
        if letter in ("\\", quote):
            letters.append("\\" + letter)
        elif letter < " " or letter == "\x7f":
            letters.append(f"\\x{ord(letter):02x}")
        elif letter == "\ufffd":
            # Prometheus takes it for broken UTF-8 where it stands as it is.
            letters.append("\\ufffd")
        else:
            letters.append(letter)
    return "".join(letters)
