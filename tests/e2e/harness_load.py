"""A pod of users: asks a rollout's route at a steady rate and writes down what each user saw. It judges nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from e2e.harness import Space
from e2e.harness_pods import start_script

_PROGRAM = """
import http.client, itertools, json, os, random, sys, threading, time, uuid
host, port, name = os.environ["ADDRESS"], int(os.environ["PORT"]), os.environ["HOST"]
rate, tokens, stream = float(os.environ["RATE"]), int(os.environ["TOKENS"]), os.environ["STREAM"] == "1"
model, prompts, headers = os.environ["MODEL"], json.loads(os.environ["PROMPTS"]), json.loads(os.environ["HEADERS"])
lock = threading.Lock()
def tell(line):
    with lock:
        print(json.dumps(line), flush=True)
def ask(number, prompt):
    began = time.time()
    code, why, pieces, served = 0, "", 0, ""
    try:
        connection = http.client.HTTPConnection(host, port, timeout=300)
        # A prompt of its own for each: no answer comes from a cache.
        body = {"model": model, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "seed": number}
        body["stream"] = stream
        sent = {"Host": name, "Content-Type": "application/json", **headers}
        connection.request("POST", "/v1/completions", json.dumps(body), sent)
        answer = connection.getresponse()
        code, served = answer.status, answer.headers.get("x-rlhf-revision") or ""
        if stream and code == 200:
            done = False
            for line in answer:
                if line.startswith(b"data: [DONE]"):
                    done = True
                elif line.startswith(b"data: "):
                    pieces += 1
            if not done:
                why = "the stream was cut"
        else:
            text = answer.read()
            if code != 200:
                why = text[:300].decode(errors="replace")
        connection.close()
    except (OSError, http.client.HTTPException) as error:
        why = repr(error)
    tell([began, time.time(), code, pieces, served, why])
random.seed(1)
start = time.monotonic()
for number in itertools.count():
    wait = start + number / rate - time.monotonic()
    if wait > 0:
        time.sleep(wait)
    threading.Thread(target=ask, args=(number, random.choice(prompts))).start()
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one user saw. Times in seconds since 1970, by the pod's clock."""

    asked: float
    answered: float
    code: int
    """HTTP status; 0: no whole answer."""
    pieces: int
    """Parts of a streamed answer."""
    revision: str
    """Which revision answered, as it says itself."""
    why: str

    @property
    def failed(self) -> bool:
        """Whether the user got no whole answer."""
        return self.code != 200 or bool(self.why)


@dataclass(frozen=True, slots=True)
class Users:
    """A pod that asks without end."""

    space: Space
    name: str

    def seen(self) -> list[Seen]:
        """Everything so far, in the order in which it was answered."""
        lines = self.space.cluster.run("logs", self.name).decode().splitlines()
        return [Seen(*json.loads(line)) for line in lines if line.endswith("]")]

    def more(self, count: int, seconds: float = 180) -> list[Seen]:
        """Wait for so many more answers than there are now; returns all."""
        before = len(self.seen())
        found: list[Seen] = self.space.cluster.wait(
            f"{count} more answers to {self.name}",
            lambda: now if len(now := self.seen()) >= before + count else None,
            seconds,
            lambda: str(self.seen()[-5:]),
        )
        return found

    def end(self) -> list[Seen]:
        """All answers; the users are gone."""
        found = self.seen()
        self.space.cluster.run("delete", "pod", self.name, "--grace-period=1", "--wait=false")
        return found


def failures(seen: Iterable[Seen]) -> list[Seen]:
    """The answers that a user would complain of."""
    return [each for each in seen if each.failed]


def shares(seen: Iterable[Seen]) -> Counter[str]:
    """Whole answers by revision."""
    return Counter(each.revision for each in seen if not each.failed)


def gateway_address(space: Space) -> tuple[str, int]:
    """Where the public Gateway listens, inside the cluster."""
    path = "{.status.addresses[0].value}"
    told = space.cluster.run("-n", "gateway", "get", "gateway", "public", "-o", f"jsonpath={path}").decode()
    return told.strip(), 80


def start_users(
    space: Space,
    name: str,
    host: str,
    model: str,
    prompts: list[str],
    *,
    rate: float = 2.0,
    tokens: int = 16,
    stream: bool = False,
    headers: dict[str, str] | None = None,
    address: tuple[str, int] | None = None,
) -> Users:
    """Start a pod that asks the route of `host`, so many times a second; returns when the first answer is there."""
    where, port = address or gateway_address(space)
    env = {
        "ADDRESS": where,
        "PORT": str(port),
        "HOST": host,
        "RATE": str(rate),
        "TOKENS": str(tokens),
        "STREAM": "1" if stream else "0",
        "MODEL": model,
        "PROMPTS": json.dumps(prompts),
        "HEADERS": json.dumps(headers or {}),
    }
    start_script(space, name, _PROGRAM, env)
    found = Users(space, name)
    found.more(1)
    return found
