"""x0 and c_in of every prediction, from its definition."""

import math

import pytest

from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.prediction import input_scale, x0_coefficients
from fewstep.plans.schedule import NoiseSchedule, Time
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.plans.execute_plan import output
from tests.refusals import refuses

X0, EPS, DATA = 0.7, -1.3, 0.5
LINEAR, FLOW, EDM = ScheduleSpec("linear"), ScheduleSpec("flow"), ScheduleSpec("edm", sigma_data=DATA)


def says(prediction, time):
    """Return the output of a perfect network for x0 = X0 and noise EPS, solved from the paper's definition."""
    if prediction == "edm":
        rho = time.rho
        return (X0 - DATA**2 / (rho**2 + DATA**2) * (X0 + rho * EPS)) * math.hypot(rho, DATA) / (rho * DATA)
    return output(prediction, time.alpha * X0 + time.sigma * EPS, X0, time)


@pytest.mark.parametrize("t", [1.0, 300.5, 998.0])
@pytest.mark.parametrize(
    ("prediction", "spec"),
    [(p, LINEAR) for p in ("epsilon", "sample", "v", "score", "edm")]
    + [(p, FLOW) for p in ("epsilon", "sample", "flow", "score", "edm")],
)
def test_x0_is_got_back_from_what_the_network_says(prediction, spec, t):
    time = NoiseSchedule(spec).time(t)
    x = time.alpha * X0 + time.sigma * EPS
    a, b = x0_coefficients(prediction, time, spec)
    assert a * x + b * says(prediction, time) == pytest.approx(X0, abs=1e-9)


@pytest.mark.parametrize("sigma", [0.002, 0.5, 80.0])
def test_v_on_an_edm_schedule_is_minus_the_edm_network(sigma):
    time = NoiseSchedule(EDM).time_at_rho(sigma)
    (a, b), (c, d) = (x0_coefficients(p, time, EDM) for p in ("edm", "v"))
    assert (a, b) == (c, -d)
    unit = ScheduleSpec("edm", sigma_data=1.0)  # and with sigma_data 1 it is v of the variance-preserving process
    preserving = Time(0.0, 1 / math.hypot(1, sigma), sigma / math.hypot(1, sigma))
    a, b = x0_coefficients("v", time, unit)
    assert (a / input_scale("v", time, unit), b) == pytest.approx(x0_coefficients("v", preserving, LINEAR))


@pytest.mark.parametrize("sigma", [0.002, 0.5, 80.0])
def test_edm_scales_its_input_to_variance_one(sigma):
    time = NoiseSchedule(EDM).time_at_rho(sigma)
    variance = DATA**2 + sigma**2
    assert input_scale("edm", time, EDM) ** 2 * variance == pytest.approx(1)
    preserving = NoiseSchedule(LINEAR).time_at_rho(sigma)  # x there is alpha y
    assert input_scale("edm", preserving, EDM) * preserving.alpha == pytest.approx(input_scale("edm", time, EDM))


def test_a_consistency_model_is_the_identity_at_sigma_min():
    time = NoiseSchedule(EDM).cleanest
    assert x0_coefficients("consistency", time, EDM) == pytest.approx((1.0, 0.0), abs=1e-12)


def test_resshift_scales_its_input_for_data_of_deviation_one():
    spec = ScheduleSpec("residual-shift", timesteps=15)
    time = NoiseSchedule(spec).noisiest
    assert input_scale("sample", time, spec) == pytest.approx(1 / math.sqrt(4 * 0.99**2 + 1))


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v", "flow", "score"])
def test_networks_without_preconditioning_see_x_itself(prediction):
    assert input_scale(prediction, NoiseSchedule(LINEAR).noisiest, LINEAR) == 1.0


@pytest.mark.parametrize(
    ("prediction", "spec", "message"),
    [
        ("v", FLOW, "use prediction flow"),
        ("flow", LINEAR, "use schedule flow"),
        ("consistency", LINEAR, "use schedule edm"),
        ("residual", LINEAR, "use one of the schedules residual-shift"),
    ],
)
def test_a_prediction_that_a_schedule_does_not_define_is_refused(prediction, spec, message):
    with pytest.raises(UserError, match=message):
        compile_plan("ddim:4", DenoiserFacts(spec, prediction))


@pytest.mark.parametrize("prediction", ["epsilon", "score", "edm"])
def test_pure_noise_says_nothing_of_x0(prediction):
    with refuses("does not determine x0 at time 1000"):
        x0_coefficients(prediction, NoiseSchedule(FLOW).noisiest, FLOW)
