"""Templates of queries: what may be named, and that no value leaves its place."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_operator.policyrollout.templates import MissingStable, TemplateProblem, TemplateValues, names, render

VALUES = TemplateValues("5f3c", "9a1b", "90s", "team", "assistant", {"tool": "search", "least": "0.5"})
# Prometheus's escapes in strings (util/strutil/quote.go), as far as they denote one character here.
_ESCAPE = re.compile(r"""\\(?:([\\"'])|x([0-9a-f]{2})|u([0-9a-f]{4}))""")


def unquoted(literal: str) -> str:
    """What a double- or single-quoted PromQL literal denotes; fails when it ends before its last character."""
    quote, body = literal[0], literal[1:-1]
    assert literal[-1] == quote
    rest = _ESCAPE.sub("", body)
    assert not set(rest) & {"\\", quote, "\n", "\r"}, f"the string ends early or holds a bare escape: {literal!r}"
    return _ESCAPE.sub(lambda m: m[1] or chr(int(m[2] or m[3], 16)), body)


def test_all_names_are_filled_in() -> None:
    template = (
        "sum(increase(x_total{revision=\"{{ .Candidate }}\",ns='{{.Namespace}}',rollout=`{{ .Name }}`,"
        'tool="{{ .Args.tool }}"}[{{ .Window }}])) / sum(y{revision="{{ .Stable }}"}) > {{ .Args.least }}'
    )
    assert render(template, VALUES) == (
        "sum(increase(x_total{revision=\"5f3c\",ns='team',rollout=`assistant`,"
        'tool="search"}[90s])) / sum(y{revision="9a1b"}) > 0.5'
    )
    assert names(template) == {"Candidate", "Namespace", "Name", "Args.tool", "Window", "Stable", "Args.least"}


@pytest.mark.parametrize(
    "name", ["candidate", "Canary", "Args", "Args.other", "Candidate.x", "__class__", "Args.tool.x"]
)
def test_an_unknown_name_is_refused_with_those_that_are_known(name: str) -> None:
    with pytest.raises(TemplateProblem) as raised:
        render(f'x{{a="{{{{ .{name} }}}}"}}', VALUES)
    assert str(raised.value) == (
        f"{{{{ .{name} }}}} is not known; there are .Stable, .Candidate, .Window, .Namespace, .Name, .Args.tool, "
        ".Args.least"
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{",
        "{{ }}",
        "{{ Candidate }}",
        "{{ .Candidate",
        "{{ .Candidate | upper }}",
        "{{- .Candidate }}",
        '{{ printf "%s" .Candidate }}',
        "{{ .Candidate }",
        'x{a="{{{ .Candidate }}"}',
        'x{a="\\{{ .Candidate }}"}',
        'x{a="{{ .Candidate }}}',
        'x{a="\n{{ .Candidate }}"}',
    ],
)
def test_what_only_looks_like_a_template_is_refused(template: str) -> None:
    with pytest.raises(TemplateProblem):
        render(template, VALUES)


def test_without_a_stable_revision_only_templates_that_need_one_fail() -> None:
    first = dataclasses.replace(VALUES, stable=None)
    assert render('x{r="{{ .Candidate }}"}', first) == 'x{r="5f3c"}'
    with pytest.raises(MissingStable, match="no revision is stable yet"):
        render('x{r="{{ .Stable }}"}', first)


@given(st.text(max_size=60), st.sampled_from("\"'"))
def test_a_string_holds_exactly_the_value(value: str, quote: str) -> None:
    values = dataclasses.replace(VALUES, args={"x": value})
    rendered = render(f"f{{a={quote}{{{{ .Args.x }}}}{quote}}} > 1", values)
    assert rendered.startswith(f"f{{a={quote}")
    assert rendered.endswith(f"{quote}}} > 1")
    assert unquoted(rendered[4:-5]) == value


@given(st.text(max_size=60))
def test_between_backticks_a_value_stands_as_it_is_or_is_refused(value: str) -> None:
    values = dataclasses.replace(VALUES, args={"x": value})
    try:
        rendered = render("f{a=`{{ .Args.x }}`}", values)
    except TemplateProblem:
        assert "`" in value or "\ufffd" in value
        return
    assert rendered == f"f{{a=`{value}`}}"
    assert rendered.count("`") == 2


@given(st.text(max_size=60))
def test_a_value_stays_on_the_line_of_its_comment(value: str) -> None:
    values = dataclasses.replace(VALUES, args={"x": value})
    rendered = render("up # {{ .Args.x }}\n> 1", values)
    assert rendered.startswith("up # ")
    assert rendered.count("\n") == 1
    assert "\r" not in rendered


@given(st.one_of(st.text(max_size=20), st.from_regex(r"[0-9]{1,3}(ms|s|m|h)?\)? *(or vector\(1\))?", fullmatch=True)))
def test_outside_quotes_only_numbers_and_durations_stand(value: str) -> None:
    values = dataclasses.replace(VALUES, args={"x": value})
    try:
        rendered = render("rate(x[{{ .Args.x }}])", values)
    except TemplateProblem as problem:
        assert "outside quotes" in str(problem)  # noqa: PT017
        return
    assert re.fullmatch(r"rate\(x\[-?[0-9.eE+-]+[a-z0-9]*\]\)", rendered)


@pytest.mark.parametrize("value", ["5m", "1h30m", "90s", "0.25", "-3", "1e-3"])
def test_figures_stand_outside_quotes(value: str) -> None:
    assert render("{{ .Args.x }}", dataclasses.replace(VALUES, args={"x": value})) == value


def test_a_quoted_quote_does_not_end_a_string() -> None:
    assert render('x{a="\\"{{ .Candidate }}"} > {{ .Args.least }}', VALUES) == 'x{a="\\"5f3c"} > 0.5'


def test_what_becomes_too_long_is_refused() -> None:
    with pytest.raises(TemplateProblem, match="at most 16384"):
        render('x{a="{{ .Args.x }}"}', dataclasses.replace(VALUES, args={"x": "a" * 20_000}))


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(TemplateProblem, match="not Unicode"):
        render('x{a="{{ .Args.x }}"}', dataclasses.replace(VALUES, args={"x": "\ud800"}))
