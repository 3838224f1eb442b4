"""Each grid, compared with its paper's formula, and wrong arguments."""

import math
from contextlib import nullcontext
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from fewstep.plans import grids
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.grids.beta_quantile import beta_quantile, incomplete_beta
from fewstep.plans.names.plan_name import parse_plan_name
from fewstep.plans.schedule import CLEAN, NoiseSchedule
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec

LINEAR, COSINE, FLOW, EDM, VE, OU = (
    NoiseSchedule(ScheduleSpec(kind)) for kind in ("linear", "cosine", "flow", "edm", "exploding", "ou")
)
SD = NoiseSchedule(ScheduleSpec("scaled-linear", beta_start=0.00085, beta_end=0.012))
ANYWHERE = ["arctan", "trailing", "linspace", "karras", "exponential", "uniform_lambda", "beta"]
OF_TABLES = ["leading", "quadratic", "lcm", "ays_sd", "ays_sdxl", "ays_svd"]
OTHERS = ["custom", "dynamic_shift", "flow_shift", "sway", "table"]  # which take more than a schedule, or a flow alone


def network_times(times):
    return [time.network for time in times[:-1]]


def rhos(times):
    return [time.sigma / time.alpha for time in times]


def test_every_grid_is_tested_here():
    assert sorted([*ANYWHERE, *OF_TABLES, *OTHERS]) == sorted(grids.__all__)


@pytest.mark.parametrize("name", ANYWHERE)
@pytest.mark.parametrize("schedule", [LINEAR, COSINE, FLOW, EDM, VE, OU, SD], ids=lambda s: s.name)
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_a_grid_loses_noise_from_the_noisiest_time_to_the_clean_end(name, schedule, steps):
    times = getattr(grids, name)(schedule, steps)
    assert len(times) == steps + 1
    assert times[-1] == CLEAN
    assert all(s.lam < t.lam for s, t in pairwise(times))
    assert times[0].lam <= schedule.time(schedule.path.last * 0.999).lam


@pytest.mark.parametrize("name", ANYWHERE)
def test_a_grid_may_end_with_noise(name):
    times = getattr(grids, name)(SD, 6, final_sigma=0.02)
    assert len(times) == 7
    assert times[-1].sigma / times[-1].alpha == pytest.approx(0.02)


@pytest.mark.parametrize("schedule", [FLOW, EDM, LINEAR], ids=lambda s: s.name)
def test_arctan_is_even_in_its_angle_from_the_noisiest_time_itself(schedule):
    times = grids.arctan(schedule, 6, power=3.0, centre=0.5)
    assert times[0] == schedule.noisiest
    angles = [
        math.pi / 2 if time.alpha == 0 else math.atan((time.sigma / time.alpha / 0.5) ** (1 / 3))
        for time in (*times[:-1], schedule.cleanest)
    ]
    assert np.diff(angles) == pytest.approx(np.full(6, (angles[-1] - angles[0]) / 6), rel=1e-6)


@pytest.mark.parametrize(("schedule", "least"), [(FLOW, 0.1), (OU, 0.03)], ids=lambda each: getattr(each, "name", None))
def test_arctan_asks_no_network_about_a_time_without_noise(schedule, least):
    assert network_times(grids.arctan(schedule, 400))[-1] == pytest.approx(least)


def test_arctan_of_power_one_is_the_time_of_trigflow():
    schedule = NoiseSchedule(ScheduleSpec("trigonometric"))
    assert network_times(grids.arctan(schedule, 5, power=1.0, centre=1.0)) == pytest.approx(
        network_times(grids.trailing(schedule, 5))
    )


def test_trailing_is_even_and_starts_at_the_noisiest():
    assert network_times(grids.trailing(LINEAR, 4)) == [999, 749, 499, 249]
    assert network_times(grids.trailing(FLOW, 4)) == [1000, 750, 500, 250]
    assert rhos(grids.trailing(VE, 3)) == pytest.approx([50, math.sqrt(0.5), 0.01, 0])


def test_leading_stops_short_of_the_noisiest_time():
    assert network_times(grids.leading(LINEAR, 4)) == [750, 500, 250, 0]
    assert network_times(grids.leading(LINEAR, 4, offset=1)) == [751, 501, 251, 1]
    assert network_times(grids.leading(NoiseSchedule(ScheduleSpec("cosine", timesteps=100)), 8))[0] == 84


def test_linspace_evaluates_both_ends():
    assert network_times(grids.linspace(LINEAR, 5)) == [999, 749, 500, 250, 0]
    assert network_times(grids.linspace(FLOW, 2)) == [1000, 1]
    assert network_times(grids.linspace(OU, 30))[-1] == pytest.approx(0.03)  # SGMSE's


def test_quadratic_is_even_in_the_root_of_time():
    roots = np.sqrt(network_times(grids.quadratic(LINEAR, 10)))
    assert np.diff(roots) == pytest.approx([-math.sqrt(999) / 9] * 9, abs=0.06)  # timesteps are whole
    assert network_times(grids.quadratic(LINEAR, 10, reach=0.8))[0] == 799


def test_lcm_takes_from_the_timesteps_of_the_distillation():
    assert network_times(grids.lcm(LINEAR, 4)) == [999, 759, 499, 259]
    assert network_times(grids.lcm(LINEAR, 2)) == [999, 499]
    assert network_times(grids.lcm(LINEAR, 50)) == [20 * i - 1 for i in range(50, 0, -1)]


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_karras_is_equation_5(rho):
    sigmas = [(80 ** (1 / rho) + i / 17 * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho for i in range(18)]
    assert rhos(grids.karras(EDM, 18, rho=rho)) == pytest.approx([*sigmas, 0])
    assert rhos(grids.karras(LINEAR, 18, rho=rho, sigma_min=0.002, sigma_max=80)) == pytest.approx([*sigmas, 0])
    known = rhos(grids.karras(LINEAR, 18, sigma_min=0.002, sigma_max=80))
    assert rhos(parse_plan_name("ddim:18@edm").grid(LINEAR, 18)) == known


def test_exponential_is_even_in_the_logarithm():
    assert np.diff(np.log(rhos(grids.exponential(SD, 9))[:-1])) == pytest.approx(
        [np.log(0.0292 / 14.6147) / 8] * 8, rel=1e-3
    )
    way = np.log(rhos(grids.exponential(EDM, 5, rho=2))[:-1])
    assert (way - way[-1]) / (way[0] - way[-1]) == pytest.approx([1, 0.5625, 0.25, 0.0625, 0])


def test_uniform_lambda_is_even_in_lambda():
    lams = [time.lam for time in grids.uniform_lambda(COSINE, 10, final_sigma=0.02)]
    assert np.diff(lams) == pytest.approx([lams[1] - lams[0]] * 10)


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (1.0, 1.0), (0.5, 2.0), (3.0, 7.5)])
def test_beta_quantiles_are_scipys(a, b):
    stats = pytest.importorskip("scipy.stats")
    for p in (1e-6, 0.01, 0.3, 0.5, 0.77, 0.99, 1 - 1e-6):
        assert beta_quantile(p, a, b) == pytest.approx(stats.beta.ppf(p, a, b), rel=1e-10)
        x = beta_quantile(p, a, b)
        assert incomplete_beta(x, a, b) == pytest.approx(stats.beta.cdf(x, a, b), rel=1e-11)


def test_beta_places_quantiles_over_sigma():
    sigmas = rhos(grids.beta(EDM, 9))
    assert sigmas[4] == pytest.approx((80 + 0.002) / 2)  # Beta(0.6, 0.6) is symmetric
    assert rhos(grids.beta(EDM, 9, a=1, b=1))[:-1] == pytest.approx(np.linspace(80, 0.002, 9))


def test_align_your_steps_has_the_published_sigmas():
    assert network_times(grids.ays_sd(SD, 10)) == [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]
    published = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0]
    assert rhos(grids.ays_sd(SD, 10)) == pytest.approx(published, rel=0.015)
    published = [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0]
    assert rhos(grids.ays_sdxl(SD, 10)) == pytest.approx(published, rel=0.015)
    video = NoiseSchedule(ScheduleSpec("edm", sigma_max=700.0))
    assert rhos(grids.ays_svd(video, 10))[:2] == pytest.approx([700, 54.5])


def test_a_table_is_interpolated_in_lambda():
    assert rhos(grids.ays_sd(SD, 20))[::2] == pytest.approx(rhos(grids.ays_sd(SD, 10)))
    halves = rhos(grids.table(EDM, 4, sigmas=(32.0, 8.0)))
    assert halves[:3] == pytest.approx([32, 16, 8])
    flow = rhos(grids.table(FLOW, 3, sigmas=(16.0, 1.0)))
    assert flow == pytest.approx([16, 4, 1, 0])


@pytest.mark.parametrize("shift", [1.0, 3.0, 12.0])
def test_flow_shift_is_equation_23(shift):
    times = grids.flow_shift(FLOW, 4, shift=shift)
    even = np.array([1, 0.75, 0.5, 0.25])
    assert [time.sigma for time in times[:-1]] == pytest.approx(shift * even / (1 + (shift - 1) * even))
    assert network_times(times) == pytest.approx([1000 * time.sigma for time in times[:-1]])


@pytest.mark.parametrize("shift", [0.08, 0.2, 0.42, 0.46, 3.0, 100.0])
def test_a_shifted_grid_starts_at_pure_noise_exactly(shift):
    assert grids.flow_shift(FLOW, 4, shift=shift)[0] == FLOW.noisiest  # k / (1 + (k - 1)) is more than 1 for some


def test_a_terminal_sigma_is_reached():
    times = grids.flow_shift(FLOW, 8, shift=2.0, terminal=0.1)
    assert (times[0].sigma, times[-2].sigma) == pytest.approx((1.0, 0.1))


@pytest.mark.parametrize("coefficient", [-1.0, -0.4, 0.0, 0.8, 2 / (math.pi - 2)])
def test_sway_is_that_of_f5(coefficient: float) -> None:
    """Its time is 0 for noise: t + c (cos(pi t / 2) - 1 + t)."""
    even = np.arange(8) / 8
    there = even + coefficient * (np.cos(np.pi / 2 * even) - 1 + even)
    times = grids.sway(FLOW, 8, coefficient=coefficient)
    assert [time.sigma for time in times[:-1]] == pytest.approx(list(1 - there), abs=1e-12)
    assert times[-1] == CLEAN


def test_dynamic_shift_grows_with_the_image():
    assert grids.dynamic_shift(FLOW, 5) == grids.flow_shift(FLOW, 5, shift=math.exp(1.15))
    assert grids.dynamic_shift(FLOW, 5, tokens=256) == grids.flow_shift(FLOW, 5, shift=math.exp(0.5))


def test_custom_times_may_tell_the_network_others():
    times = grids.custom(SD, 2, times=(999.0, 400.0), told=(250.0, 100.0))
    assert network_times(times) == [250, 100]
    assert times[1].sigma == SD.sigma(400)
    assert parse_plan_name("ddim:2@custom(times=[999, 400])").text == "ddim:2@custom(times=[999, 400])"


@pytest.mark.parametrize("name", [*ANYWHERE, *OF_TABLES])
def test_no_steps_make_no_sample(name):
    with pytest.raises(UserError, match="0 steps give no sample"):
        getattr(grids, name)(LINEAR, 0)


@pytest.mark.parametrize(
    ("grid", "schedule", "steps", "message"),
    [
        (grids.trailing, LINEAR, 1001, "1001 steps on schedule linear-1000, which has 1000 timesteps"),
        (grids.karras, LINEAR, 10**6, "too many for a plan"),
        (grids.leading, FLOW, 4, "grid leading needs timesteps, which schedule flow-1000"),
        (grids.quadratic, EDM, 4, "grid quadratic needs timesteps, which schedule edm"),
        (grids.flow_shift, LINEAR, 4, "grid flow_shift needs a flow, and schedule linear-1000"),
        (partial(grids.sway, coefficient=-1.1), FLOW, 4, "coefficient=-1.1"),
        (grids.sway, COSINE, 4, "needs a flow"),
        (partial(grids.dynamic_shift, tokens=10**6), FLOW, 4, r"dynamic_shift shifts by e\^.* for 1000000 tokens"),
        (grids.quadratic, LINEAR, 400, "noise does not decrease"),
        (grids.ays_sd, NoiseSchedule(ScheduleSpec("linear", 100)), 10, "needs 1000 timesteps"),
        (partial(grids.leading, offset=1), LINEAR, 1000, "time 1000 is outside 0 .. 999"),
        (partial(grids.lcm, original_steps=3), LINEAR, 4, "4 of 3 original steps"),
        (partial(grids.karras, rho=0.0), LINEAR, 4, r"karras\(rho=0\)"),
        (partial(grids.karras, sigma_min=2.0, sigma_max=1.0), LINEAR, 4, "grid karras cannot go from sigma 1 to 2"),
        (partial(grids.karras, final_sigma=-1.0), LINEAR, 4, "from sigma .* to -1|cannot end at sigma -1"),
        (partial(grids.trailing, final_sigma=3.0), LINEAR, 9, "noise does not decrease"),
        (partial(grids.flow_shift, shift=0.0), FLOW, 4, r"flow_shift\(shift=0\)"),
        (partial(grids.custom, times=(999.0,)), LINEAR, 2, "1 times for 2 steps"),
        (partial(grids.custom, times=()), LINEAR, 2, "0 times for 2 steps; give one value for each step$"),
        (partial(grids.custom, times=(999.0,), told=(math.nan,)), LINEAR, 1, "grid custom would pass the network"),
        (partial(grids.custom, times=(999.0,), told=(1e308,)), LINEAR, 1, "finite in float32"),
        (partial(grids.custom, times=(999.0, 999.0)), LINEAR, 2, "noise does not decrease"),
        (partial(grids.custom, times=(400.0, 999.0)), LINEAR, 2, "noise does not decrease from time 400 to 999"),
        (partial(grids.custom, times=(1500.0,)), LINEAR, 1, "time 1500 is outside"),
        (partial(grids.table, sigmas=(1.0,)), LINEAR, 2, "grid table has 1 sigmas"),
        (partial(grids.linspace, last=999.0), LINEAR, 4, r"grid linspace\(last=999\)"),
    ],
)
@pytest.mark.filterwarnings("error")  # numpy's, of an overflow
def test_wrong_use_is_one_clear_line(grid, schedule, steps, message):
    with pytest.raises(UserError, match=message):
        grid(schedule, steps)


@pytest.mark.parametrize(
    ("grid", "is_refused"),
    [
        *((name, True) for name in ("trailing", "leading", "linspace", "quadratic", "lcm")),
        *((name, False) for name in ("arctan", "karras", "exponential", "beta", "uniform_lambda")),
    ],
)
def test_grids_of_timesteps_alone_run_out_of_them(grid: str, is_refused: bool) -> None:
    facts = DenoiserFacts(ScheduleSpec("cosine", timesteps=100), "epsilon")
    with pytest.raises(UserError, match="1000 steps on .* has 100 timesteps") if is_refused else nullcontext():
        assert len(compile_plan(f"ddim:1000@{grid}", facts).steps) == 1000
