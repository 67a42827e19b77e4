"""Models, data and artifacts from and to an object store, against an S3 server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from remotekit.store import ACCESS_KEY, SECRET_KEY, Store
from rlhf_operator.api.data import S3Source
from rlhf_operator.api.plan import PlanOutput, TrainingPlan
from rlhf_scoring.artifact import Lineage, Manifest, inventory, verify
from rlhf_trainer.errors import ConfigError, Crash, TrainerError
from rlhf_trainer.fencing import Workspace
from rlhf_trainer.files import digest_bytes
from rlhf_trainer.remote.fetch import fetch_all
from rlhf_trainer.remote.fetched import resolved_inputs
from rlhf_trainer.remote.upload import upload

LINES = b'{"prompt": "one"}\n'
DIGEST = "sha256:" + "0" * 64

MakePlan = Callable[..., TrainingPlan]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials but those of a test, and no machine asked for any."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr("rlhf_trainer.remote.trouble.WAITS_SECONDS", (0.01,))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    folder = tmp_path / "store-credentials"
    folder.mkdir()
    (folder / "accessKeyID").write_text(ACCESS_KEY)
    (folder / "secretAccessKey").write_text(SECRET_KEY + "\n")
    return folder


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace", 1)


def fetch(store: Store, uri: str, secret: Path | None, content: str = "Data") -> dict[str, Any]:
    place = {"content": content, "s3": {"uri": uri, "endpoint": store.endpoint}}
    return place | ({} if secret is None else {"credentials": str(secret)})


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_an_object_and_a_prefix_are_fetched(
    store: Store, plan: MakePlan, workspace: Workspace, secret: Path, tmp_path: Path
) -> None:
    rows = {"rows/b.jsonl": LINES, "rows/a.jsonl": LINES * 2, "rows/deeper/c.jsonl": b"{}", "rows/words.md": b"x"}
    store.bucket("data", rows)
    alone = plan(fetch(store, "s3://data/rows/b.jsonl", secret))
    fetch_all(alone, workspace)
    assert names(Path(alone.dataset.path)) == ["b.jsonl"]
    [resolved] = resolved_inputs(alone)
    assert (resolved.revision, resolved.digest) == (None, digest_bytes(LINES))
    all_rows = plan(fetch(store, "s3://data/rows/", secret), path=str(tmp_path / "sources" / "all" / "content"))
    fetch_all(all_rows, workspace)
    assert names(Path(all_rows.dataset.path)) == ["a.jsonl", "b.jsonl"]


def test_a_gs_address_is_the_same_protocol(store: Store, plan: MakePlan, workspace: Workspace, secret: Path) -> None:
    store.bucket("google", {"train.jsonl": LINES})
    wanted = plan(fetch(store, "gs://google/train.jsonl", secret))
    fetch_all(wanted, workspace)
    assert (Path(wanted.dataset.path) / "train.jsonl").read_bytes() == LINES


def test_keys_of_the_environment_are_used_without_a_secret(
    store: Store, plan: MakePlan, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.bucket("data", {"train.jsonl": LINES})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    wanted = plan(fetch(store, "s3://data/train.jsonl", None))
    fetch_all(wanted, workspace)
    assert names(Path(wanted.dataset.path)) == ["train.jsonl"]


def test_a_large_model_comes_whole(store: Store, plan: MakePlan, workspace: Workspace, secret: Path) -> None:
    weights = bytes(range(256)) * (80 << 10)
    store.bucket("models", {"base/model.safetensors": weights, "base/config.json": b"{}", "base/old.bin": b"x"})
    wanted = plan(fetch(store, "s3://models/base", secret, "Model"))
    fetch_all(wanted, workspace)
    assert names(Path(wanted.dataset.path)) == ["config.json", "model.safetensors"]
    assert (Path(wanted.dataset.path) / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    ("uri", "content", "reason", "words"),
    [
        ("s3://data/nothing.jsonl", "Data", "SourceNotFound", "no such object"),
        ("s3://no-such-bucket/x", "Data", "SourceNotFound", "no such object"),
        ("s3://data/a/../../models", "Data", "SourceUnusable", "'..' in its path"),
        ("s3://data/pictures", "Data", "NoRows", "no data"),
        ("s3://data/pictures", "Model", "SourceUnusable", r"no \*\.safetensors"),
    ],
)
def test_what_a_person_must_mend_is_told_by_field(
    store: Store,
    plan: MakePlan,
    workspace: Workspace,
    secret: Path,
    uri: str,
    content: str,
    reason: str,
    words: str,
) -> None:
    store.bucket("data", {"pictures/a.png": b"x"})
    with pytest.raises(ConfigError, match=words) as caught:
        fetch_all(plan(fetch(store, uri, secret, content)), workspace)
    assert (caught.value.reason, caught.value.message[:9]) == (reason, "dataset: ")


def test_wrong_keys_are_told_by_the_names_of_the_secret_and_its_keys_alone(
    store: Store, plan: MakePlan, workspace: Workspace, secret: Path
) -> None:
    store.bucket("data", {"train.jsonl": LINES})
    (secret / "secretAccessKey").write_text("very-wrong-secret")
    with pytest.raises(ConfigError, match="mend accessKeyID, secretAccessKey") as caught:
        fetch_all(plan(fetch(store, "s3://data/train.jsonl", secret)), workspace)
    assert caught.value.reason == "SourceForbidden"
    assert "store-credentials" in caught.value.message
    assert "very-wrong" not in caught.value.message
    assert ACCESS_KEY not in caught.value.message.replace(secret.name, "")


def test_without_any_keys_the_way_out_is_named(store: Store, plan: MakePlan, workspace: Workspace) -> None:
    store.bucket("data", {"train.jsonl": LINES})
    with pytest.raises(ConfigError, match="name a Secret with the keys accessKeyID, secretAccessKey") as caught:
        fetch_all(plan(fetch(store, "s3://data/train.jsonl", None)), workspace)
    assert caught.value.reason == "SourceForbidden"


def test_a_secret_that_lacks_a_key_is_named(store: Store, plan: MakePlan, workspace: Workspace, secret: Path) -> None:
    (secret / "secretAccessKey").unlink()
    with pytest.raises(ConfigError, match="Secret store-credentials has no key secretAccessKey") as caught:
        fetch_all(plan(fetch(store, "s3://data/train.jsonl", secret)), workspace)
    assert caught.value.reason == "CredentialsMissing"


def test_a_store_that_is_gone_is_tried_again_by_the_next_attempt(
    plan: MakePlan, workspace: Workspace, secret: Path
) -> None:
    gone = {"content": "Data", "s3": {"uri": "s3://data/x", "endpoint": "http://127.0.0.1:1"}}
    with pytest.raises(Crash) as caught:
        fetch_all(plan(gone | {"credentials": str(secret)}), workspace)
    assert caught.value.reason == "SourceUnreachable"


def artifact_of(folder: Path) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"\x01" * 100)
    (folder / "deeper").mkdir()
    (folder / "deeper" / "notes.txt").write_text("x")
    lineage = Lineage(
        job="ns/job",
        plan_digest=DIGEST,
        image="trainer:1",
        engine="none",
        world_size=1,
        step=1,
        policy_digest=DIGEST,
        datasets=(),
    )
    manifest = Manifest(files=inventory(folder), lineage=lineage)
    (folder / "manifest.json").write_bytes(manifest.canonical())
    return folder.rename(folder.with_name(manifest.digest().replace(":", "-")))


def output_of(store: Store, uri: str, secret: Path | None) -> PlanOutput:
    credentials = str(secret) if secret is not None else None
    place = S3Source(uri=uri, endpoint=store.endpoint)
    return PlanOutput(claim="models", path="out", s3=place, credentials=credentials)


def test_an_artifact_goes_up_whole_comes_back_verified_and_goes_up_once(
    store: Store, plan: MakePlan, workspace: Workspace, secret: Path, tmp_path: Path
) -> None:
    bucket = store.bucket("artifacts")
    artifact = artifact_of(tmp_path / "artifact")
    alias = tmp_path / "aliases" / "v1.json"
    alias.parent.mkdir()
    alias.write_text(json.dumps({"digest": DIGEST, "path": artifact.name}))
    output = output_of(store, "s3://artifacts/assistant/", secret)
    uri = upload(artifact, output, alias)
    assert uri == f"s3://artifacts/assistant/{artifact.name}"
    assert verify(bucket / "assistant" / artifact.name).digest() == artifact.name.replace("-", ":")
    assert (bucket / "assistant" / "aliases" / "v1.json").read_bytes() == alias.read_bytes()
    # What is there is not written again; a signature that came later is.
    weights = bucket / "assistant" / artifact.name / "model.safetensors"
    before = weights.stat().st_ino
    (artifact / "model.sig").write_bytes(b"signed")
    upload(artifact, output, alias)
    assert weights.stat().st_ino == before
    assert (bucket / "assistant" / artifact.name / "model.sig").read_bytes() == b"signed"
    # As another job's parentArtifact: every file, with the artifact's own digest.
    wanted = plan(fetch(store, uri, secret, "Artifact"), digest=artifact.name.replace("-", ":"))
    fetch_all(wanted, workspace)
    assert names(Path(wanted.dataset.path)) == [
        "deeper/notes.txt",
        "manifest.json",
        "model.safetensors",
        "model.sig",
    ]
    assert resolved_inputs(wanted)[0].digest == artifact.name.replace("-", ":")


def test_an_artifact_that_was_cut_off_on_its_way_goes_up_again(store: Store, secret: Path, tmp_path: Path) -> None:
    bucket = store.bucket("halves")
    artifact = artifact_of(tmp_path / "artifact")
    half = bucket / artifact.name
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    upload(artifact, output_of(store, "s3://halves", secret), None)
    assert verify(half).digest() == artifact.name.replace("-", ":")


def test_an_artifact_that_may_not_be_written_names_the_output(store: Store, secret: Path, tmp_path: Path) -> None:
    (secret / "secretAccessKey").write_text("wrong")
    with pytest.raises(TrainerError, match="output: s3://artifacts may not be used") as caught:
        upload(artifact_of(tmp_path / "artifact"), output_of(store, "s3://artifacts", secret), None)
    assert caught.value.reason == "SourceForbidden"


def test_stores_that_know_no_trailing_checksums_are_written_too(secret: Path, tmp_path: Path) -> None:
    seen: list[dict[str, str]] = []

    class Old(BaseHTTPRequestHandler):
        """Takes what Google's store takes: a body of known length, signed as a whole."""

        def do_GET(self) -> None:
            self.answer(404, b"")

        def do_HEAD(self) -> None:
            self.answer(404, b"")

        def do_POST(self) -> None:
            begun = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
            done = b"<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"
            self.answer(200, done if "uploadId=" in self.path else begun)

        def do_PUT(self) -> None:
            seen.append({name.lower(): value for name, value in self.headers.items()})
            self.answer(200, b"")

        def answer(self, status: int, body: bytes) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("ETag", '"x"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Old)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = S3Source(uri="gs://artifacts", endpoint=f"http://127.0.0.1:{server.server_port}")
    output = PlanOutput(claim="models", path="out", s3=place, credentials=str(secret))
    try:
        upload(artifact_of(tmp_path / "artifact"), output, None)
    finally:
        server.shutdown()
        server.server_close()
    assert seen
    assert not [headers for headers in seen if "x-amz-trailer" in headers or "transfer-encoding" in headers]
