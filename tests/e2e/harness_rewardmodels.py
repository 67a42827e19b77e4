"""RewardModels in a test's namespace: applied by kubectl, waited for by condition, scored from other pods."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.cluster import ClusterError, Object, condition, is_true
from demo.manifests import only
from e2e import rewarddata
from e2e.harness import CLAIM, FILES_POD, OPERATOR_PODS, Probe, Space
from e2e.harness_jobs import merge
from rlhf_operator.api.scorerfile import PROBE_TOLERANCE

INPUT = "judged"
"""Folder on the claim with the judged pairs and the encoder."""
TOLERANCE = PROBE_TOLERANCE
"""How far a served score may be from the trainer's."""
READY_SECONDS = 900
"""vLLM on a machine that others use takes minutes to start."""
SERVING_RESOURCES = {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "6Gi"}}
"""What is asked for decides the share of a busy node: vLLM takes a minute of processor time to start."""

_SCORE = """
import json, sys, urllib.request
url, body = sys.argv[1], sys.stdin.read().encode()
asked = urllib.request.Request(url + "/v1/score", body, {"Content-Type": "application/json"})
# Once, and at once: Ready says that whoever asks is answered.
try:
    with urllib.request.urlopen(asked, timeout=60) as answer:
        found = [answer.status, json.load(answer)]
except urllib.error.HTTPError as error:
    found = [error.code, json.load(error)]
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class RewardModels:
    """The RewardModels of one namespace."""

    space: Space
    template: Object | None
    """Pod template by which serving pods find vLLM; None where the server's image holds it."""

    def spec(self, data: str = "pairs.jsonl", base: str = f"{INPUT}/encoder", **changes: Any) -> dict[str, Any]:
        """A small one, trained in seconds and served; `changes` are merged in, None removes a field."""
        rows = {
            "pvc": {"claimName": CLAIM, "path": f"{INPUT}/{data}"},
            "format": "Pairs",
            "columns": {
                "prompt": ["prompt"],
                "responses": ["response1", "response2"],
                "annotators": list(rewarddata.ANNOTATORS),
            },
        }
        spec: dict[str, Any] = {
            "source": {
                "train": {
                    "baseModel": {"pvc": {"claimName": CLAIM, "path": base}},
                    "dataset": rows,
                    "training": {"epochs": 4, "batchSize": 16, "microBatchSize": 8, "seed": 17},
                    "optimizer": {"learningRate": 3e-3, "warmupSteps": 2},
                    "maxLength": 48,
                }
            },
            "evaluation": {
                "split": {"heldOutFraction": 0.25},
                "minAccuracy": 0.8,
                "minLowerBound": 0.6,
                "maxLengthBias": 0.4,
            },
            "serving": {"resources": SERVING_RESOURCES},
            "compute": {
                "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
                "resources": {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "4Gi"}},
            },
            "storage": {"claimName": CLAIM},
            "timeouts": {"startup": "10m", "progress": "10m"},
        }
        if self.space.site.template is not None:
            spec["compute"]["template"] = self.space.site.template
        if self.template is not None:
            spec["serving"]["template"] = self.template
        return merge(spec, changes)

    def template_of(self, *containers: str) -> Object | None:
        """The serving template for some of the containers."""
        return only(self.template, *containers)

    def apply(self, name: str, spec: Mapping[str, Any]) -> None:
        """`kubectl apply` a RewardModel."""
        document = {"apiVersion": "rlhf.dev/v1alpha1", "kind": "RewardModel", "metadata": {"name": name}}
        self.space.cluster.apply([document | {"spec": dict(spec)}])

    def patch(self, name: str, spec: Mapping[str, Any]) -> None:
        """Change fields of the spec; None removes one."""
        self.space.cluster.run("patch", "rewardmodel", name, "--type=merge", "-p", json.dumps({"spec": dict(spec)}))

    def get(self, name: str) -> Object:
        """The RewardModel as it is now."""
        found = self.space.cluster.get("rewardmodel", name)
        if found is None:
            raise ClusterError(f"RewardModel {name} does not exist")
        return found

    def until(
        self, name: str, what: str, probe: Probe, seconds: float = READY_SECONDS, *, stalls: bool = False
    ) -> Object:
        """Poll until `probe` holds of a status that speaks of the spec as it is now; returns the object.

        Fails at once when it has stalled without, unless that is what the test looks at.
        """
        last: Object = {}

        def look() -> bool:
            nonlocal last
            last = self.get(name)
            if (last.get("status") or {}).get("observedGeneration") != last["metadata"]["generation"]:
                return False
            if probe(last):
                return True
            if is_true(last, "Stalled") and not stalls:
                raise ClusterError(f"{name} has stalled before: {what}\n{self.tell(name)}")
            return False

        self.space.cluster.wait(f"{name}: {what}", look, seconds, lambda: self.tell(name), interval_seconds=0.5)
        return last

    def ready(self, name: str, seconds: float = READY_SECONDS) -> Object:
        """Wait until it can be used, and nothing is under way any more."""
        return self.until(
            name, "Ready", lambda seen: is_true(seen, "Ready") and not is_true(seen, "Reconciling"), seconds
        )

    def refused(self, name: str, seconds: float = READY_SECONDS) -> Mapping[str, Any]:
        """Wait until the gate has refused the version of the present spec; returns the condition."""

        def probe(seen: Object) -> bool:
            return (condition(seen, "Evaluated") or {}).get("reason") == "GateFailed"

        found = condition(self.until(name, "refused by its gate", probe, seconds, stalls=True), "Evaluated")
        assert found is not None
        return found

    def served(self, name: str) -> str | None:
        """Digest of the version that answers, as status knows."""
        found: str | None = (self.get(name).get("status") or {}).get("servedVersion")
        return found

    def version(self, name: str, digest: str | None = None) -> Mapping[str, Any]:
        """What status says of a version; by default of the one in use."""
        status = self.get(name)["status"]
        wanted = digest or status["currentVersion"]
        found: Mapping[str, Any] = next(each for each in status["versions"] if each["digest"] == wanted)
        return found

    def pods(self, name: str, digest: str | None = None) -> list[Object]:
        """Serving pods, of one version or of all."""
        selector = f"rlhf.dev/reward-model={name},rlhf.dev/role=scorer"
        if digest is not None:
            selector += f",rlhf.dev/version={tag(digest)}"
        return self.space.cluster.objects("pods", selector)

    def download(self, name: str, folder: Path, digest: str | None = None) -> Path:
        """A version's files as they were published."""
        reference = str(self.version(name, digest)["ref"])
        place = reference.removeprefix(f"pvc://{CLAIM}/")
        assert place != reference, f"{reference} is not on the claim {CLAIM}"
        self.space.files.download(place, folder)
        return folder

    def score(
        self, url: str, pairs: Sequence[tuple[str, str]], version: str | None = None
    ) -> tuple[int, Mapping[str, Any]]:
        """Ask /v1/score from the files pod; returns status code and body."""
        body: dict[str, Any] = {"items": [{"prompt": prompt, "response": response} for prompt, response in pairs]}
        if version is not None:
            body["version"] = version
        told = self.space.cluster.run(
            "exec", "-i", FILES_POD, "--", "python3", "-c", _SCORE, url, stdin=json.dumps(body).encode()
        )
        code, answer = json.loads(told)
        return code, answer

    def tell(self, name: str) -> str:
        """Everything that a person would look at."""
        cluster = self.space.cluster
        parts = []
        for arguments in (
            ("get", "rewardmodel", name, "-o", "jsonpath={.status}"),
            ("get", "jobs,pods,deployments,services", "-o", "wide"),
            ("events",),
            ("logs", "-l", OPERATOR_PODS, "--tail=15"),
        ):
            try:
                parts.append(cluster.run(*arguments).decode(errors="replace")[-6000:])
            except ClusterError as error:
                parts.append(str(error))
        parts.append(cluster.tell(f"rlhf.dev/reward-model={name}"))
        return "\n---\n".join(parts)


def upload_judged_pairs(space: Space, scratch: Path) -> None:
    """Put judged pairs, what is wrong with them in several ways, and an encoder onto the claim."""
    from e2e.encoder import make_encoder

    honest = rewarddata.honest()
    folder = scratch / "judged"
    folder.mkdir()
    for name, pairs in (
        ("pairs", honest),
        ("shuffled", rewarddata.shuffled(honest)),
        ("length", rewarddata.length_sorted(honest)),
    ):
        rewarddata.write_rows(folder / f"{name}.jsonl", rewarddata.rows(pairs))
    make_encoder(folder / "encoder")
    space.files.upload(folder, INPUT)


def tag(digest: str) -> str:
    """A version as names and labels have it."""
    return digest.removeprefix("sha256:")[:10]


def trainers_scores(folder: Path, pairs: Iterable[tuple[str, str]]) -> list[float]:
    """Scores of a version's files in this process, by the class that the trainer uses."""
    from rlhf_scoring.reward_model import RewardScorer

    found = list(pairs)
    scorer = RewardScorer("test", folder)
    try:
        scores = scorer.scores([prompt for prompt, _ in found], [response for _, response in found])
    finally:
        scorer.close()
    return [each.total for each in scores]
