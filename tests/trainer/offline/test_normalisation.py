"""However a batch is cut over ranks and micro-batches, loss and gradients are the same."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_trainer.boundary import STATE_FILE, LoopState
from rlhf_trainer.checkpoint import CHECKPOINTS, POLICY_FOLDER
from rlhf_trainer.policy.load import load_causal_lm
from trainer.core.tiny import WORDS, make_tokenizer

from .small import BLOCKS, HELD_OUT, OfflineWorld, judged, steps, two_ranks
from .two_ranks import STEPS


def figures(world: OfflineWorld, step: int) -> dict[str, float]:
    """Loss and gradient norm of a step, in full, as its checkpoint has them."""
    folder = world.workspace / "attempts" / "1" / CHECKPOINTS / f"step-{step:08d}"
    found = LoopState.model_validate_json((folder / STATE_FILE).read_bytes()).figures
    return {name: found[name] for name in ("loss", "gradNorm")}


def policy(world: OfflineWorld) -> dict[str, torch.Tensor]:
    folder = world.workspace / "attempts" / "1" / POLICY_FOLDER
    return dict(load_causal_lm(folder, torch.float32, "auto").state_dict())


def of(root: Path, algorithm: str, **changes: Any) -> OfflineWorld:
    return OfflineWorld(root, {**STEPS, **changes}, algorithm=algorithm)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every algorithm's two steps on batches in one piece: 1 × 8."""
    root = tmp_path_factory.mktemp("whole")
    for algorithm in BLOCKS:
        of(root, algorithm).run_here(micro=8)
    return root


def assert_same(root: Path, other: Path, **changes: Any) -> None:
    for algorithm in BLOCKS:
        one, two = of(root, algorithm), of(other, algorithm, **changes)
        for step in (1, 2):
            assert figures(two, step) == pytest.approx(figures(one, step), abs=1e-5), (algorithm, step)
        assert figures(one, 1)["gradNorm"] > 1e-3
        for name, value in policy(one).items():
            # Adam's first steps are signs times the rate: where a gradient is all but zero, weights may differ.
            far = ((policy(two)[name] - value).abs() > 1e-5).float().mean()
            assert far < 0.01, (algorithm, name)


def test_micro_batches_change_nothing(whole: Path, tmp_path: Path) -> None:
    for algorithm in BLOCKS:
        of(tmp_path, algorithm, name="small").run_here(micro=1)
    assert_same(whole, tmp_path, name="small")


@pytest.mark.parametrize("stage", [0, pytest.param(2, marks=pytest.mark.slow), 3])
def test_two_ranks_of_four_take_the_steps_of_one_of_eight(whole: Path, tmp_path: Path, stage: int) -> None:
    two_ranks(tmp_path, stage, "steps")
    assert_same(whole, tmp_path, compute={"workers": 2, "zeroStage": stage})


def test_sft_divides_by_the_completions_tokens_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = of(tmp_path, "SFT", training={"steps": 1, "batchSize": 28})
    # One batch is the whole data set, so the order matters to nobody.
    world.run_here(micro=7)
    told = steps(capsys.readouterr().out)
    rows = [(row["prompt"], row["chosen"]) for row in judged()[HELD_OUT:]]
    assert len(rows) == 28
    model, tokenizer = load_causal_lm(world.base, torch.float32, "auto"), make_tokenizer(WORDS)
    total, tokens = 0.0, 0
    for prompt, response in rows:
        before = tokenizer(prompt).input_ids
        after = [*tokenizer(response).input_ids, tokenizer.eos_token_id]
        with torch.no_grad():
            logprobs = model(torch.tensor([before + after])).logits[0].log_softmax(-1)
        total -= sum(float(logprobs[len(before) + at - 1, token]) for at, token in enumerate(after))
        tokens += len(after)
    assert told[0]["loss"] == pytest.approx(total / tokens, abs=1e-5)
