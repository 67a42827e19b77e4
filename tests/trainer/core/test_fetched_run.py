"""Runs whose model and data come from a hub: fetched by pod 0's launcher, the same in every attempt."""

import io
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from remotekit.hub import Hub, Repo
from rlhf_operator.api.exitcodes import ExitCode, FailureClass
from rlhf_trainer.lineage import lineage_of
from rlhf_trainer.remote.fetched import missing

from .tiny import PROMPTS, Run, World, make_base


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub with a tiny model and its prompts as Parquet."""
    server = Hub()
    base = make_base(tmp_path / "published")
    server.models["org/tiny"] = Repo(token="hf_secret")
    server.models["org/tiny"].commit({path.name: path.read_bytes() for path in base.iterdir()})
    rows = io.BytesIO()
    pq.write_table(pa.table({"prompt": PROMPTS}), rows)
    server.datasets["org/prompts"] = Repo()
    server.datasets["org/prompts"].commit({"train.parquet": rows.getvalue()})
    yield server
    server.close()


@pytest.fixture
def fetched(world: Callable[..., World], tmp_path: Path) -> Callable[..., World]:
    """Make a world of which nothing is there before it is fetched."""
    secret = tmp_path / "hub-token"
    secret.mkdir()
    (secret / "token").write_text("hf_secret")
    model = {"content": "Model", "hf": {"repo": "org/tiny"}, "credentials": str(secret)}
    rows = {"content": "Data", "hf": {"repo": "org/prompts", "path": "train.parquet"}}

    def make(**changes: Any) -> World:
        sources = tmp_path / "world" / "storage" / "sources"
        return world(
            baseModel={"path": str(sources / "base" / "content"), "ref": "hf://org/tiny@main", "fetch": model},
            dataset={"path": str(sources / "rows" / "content"), "ref": "hf://datasets/org/prompts", "fetch": rows},
            **changes,
        )

    return make


def test_a_run_fetches_its_model_and_data_and_says_what_they_were(hub: Hub, fetched: Callable[..., World]) -> None:
    tiny = fetched(training={"steps": 2})
    run = tiny.start(environment={"HF_ENDPOINT": hub.url})
    assert run.wait() == 0, run.tail()
    commits = {"baseModel": hub.models["org/tiny"], "dataset": hub.datasets["org/prompts"]}
    told = {each.field: each for each in run.message().sources}
    assert {field: each.revision for field, each in told.items()} == {
        field: repo.branches["main"] for field, repo in commits.items()
    }
    result = tiny.result()
    assert told["baseModel"].digest == result.base_model_digest
    assert told["dataset"].digest == result.datasets[0].digest
    assert result.datasets[0].used == len(PROMPTS)
    lineage = lineage_of(tiny.plan, tiny.workspace, result)
    assert lineage.base_model is not None
    assert lineage.base_model.revision == told["baseModel"].revision
    assert lineage.datasets[0].revision == told["dataset"].revision
    assert "hf_secret" not in run.log.read_text()
    assert "hf_secret" not in run.termination.read_text()


def test_a_fetch_is_interrupted_and_leaves_nothing_but_what_it_resolved(
    hub: Hub, fetched: Callable[..., World]
) -> None:
    # The model's weights never come: the launcher waits for its child.
    hub.fail(1000, 503, "/org/tiny/resolve/")
    tiny = fetched()
    run = tiny.start(environment={"HF_ENDPOINT": hub.url})
    run.until(lambda run: bool(hub.asked("/org/tiny/resolve/")))
    children = run.ranks()
    run.process.send_signal(signal.SIGTERM)
    assert run.wait(60) == ExitCode.INTERRUPTED, run.tail()
    assert run.message().failure is FailureClass.INTERRUPTED
    assert len(children) == 1
    assert not Path(f"/proc/{children[0]}").exists()
    assert missing(tiny.plan) == [("baseModel", tiny.plan.base_model), ("dataset", tiny.plan.dataset)]
    assert (tiny.storage / "sources" / "base.revision").read_text() == hub.models["org/tiny"].branches["main"]


def test_what_can_not_be_fetched_ends_the_attempt_with_its_class(hub: Hub, fetched: Callable[..., World]) -> None:
    hub.models.clear()
    run = fetched().start(environment={"HF_ENDPOINT": hub.url})
    assert run.wait() == ExitCode.CONFIG, run.tail()
    message = run.message()
    assert (message.failure, message.reason) == (FailureClass.CONFIG, "SourceForbidden")
    assert "baseModel: hf://org/tiny@main" in message.message
    assert "hub-token" in message.message


@pytest.mark.slow
def test_other_pods_wait_for_the_one_that_fetches(
    hub: Hub, fetched: Callable[..., World], pods: Callable[..., list[Run]]
) -> None:
    tiny = fetched(training={"steps": 2}, compute={"workers": 2})
    runs = pods(tiny, environment={"HF_ENDPOINT": hub.url})
    for run in runs:
        assert run.wait(400) == 0, run.tail()
    assert [len(run.events("fetched")) for run in runs] == [2, 0]
