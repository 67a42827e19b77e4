"""The reference pages: every field has its row, every link its target."""

from __future__ import annotations

import functools
import re

from rlhf_operator.api.crd import KINDS
from rlhf_operator.api.reference import reference_pages


@functools.cache
def pages() -> dict[str, str]:
    return reference_pages(KINDS)


def headings(page: str) -> set[str]:
    return {line.removeprefix("## ").lower() for line in page.splitlines() if line.startswith("## ")}


def test_there_is_a_page_per_kind_one_for_shared_types_and_an_index() -> None:
    assert set(pages()) == {"README.md", "rewardmodel.md", "rlhfjob.md", "policyrollout.md", "shared.md"}


def test_every_link_has_a_target() -> None:
    broken = [
        f"{name}: {target}"
        for name, text in pages().items()
        for target in re.findall(r"\]\(([^)]+)\)", text)
        for page, _, anchor in [target.partition("#")]
        if (page or name) not in pages() or (anchor and anchor not in headings(pages()[page or name]))
    ]
    assert broken == []


def test_every_field_of_a_kind_has_a_row_and_a_meaning() -> None:
    for kind in KINDS:
        text = pages()[f"{kind.__name__.lower()}.md"]
        for field in kind.part("spec").model_fields.values():
            row = next(line for line in text.splitlines() if line.startswith(f"| `{field.alias}` |"))
            assert row.split(" | ")[-1].strip(" |"), row


def test_a_row_tells_type_default_bounds_and_choices() -> None:
    job = pages()["rlhfjob.md"].splitlines()
    assert "| `miniBatches` | integer | `4` | Optimizer steps per pass. (≥ 1, ≤ 1024) |" in job
    assert (
        "| `controller` | string | `Adaptive` | Adaptive moves the coefficient towards the target (Ziegler et al. "
        "2019); Fixed leaves it. (one of `Adaptive`, `Fixed`) |" in job
    )
    shared = pages()["shared.md"].splitlines()
    assert (
        "| `gracePeriod` | string | `5m` | Time that pods have for a last checkpoint when they are stopped. "
        "(must be a duration between 30s and 24h, such as 30s or 1h30m) |" in shared
    )
    assert "- set exactly one of hf, s3, pvc, configMap" in shared
    assert "| `size` | quantity |  | Size of a claim that the operator makes. |" in shared


def test_what_can_not_be_changed_is_one_line() -> None:
    (line,) = [
        line for line in pages()["rlhfjob.md"].splitlines() if "after creation" in line and "`baseModel`" in line
    ]
    assert "`suspend`" not in line
    assert "`dataset`" in line
