"""Which command a verb becomes as the rollout stands, and what people are shown."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rlhf_operator.api.rolloutstatus import PolicyRolloutStatus
from rlhf_operator.cli import show, steer
from rlhf_operator.cli.login import run_plugin
from rlhf_operator.cli.main import main
from rlhf_operator.common.commands import ANNOTATION, CommandWords, NotACommand, Verb, parse
from rlhf_operator.errors import CredentialsUnusable

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
UNDER_WAY: dict[str, Any] = {
    "phase": "Progressing",
    "message": "step tenth holds until 12:30: 412 of 500 samples",
    "observedGeneration": 3,
    "conditions": [
        {
            "type": "AnalysisHealthy",
            "status": "Unknown",
            "reason": "Timeout",
            "message": "http://prometheus:9090 gave no answer within 10 s",
            "lastTransitionTime": "2026-11-21T11:59:00Z",
        },
        {"type": "Ready", "status": "True", "reason": "Serving", "lastTransitionTime": "2026-11-20T12:00:00Z"},
    ],
    "variants": [
        {"name": "Stable", "revision": "9a1b", "weight": 90, "ready": 2, "replicas": 2, "ref": "pvc://models/v1"},
        {"name": "Candidate", "revision": "5f3c", "weight": 10, "mirrorPercent": 20, "ready": 1, "replicas": 2},
    ],
    "step": {"index": 1, "name": "tenth", "startedAt": "2026-11-21T11:30:00Z", "message": "88 samples are missing"},
    "analysis": [
        {
            "metric": "wins",
            "outcome": "Successful",
            "value": 0.5312,
            "interval": [0.4812, 0.5811],
            "samples": 412,
            "reason": "AboveMinimum",
        },
        {"metric": "errors", "outcome": "Error", "reason": "Timeout"},
    ],
    "rejected": [
        {"revision": "77aa", "reason": "AnalysisFailed", "message": "RewardWinRate 0.41", "at": "2026-11-19T12:00:00Z"},
        {"revision": "66bb", "reason": "Aborted", "at": "2026-11-18T12:00:00Z"},
    ],
    "history": [
        {"revision": "77aa", "outcome": "RolledBack", "reason": "AnalysisFailed", "to": "2026-11-19T12:00:00Z"},
        {"revision": "9a1b", "outcome": "Promoted", "reason": "Promoted", "by": "ann", "to": "2026-11-18T12:00:00Z"},
    ],
    "lastCommand": {"id": "c0ffee00", "verb": "promote", "by": "ann", "at": "2026-11-18T12:00:00Z"},
}
MANIFEST = {
    "metadata": {"namespace": "team", "name": "assistant", "generation": 4},
    "spec": {"strategy": {"steps": [{"name": "shadow"}, {"name": "tenth"}, {"name": "half"}]}},
}


def status(**changes: Any) -> PolicyRolloutStatus:
    return PolicyRolloutStatus.model_validate(UNDER_WAY | changes)


SETTLED = status(variants=UNDER_WAY["variants"][:1], step=None)


@pytest.mark.parametrize("verb", [Verb.PROMOTE, Verb.APPROVE, Verb.ABORT, Verb.PAUSE, Verb.RESUME, Verb.RETRY])
def test_a_verb_is_meant_for_the_candidate_in_its_step(verb: Verb) -> None:
    words = steer.command(verb, status(), "ann", "1")
    assert str(words) == f"1 {verb} 5f3c tenth ann"
    assert parse(str(words)) == words


@pytest.mark.parametrize("verb", [Verb.PROMOTE, Verb.APPROVE, Verb.ABORT, Verb.PAUSE, Verb.RESUME])
def test_without_a_candidate_there_is_nothing_to_steer(verb: Verb) -> None:
    with pytest.raises(steer.Refused):
        steer.command(verb, SETTLED, "ann", "1")


def test_retry_without_a_candidate_takes_what_was_rejected_last() -> None:
    assert str(steer.command(Verb.RETRY, SETTLED, "ann", "1")) == "1 retry 77aa - ann"
    with pytest.raises(steer.Refused, match="--revision"):
        steer.command(Verb.RETRY, SETTLED.model_copy(update={"rejected": []}), "ann", "1")


def test_rollback_leaves_the_aim_to_the_operator_unless_it_is_named() -> None:
    assert str(steer.command(Verb.ROLLBACK, status(), "ann", "1")) == "1 rollback - tenth ann"
    assert str(steer.command(Verb.ROLLBACK, SETTLED, "ann", "1")) == "1 rollback - - ann"
    assert str(steer.command(Verb.ROLLBACK, SETTLED, "ann", "1", "66bb")) == "1 rollback 66bb - ann"


def test_a_command_waits_until_the_operator_recorded_its_id() -> None:
    waiting = steer.waiting({ANNOTATION: "2 pause 5f3c tenth ann"}, status())
    assert waiting == CommandWords("2", Verb.PAUSE, "5f3c", "tenth", "ann")
    assert steer.waiting({ANNOTATION: "c0ffee00 promote 9a1b half ann"}, status()) is None
    assert steer.waiting({ANNOTATION: "gibberish"}, status()) is None
    assert steer.waiting({}, status()) is None


@pytest.mark.parametrize(
    "text", ["", "1", "1 pause 5f3c tenth", "1 pause 5f3c tenth ", "1 stop 5f3c tenth ann", "1\tpause 5f3c tenth x\n"]
)
def test_what_is_no_command_is_told_how_one_looks(text: str) -> None:
    with pytest.raises(NotACommand, match=r"use kubectl rlhf|none of promote"):
        parse(text)


def test_the_user_may_have_spaces() -> None:
    assert parse("1 pause 5f3c tenth Sam Long Name").user == "Sam Long Name"


def test_status_shows_variants_step_analysis_and_history(golden: Callable[[str, str], None]) -> None:
    golden("status.txt", show.rollout(MANIFEST, status(), NOW) + "\n")
    golden("settled.txt", show.rollout(MANIFEST, SETTLED.model_copy(update={"analysis": []}), NOW) + "\n")
    golden("new.txt", show.rollout(MANIFEST, PolicyRolloutStatus(), NOW) + "\n")


def test_nothing_in_status_steers_the_terminal() -> None:
    text = show.rollout(MANIFEST, status(message="fine\x1b[2J\x07\r\nREADY", phase="\x9b31m"), NOW)
    assert not [letter for letter in text.replace("\n", "") if not letter.isprintable()]
    assert "fine\ufffd[2J\ufffd\ufffd\ufffdREADY" in text


@pytest.mark.parametrize("arguments", [[], ["explode", "a"], ["promote"], ["abort", "a", "--revision", "a b"]])
def test_wrong_arguments_are_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: kubectl rlhf" in capsys.readouterr().err


class TestPlugins:
    """Log-in plugins of kubeconfigs, as clouds ship them."""

    def plugin(self, folder: Path, script: str) -> dict[str, Any]:
        path = folder / "plugin"
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return {
            "command": str(path),
            "args": ["get-token"],
            "env": [{"name": "CLOUD", "value": "ours"}],
            "apiVersion": "client.authentication.k8s.io/v1",
        }

    def test_a_token_is_taken_and_the_plugin_is_told_what_it_is_asked_for(self, tmp_path: Path) -> None:
        script = """printf '%s' "$KUBERNETES_EXEC_INFO" > "$0.asked"
        echo '{"kind": "ExecCredential", "status": {"token": "'"$1-$CLOUD"'"}}'"""
        assert run_plugin(self.plugin(tmp_path, script)) == {"token": "get-token-ours"}
        asked = json.loads((tmp_path / "plugin.asked").read_text(encoding="utf-8"))
        assert asked["kind"] == "ExecCredential"
        assert asked["apiVersion"] == "client.authentication.k8s.io/v1"

    def test_a_certificate_is_taken(self, tmp_path: Path) -> None:
        script = """echo '{"status": {"clientCertificateData": "CERT", "clientKeyData": "KEY"}}'"""
        assert run_plugin(self.plugin(tmp_path, script)) == {
            "client-certificate-data": "Q0VSVA==",
            "client-key-data": "S0VZ",
        }

    @pytest.mark.parametrize(
        ("script", "words"),
        [
            ("exit 7", "ended with 7"),
            ("echo s3cret", "printed no ExecCredential"),
            ("""echo '{"status": {"clientKeyData": "s3cret"}}'""", "neither a token nor a certificate"),
        ],
    )
    def test_a_plugin_that_fails_is_named_and_its_output_is_not_shown(
        self, tmp_path: Path, script: str, words: str
    ) -> None:
        with pytest.raises(CredentialsUnusable, match=words) as raised:
            run_plugin(self.plugin(tmp_path, script))
        assert "s3cret" not in str(raised.value)

    def test_a_plugin_that_is_not_there_is_named(self) -> None:
        with pytest.raises(CredentialsUnusable, match="no-such-plugin"):
            run_plugin({"command": "no-such-plugin", "apiVersion": "v1"})
