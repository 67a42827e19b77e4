"""`kubectl rlhf VERB ROLLOUT`: reads the rollout, writes the command, waits until the operator has looked at it.

kubectl rlhf status assistant
kubectl rlhf approve assistant
kubectl rlhf rollback assistant --revision 9a1b -n team
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from rlhf_operator.api.rolloutstatus import PolicyRolloutStatus
from rlhf_operator.cli import show, steer
from rlhf_operator.cli.login import log_in
from rlhf_operator.common.commands import ANNOTATION, CommandWords, Verb
from rlhf_operator.common.intents import Manifest
from rlhf_operator.common.reasons import Reason
from rlhf_operator.common.resources import EVENTS, POLICYROLLOUTS, Resource
from rlhf_operator.errors import ApiError, KubeError, NotFound, OperatorError
from rlhf_operator.kube.client import KubeClient

MANAGER = "kubectl-rlhf"
_SELF = Resource("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews", namespaced=False)
_POLL_SECONDS = 0.5
_EVENTS_SECONDS = 3.0
_HELP = {
    Verb.PROMOTE: "send all traffic to the candidate now",
    Verb.APPROVE: "let a step that waits for a person go on",
    Verb.ABORT: "take the candidate out of traffic and remember it as rejected",
    Verb.RETRY: "try a rejected revision again, or a step that paused undecided",
    Verb.PAUSE: "stop where it is: weights stay",
    Verb.RESUME: "go on after a pause",
    Verb.ROLLBACK: "take the candidate out; without one, go back to the revision before stable",
}


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("rollout", metavar="ROLLOUT", help="name of the PolicyRollout")
    shared.add_argument("-n", "--namespace", help="its namespace (default: the kubeconfig's)")
    shared.add_argument("--kubeconfig", type=Path, help="as kubectl's")
    shared.add_argument("--context", help="as kubectl's")
    found = argparse.ArgumentParser(prog="kubectl rlhf", description="Steers and shows rollouts of policies.")
    verbs = found.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("status", parents=[shared], help="show variants, step, analysis and history")
    for verb in Verb:
        words = verbs.add_parser(verb.value, parents=[shared], help=_HELP[verb], description=_HELP[verb])
        words.add_argument("--revision", type=_word, help="the revision that is meant")
        words.add_argument(
            "--timeout", type=float, default=60.0, help="seconds to wait for the operator; 0: don't wait"
        )
        words.add_argument("--replace", action="store_true", help="even while an earlier command still waits")
    return found


def _word(text: str) -> str:
    if not text or any(letter <= " " or letter > "~" for letter in text):
        raise argparse.ArgumentTypeError("a revision is one word")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 1 refused or failed, 2 wrong arguments (argparse's)."""
    chosen = parser().parse_args(arguments)
    try:
        return asyncio.run(_run(chosen))
    except NotFound as error:
        print(f"error: {error}", file=sys.stderr)
    except ApiError as error:
        print(f"error: {_told(error)}", file=sys.stderr)
    except OperatorError as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted; a command that was given stays given", file=sys.stderr)
    return 1


def _told(error: ApiError) -> str:
    """The server's words, without the name of the policy that says them."""
    _, denied, words = error.message.partition("denied request: ")
    return words if denied else error.message


async def _run(chosen: argparse.Namespace) -> int:
    login = log_in(chosen.kubeconfig, chosen.context)
    namespace = chosen.namespace or login.namespace
    async with KubeClient(login.credentials, user_agent=MANAGER, connections=2) as client:
        manifest = await client.get(POLICYROLLOUTS, namespace, chosen.rollout)
        status = _status(manifest)
        if chosen.verb == "status":
            print(show.rollout(manifest, status, datetime.now(UTC)))
            return 0
        before = steer.waiting(manifest["metadata"].get("annotations") or {}, status)
        if before is not None and not chosen.replace:
            raise steer.Refused(
                f"{before.verb} by {before.user} ({before.id}) still waits for the operator; --replace takes its place"
            )
        user = await _who(client)
        words = steer.command(Verb(chosen.verb), status, user, secrets.token_hex(4), chosen.revision)
        patch = {"metadata": {"annotations": {ANNOTATION: str(words)}}}
        await client.merge_patch(POLICYROLLOUTS, namespace, chosen.rollout, patch, MANAGER)
        print(f"{words.verb} {words.revision} at step {words.step}, as {words.user} ({words.id})")
        if chosen.timeout <= 0:
            return 0
        return await _wait(client, namespace, chosen.rollout, words, chosen.timeout)


async def _who(client: KubeClient) -> str:
    """Whom the API server takes us for: what it will hold the command against."""
    review = await client.create(_SELF, {"apiVersion": _SELF.api_version, "kind": _SELF.kind, "metadata": {}})
    return str(review["status"]["userInfo"]["username"])


async def _wait(client: KubeClient, namespace: str, name: str, words: CommandWords, seconds: float) -> int:
    """Until the operator has looked at the command, then what it made of it."""
    deadline = time.monotonic() + seconds
    while True:
        manifest = await client.get(POLICYROLLOUTS, namespace, name)
        status = _status(manifest)
        if status.last_command is not None and status.last_command.id == words.id:
            return await _outcome(client, manifest, status)
        if steer.waiting(manifest["metadata"].get("annotations") or {}, status) != words:
            print("error: another command, or nobody's, stands in its place by now", file=sys.stderr)
            return 1
        if time.monotonic() > deadline:
            print(
                f"error: the operator has not looked at it within {seconds:g} s; is it running? The command stands",
                file=sys.stderr,
            )
            return 1
        await asyncio.sleep(_POLL_SECONDS)


async def _outcome(client: KubeClient, manifest: Manifest, status: PolicyRolloutStatus) -> int:
    """Show what the operator made of the command; 1 when it ignored it."""
    deadline = time.monotonic() + _EVENTS_SECONDS
    # Events follow the status that they tell of.
    while not (told := await _events(client, manifest, status)) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(_POLL_SECONDS)
    for _, kind, reason, note in told:
        print(show.line(f"{kind} {reason}: {note}"))
    if any(reason == Reason.COMMAND_IGNORED for _, _, reason, _ in told):
        return 1
    print(show.rollout(manifest, status, datetime.now(UTC)))
    return 0


async def _events(
    client: KubeClient, manifest: Manifest, status: PolicyRolloutStatus
) -> list[tuple[datetime, str, str, str]]:
    """(time, type, reason, note) of what the operator said about the rollout since it looked at the command.

    Empty for those who may not list events.
    """
    since = status.last_command.at if status.last_command is not None else None
    try:
        uid = manifest["metadata"]["uid"]
        found = await client.list_all(EVENTS, manifest["metadata"]["namespace"], field_selector=f"regarding.uid={uid}")
    except KubeError:
        return []
    told = []
    for each in found:
        # The same words again are the same event, seen once more.
        at = _time((each.get("series") or {}).get("lastObservedTime")) or _time(each.get("eventTime"))
        if since is not None and at is not None and at >= since - timedelta(seconds=1):
            told.append((at, str(each.get("type")), str(each.get("reason")), str(each.get("note"))))
    return sorted(told)


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


def _status(manifest: Manifest) -> PolicyRolloutStatus:
    try:
        return PolicyRolloutStatus.model_validate(manifest.get("status") or {})
    except ValidationError as error:
        raise steer.Refused("this rollout's status is another version's; update kubectl rlhf") from error


if __name__ == "__main__":
    sys.exit(main())
