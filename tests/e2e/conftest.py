"""The cluster and the namespaces of the end-to-end tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import testbed
from demo.cluster import Object
from e2e.harness import Site, Space, open_space, remove_namespace
from e2e.harness_jobs import ppo_spec
from e2e.harness_rewardmodels import RewardModels, upload_judged_pairs
from e2e.harness_rollouts import Rollouts, upload_policies
from rlhf_operator.api.result import Result
from testbed.binaries import require
from testbed.dockerfiles import OPERATOR
from testbed.progress import Progress
from testbed.provision import load_image, pod_template, server_template

CRDS = Path(__file__).resolve().parents[2] / "crds"
PROMETHEUS = "http://prometheus.monitoring.svc:9090"
OpenSpace = Callable[..., Space]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A cluster with the CRDs and the operator's image, and the files that jobs start from."""
    from trainer.core.tiny import PROMPTS, make_base

    progress = Progress()
    bed = testbed.ensure(testbed.Profile.NODE, progress)
    files = tmp_path_factory.mktemp("input")
    make_base(files / "base", width=64)
    (files / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    found = Site(
        kubectl=bed.kubectl_binary,
        helm=require(["helm"], bed.paths, progress)["helm"],
        kubeconfig=bed.kubeconfig,
        operator_image=load_image(bed, OPERATOR, progress),
        template=pod_template(bed, progress=progress),
        files=files,
    )
    found.cluster("default").run("apply", "--server-side", "--force-conflicts", "-f", str(CRDS))
    return found


@pytest.fixture
def open_named(site: Site, request: pytest.FixtureRequest) -> Iterator[OpenSpace]:
    """Open a namespace with an operator of given settings; it goes after the test."""
    opened: list[Space] = []

    def make(suffix: str = "", **values: Any) -> Space:
        name = request.node.name.removeprefix("test_").replace("_", "-").replace("[", "-").strip("]")
        space = open_space(site, f"e2e-{name[:40].strip('-')}{suffix}".lower(), **values)
        opened.append(space)
        return space

    yield make
    for space in opened:
        if getattr(request.node, "failed_call", False):
            for job in space.cluster.objects("rlhfjobs"):
                print(space.tell(job["metadata"]["name"]))
            for model in space.cluster.objects("rewardmodels"):
                print(RewardModels(space, None).tell(model["metadata"]["name"]))
            for rollout in space.cluster.objects("policyrollouts"):
                print(Rollouts(space, None, None, {}).tell(rollout["metadata"]["name"]))
        remove_namespace(space.cluster, wait=False)


@pytest.fixture
def space(open_named: OpenSpace) -> Space:
    """A namespace with an operator of its own, for one test."""
    return open_named()


@pytest.fixture(scope="session")
def serving_template(site: Site) -> Object | None:
    """The pod template that mounts vLLM's Python into serving pods."""
    return server_template(testbed.ensure(testbed.Profile.NODE))


@pytest.fixture
def models(space: Space, serving_template: Object | None, tmp_path: Path) -> RewardModels:
    """RewardModels in a namespace of the test's own, with judged pairs and a small encoder to start from."""
    upload_judged_pairs(space, tmp_path)
    return RewardModels(space, serving_template)


@pytest.fixture
def rollouts(open_named: OpenSpace, serving_template: Object | None, tmp_path: Path) -> Rollouts:
    """PolicyRollouts in a namespace of the test's own, with two small policies to serve."""
    space = open_named(prometheusURL=PROMETHEUS, analysis={"scrapeSeconds": 5})
    digests = upload_policies(space, tmp_path)
    models = RewardModels(space, serving_template)
    return Rollouts(space, models.template_of("server"), models.template_of("judge"), digests)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.when == "call" and report.failed:
        item.failed_call = True  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """A run that nothing happened to: what disturbed runs of the same plan are compared with."""

    job: Object
    result: Result
    pods: list[Object]


@pytest.fixture(scope="session")
def undisturbed(site: Site) -> Iterator[Undisturbed]:
    """One job, run to its end once per session."""
    space = open_space(site, "e2e-undisturbed")
    try:
        space.submit("ppo", ppo_spec(site))
        job = space.complete("ppo")
        yield Undisturbed(job, space.result("ppo"), space.pods("ppo", attempt=1))
    finally:
        remove_namespace(space.cluster, wait=False)
