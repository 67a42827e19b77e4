"""TRL 1.12's PPO (its last with one) as `bench.trainer` runs it: `python trl_ppo.py settings.json`, in its environment.

Prints a JSON line when an update ends: the clock, and optimizer steps and generated tokens so far. Only the counting is
ours.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer


class Count:
    """What was done so far."""

    def __init__(self) -> None:
        self.optimizer_steps = 0
        self.tokens = 0

    def optimizer(self, step: Any) -> Any:
        """The optimizer's step, counted."""

        def counted(*arguments: Any, **options: Any) -> Any:
            self.optimizer_steps += 1
            return step(*arguments, **options)

        return counted

    def generation(self, generate: Any) -> Any:
        """The model's generate, its new tokens counted."""

        def counted(*arguments: Any, **options: Any) -> Any:
            found = generate(*arguments, **options)
            rows, length = found.sequences.shape
            self.tokens += rows * (length - options["input_ids"].shape[1])
            return found

        return counted


class Say(TrainerCallback):  # type: ignore[misc]
    """Prints when an update ends."""

    def __init__(self, count: Count) -> None:
        self._count = count

    def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """One update is done."""
        line = {
            "step": state.global_step,
            "at": time.monotonic(),
            "optimizerSteps": self._count.optimizer_steps,
            "tokens": self._count.tokens,
        }
        print(json.dumps(line), flush=True)


def main() -> None:
    """Train."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(settings["threads"])
    base, reward = settings["base"], settings["reward"]
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    policy, reference = (AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32) for _ in range(2))
    critic, scorer = (
        AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, dtype=torch.float32)
        for path in (base, reward)
    )
    prompts = [json.loads(line)["prompt"] for line in Path(settings["prompts"]).read_text().splitlines()]
    rows = Dataset.from_dict({"input_ids": [tokenizer(prompt).input_ids for prompt in prompts]})
    count = Count()
    policy.generate = count.generation(policy.generate)
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=settings["output"],
            use_cpu=True,
            bf16=False,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            eval_strategy="no",
            disable_tqdm=True,
            num_sample_generations=0,
            per_device_train_batch_size=settings["microBatchSize"],
            gradient_accumulation_steps=settings["batchSize"] // settings["microBatchSize"],
            # Any other number has no effect on how often the optimizer steps.
            num_mini_batches=1,
            local_rollout_forward_batch_size=settings["batchSize"],
            response_length=settings["responseTokens"],
            total_episodes=settings["batchSize"] * settings["updates"],
            num_ppo_epochs=settings["epochs"],
            kl_coef=settings["klCoefficient"],
            learning_rate=settings["learningRate"],
            temperature=1.0,
            stop_token=None,
        ),
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=scorer,
        value_model=critic,
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=[Say(count)],
    )
    optimizer = trainer.optimizer.optimizer
    optimizer.step = count.optimizer(optimizer.step)
    trainer.train()


if __name__ == "__main__":
    main()
