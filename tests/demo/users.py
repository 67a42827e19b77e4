"""A pod of users: asks a host behind a gateway at a steady rate and writes down what each user saw. Judges nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from demo.cluster import Cluster, Object

PROGRAM = """
import http.client, itertools, json, os, random, threading, time
host, port, name = os.environ["ADDRESS"], int(os.environ["PORT"]), os.environ["HOST"]
rate, body = float(os.environ["RATE"]), json.loads(os.environ["BODY"])
prompts, headers = json.loads(os.environ["PROMPTS"]), json.loads(os.environ["HEADERS"])
lock = threading.Lock()
def tell(line):
    with lock:
        print(json.dumps(line), flush=True)
def ask(number, prompt):
    began = time.time()
    code, why, pieces, served = 0, "", 0, ""
    try:
        connection = http.client.HTTPConnection(host, port, timeout=300)
        # A seed of its own for each: no answer comes from a cache.
        asked = {**body, "prompt": prompt, "seed": number}
        sent = {"Host": name, "Content-Type": "application/json", **headers}
        connection.request("POST", "/v1/completions", json.dumps(asked), sent)
        answer = connection.getresponse()
        code, served = answer.status, answer.headers.get("x-rlhf-revision") or ""
        if body.get("stream") and code == 200:
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
    return [began, time.time(), code, pieces, served, why]
def ask_and_tell(number, prompt):
    tell(ask(number, prompt))
random.seed(1)
# A route that was accepted is not yet in every proxy: users come once it has answered, or a minute later all the same.
patience = time.monotonic() + 60
while time.monotonic() < patience and ask(-1, prompts[0])[2] != 200:
    time.sleep(0.2)
start = time.monotonic()
for number in itertools.count():
    wait = start + number / rate - time.monotonic()
    if wait > 0:
        time.sleep(wait)
    threading.Thread(target=ask_and_tell, args=(number, random.choice(prompts))).start()
"""
"""What the pod runs: a JSON line for each answer, in the order of Seen's fields."""


AWAY = "gateway away"
"""Nothing listens: the request never came to any revision."""


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

    @property
    def complaint(self) -> str:
        """What a failed user would say, in few words."""
        if self.why.startswith("ConnectionRefusedError"):
            return AWAY
        return str(self.code) if self.code not in (0, 200) else self.why or "no answer"


@dataclass(frozen=True, slots=True)
class Tally:
    """What the users saw up to now, counted."""

    answered: int = 0
    failed: int = 0
    revisions: Mapping[str, int] = field(default_factory=dict)
    """Whole answers by revision."""
    complaints: Mapping[str, int] = field(default_factory=dict)
    """Failures by what was wrong."""

    @property
    def told(self) -> str:
        """How many asked, how many failed and why."""
        why = ", ".join(f"{count:,} {words}" for words, count in self.complaints.items())
        return f"{self.answered:,} asked, {self.failed:,} failed" + (f" ({why})" if why else "")


def failures(seen: Iterable[Seen]) -> list[Seen]:
    """The answers that a user would complain of."""
    return [each for each in seen if each.failed]


def shares(seen: Iterable[Seen]) -> Counter[str]:
    """Whole answers by revision."""
    return Counter(each.revision for each in seen if not each.failed)


def tally(seen: Sequence[Seen]) -> Tally:
    """Everything that was seen, counted."""
    failed = failures(seen)
    return Tally(len(seen), len(failed), shares(seen), Counter(each.complaint for each in failed))


@dataclass(frozen=True, slots=True)
class Users:
    """A pod that asks without end."""

    cluster: Cluster
    name: str

    def seen(self) -> list[Seen]:
        """Everything so far, in the order in which it was answered."""
        lines = self.cluster.run("logs", self.name).decode().splitlines()
        return [Seen(*json.loads(line)) for line in lines if line.endswith("]")]

    def more(self, count: int, seconds: float = 180) -> list[Seen]:
        """Wait for so many more answers than there are now; returns all."""
        before = len(self.seen())
        found: list[Seen] = self.cluster.wait(
            f"{count} more answers to {self.name}",
            lambda: now if len(now := self.seen()) >= before + count else None,
            seconds,
            lambda: str(self.seen()[-5:]),
        )
        return found

    def end(self) -> list[Seen]:
        """All answers; the users are gone."""
        found = self.seen()
        self.cluster.run("delete", "pod", self.name, "--grace-period=1", "--wait=false")
        return found


def gateway_address(cluster: Cluster, namespace: str = "gateway", name: str = "public") -> tuple[str, int]:
    """Where a Gateway listens for HTTP."""
    path = "{.status.addresses[0].value}"
    told = cluster.run("-n", namespace, "get", "gateway", name, "-o", f"jsonpath={path}").decode()
    return told.strip(), 80


def start(
    cluster: Cluster,
    image: str,
    name: str,
    address: tuple[str, int],
    host: str,
    body: Mapping[str, Any],
    prompts: Sequence[str],
    *,
    rate: float,
    headers: Mapping[str, str] | None = None,
) -> Users:
    """Start a pod that asks `host` at that address `rate` times a second; returns when the first answer is there.

    image: any with Python. body: what each completion request says beside prompt and seed.
    """
    where, port = address
    env = {
        "ADDRESS": where,
        "PORT": str(port),
        "HOST": host,
        "RATE": str(rate),
        "BODY": json.dumps(body),
        "PROMPTS": json.dumps(list(prompts)),
        "HEADERS": json.dumps(dict(headers or {})),
    }
    start_script(cluster, image, name, PROGRAM, env)
    found = Users(cluster, name)
    found.more(1)
    return found


def start_script(cluster: Cluster, image: str, name: str, program: str, env: Mapping[str, str]) -> None:
    """Run a Python program of the standard library in a pod of its own; returns when it runs."""
    cluster.apply([script_pod(image, name, program, env)])
    cluster.run("wait", "--for=jsonpath={.status.phase}=Running", f"pod/{name}", "--timeout=120s")


def script_pod(image: str, name: str, program: str, env: Mapping[str, str]) -> Object:
    """The pod, under the restricted pod security standard."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
    container = {
        "name": "script",
        "image": image,
        "command": ["python3", "-c", program],
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        "securityContext": security,
    }
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
