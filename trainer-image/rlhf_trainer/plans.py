"""Reading the plan. Its types are the operator's API; what of it can be run is in supported.py."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlhf_operator.api.plan import TrainingPlan
from rlhf_operator.api.rewardplan import REWARD_MODEL, RewardPlan

from .errors import ConfigError

MAX_PLAN_BYTES = 4 << 20

AnyPlan = TrainingPlan | RewardPlan


def read_plan(path: Path) -> AnyPlan:
    """Read plan.json: an RLHFJob's, or a RewardModel's when its kind says so.

    Raises ConfigError naming each field that is wrong.
    """
    try:
        if path.stat().st_size > MAX_PLAN_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_PLAN_BYTES} bytes: this is not a plan", reason="PlanInvalid")
        data = path.read_bytes()
        return RewardPlan.model_validate_json(data) if _kind(data) else TrainingPlan.model_validate_json(data)
    except OSError as error:
        raise ConfigError(f"the plan can't be read: {error}", reason="PlanInvalid") from error
    except ValidationError as error:
        fields = "; ".join(
            f"{'.'.join(map(str, entry['loc'])) or 'plan'}: {entry['msg']}" for entry in error.errors()[:5]
        )
        raise ConfigError(f"{path}: {fields}", reason="PlanInvalid") from error


def _kind(data: bytes) -> bool:
    """Whether this is a RewardPlan; what is no JSON is for the types to refuse."""
    try:
        raw: Any = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(raw, dict) and raw.get("kind") == REWARD_MODEL
