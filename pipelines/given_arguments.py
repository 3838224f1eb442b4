"""Errors of a recording whose call has arguments that the user gave."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fewstep.pipelines.recording.components import BuiltPipeline
from fewstep.pipelines.recording.network_state import ChangedNetworkError
from fewstep.pipelines.recording.record import CallError
from fewstep.pipelines.recording.stand_ins import UNRECORDED
from fewstep.pipelines.recording.usual_call import record_usual_call
from fewstep.pipelines.relations.time_fit import ChangingArgumentError
from fewstep.plans.errors import UserError


def _name_change(error: ChangedNetworkError, built: BuiltPipeline, given: Mapping[str, Any]) -> UserError:
    """Return the error of a call that changes its network. The fix is to leave a given argument out, if the call does
    not change its network without that one."""
    for name in given:
        try:
            record_usual_call(built, {key: value for key, value in given.items() if key != name})
        except UserError:
            continue
        return UserError(error.what, f"leave out --call {name}={given[name]}, without which it does not")
    return error


def explain_given(error: UserError, built: BuiltPipeline, given: Mapping[str, Any]) -> UserError:
    """Return the error of a recording. If the pipeline's call failed, and its usual call without the given arguments
    runs or fails in another way, the fix names these arguments. Whether the usual call can be recorded is not tested.
    If the call changed the network, the fix names a given argument without which it does not. Arguments that may change
    the network's arguments between steps, such as control_guidance_end, are named without a test."""
    if isinstance(error, ChangedNetworkError):
        return _name_change(error, built, given)
    if not given or not isinstance(error, ChangingArgumentError | CallError):
        return error
    options = " ".join(f"--call {name}={_show(value)}" for name, value in given.items())
    checked = UserError(error.what, f"check {options}, or {UNRECORDED}")
    if isinstance(error, ChangingArgumentError):
        return checked
    try:
        record_usual_call(built, {})
    except UserError as other:
        return error if other.what == error.what else checked
    return UserError(error.what, f"the call works without {options}: give another value, or leave it out")


def _show(value: Any) -> Any:
    """Return a value as --call takes it."""
    if isinstance(value, np.ndarray):
        return "@FILE.npy"
    return "null" if value is None else value
