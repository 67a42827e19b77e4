"""The judge in front of a real vLLM: an encoder with three heads and token types."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from judgekit.clients import Clients
from judgekit.models import PAIRS, as_version, in_process, temperatures
from judgekit.process import JudgeProcess
from judgekit.versions import seal
from rlhf_operator.api.scorerfile import ScorerFile
from rlhf_scoring.version import load_probes, load_scorer_file

from .conftest import Hold, Served

TOLERANCE = 1e-3


def items(pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"prompt": prompt, "response": response} for prompt, response in pairs]


def test_served_scores_are_those_of_the_trainer(served: Served, judge: JudgeProcess) -> None:
    pairs = [(f"w{n} w{n + 1}", " ".join(f"w{m}" for m in range(n % 40))) for n in range(60)] + PAIRS
    answer = judge.score(items(pairs)).json()
    assert answer["version"] == served.version.digest
    expected = in_process(served.version, pairs)
    spread = max(scores["quality1"] for scores in expected) - min(scores["quality1"] for scores in expected)
    assert spread > 100 * TOLERANCE, "the model tells the texts apart"
    for score, scores in zip(answer["scores"], expected, strict=True):
        assert score["dimensions"] == pytest.approx(scores, abs=TOLERANCE)
        assert score["total"] == pytest.approx(sum(scores.values()) / len(scores), abs=TOLERANCE)


def test_what_was_asked_for_and_not_held_is_409(judge: JudgeProcess, served: Served) -> None:
    other = "sha256:" + "5" * 64
    answer = judge.post("/v1/score", {"version": other, "items": items(PAIRS[:1])})
    assert answer.status_code == 409
    assert served.version.digest in answer.json()["error"]["message"]


def spoil_head(folder: Path) -> None:
    """Heads in another order: every score belongs to another dimension."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["classifier.weight"] = tensors["classifier.weight"].flip(0).contiguous()
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("what", ["head", "temperature", "tokenizer"])
def test_a_version_whose_probes_the_engine_does_not_meet_is_never_ready(
    what: str, served: Served, hold: Hold, copy: Path
) -> None:
    if what == "head":
        # The version was evaluated with other heads than vLLM holds.
        spoil_head(copy)
        version = as_version(copy, served.heads)
    elif what == "temperature":
        wrong = [2 * temperature for temperature in temperatures(served.heads)]
        stored = load_scorer_file(copy)
        assert stored is not None
        version = seal(copy, ScorerFile.model_validate({**stored.dump(), "temperatures": wrong}), load_probes(copy))
    else:
        path = copy / "tokenizer.json"
        content = json.loads(path.read_text())
        vocabulary = content["model"]["vocab"]
        vocabulary["w4"], vocabulary["w5"] = vocabulary["w5"], vocabulary["w4"]
        path.write_text(json.dumps(content))
        stored = load_scorer_file(copy)
        assert stored is not None
        version = seal(copy, stored, load_probes(copy))
    judge = hold(version)
    judge.wait_for(lambda: "ProbeMismatch" in judge.tail())
    ready, score = judge.get("/readyz"), judge.score(items(PAIRS[:1]))
    assert ready.status_code == score.status_code == 503
    error = ready.json()["error"]
    assert error["reason"] == "ProbeMismatch"
    assert error["message"].startswith("probe ")
    assert " instead of " in error["message"]
    assert "scores" not in score.json()


def test_limits(hold: Hold) -> None:
    judge = hold(max_items="8", max_text_bytes="100", max_body_bytes="4096")
    judge.wait_ready()
    assert judge.score(items(PAIRS[:1] * 9)).json()["error"]["reason"] == "RequestInvalid"
    assert judge.score(items([("w1", "é" * 51)])).status_code == 413
    assert judge.score(items([("x" * 100, "y" * 100)] * 30)).status_code == 413
    assert judge.score(items([("é" * 50, "w1")])).status_code == 200


def test_more_texts_than_the_queue_takes_are_refused_and_none_is_wrong(served: Served, hold: Hold) -> None:
    judge = hold(queue_depth="64", batch_size="8", concurrency="2", max_items="16")
    judge.wait_ready()
    with Clients(judge, served.version, items_each=12) as clients:
        judge.wait_for(lambda: clients.outcomes[429] >= 20 and clients.outcomes[200] >= 100)
        exposed = judge.get("/metrics").text
    assert not clients.wrong
    assert set(clients.outcomes) == {200, 429}
    assert all(1 <= seconds <= 60 for seconds in clients.retry_after)
    depth = next(float(line.split()[1]) for line in exposed.splitlines() if line.startswith("rlhf_judge_queue_depth "))
    assert depth <= 64
    print(f"\n{dict(clients.outcomes)}")


def test_a_vllm_without_the_plugin_is_named(served: Served, hold: Hold, tmp_path: Path) -> None:
    """Anything that answers /health and /v1/models, and has no such route."""
    from fastapi import FastAPI

    from judgekit.local import listening

    app = FastAPI()

    @app.get("/health")
    async def health() -> None:
        return

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"data": [{"id": "scorer", "max_model_len": 64}]}

    with listening(app) as (url, _):
        judge = JudgeProcess(served.version, tmp_path / "log", url, str(served.prefix / "bin" / "python"))
        with judge:
            judge.wait_for(lambda: "EngineWithoutPlugin" in judge.tail())
            assert "VLLM_PLUGINS" in judge.get("/readyz").json()["error"]["message"]
