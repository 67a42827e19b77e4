"""`rlhf_trainer collect`: says again what a finished run said, from its result.json, when its pod was gone too soon."""

import argparse

from pydantic import ValidationError

from rlhf_operator.api.exitcodes import EXIT_CODE_OF_CLASS, ExitCode, FailureClass

from .errors import TrainerError
from .fencing import RESULT_FILE, finished
from .plans import read_plan
from .remote.fetched import resolved_inputs
from .termination import failure_message, success_message, write_termination_message

NO_PLAN = "sha256:" + "0" * 64
"""Stands for the digest of a plan that could not be read."""


def main(arguments: argparse.Namespace) -> int:
    """Write the termination message. It is an answer also when there is no result: then it says ResultUnknown."""
    plan_digest = NO_PLAN
    try:
        plan = read_plan(arguments.plan)
        plan_digest = plan.digest()
        result = finished(arguments.workspace, plan)
        if result is not None:
            message = success_message(result).model_copy(update={"sources": resolved_inputs(plan)})
        else:
            words = f"{arguments.workspace / RESULT_FILE} is not there: the run ended without a result"
            message = failure_message(plan_digest, 0, FailureClass.RESULT_UNKNOWN, "NoResult", words)
    except TrainerError as error:
        message = failure_message(plan_digest, 0, error.failure, error.reason, error.message)
    except (OSError, ValidationError) as error:
        words = f"{arguments.workspace / RESULT_FILE} can't be read: {str(error).splitlines()[0]}"
        message = failure_message(plan_digest, 0, FailureClass.RESULT_UNKNOWN, "ResultUnreadable", words)
    write_termination_message(message)
    print(message.encode().decode())
    return ExitCode.OK if message.failure is None else EXIT_CODE_OF_CLASS.get(message.failure, ExitCode.CRASH)
