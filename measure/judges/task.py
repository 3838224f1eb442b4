"""The judge `task`: whether the actions of a policy succeed in an environment.

The user's function returns an environment with two methods:

- reset(conditions): place everything as the observation shows it, the values of each condition by name.
- step(action) -> bool: execute one action, in the robot's units, and return whether the task is solved now.

For each seed, the environment is reset to the observation of the sample, and executes the actions that the robot would
execute before the next sample. So the score is the share of observations from which one sequence solves the task. An
environment that is far from solved may define success as progress. It draws no samples, so a loop of several sequences
is measured elsewhere (`benchmarks/policy` is an example).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.judges.judge import Conditions, Judge, Values, judge_of_call
from fewstep.plans.errors import UserError
from fewstep.plans.names.user_call import NamedCall, resolve_call
from fewstep.plans.names.user_code import report_errors, split_code
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.kinds.policies import action_origin, actions_to_execute, policy_of

FORM = "write task:FILE.py:FUNCTION,LIMIT, where LIMIT is the lowest share of successes that is enough, such as 0.9"


class Environment(Protocol):
    """What a judge needs of an environment."""

    def reset(self, conditions: Mapping[str, Values]) -> object:
        """Place everything as the observation shows it."""

    def step(self, action: NDArray[np.float32]) -> bool:
        """Execute an action, and return whether the task is solved now."""


@dataclass(frozen=True)
class TaskJudge:
    """Runs the actions of samples in an environment. It is a judge's function.

    make: returns the environment, whose methods report their errors. name: for messages.
    """

    manifest: Manifest
    make: Callable[[], Environment]
    limit: float
    name: str

    def __call__(self, samples: Values, reference: Values, conditions: Conditions) -> tuple[NDArray[np.bool], float]:
        """Return whether the actions of each sample [N] solve the task, and the limit."""
        policy, environment = policy_of(self.manifest), self.make()
        origins = [
            action_origin(self.manifest, {name: values[place] for name, values in conditions.items()})
            for place in range(len(samples))
        ]
        actions = policy.snap_discrete(actions_to_execute(self.manifest, samples) + np.stack(origins)[:, None])
        solved = np.zeros(len(actions), np.bool)
        for place, sequence in enumerate(actions):
            environment.reset({name: values[place] for name, values in conditions.items()})
            solved[place] = any(self._step(environment, action) for action in sequence)
        return solved, self.limit

    def _step(self, environment: Environment, action: NDArray[np.float32]) -> bool:
        done = environment.step(action)
        if not isinstance(done, bool | np.bool):
            what = f"the step of {self.name} returned {type(done).__name__}"
            raise UserError(what, "let it return whether the task is solved now, True or False")
        return bool(done)


def open_task_judge(text: str, manifest: Manifest) -> Judge:
    """Return the judge for "FILE.py:FUNCTION[:ARGUMENTS],LIMIT". Raises UserError for another text, for a bundle
    without a policy, and for actions relative to an observation that is not a condition."""
    code, _, number = text.rpartition(",")
    try:
        limit = float(number)
    except ValueError:
        limit = np.nan
    if not isfinite(limit) or split_code(code) is None:
        raise UserError(f"--judge task:{text} cannot be read", FORM)
    observation = policy_of(manifest).relative_to
    if observation is not None and observation not in {condition.name for condition in manifest.conditions}:
        what = f"actions are relative to {observation!r}, which is not a condition, so the judge task does not know it"
        raise UserError(what, "write a judge FILE.py:FUNCTION")
    call = resolve_call("environment", code, 0)
    judge = TaskJudge(manifest, _maker(call, code), limit, call.text)
    return judge_of_call(f"task:{call.text},{number}", call, judge)


def _maker(call: NamedCall, code: str) -> Callable[[], Environment]:
    """Return a function that makes the environment of a call, whose methods report their errors."""
    home = split_code(code)
    assert home is not None, "it is checked"
    file = Path(home[0]).absolute()

    def make() -> Environment:
        environment, methods = call.function(*call.arguments), dict[str, Callable[..., Any]]()
        for name in ("reset", "step"):
            if not callable(method := getattr(environment, name, None)):
                raise UserError(f"the environment of {call.text} has no method {name}", "give it reset and step")
            methods[name] = report_errors(method, f"{name} of {call.text}", file)
        return _Guarded(**methods)

    return make


@dataclass(frozen=True)
class _Guarded:
    """An environment whose methods report their errors."""

    reset: Callable[[Mapping[str, Values]], object]
    step: Callable[[NDArray[np.float32]], bool]
