"""Common mistakes in a spec. Each is represented by the corrected interpretation of the network's inputs and outputs
(called a reading)."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from operator import mul
from typing import Any, Final, Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.plans.prediction import x0_coefficients
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import Prediction, ScheduleSpec
from fewstep.runtime.arrays import Float32

TABLE_KINDS = ("linear", "scaled-linear", "cosine", "sigmoid")
BETA_KINDS = ("linear", "scaled-linear")  # they have beta_end
FLAG_KINDS = (*TABLE_KINDS, "betas")
FLOW_KINDS = ("flow", "trigonometric")
FLAG: Final = "zero_terminal_snr"
SHIFTS = (-1.0, -0.25, 0.25, 1.0)  # changes of log(alpha / sigma) at every time, for schedules of other parameters
NEAR_SHIFTS, NEAR_FACTORS = (-0.12, 0.12), (0.9, 1.1)  # the smallest changes tried, and those of beta_end
USUAL_SPECS: tuple[tuple[ScheduleSpec, Prediction], ...] = (  # used by most networks
    (ScheduleSpec("linear"), "epsilon"),
    (ScheduleSpec("scaled-linear", beta_start=0.00085, beta_end=0.012), "epsilon"),
    (ScheduleSpec("scaled-linear", beta_start=0.00085, beta_end=0.012), "v"),
    (ScheduleSpec("cosine"), "epsilon"),
    (ScheduleSpec("cosine"), "v"),
    (ScheduleSpec("flow", timesteps=1), "flow"),
    (ScheduleSpec("flow"), "flow"),
)
TIME_FACTORS = (1000.0, 0.001, 10.0, 0.1)  # [0, 1] and timesteps; two numbers of timesteps
Fact = Literal[
    "prediction", "sign", "schedule", "zero_terminal_snr", "time factor", "time direction", "range of the data"
]


@dataclass(frozen=True)
class SpecReading:
    """An interpretation of a network: its schedule, the time that it receives, and the meaning of its output."""

    schedule: ScheduleSpec
    prediction: Prediction
    mistake: str = ""  # the mistake that this reading corrects, as text; "" for the spec as stated
    fact: Fact = "schedule"  # what it changes first
    sign: float = 1.0  # sign of the output
    time: Callable[[float], float] = float  # the schedule's time -> the time that the network gets
    data: Callable[[Float32], NDArray[Any]] = np.asarray  # samples of the file -> samples as the network was trained
    is_near: bool = False  # so near to the spec as stated that it raises the errors by little

    def count_changes(self, stated: "SpecReading") -> int:
        """Return the number of fields in which this interpretation differs from the `stated` spec; at least 1."""
        fields = len(_differing_fields(self.schedule, stated.schedule))
        changes = (self.prediction != stated.prediction, self.sign != stated.sign, self.time is not stated.time)
        return max(1, fields + sum(changes))

    def determines_x0(self) -> bool:
        """Return whether x0 follows from the output at the noisy end. That of epsilon does not at zero SNR."""
        with suppress(UserError):
            return bool(x0_coefficients(self.prediction, NoiseSchedule(self.schedule).noisiest, self.schedule))
        return False

    def differs_in_time_only(self, stated: "SpecReading") -> bool:
        """Return whether only the time that the network receives differs, for the same inputs."""
        kinds = {self.schedule.kind, stated.schedule.kind}
        is_alike = len(kinds) == 1 or kinds <= set(TABLE_KINDS)
        return is_alike and (self.prediction, self.sign, self.data) == (stated.prediction, stated.sign, stated.data)


def candidate_readings(stated: SpecReading) -> Iterator[SpecReading]:
    """Yield alternative interpretations of the network's inputs and outputs, one for each common mistake in a spec."""
    spec, prediction = stated.schedule, stated.prediction
    yield replace(stated, sign=-1.0, mistake="its output has the other sign", fact="sign")
    for other in get_args(Prediction):
        if other not in (prediction, "residual", "logits"):
            mistake = f"prediction is {other!r}, not {prediction!r}"
            yield replace(stated, prediction=other, mistake=mistake, fact="prediction")
    for factor in TIME_FACTORS:
        name = f"{factor:g}" if factor >= 1 else f"1/{1 / factor:.0f}"
        mistake = f"the network takes {name} times the time that it gets: {_time_fix(spec, factor)}"
        yield replace(stated, time=partial(mul, factor), mistake=mistake, fact="time factor")
    first, last = NoiseSchedule(spec).path.first, NoiseSchedule(spec).path.last
    mistake = "its time runs from noise to data"
    reverse = replace(stated, time=lambda time: first + last - time, mistake=mistake, fact="time direction")
    yield reverse
    yield replace(reverse, sign=-1.0, mistake=f"{mistake}, and its output has the other sign")  # data minus noise
    kinds = TABLE_KINDS if spec.kind in TABLE_KINDS else FLOW_KINDS if spec.kind in FLOW_KINDS else ()
    schedules = [msgspec.structs.replace(spec, kind=kind) for kind in kinds if kind != spec.kind]
    for schedule in schedules:
        yield replace(stated, schedule=schedule, mistake=f"its schedule is {schedule.kind!r}, not {spec.kind!r}")
    flipped = msgspec.structs.replace(spec, zero_terminal_snr=not spec.zero_terminal_snr)
    if spec.kind in FLAG_KINDS:
        yield replace(stated, schedule=flipped, mistake=flag_mistake(spec), fact=FLAG)
    tried = {
        *((spec, other) for other in get_args(Prediction)),
        *((schedule, prediction) for schedule in (*schedules, flipped)),
    }
    of_families = [(usual, prediction) for usual, _ in USUAL_SPECS if usual.kind not in kinds]
    for usual, other in dict.fromkeys((*USUAL_SPECS, *of_families)):
        if (usual, other) not in tried:
            mistake = f"its schedule is {_describe_schedule(usual, spec)}, not {_describe_schedule(spec, usual)}"
            mistake += f", and prediction is {other!r}, not {prediction!r}" if other != prediction else ""
            yield replace(stated, schedule=usual, prediction=other, mistake=mistake)
    of_data = partial(replace, stated, fact="range of the data")
    yield of_data(data=lambda x: 2 * x - 1, mistake="the data are in [0, 1], and it was trained on [-1, 1]")
    yield of_data(data=lambda x: (x + 1) / 2, mistake="the data are in [-1, 1], and it was trained on [0, 1]")
    yield of_data(data=lambda x: x / 127.5 - 1, mistake="the data are in [0, 255], and it takes [-1, 1]")


def nearby_readings(stated: SpecReading) -> Iterator[SpecReading]:
    """Yield interpretations whose noise schedule has other parameters, so that the network receives the times of other
    log-SNRs."""
    schedule = NoiseSchedule(stated.schedule)
    low, high = schedule.noisiest.lam, schedule.cleanest.lam

    def shift_time(by: float, time: float) -> float:
        return schedule.time_at_lam(min(max(schedule.lam(time) + by, low), high)).network

    other = replace(stated, mistake="its schedule has other parameters")
    for by in SHIFTS:
        yield replace(other, time=partial(shift_time, by))
    if stated.schedule.kind in BETA_KINDS:
        for factor in NEAR_FACTORS:
            near = msgspec.structs.replace(stated.schedule, beta_end=factor * stated.schedule.beta_end)
            yield replace(other, schedule=near, is_near=True)
    else:
        for by in NEAR_SHIFTS:
            yield replace(other, time=partial(shift_time, by), is_near=True)


def flag_mistake(spec: ScheduleSpec) -> str:
    """Return, as text, the mistake of a schedule whose zero_terminal_snr is wrong."""
    return f"give the schedule {FLAG}={not spec.zero_terminal_snr}: it was trained that way"


def _describe_schedule(spec: ScheduleSpec, other: ScheduleSpec) -> str:
    """Describe a schedule by its kind, and by the fields that differ from `other`, or from the defaults if `other` has
    a different kind."""
    like = other if other.kind == spec.kind else ScheduleSpec(spec.kind)
    fields = ", ".join(f"{name}={getattr(spec, name)}" for name in _differing_fields(spec, like))
    return f"{spec.kind!r} of {fields}" if fields else repr(spec.kind)


def _differing_fields(spec: ScheduleSpec, other: ScheduleSpec) -> list[str]:
    return [name for name in spec.__struct_fields__ if getattr(spec, name) != getattr(other, name)]


def _time_fix(spec: ScheduleSpec, factor: float) -> str:
    """Return, as text, how to multiply the time that a network receives by `factor`."""
    if spec.kind == "flow" and spec.timesteps * factor >= 1:
        return f"give the schedule timesteps={spec.timesteps * factor:.0f}"
    is_table = spec.kind == "flow" or NoiseSchedule(spec).timesteps is not None
    return "multiply it in forward" if is_table else f"give the schedule time_scale={spec.time_scale * factor:g}"
