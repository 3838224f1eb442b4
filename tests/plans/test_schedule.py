import math
from dataclasses import replace
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from fewstep.literature.interpolant import BROWNIAN
from fewstep.literature.kinetic import kinetic_optimal
from fewstep.plans import grids
from fewstep.plans.compile import compile_plan, trace_plan
from fewstep.plans.errors import UserError
from fewstep.plans.paths import PATHS
from fewstep.plans.schedule import CLEAN, NoiseSchedule, Time
from fewstep.plans.solvers import ddim
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.refusals import refuses

BETAS = tuple(np.linspace(1e-3, 0.2, 50).tolist())
SPECS = [
    *(ScheduleSpec(kind) for kind in PATHS if kind not in ("betas", "table", "interpolant")),
    kinetic_optimal(np.ones_like),
    BROWNIAN,
    ScheduleSpec("betas", timesteps=50, betas=BETAS),
    ScheduleSpec("cosine", zero_terminal_snr=True),
    ScheduleSpec("scaled-linear", beta_start=0.00085, beta_end=0.012, zero_terminal_snr=True),
    ScheduleSpec("residual-shift", timesteps=4),
]


def name(spec):
    return spec.kind + "-zero" * spec.zero_terminal_snr + f"-{spec.timesteps}"


each = pytest.mark.parametrize("spec", SPECS, ids=name)


def inside(spec):
    """Return times from the noisiest down, without those of infinite lambda."""
    schedule = NoiseSchedule(spec)
    times = [schedule.time(t) for t in np.linspace(schedule.path.last, schedule.path.first, 301)]
    return [time for time in times if math.isfinite(time.lam)]


def test_linear_schedule_is_the_product_of_its_betas():
    schedule = NoiseSchedule(ScheduleSpec("linear", 1000, 1e-4, 0.02))
    alphas_cumprod = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    for t in (0, 1, 500, 999):
        assert schedule.alpha(t) == pytest.approx(math.sqrt(alphas_cumprod[t]), rel=1e-12)
        assert schedule.sigma(t) == pytest.approx(math.sqrt(1 - alphas_cumprod[t]), rel=1e-9)


def test_scaled_linear_is_linear_in_the_root_of_beta():
    schedule = NoiseSchedule(ScheduleSpec("scaled-linear", 1000, 0.00085, 0.012))
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    assert schedule.alpha(999) ** 2 == pytest.approx(np.prod(1 - betas), rel=1e-10)
    assert schedule.sigma(999) / schedule.alpha(999) == pytest.approx(14.6146, abs=1e-3)  # Stable Diffusion's sigma_max


def test_cosine_schedule_follows_equation_17():
    schedule = NoiseSchedule(ScheduleSpec("cosine"))
    f = lambda t: math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
    assert schedule.alpha(499) ** 2 == pytest.approx(f(500) / f(0), rel=1e-9)


def test_trained_betas_are_taken_as_they_are():
    linear = ScheduleSpec("linear")
    spec = ScheduleSpec("betas", betas=tuple(np.linspace(1e-4, 0.02, 1000).tolist()))
    assert NoiseSchedule(spec).time(321) == NoiseSchedule(linear).time(321)


@pytest.mark.parametrize("kind", ["linear", "scaled-linear", "cosine"])
def test_zero_terminal_snr_ends_in_pure_noise_and_begins_as_before(kind):
    plain, zero = (NoiseSchedule(ScheduleSpec(kind, zero_terminal_snr=flag)) for flag in (False, True))
    assert (zero.alpha(999), zero.sigma(999)) == (0.0, 1.0)
    assert zero.alpha(0) == pytest.approx(plain.alpha(0), rel=1e-12)
    shift = plain.alpha(999) / plain.alpha(0)  # Algorithm 1 is affine in sqrt(alpha_bar)
    assert zero.alpha(500) == pytest.approx((plain.alpha(500) - plain.alpha(999)) / (1 - shift), rel=1e-9)


def test_flow_is_a_straight_path():
    time = NoiseSchedule(ScheduleSpec("flow")).time(250)
    assert (time.alpha, time.sigma) == (0.75, 0.25)


def test_edm_tells_the_network_a_quarter_of_log_sigma():
    schedule = NoiseSchedule(ScheduleSpec("edm"))
    assert (schedule.noisiest.sigma, schedule.cleanest.sigma) == pytest.approx((80, 0.002))
    assert schedule.time_at_rho(2.0) == Time(math.log(2) / 4, 1.0, 2.0)
    karras = [(80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18)]
    assert [schedule.clock(1 - i / 17).sigma for i in range(18)] == pytest.approx(karras)


def test_a_consistency_model_gets_a_thousand_times_that():
    schedule = NoiseSchedule(ScheduleSpec("edm", time_scale=1000))
    assert schedule.time_at_rho(80).network == pytest.approx(250 * math.log(80))


def test_exploding_sigma_is_geometric_and_what_the_network_receives():
    schedule = NoiseSchedule(ScheduleSpec("exploding", sigma_max=1348.0))
    assert [schedule.clock(c).sigma for c in (1, 0.5, 0)] == pytest.approx([1348, math.sqrt(13.48), 0.01])
    assert schedule.time(3.0) == Time(3.0, 1.0, 3.0)


def test_ou_solves_its_stochastic_differential_equation():
    """Mean and variance by quadrature of exp(-theta (t - s)) g(s)."""
    theta, low, high = 1.5, 0.05, 0.5
    schedule, growth = NoiseSchedule(ScheduleSpec("ou")), math.log(high / low)
    for t in (0.03, 0.4, 1.0):
        s = (np.arange(20000) + 0.5) / 20000 * t
        g_squared = low**2 * (high / low) ** (2 * s) * 2 * growth
        variance = np.sum(np.exp(-2 * theta * (t - s)) * g_squared) * t / 20000
        assert schedule.alpha(t) == pytest.approx(math.exp(-theta * t))
        assert schedule.sigma(t) == pytest.approx(math.sqrt(variance), rel=1e-6)


def test_residual_shift_grows_geometrically_in_a_power_of_time():
    schedule = NoiseSchedule(ScheduleSpec("residual-shift", timesteps=15))
    roots = [schedule.sigma(t) / 2 for t in range(15)]  # kappa is 2
    assert (roots[0], roots[-1]) == pytest.approx((0.02, 0.99))
    assert roots[5] == pytest.approx(0.02 * (0.99 / 0.02) ** ((5 / 14) ** 0.3))
    assert [schedule.alpha(t) for t in range(15)] == pytest.approx([1 - root**2 for root in roots])


def test_rddm_takes_the_residual_in_early_and_the_noise_late():
    schedule = NoiseSchedule(ScheduleSpec("rddm", timesteps=4))
    assert [schedule.alpha(t) for t in range(4)] == pytest.approx([1 - 0.4, 1 - 0.7, 1 - 0.9, 0])
    assert [schedule.sigma(t) ** 2 for t in range(4)] == pytest.approx([0.001, 0.003, 0.006, 0.01])


def test_the_bridge_is_y_at_its_end_and_x0_at_its_start():
    schedule = NoiseSchedule(ScheduleSpec("bridge"))
    s2 = lambda t: 0.4 * (2.6 ** (2 * t) - 1) / (2 * math.log(2.6))  # noqa: E731
    assert (schedule.noisiest.alpha, schedule.noisiest.sigma, schedule.noisiest.lam) == (0, 0, -math.inf)
    assert (schedule.cleanest.alpha, schedule.cleanest.sigma) == (1, 0)
    time = schedule.time(0.3)
    assert time.alpha == pytest.approx((s2(1) - s2(0.3)) / s2(1))
    assert time.sigma**2 == pytest.approx(s2(0.3) * (s2(1) - s2(0.3)) / s2(1))  # the product formula of a bridge


def test_mean_reverting_leaves_its_share_of_the_data():
    schedule = NoiseSchedule(ScheduleSpec("mean-reverting", timesteps=100))
    assert schedule.alpha(100) == pytest.approx(0.005)
    assert schedule.sigma(100) == pytest.approx(50 / 255, rel=1e-4)
    for t in (1, 20, 77):
        assert schedule.alpha(t) ** 2 + (schedule.sigma(t) * 255 / 50) ** 2 == pytest.approx(1)
    thetas = -np.diff(np.log([schedule.alpha(t) for t in range(101)]))
    f = [math.cos((i / 102 + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(103)]
    assert thetas[-1] / thetas[49] == pytest.approx((1 - f[101] / f[0]) / (1 - f[51] / f[0]))


def test_trigonometric_is_a_quarter_circle():
    schedule = NoiseSchedule(ScheduleSpec("trigonometric", time_scale=math.pi / 2))
    time = schedule.time(0.4)
    assert (time.alpha, time.sigma) == pytest.approx((math.cos(0.4), math.sin(0.4)))
    assert schedule.noisiest.alpha == 0


@each
def test_lambda_falls_with_time(spec):
    assert all(s.lam < t.lam for s, t in pairwise(inside(spec)))


@each
def test_a_time_is_found_again_by_its_lambda(spec):
    schedule = NoiseSchedule(spec)
    for time in inside(spec)[::10]:
        again = schedule.time_at_lam(time.lam)
        assert again.lam == pytest.approx(time.lam, abs=1e-8)
        assert again.network == pytest.approx(time.network, rel=1e-6, abs=1e-6)
        assert (again.alpha, again.sigma) == pytest.approx((time.alpha, time.sigma), rel=1e-8)


@each
def test_the_clock_runs_from_the_noisiest_time_down(spec):
    schedule = NoiseSchedule(spec)
    assert schedule.clock(1.0) == schedule.noisiest
    assert schedule.clock(0.5).lam > schedule.noisiest.lam
    assert schedule.clock(1e-9).lam >= schedule.clock(0.5).lam


@each
def test_a_spec_survives_json_without_what_it_leaves_at_default(spec):
    written = msgspec.json.encode(spec)
    assert msgspec.json.decode(written, type=ScheduleSpec) == spec
    assert b"theta" not in written


def test_all_timesteps_may_be_visited_but_no_more():
    schedule = NoiseSchedule(ScheduleSpec("linear", 100))
    assert [time.network for time in grids.trailing(schedule, 100)[:-1]] == list(range(99, -1, -1))
    with pytest.raises(UserError, match="101 steps on schedule linear-100"):
        grids.trailing(schedule, 101)


@pytest.mark.parametrize(
    ("kind", "fingerprint"),
    [("linear", "a87f2d301f72673b"), ("cosine", "799a0d6f2273e702"), ("flow", "36b50a877bdbbbd6")],
)
def test_fingerprints_stay_what_they_were(kind, fingerprint):
    """Existing plans and engines contain them."""
    assert NoiseSchedule(ScheduleSpec(kind)).fingerprint == fingerprint


def test_fingerprint_names_the_schedule():
    first, same, other = (
        NoiseSchedule(ScheduleSpec("linear", 1000, 1e-4, end)).fingerprint for end in (0.02, 0.02, 0.01)
    )
    assert first == same != other
    edm = [
        ScheduleSpec("edm"),
        ScheduleSpec("edm", sigma_data=float("0.5")),
        ScheduleSpec("edm", sigma_max=float("80")),
    ]
    assert NoiseSchedule(edm[0]).fingerprint == NoiseSchedule(edm[1]).fingerprint != NoiseSchedule(edm[2]).fingerprint
    assert NoiseSchedule(edm[2]).fingerprint == NoiseSchedule(ScheduleSpec("edm", sigma_max=80)).fingerprint
    assert len({NoiseSchedule(spec).fingerprint for spec in SPECS}) == len(SPECS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timesteps": 0}, "timesteps 0"),
        ({"beta_start": 0.0}, "beta_start"),
        ({"kind": "betas"}, "betas has 0 values for 1000 timesteps"),
        ({"kind": "betas", "timesteps": 1, "betas": (1.0,)}, "betas has values outside"),
        ({"kind": "mean-reverting", "sigma_max": 0.0}, "are not an alpha below 1 and a deviation"),
        ({"kind": "edm", "sigma_min": 90.0}, "sigma_min, sigma_max 90, 80 are not increasing"),
        ({"kind": "edm", "sigma_data": math.nan}, "sigma_data nan"),
        ({"kind": "ou", "theta": -1.0}, "theta -1"),
        ({"kind": "residual-shift", "timesteps": 1}, "path from data to noise"),
        ({"kind": "residual-shift", "eta_max": 1.5}, "eta_min, eta_max"),
        ({"kind": "rddm", "power": 0.0}, "power 0"),
    ],
)
def test_a_spec_that_describes_no_schedule_is_refused_by_its_field(change, message):
    with pytest.raises(UserError, match=message):
        NoiseSchedule(ScheduleSpec(**{"kind": "linear", **change}))


def test_time_outside_the_schedule_is_refused():
    with refuses(("time 1000 is outside", "cosine-1000")):
        NoiseSchedule(ScheduleSpec("cosine")).time(1000)


@pytest.mark.parametrize("grid", ["karras(rho=0.01, sigma_max=1e6)", "arctan(power=0.01)"])
def test_a_grid_without_finite_numbers_is_one_line(grid):
    with refuses(f"'ddim:4@{grid}'"):
        compile_plan(f"ddim:4@{grid}", DenoiserFacts(ScheduleSpec("cosine"), "v"))


@pytest.mark.parametrize("order", [(900, 500, 500, 100), (900, 900, 100), (100, 900), (900, 100, 500)])
def test_times_that_do_not_lose_noise_are_refused(order):
    schedule = NoiseSchedule(ScheduleSpec("linear"))
    with pytest.raises(UserError, match="noise does not decrease"):
        trace_plan("test", ddim, [*(schedule.time(t) for t in order), CLEAN], DenoiserFacts(schedule.spec, "epsilon"))


def test_a_network_may_get_another_time_than_the_coefficients():
    time = NoiseSchedule(ScheduleSpec("linear")).time(500)
    stated = replace(time, network=250.0)
    assert (stated.alpha, stated.sigma, stated.lam) == (time.alpha, time.sigma, time.lam)
