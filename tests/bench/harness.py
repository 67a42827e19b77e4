"""What every benchmark shares: the report, the machine's description, the table and the JSON file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

OUTPUT = Path(__file__).parents[2] / "build" / "bench"


@dataclass(frozen=True)
class Row:
    """One figure: its key in the JSON, what it is, and what it is held against (empty: nothing)."""

    key: str
    label: str
    value: float
    goal: str = ""


@dataclass(frozen=True)
class Report:
    """What a benchmark found. `notes` are sentences; `details` anything else that JSON can hold."""

    rows: Sequence[Row]
    notes: Sequence[str] = ()
    details: Mapping[str, object] = field(default_factory=dict)


def machine() -> dict[str, object]:
    """What it ran on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memoryBytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "loadAverage": [round(load, 2) for load in os.getloadavg()],
    }


def publish(name: str, report: Report, before: Mapping[str, object]) -> Path:
    """Print the table and write the file; returns its path."""
    width = max(len(row.label) for row in report.rows)
    for row in report.rows:
        goal = f"   ({row.goal})" if row.goal else ""
        print(f"{row.label:<{width}}  {row.value:>12.3f}{goal}")
    for note in report.notes:
        print(note)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    target = OUTPUT / f"{name}.json"
    content = {
        "benchmark": name,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "figures": {row.key: row.value for row in report.rows},
        "machine": dict(before),
        "notes": list(report.notes),
        "details": dict(report.details),
    }
    target.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"written to {target}")
    return target


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank; percent 0–100."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(percent / 100 * len(ordered) + 0.5) - 1))]


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
