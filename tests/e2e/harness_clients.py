"""Pods that score without end, and write down every answer: status code, version, score. They judge nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from e2e.harness import Space
from e2e.harness_pods import start_script

_PROGRAM = """
import itertools, json, os, sys, threading, time, urllib.error, urllib.request
url, pause, texts = os.environ["URL"], float(os.environ["PAUSE"]), json.loads(os.environ["TEXTS"])
lock = threading.Lock()
def ask(number):
    prompt, response = texts[number]
    body = json.dumps({"items": [{"prompt": prompt, "response": response}]}).encode()
    asked = urllib.request.Request(url + "/v1/score", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=90) as answer:
            found = json.load(answer)
            return answer.status, found["version"], found["scores"][0]["total"], ""
    except urllib.error.HTTPError as error:
        told = json.load(error)["error"]["reason"]
        return error.code, "", None, told + ("" if error.headers["Retry-After"] else " without Retry-After")
    except OSError as error:
        return 0, "", None, repr(error)
def run(first):
    for turn in itertools.count(first):
        number = turn % len(texts)
        asked = time.time()
        code, version, score, why = ask(number)
        line = json.dumps([asked, time.time(), number, code, version, score, why])
        with lock:
            print(line, flush=True)
        # As a client does that was told to come again later.
        time.sleep(1.0 if code != 200 else pause)
for first in range(int(os.environ["CLIENTS"])):
    threading.Thread(target=run, args=(first,)).start()
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """One request and what came of it. Times in seconds since 1970, by the client pod's clock."""

    asked: float
    answered: float
    text: int
    code: int
    """HTTP status; 0: no connection."""
    version: str
    score: float | None
    why: str


@dataclass(frozen=True, slots=True)
class Clients:
    """A pod of so many clients."""

    space: Space
    name: str

    def answers(self) -> list[Answer]:
        """Everything so far, in the order in which it was answered."""
        lines = self.space.cluster.run("logs", self.name).decode().splitlines()
        return [Answer(*json.loads(line)) for line in lines if line.endswith("]")]

    def more(self, count: int, seconds: float = 120) -> list[Answer]:
        """Wait for so many more answers than there are now; returns all."""
        before = len(self.answers())
        found: list[Answer] = self.space.cluster.wait(
            f"{count} more answers to {self.name}",
            lambda: now if len(now := self.answers()) >= before + count else None,
            seconds,
            lambda: str(self.answers()[-5:]),
        )
        return found

    def end(self) -> list[Answer]:
        """All answers; the clients are gone."""
        found = self.answers()
        self.space.cluster.run("delete", "pod", self.name, "--grace-period=1", "--wait=false")
        return found


def start_clients(
    space: Space, name: str, url: str, texts: Sequence[tuple[str, str]], clients: int = 1, pause_seconds: float = 0.2
) -> Clients:
    """Start a pod that asks a RewardModel's address; returns when the first answer is there."""
    env = {"URL": url, "PAUSE": str(pause_seconds), "TEXTS": json.dumps(texts), "CLIENTS": str(clients)}
    start_script(space, name, _PROGRAM, env)
    found = Clients(space, name)
    found.more(1)
    return found
