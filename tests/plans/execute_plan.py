"""Execute a plan on a function, and networks with a known predicted sample."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import DTypeLike

from fewstep.plans.names.plan_name import parse_plan_name
from fewstep.plans.plan import Plan, Step
from fewstep.plans.schedule import NoiseSchedule, Time
from fewstep.plans.spec import Prediction, ScheduleSpec
from fewstep.plans.tracer import Solver
from fewstep.runtime.sampling.execute import Array, Draws, Hold, StepNetwork, execute, finish


def sample(
    plan: Plan,
    network: StepNetwork,
    draws: Draws,
    dtype: DTypeLike = np.float32,
    given: Mapping[str, Array] | None = None,
    hold: Hold | None = None,
) -> Array:
    """Return the sample [B, ...]."""
    return finish(plan, execute(plan, network, draws, dtype, given, hold), dtype, hold)


def record_inputs(
    plan: Plan, outputs: Sequence[Sequence[Array]], draws: Sequence[Array], given: Mapping[str, Array] | None = None
) -> tuple[Array, list[Array]]:
    """Return the sample if the network's heads return `outputs[i]` at evaluation i, and the network's inputs."""
    seen: list[Array] = []

    def network(index, step, u):
        seen.append(u)
        return list(outputs[index])

    return sample(plan, network, lambda number: draws[number], np.float64, given), seen


def tanh(index: int, step: Step, u: Array) -> list[Array]:
    """A nonlinear network."""
    return [np.tanh(u)]


def solver(name: str) -> Solver:
    """Return the solver in the left half of a plan's name, such as "unipc_3(bh1=True)"."""
    return parse_plan_name(f"{name}:1").solver


def output(prediction: Prediction, x: Array, x0: Array, time: Time) -> Array:
    """Return the output of a network at x and a time for which its prediction means x0."""
    eps = (x - time.alpha * x0) / time.sigma
    v, flow, score = time.alpha * eps - time.sigma * x0, eps - x0, -eps / time.sigma
    return {"epsilon": eps, "sample": x0, "v": v, "flow": flow, "score": score}[prediction]


def denoiser(x0_of: Callable[[Array, Time], Array], prediction: Prediction, spec: ScheduleSpec) -> StepNetwork:
    """The network whose predicted sample is `x0_of(x, time)`, computed in float64."""
    schedule = NoiseSchedule(spec)

    def network(index, step, u):
        x, time = np.asarray(u, np.float64), schedule.time(step.time)
        return [output(prediction, x, x0_of(x, time), time).astype(u.dtype) for _ in step.branches]

    return network
