"""Reading the plan. Its types are the operator's API; what of it can be run is in supported.py."""

from pathlib import Path

from pydantic import ValidationError

from rlhf_operator.api.plan import TrainingPlan

from .errors import ConfigError

MAX_PLAN_BYTES = 4 << 20


def read_plan(path: Path) -> TrainingPlan:
    """Read plan.json. Raises ConfigError naming each field that is wrong."""
    try:
        if path.stat().st_size > MAX_PLAN_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_PLAN_BYTES} bytes: this is not a plan", reason="PlanInvalid")
        return TrainingPlan.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"the plan can't be read: {error}", reason="PlanInvalid") from error
    except ValidationError as error:
        fields = "; ".join(
            f"{'.'.join(map(str, entry['loc'])) or 'plan'}: {entry['msg']}" for entry in error.errors()[:5]
        )
        raise ConfigError(f"{path}: {fields}", reason="PlanInvalid") from error
