"""The live table and the summary: what people read while a rollout moves."""

import io
from collections.abc import Callable
from typing import Any

from demo import loop
from demo.faulty import faulty_serving
from demo.table import Board, moved, table
from demo.users import Seen, Tally, tally

STEPS = [{"name": "shadow", "mirror": {"percent": 100}}, {"name": "ten", "weight": 10}, {"name": "half", "weight": 50}]
NAMES = {"1a2b3c4d5e": "first", "9f8e7d6c5b": "better"}


def rollout(**status: Any) -> dict[str, Any]:
    return {"spec": {"strategy": {"steps": STEPS}}, "status": status}


def variants(weight: int, mirror: int | None = None) -> list[dict[str, Any]]:
    stable = {"name": "Stable", "revision": "1a2b3c4d5e", "weight": 100 - weight, "ready": 1, "replicas": 1}
    candidate = {"name": "Candidate", "revision": "9f8e7d6c5b", "weight": weight, "ready": 1, "replicas": 1}
    return [stable, candidate | ({"mirrorPercent": mirror} if mirror else {})]


def metrics(wins: str) -> list[dict[str, Any]]:
    errors = {"metric": "errors", "outcome": "Successful", "value": 0.0, "interval": [0.0, 0.031], "samples": 212}
    scored = {"metric": "wins", "outcome": wins, "value": 0.4061, "interval": [0.371, 0.452], "samples": 812}
    return [errors, scored | {"reason": "LimitNotExcluded"}]


HELD = "wins is inconclusive (LimitNotExcluded), and goes on"
PENDING = {"metadata": {"name": "support"}}
SHADOW = rollout(
    phase="Progressing",
    variants=variants(0, mirror=100),
    step={
        "name": "shadow",
        "message": "step shadow (weight 0 %, mirror 100 %): holds for 30s; 12 of 40 samples; " + HELD,
    },
    analysis=[{"metric": "errors", "outcome": "Inconclusive", "reason": "NoSamples"}, metrics("Inconclusive")[1]],
)
HALF = rollout(
    phase="Progressing",
    variants=variants(50),
    step={"name": "half", "message": "step half (weight 50 %)"},
    analysis=metrics("NotApplicable"),
)
BACK = rollout(
    phase="RolledBack",
    message="rolled back 9f8e7d6c5b: RewardWinRate 0.41 (0.37 to 0.45) under 0.45 after 812 pairs",
    variants=variants(0)[:1],
    analysis=metrics("Failed"),
)


def test_the_table_shows_weights_metrics_and_what_users_saw(golden: Callable[[str, str], None]) -> None:
    served = Tally(1204, 2, {"1a2b3c4d5e": 1100, "9f8e7d6c5b": 102})
    blocks = [(PENDING, Tally()), (SHADOW, Tally(31, 0, {"1a2b3c4d5e": 31})), (HALF, served), (BACK, served)]
    golden("table.txt", "\n\n".join("\n".join(table(seen, users, NAMES)) for seen, users in blocks) + "\n")


def test_no_line_is_wider_than_a_terminal() -> None:
    long = rollout(phase="Progressing", message="x" * 500, variants=variants(10))
    assert max(len(line) for line in table(long, Tally(), NAMES)) <= 118


def test_without_a_terminal_only_what_moved_gets_a_block() -> None:
    stream, now = io.StringIO(), [0.0]
    board = Board(lambda: now[0], stream, every=30.0)
    for second, seen in ((0, SHADOW), (2, SHADOW), (4, HALF), (20, HALF), (34, HALF)):
        now[0] = second
        board.show(table(seen, Tally(), NAMES), moved(seen))
    assert [line for line in stream.getvalue().splitlines() if line.startswith("[")] == [
        "[     0s]",
        "[     4s]",
        "[    34s]",
    ]


def test_on_a_terminal_a_block_takes_the_place_of_the_last() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    board = Board(lambda: 0.0, stream)
    board.show(["a", "b"])
    board.show(["c", "d", "e"])
    board.keep()
    board.show(["f"])
    ups = [part.split("A", 1)[0] for part in stream.getvalue().split("\x1b[")[1:] if part[1:2] == "A"]
    assert ups == ["2"], "two lines up once, and none after what is kept"


def test_users_are_counted_by_what_they_saw() -> None:
    seen = [Seen(0, 1, 200, 0, "a", ""), Seen(0, 1, 500, 0, "b", "oh"), Seen(0, 1, 200, 0, "b", "the stream was cut")]
    away = Seen(0, 1, 0, 0, "", "ConnectionRefusedError(111, 'Connection refused')")
    counted = tally([*seen, away])
    assert counted == Tally(4, 3, {"a": 1}, {"500": 1, "the stream was cut": 1, "gateway away": 1})
    assert counted.told == "4 asked, 3 failed (1 500, 1 the stream was cut, 1 gateway away)"


def test_the_time_left_follows_the_pace_of_the_acts_before() -> None:
    planned = sum(act.seconds for act in loop.ACTS)
    assert loop.left_seconds(0, 0) == planned
    first = loop.ACTS[0].seconds
    assert loop.left_seconds(1, 2 * first) == 2 * (planned - first)
    assert loop.left_seconds(1, 0) == planned - first, "what was kept says nothing of the machine"
    assert loop.left_seconds(len(loop.ACTS), 5000) == 0


def test_the_summary_tells_each_end_in_order_and_what_users_saw() -> None:
    history = [
        {"revision": "9f8e7d6c5b", "outcome": "RolledBack", "message": "too few wins"},
        {"revision": "1a2b3c4d5e", "outcome": "Promoted", "message": "all steps done"},
    ]
    stream = io.StringIO()
    loop.summary(rollout(history=history), Tally(9, 1, {"1a2b3c4d5e": 8}), NAMES, stream)
    text = stream.getvalue()
    assert text.index("all steps done") < text.index("too few wins")
    assert "users: 9 asked, 1 failed; answered by: first 8" in text


def test_the_fault_is_mounted_beside_what_is_mounted_already() -> None:
    mounted = {"name": "python", "mountPath": "/python"}
    pod: dict[str, Any] = {"containers": [{"name": "server", "volumeMounts": [mounted]}]}
    pod["volumes"] = [{"name": "python"}]
    for serving, names in (({}, ["fault"]), ({"template": {"spec": pod}}, ["python", "fault"])):
        spec = faulty_serving(serving)["template"]["spec"]
        assert [each["name"] for each in spec["volumes"]] == names
        assert [each["name"] for each in spec["containers"][0]["volumeMounts"]] == names
    assert len(pod["volumes"]) == 1, "what was given stays as it was"
