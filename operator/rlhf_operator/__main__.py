"""`python -m rlhf_operator`: reads the settings, logs in, runs the controllers. Ends with a code of `errors`."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rlhf_operator.common.intents import OperatorDefaults
from rlhf_operator.common.reader import Controller
from rlhf_operator.errors import EXIT_OK, OperatorError, SettingsInvalid
from rlhf_operator.kube.credentials import load_credentials
from rlhf_operator.policyrollout.controller import PolicyRolloutController
from rlhf_operator.rewardmodel.controller import RewardModelController
from rlhf_operator.rlhfjob.controller import RLHFJobController
from rlhf_operator.runtime import logs, shell
from rlhf_operator.runtime.operator import Operator
from rlhf_operator.settings import Settings, load_settings

logger = logging.getLogger(__name__)

CONTROLLERS: dict[str, Callable[[OperatorDefaults], Controller[Any]]] = {
    "RewardModel": RewardModelController,
    "RLHFJob": RLHFJobController,
    "PolicyRollout": PolicyRolloutController,
}


def controllers(settings: Settings) -> Sequence[Controller[Any]]:
    """The controllers of the kinds that are asked for. Raises SettingsInvalid."""
    unknown = sorted(set(settings.kinds) - set(CONTROLLERS))
    if unknown:
        raise SettingsInvalid(
            f"RLHF_OPERATOR_KINDS: no controller for {', '.join(unknown)}; there are {', '.join(CONTROLLERS)}"
        )
    wanted = settings.kinds or tuple(CONTROLLERS)
    return [CONTROLLERS[kind](settings.defaults()) for kind in wanted]


def main() -> int:
    """Run until stopped; the exit code."""
    logs.set_up("INFO")
    try:
        settings = load_settings()
        logs.set_up(settings.log_level)
        credentials = load_credentials(settings.kubeconfig)
        operator = Operator(settings, credentials, controllers(settings))
        # What is there now stays: no collection needs to walk through it again.
        gc.collect()
        gc.freeze()
        asyncio.run(shell.run(operator, credentials))
    except OperatorError as error:
        logger.error("%s", error, extra={"exitCode": error.exit_code})
        return error.exit_code
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
