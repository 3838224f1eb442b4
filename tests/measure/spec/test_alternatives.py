"""Which other readings of a spec the errors exclude."""

import numpy as np
import pytest

from fewstep.measure.spec.alternatives import STEPS, Alternative, find_undecided
from fewstep.measure.spec.reading_errors import ErrorsAtTime, ErrorsByLam, measure_significance
from fewstep.measure.spec.spec_mistakes import SpecReading, nearby_readings
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import ScheduleSpec


def errors(*values: float) -> ErrorsByLam:
    """Errors at successive times, where those of the linear denoiser are 1."""
    return {float(lam): ErrorsAtTime(0.0, np.full(8, value), 1.0) for lam, value in enumerate(values)}


@pytest.mark.parametrize(
    ("other", "is_undecided"),
    [((1.0, 1.0), True), ((1.01, 1.01), True), ((2.0, 2.0), False), ((2.0, 0.95), True), ((2.0, 0.99), False)],
)
def test_a_reading_is_excluded_if_its_errors_are_larger_in_the_mean_and_smaller_at_no_time(
    other: tuple[float, ...], is_undecided: bool
) -> None:
    stated = SpecReading(ScheduleSpec("linear"), "epsilon")
    of_data = SpecReading(stated.schedule, "epsilon", "the data are in [0, 255]: divide them", "range of the data")
    found = find_undecided(
        lambda x, *_: x,
        Alternative(stated, errors(1.0, 1.0)),
        [Alternative(of_data, errors(*other))],
        np.zeros((2, 1, 2, 2), np.float32),
        {},
    )
    assert found == ({"range of the data": "whether the data are in [0, 255]"} if is_undecided else {})


def test_the_significance_is_that_of_a_difference_in_pairs() -> None:
    """For a mean close to 1 the jackknife of its logarithm is the standard error of the mean."""
    ratios = 1 + 0.01 * np.array([1.0, -1.0, 2.0, 0.0, 3.0, 1.0, -2.0, 4.0])
    stated, other = ({0.0: ErrorsAtTime(0.0, each, 1.0)} for each in (np.ones(8), ratios))
    expected = 0.01 / (0.01 * np.std([1.0, -1.0, 2.0, 0.0, 3.0, 1.0, -2.0, 4.0], ddof=1) / np.sqrt(8))
    assert measure_significance(stated, other) == pytest.approx(expected, rel=0.02)


def test_a_reading_is_not_excluded_by_a_few_of_the_samples() -> None:
    stated = SpecReading(ScheduleSpec("linear"), "epsilon")
    of_data = SpecReading(stated.schedule, "epsilon", "the data are in [0, 255]: divide them", "range of the data")
    by_one = {0.0: ErrorsAtTime(0.0, np.array([2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]), 1.0)}
    by_all = {0.0: ErrorsAtTime(0.0, np.array([1.2, 1.1, 1.1, 1.2, 1.1, 1.0, 1.2, 1.1]), 1.0)}
    for errors_of_other, count in ((by_one, 1), (by_all, 0)):
        found = find_undecided(
            lambda x, *_: x,
            Alternative(stated, errors(1.0)),
            [Alternative(of_data, errors_of_other)],
            np.zeros((2, 1, 2, 2), np.float32),
            {},
        )
        assert len(found) == count


@pytest.mark.parametrize(
    ("of_samples", "is_near", "is_undecided"),
    [
        ([1.004, 1.005, 1.006, 1.005], True, False),
        ([1.004, 1.005, 1.006, 1.005], False, True),
        ([1.004, 1.005, 0.996, 0.999], True, True),  # not significant
        ([0.996, 0.995, 0.994, 0.995], True, True),
    ],
)
def test_a_near_reading_is_excluded_by_significance_alone(
    of_samples: list[float], is_near: bool, is_undecided: bool
) -> None:
    stated = SpecReading(ScheduleSpec("linear"), "epsilon")
    other = SpecReading(stated.schedule, "epsilon", "other", "range of the data", is_near=is_near)
    found = find_undecided(
        lambda x, *_: x,
        Alternative(stated, {0.0: ErrorsAtTime(0.0, np.ones(4), 1.0)}),
        [Alternative(other, {0.0: ErrorsAtTime(0.0, np.array(of_samples), 1.0)})],
        np.zeros((2, 1, 2, 2), np.float32),
        {},
    )
    assert bool(found) is is_undecided


def test_near_readings_change_the_parameter_of_a_schedule_or_its_times() -> None:
    linear = SpecReading(ScheduleSpec("linear", beta_end=0.02), "epsilon")
    near = [reading for reading in nearby_readings(linear) if reading.is_near]
    assert [each.schedule.beta_end for each in near] == pytest.approx([0.018, 0.022])
    cosine = SpecReading(ScheduleSpec("cosine"), "epsilon")
    schedule = NoiseSchedule(cosine.schedule)
    times = [reading.time(500.0) for reading in nearby_readings(cosine) if reading.is_near]
    assert [schedule.lam(time) - schedule.lam(500.0) for time in times] == pytest.approx([-0.12, 0.12], abs=2e-3)


def test_the_samples_of_the_stated_reading_are_drawn_once() -> None:
    calls = list[int]()
    stated = SpecReading(ScheduleSpec("linear"), "epsilon")
    others = [SpecReading(stated.schedule, kind, f"it is {kind}", kind) for kind in ("v", "sample")]  # type: ignore[arg-type]

    def network(x: np.ndarray, *_: object) -> np.ndarray:
        calls.append(len(x))
        return x

    equal = errors(1.0, 1.0)
    data = np.ones((2, 1, 2, 2), np.float32)
    data[1] = -1
    alternatives = [Alternative(each, equal) for each in others]
    assert [*find_undecided(network, Alternative(stated, equal), alternatives, data, {})] == ["v", "sample"]
    assert len(calls) == 3 * STEPS
