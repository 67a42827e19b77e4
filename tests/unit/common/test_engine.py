"""The environment of serving containers."""

from __future__ import annotations

from rlhf_operator.api.pods import PodFields
from rlhf_operator.common.engine import environment
from rlhf_operator.runtime.drift import holds


def test_the_users_variables_win_and_each_comes_once() -> None:
    fields = PodFields.model_validate({"env": [{"name": "OURS", "value": "theirs"}, {"name": "RLHF_X", "value": "no"}]})
    found = [
        each for each in environment({"OURS": "ours", "RLHF_X": "yes"}, fields) if each["name"] in ("OURS", "RLHF_X")
    ]
    assert found == [{"name": "OURS", "value": "theirs"}, {"name": "RLHF_X", "value": "yes"}]


def test_an_empty_variable_is_asked_for_as_the_api_server_stores_it() -> None:
    fields = PodFields.model_validate({"env": [{"name": "THEIRS", "value": ""}]})
    found = environment({"OURS": ""}, fields)
    # The server leaves out a value that is empty; what is asked for must be held by that, or each look writes it.
    stored = [{key: value for key, value in each.items() if value != ""} for each in found]
    assert holds(stored, found)
    assert {"OURS", "THEIRS"} <= {each["name"] for each in found}
