"""DPM-Solver++(2M), which is written out, equals bitwise the general multistep solver at order 2 on x0."""

from collections.abc import Iterator, Sequence
from itertools import product

import pytest

from fewstep.plans import grids
from fewstep.plans.compile import trace_plan
from fewstep.plans.errors import UserError
from fewstep.plans.file import encode
from fewstep.plans.guidance import CfgPlusPlus, Guidance
from fewstep.plans.paths import PATHS
from fewstep.plans.schedule import NoiseSchedule, Time
from fewstep.plans.solvers import dpm_multistep
from fewstep.plans.solvers.dpmpp_2m import dpmpp_2m
from fewstep.plans.solvers.exponential import DataPrediction
from fewstep.plans.spec import DenoiserFacts, Prediction, ScheduleSpec
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer
from tests.plans.gaussian import COSINE, FLOW, LINEAR

SPECS = [*(ScheduleSpec(kind) for kind in PATHS if kind not in ("betas", "table", "interpolant"))] + [
    ScheduleSpec("betas", timesteps=4, betas=(0.01, 0.1, 0.3, 0.6)),
    ScheduleSpec("scaled-linear", zero_terminal_snr=True),
]
NEED_TIMES = {"custom", "table"}
STEPS = (1, 2, 3, 8)
PARAMETERS = tuple(product((True, False), repeat=2))  # midpoint, lower_order_final


def times_on_every_grid(spec: ScheduleSpec) -> Iterator[Sequence[Time]]:
    """Return the times of all grids that have times on this schedule."""
    for name, steps in product(sorted(set(grids.__all__) - NEED_TIMES), STEPS):
        try:
            yield getattr(grids, name)(NoiseSchedule(spec), steps)
        except UserError:
            continue


def plans(
    times: Sequence[Time], facts: DenoiserFacts, midpoint: bool, lower: bool, guidance: Guidance | float | None = None
) -> tuple[bytes, bytes]:
    """Return the files of both plans along these times; in place of a plan, the error that refuses it."""

    def general(trace: Tracer, times: Sequence[Time]) -> Lin:
        return dpm_multistep._multistep(trace, times, 2, DataPrediction(), midpoint, lower)

    def written_out(trace: Tracer, times: Sequence[Time]) -> Lin:
        return dpmpp_2m(trace, times, midpoint=midpoint, lower_order_final=lower)

    def compile_or_error(solver: object) -> bytes:
        try:
            return encode(trace_plan("test", solver, times, facts, guidance))  # type: ignore[arg-type]
        except UserError as error:
            return str(error).encode()

    return compile_or_error(general), compile_or_error(written_out)


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.kind}-{spec.zero_terminal_snr}")
def test_its_plans_are_bit_for_bit_those_of_the_general_solver(spec: ScheduleSpec) -> None:
    facts = DenoiserFacts(spec, "sample", towards="y" if spec.kind == "bridge" else None)
    found = [plans(times, facts, *parameter) for times in times_on_every_grid(spec) for parameter in PARAMETERS]
    assert sum(general.startswith(b"{") for general, _ in found) > 100
    assert [pair for pair in found if pair[0] != pair[1]] == []


@pytest.mark.parametrize("guidance", [3.0, CfgPlusPlus(0.7)], ids=str)
@pytest.mark.parametrize(("spec", "prediction"), [(LINEAR, "epsilon"), (COSINE, "v"), (FLOW, "flow")])
def test_they_are_also_with_guidance(spec: ScheduleSpec, prediction: Prediction, guidance: Guidance | float) -> None:
    facts, times = DenoiserFacts(spec, prediction, guided=True), grids.trailing(NoiseSchedule(spec), 9)
    for midpoint, lower in PARAMETERS:
        general, written_out = plans(times, facts, midpoint, lower, guidance)
        assert general == written_out and general.startswith(b"{")
