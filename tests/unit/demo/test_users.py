"""The load generator's own program, against a server that misbehaves: when users begin, and that they tell all."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from demo import users


class Answers(BaseHTTPRequestHandler):
    """404 twice, then 200 and 500 in turn."""

    asked = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        Answers.asked += 1
        code = 404 if Answers.asked <= 2 else 200 if Answers.asked % 2 else 500
        self.send_response(code)
        self.send_header("x-rlhf-revision", "first")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    Answers.asked = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_users_begin_once_the_route_answers_and_then_every_failure_counts(port: int) -> None:
    env = {"ADDRESS": "127.0.0.1", "PORT": str(port), "HOST": "assistant.example.com", "RATE": "50", "HEADERS": "{}"}
    pod = users.script_pod("image", "users", users.PROGRAM, env | {"BODY": '{"model": "m"}', "PROMPTS": '["Hello?"]'})
    (container,) = pod["spec"]["containers"]
    given = {each["name"]: each["value"] for each in container["env"]}
    command = [sys.executable, *container["command"][1:]]
    process = subprocess.Popen(command, env=os.environ | given, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        seen = [users.Seen(*json.loads(process.stdout.readline())) for _ in range(10)]
    finally:
        process.kill()
        process.communicate()
    assert {each.code for each in seen} == {200, 500}, "nobody was told of the time before the first answer"
    counted = users.tally(seen)
    assert counted.answered == 10
    assert counted.failed + counted.revisions["first"] == 10
    assert 3 <= counted.failed <= 7
