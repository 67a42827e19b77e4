"""A whole serving process over real ports: answers are recorded redacted, and feedback finds the answer it is about."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from judgekit.local import listening
from rlhf_operator.api.signals import FEEDBACK_TOKEN_HEADER, REQUEST_ID_HEADER
from rlhf_operator.api.trajectory import Trajectory
from rlhf_server.live.asgi import App
from rlhf_server.live.middleware import LiveSignals
from servekit.local import Behind, settings, write_signals


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[httpx.Client, Path]]:
    """A pod that records everything by Strict redaction; closed by the test's end."""
    pod_settings = settings(tmp_path)
    (tmp_path / "keys" / "pseudonym").write_bytes(b"p" * 40)
    write_signals(tmp_path, {"trajectorySampleRate": 1.0, "slices": {"team": ["search"]}})
    behind = Behind()

    class Wrapped(LiveSignals):
        def __init__(self, app: App) -> None:
            super().__init__(app, pod_settings)

    behind.app.add_middleware(Wrapped)
    with listening(behind.app) as (url, _), httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        behind.app.state.args = SimpleNamespace(host="127.0.0.1", port=int(url.rpartition(":")[2]))
        yield client, tmp_path


def lines(folder: Path, kind: str) -> list[dict[str, object]]:
    there = folder / "trajectories" / kind
    paths = [*there.glob("*.jsonl"), *there.glob(".*.part")]
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_an_answer_and_what_is_said_about_it(server: tuple[httpx.Client, Path]) -> None:
    client, folder = server
    body = {
        "model": "policy",
        "stream": True,
        "messages": [{"role": "user", "content": "I am jоhn@example.com, card 4111 1111 1111 1111"}],
        "metadata": {"retrieval": [{"documentId": "d-1", "score": 0.5, "rank": 1}]},
    }
    headers = {"x-session-id": "john", "x-rlhf-team": "search", "x-rlhf-consent": "training"}
    answer = client.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200
    token = answer.headers[FEEDBACK_TOKEN_HEADER]
    refused = client.post("/v1/feedback", json={"thumbs": "down"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (401, "TokenMissing")
    given = {"thumbs": "down", "edit": "call 212-555-0123", "user": "john", "id": "1"}
    end = time.monotonic() + 60
    while (taken := client.post("/v1/feedback", json=given, headers={FEEDBACK_TOKEN_HEADER: token})).status_code == 503:
        assert time.monotonic() < end, "the worker takes longer to start than it ever should"
    assert taken.status_code in (200, 202), taken.text
    again = client.post("/v1/feedback", json=given, headers={FEEDBACK_TOKEN_HEADER: token})
    assert (again.status_code, again.json()["status"]) == (200, "duplicate")

    # The exchange went to the worker before the feedback, and both are safe when that is answered.
    (record,) = lines(folder, "trajectories")
    made = Trajectory.model_validate(record)
    assert made.request_id == answer.headers[REQUEST_ID_HEADER]
    assert made.input_messages[0].parts[0]["content"] == "I am <EMAIL_ADDRESS>, card <CREDIT_CARD>"
    assert made.output_messages[0].parts[0]["content"].startswith("t0 t1")
    assert made.redaction_version == "1-Strict"
    assert made.retrieval is not None
    assert made.retrieval[0].id == "d-1"
    assert (made.team, made.consent) == ("search", "training")
    (feedback,) = lines(folder, "feedback")
    assert feedback["requestId"] == made.request_id
    assert feedback["slices"] == {"team": "search", "feature": "", "cohort": "", "language": ""}
    said = feedback["feedback"]
    assert isinstance(said, dict)
    assert said["edit"] == "call <PHONE_NUMBER>"
    assert said["user"].startswith("u_")
    assert "john" not in json.dumps([record, feedback])
