"""`rlhf_trainer publish`: judges the result and makes it an artifact, in a pod of its own that alone has the key.

    <output>/sha256-<digest>/          the policy's files, manifest.json, model.sig
    <output>/aliases/<alias>.json      {"digest": …, "path": …}
    <output>/refused/sha256-<digest>.json   the manifest of what failed its gate: what it was, and which figures missed

Publishing again gives the same digest and changes nothing. What fails its gate stays in the workspace, unsigned and
without an alias; only its manifest is kept here, where no artifact is looked for.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from pydantic import ValidationError

from rlhf_operator.api.exitcodes import EXIT_CODE_OF_CLASS, ExitCode, FailureClass
from rlhf_operator.api.plan import OUTPUT_PATH, LiveSettings, TrainingPlan
from rlhf_operator.api.result import (
    AGREEMENT_ALPHA,
    DROPPED_ROWS,
    ArtifactRecord,
    Comparison,
    Result,
    TerminationMessage,
)
from rlhf_operator.api.rewardgate import RewardGate
from rlhf_operator.api.rewardplan import RewardPlan
from rlhf_scoring.artifact import MANIFEST_FILE, RESERVED, ArtifactFile, Manifest, inventory, verify
from rlhf_scoring.errors import ArtifactError
from rlhf_scoring.tree import digest_bytes

from . import evaluate
from .card import CARD_FILE, card
from .collect import NO_PLAN
from .errors import ConfigError, Crash, TrainerError
from .fencing import finished
from .files import digest_tree, sync_directory, sync_file, write_durably
from .gate import Gate, Verdict, reward_verdict, verdict
from .lineage import lineage_of
from .plans import AnyPlan, read_plan
from .remote.upload import upload
from .termination import failure_message, weakest, write_termination_message

ALIASES, REFUSED = "aliases", "refused"
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def main(arguments: argparse.Namespace) -> int:
    """Publish; the exit code is 0 when there is a record, whatever its gate says."""
    plan_digest = NO_PLAN
    try:
        plan = read_plan(arguments.plan)
        plan_digest = plan.digest()
        gate = _reward_gate(arguments.settings)
        message = publish(plan, arguments.workspace, arguments.output, arguments.key, gate)
    except TrainerError as error:
        message = failure_message(plan_digest, 0, error.failure, error.reason, error.message)
    except ArtifactError as error:
        message = failure_message(plan_digest, 0, FailureClass.CONFIG, error.reason, str(error))
    except ValidationError as error:
        words = f"result.json can't be read: {str(error).splitlines()[0]}"
        message = failure_message(plan_digest, 0, FailureClass.CRASH, "ResultUnreadable", words)
    except OSError as error:
        words = f"the artifact can't be written: {error.strerror} ({error.filename})"
        message = failure_message(plan_digest, 0, FailureClass.CRASH, "PublishFailed", words)
    write_termination_message(message)
    print(message.encode().decode(), file=sys.stdout if message.failure is None else sys.stderr)
    return ExitCode.OK if message.failure is None else EXIT_CODE_OF_CLASS[message.failure]


def _reward_gate(settings: Path | None) -> RewardGate | None:
    """The limits for a RewardModel's version. Raises ConfigError for settings that can't be read: none is not all."""
    if settings is None:
        return None
    try:
        return LiveSettings.model_validate_json(settings.read_bytes()).reward_gate
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{settings}: {str(error).splitlines()[0]}", reason="SettingsUnreadable") from error


def publish(
    plan: AnyPlan, workspace: Path, output: Path, key: Path | None = None, gate: RewardGate | None = None
) -> TerminationMessage:
    """Judge the workspace's result and, unless its gate failed, publish it. Raises TrainerError, OSError.

    gate: the limits of a RewardModel; those of an RLHFJob are in its plan.
    """
    result = finished(workspace, plan)
    if result is None:
        raise Crash(f"{workspace} holds no result.json: training has not finished", reason="NoResult")
    policy = _policy(workspace, result)
    if isinstance(plan, TrainingPlan):
        comparisons = evaluate.comparisons(plan, workspace)
        suites, slices = evaluate.suite_scores(plan, workspace), evaluate.all_slices(plan, workspace)
        judged = verdict(plan.evaluation, comparisons, suites, slices)
    else:
        comparisons = []
        judged = reward_verdict(gate, result.reward)
    lineage, files, written = lineage_of(plan, workspace, result), inventory(policy), b""
    if isinstance(plan, TrainingPlan):
        written = card(plan, result, comparisons, judged, lineage).encode()
        files = _with_card(files, written)
    manifest = Manifest(
        files=files,
        lineage=lineage,
        # A reward model's limits may change without making its version another one.
        gate=judged.gate if isinstance(plan, TrainingPlan) else None,
        gate_message=judged.message if isinstance(plan, TrainingPlan) else None,
        evaluation=tuple(comparisons),
        reward=tuple(result.reward),
    )
    digest = manifest.digest()
    if judged.gate is Gate.FAILED:
        if isinstance(plan, TrainingPlan):
            _mark_refused(_confined(output), manifest)
        ref = f"workspace://{workspace.name}/{result.policy}"
        return _message(plan, result, comparisons, _record(plan, result, ref, digest, judged, signed=False))
    if key is not None:
        # Here and not at the top: without a key nothing of the signing stack is loaded.
        from .signature import public_key, sign

        # Before anything is written: what should be signed never lies there unsigned for want of a good key.
        public_key(key)
    elif plan.output.sign:
        raise ConfigError("output.signing is set, but no key was given to the publish pod", reason="SigningKeyMissing")
    artifact = _place(policy, written, manifest, _confined(output), workspace.name)
    if key is not None:
        sign(artifact, key)
    alias = _point(output, plan.output.alias, digest, artifact.name) if plan.output.alias is not None else None
    uri = upload(artifact, plan.output, alias) if plan.output.s3 is not None else None
    ref = f"pvc://{plan.output.claim}/{'/'.join(filter(None, (plan.output.path.strip('/'), artifact.name)))}"
    record = _record(plan, result, ref, digest, judged, signed=key is not None)
    return _message(plan, result, comparisons, record.model_copy(update={"uri": uri}))


def _policy(workspace: Path, result: Result) -> Path:
    policy = workspace / result.policy
    if ".." in policy.parts or not policy.resolve().is_relative_to(workspace.resolve()) or not policy.is_dir():
        raise ConfigError(f"result.json names the policy {result.policy!r}, which is no folder of the workspace")
    if taken := RESERVED & {path.name for path in policy.iterdir()}:
        raise ConfigError(f"the policy's folder holds {', '.join(sorted(taken))}, a name of the artifact's own")
    inventory_digest = digest_tree(policy)
    if inventory_digest != result.policy_digest:
        raise ConfigError(
            f"the policy has digest {inventory_digest}, result.json says {result.policy_digest}: "
            "it was changed after training",
            reason="DigestMismatch",
        )
    return policy


def _confined(output: Path) -> Path:
    """The output folder, made if need be; inside the output volume even if someone left links there."""
    root = Path(OUTPUT_PATH)
    if ".." in output.parts or (output.is_relative_to(root) and not output.resolve().is_relative_to(root.resolve())):
        raise ConfigError(f"output.path leads out of its volume: {output}")
    output.mkdir(parents=True, exist_ok=True)
    return output


def _with_card(files: tuple[ArtifactFile, ...], written: bytes) -> tuple[ArtifactFile, ...]:
    own = ArtifactFile(path=CARD_FILE, size_bytes=len(written), sha256=digest_bytes(written))
    return tuple(sorted([*(file for file in files if file.path != CARD_FILE), own], key=lambda file: file.path))


def _place(policy: Path, written: bytes, manifest: Manifest, output: Path, owner: str) -> Path:
    """Copy the files beside their final place, then rename: a reader sees the whole artifact or none.

    written: the model card; empty where there is none.
    """
    final = output / manifest.digest().replace(":", "-")
    if final.exists():
        verify(final, manifest.digest())
        return final
    prefix = f".publishing-{owner}-"
    for left in output.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=output) as temporary:
        work = Path(temporary, "artifact")
        work.mkdir()
        for file in manifest.files:
            if written and file.path == CARD_FILE:
                write_durably(work / CARD_FILE, written)
            else:
                _copy(policy / file.path, work / file.path)
        write_durably(work / MANIFEST_FILE, manifest.canonical())
        # The copies are what is published: they are what must be right.
        verify(work, manifest.digest())
        for folder in [work, *(path for path in work.rglob("*") if path.is_dir())]:
            folder.chmod(0o755)
            sync_directory(folder)
        for file_path in work.rglob("*"):
            if file_path.is_file():
                file_path.chmod(0o644)
        try:
            work.rename(final)
        except OSError:
            # Another publish pod was first; the same digest means the same content.
            if not final.exists():
                raise
            verify(final, manifest.digest())
        sync_directory(output)
    return final


def _mark_refused(output: Path, manifest: Manifest) -> None:
    """Leave word of a policy that failed its gate, so that its digest can be looked up."""
    path = output / REFUSED / f"{manifest.digest().replace(':', '-')}.json"
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        write_durably(path, manifest.canonical())


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # The check for links and this opening are two moments: the kernel looks again.
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
    with open(descriptor, "rb") as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
    sync_file(target)


def _point(output: Path, alias: str, digest: str, folder: str) -> Path:
    """Let an alias name this artifact; returns its file."""
    if not _ALIAS.fullmatch(alias):
        raise ConfigError(f"output.alias {alias!r} must be letters, digits, '.', '_' and '-', 128 at most")
    path = output / ALIASES / f"{alias}.json"
    data = json.dumps({"digest": digest, "path": folder}, indent=2).encode()
    if not path.is_file() or path.read_bytes() != data:
        path.parent.mkdir(exist_ok=True)
        write_durably(path, data)
    return path


def _record(plan: AnyPlan, result: Result, ref: str, digest: str, judged: Verdict, *, signed: bool) -> ArtifactRecord:
    return ArtifactRecord(
        ref=ref,
        digest=digest,
        alias=plan.output.alias if judged.gate is not Gate.FAILED else None,
        gate=judged.gate,
        gate_message=judged.message[:512],
        signed=signed,
        base_model_digest=result.base_model_digest,
        dataset_digests=[record.digest for record in result.datasets],
        plan_digest=result.plan_digest,
    )


def _message(
    plan: AnyPlan, result: Result, comparisons: list[Comparison], record: ArtifactRecord
) -> TerminationMessage:
    failed = record.gate == Gate.FAILED
    words = f"gate {record.gate}: {record.gate_message}"
    return TerminationMessage(
        plan_digest=plan.digest(),
        attempt=result.attempt,
        reason="GateFailed" if failed else "Published",
        message=words if failed else f"{record.ref} has digest {record.digest}; {words}",
        step=result.step,
        evaluation=comparisons,
        reward=weakest(result.reward),
        figures=_data_figures(result) if isinstance(plan, RewardPlan) else {},
        artifact=record,
    )


def _data_figures(result: Result) -> dict[str, float]:
    """What status says of a RewardModel's data beside the gate's figures."""
    known = {name: value for name, value in result.figures.items() if name == AGREEMENT_ALPHA}
    if result.datasets:
        known[DROPPED_ROWS] = float(sum(result.datasets[0].dropped.values()))
    return known
