"""Populations reach the target of their weights: distributions in closed form, recurrences by hand, independent
seeds.
"""

from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from fewstep.literature.populations import Steering, evolve, guidance_corrector, population
from fewstep.literature.populations.population import ancestors, effective_count
from fewstep.plans import noise
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Cfg
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.shaping import Clip
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime import Sampler
from fewstep.runtime.sampling.execute import StepEvaluation
from tests.plans.mixture import Mixture
from tests.refusals import refuses

FACTS = DenoiserFacts(ScheduleSpec("cosine"), "sample")
GUIDED = DenoiserFacts(ScheduleSpec("cosine"), "epsilon", guided=True)
SCHEDULE = NoiseSchedule(FACTS.schedule)
THREE = Mixture((0.5, 0.3, 0.2), (-2.0, 0.0, 1.5), (0.3, 0.4, 0.25))
FREE = Mixture((1.0,), (0.0,), (1.5,))
PAIRS = [Mixture((0.7, 0.3), (-1.0, 1.0), (0.3, 0.6)), Mixture((0.7, 0.3), (-1.5, 1.5), (0.5, 0.25))]


def network(mixture: Mixture):
    return lambda index, step, u: [mixture.exact_x0(u, SCHEDULE.time(step.time))]


def total(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1).sum(1)


def weighted_mean(made, of) -> np.ndarray:
    """Return the weighted mean of a function of the particles, for each seed."""
    return (made.weights()[..., None] * of(made.samples)).sum(1).mean(-1)


def no_weights(state: StepEvaluation) -> np.ndarray:
    return np.zeros(len(state.u))


@pytest.mark.parametrize(("steps", "seeds"), [(64, range(4)), pytest.param(128, range(20, 32), marks=pytest.mark.slow)])
def test_steering_reaches_the_tilted_law_where_importance_weights_fail(steps: int, seeds: range) -> None:
    """Eight axes, 512 particles, weights e^sum(x): the exact mean of an axis is 1.031. With weights at the end only,
    one particle in a hundred remains.
    """
    plan, exact = compile_plan(f"ddpm:{steps}", FACTS), THREE.mean_of_tilt(1.0)
    assert exact == pytest.approx(1.031, abs=1e-3)
    steered = evolve(plan, network(THREE), Steering(total, 1.0, plan), seeds, 512, (8,))
    alone = evolve(plan, network(THREE), Steering(total, 1.0, plan), seeds, 512, (8,), at=[])
    means = weighted_mean(steered, lambda x: x)
    assert abs(means.mean() - exact) <= 0.06
    assert abs(weighted_mean(alone, lambda x: x).mean() - exact) > 0.15
    assert (1 / (alone.weights() ** 2).sum(1)).mean() < 0.02 * 512
    if len(seeds) > 4:  # enough of them for a deviation
        assert means.std() < weighted_mean(alone, lambda x: x).std() / 3


@pytest.mark.parametrize(
    ("kind", "rewards", "expected"),
    [
        ("difference", (1, -1, 2), (0.5, -1, 1.5)),
        ("max", (1, -1, 2), (0.5, 0.5, 0)),
        ("max", (-2, -1, -3), (-1, -0.5, 0)),  # rewards below 0, such as log p
        ("sum", (1, -1, 2), (0.5, 0, 0.5)),
    ],
)
def test_each_potential_is_that_of_its_kind(kind, rewards, expected) -> None:
    """At a strength of one half. All potentials sum to the last reward."""
    hook, u = Steering(lambda x0: [x0], 0.5, compile_plan("ddpm:3", FACTS), kind), np.zeros((1, 1))
    found = [hook(SimpleNamespace(index=index, u=u, x0=reward))[0] for index, reward in enumerate(rewards)]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["difference", "max", "sum"])
def test_each_potential_tilts_by_the_reward(kind) -> None:
    plan, at = compile_plan("ddpm:48", FACTS), (12, 24, 36)
    hook = Steering(total, 0.3, plan, kind, at)
    made = evolve(plan, network(THREE), hook, range(6), 1024, (1,), at=at, threshold=1)
    assert len(made.ancestors) == 3
    assert weighted_mean(made, lambda x: x).mean() == pytest.approx(THREE.mean_of_tilt(0.3), abs=0.06)


def mass_of_sharpening(pair: Mixture, w: float) -> float:
    """Return the mass of x > 0 under p^w q^(1 - w)."""
    x = np.linspace(-8, 8, 20001)
    density = pair.density(x) ** w * FREE.density(x) ** (1 - w)
    return float(density[x > 0].sum() / density.sum())


def by_branch(pair: Mixture):
    def guide(index, step, u):
        denoisers = {"cond": pair, "uncond": FREE}
        return [denoisers[branch].exact_eps(u, SCHEDULE.time(step.time)) for branch in step.branches]

    return guide


@pytest.mark.parametrize(
    ("pair", "seeds", "particles", "threshold", "times"),
    [(PAIRS[0], 8, 4096, 1.0, 49), pytest.param(PAIRS[1], 16, 8192, 0.5, 0, marks=pytest.mark.slow)],
)
def test_correctors_reach_the_sharpened_law_of_guidance(
    pair: Mixture, seeds: int, particles: int, threshold: float, times: int
) -> None:
    """p^1.7 q^-0.7 over its mass, in 50 steps. Guidance alone is off by 0.037 and 0.055. The standard error is
    0.0016 at these numbers of particles, and 0.0036 with twenty times 1024 of the second pair.
    """
    w, plan = 1.7, compile_plan("dpmpp_2m_sde:50", GUIDED, Cfg(1.7))
    exact = mass_of_sharpening(pair, w)
    run = range(100, 100 + seeds), particles, (1,)
    made = evolve(plan, by_branch(pair), guidance_corrector(plan), *run, threshold=threshold)
    plain = evolve(plan, by_branch(pair), no_weights, range(4), 4096, (1,), at=[])
    assert len(made.ancestors) >= times and abs(weighted_mean(made, lambda x: x > 0).mean() - exact) <= 0.006
    assert abs((plain.samples > 0).mean() - exact) > 0.03


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_a_corrector_reads_any_prediction_and_each_step_s_weight(prediction) -> None:
    """w (w - 1) |gap|^2 of both noises, by trapezoids in log rho. Its last half is extrapolated to the end, where
    the gap shrinks with rho.
    """
    weights = (1.7, 1.7, 1.0, 2.5, 1.3, 1.3)
    plan = compile_plan("ddpm:6", DenoiserFacts(GUIDED.schedule, prediction, guided=True), Cfg(weights[:5]))
    corrector, gaps, found = guidance_corrector(plan), [], []

    def network(index, step, u):
        time, noises = SCHEDULE.time(step.time), by_branch(PAIRS[0])(index, step, u)
        gaps.append((noises[0] - noises[-1]) ** 2)
        x0s = [(u - time.sigma * eps) / time.alpha for eps in noises]
        vs = [time.alpha * eps - time.sigma * x0 for eps, x0 in zip(noises, x0s, strict=True)]
        return {"epsilon": noises, "v": vs, "sample": x0s}[prediction]

    evolve(plan, network, lambda state: found.append(corrector(state)) or found[-1], [3], 64, (2,), at=[])
    halves = np.append(np.diff(np.log([step.alpha / step.sigma for step in plan.steps])) / 2, 0.5)
    for w, span, gap, made in zip(weights, halves + np.append(0.0, halves[:-1]), gaps, found, strict=True):
        np.testing.assert_allclose(made, w * (w - 1) * span * gap.sum(1), rtol=2e-3, atol=1e-4)


def test_a_corrector_starts_at_pure_noise() -> None:
    """There is no log rho at alpha = 0, and the weights stay finite."""
    plan = compile_plan("dpmpp_2m_sde:8", DenoiserFacts(ScheduleSpec("flow"), "flow", guided=True), 2.0)
    assert plan.steps[0].alpha == 0
    corrector = guidance_corrector(plan)
    network = lambda index, step, u: [np.tanh(u), np.tanh(u) / 2]  # noqa: E731
    rates = [step.alpha / step.sigma for step in plan.steps[1:3]]

    def weigh(state: StepEvaluation) -> np.ndarray:
        if state.index == 1:  # from pure noise on, with one guess of x0: half of the gap of noises, squared
            gap = plan.steps[1].alpha * np.subtract(*state.outputs)
            assert corrector(state) == pytest.approx((1 + np.diff(np.log(rates))) * (gap**2).sum(1), rel=1e-4)
        return corrector(state)

    made = evolve(plan, network, weigh, [0], 16, (2,), at=[])
    assert np.isfinite(made.log_weights).all() and made.log_weights.std() > 0
    for wrong, named in (
        (compile_plan("ddpm:4", FACTS), "has no guidance of the form Cfg; compile it with a guidance weight"),
        (compile_plan("ddpm:4", GUIDED, 2.0, Clip(-1, 1)), "heads, which the corrector does not support; compile it"),
        ("ddpm:4", "plan 'ddpm:4' is not compiled; give sampler.compile"),
    ):
        with pytest.raises(UserError, match=named):
            guidance_corrector(wrong)


def test_a_corrector_refuses_plans_that_say_no_noise_levels() -> None:
    """Without alpha every step would look like pure noise, and all weights would silently be 0."""
    plan = compile_plan("ddpm:4", GUIDED, 2.0)
    for missing in ({"alpha": None, "sigma": None}, {"sigma": None}):
        steps = (*plan.steps[:2], msgspec.structs.replace(plan.steps[2], **missing), plan.steps[3])
        with pytest.raises(UserError, match="of an older version.*compile it again"):
            guidance_corrector(msgspec.structs.replace(plan, steps=steps))


@pytest.mark.parametrize(("choice", "weight"), [("best", 1.0), ("one", 1e6)])
def test_svdd_is_its_recurrence(choice, weight) -> None:
    """Of M next states the one with the best x0 continues (Li et al. 2024, algorithm 1, with the posterior mean).
    Large weights draw the best.
    """
    plan, seed, M = compile_plan("ddpm:6", FACTS), 3, 5
    weigh = lambda state: weight * total(state.x0)  # noqa: E731
    made = evolve(plan, network(THREE), weigh, [seed], M, (2,), choice=choice, at=range(6))
    x = plan.steps[0].sigma * noise.particle_normals(seed, 0, (2,), M).astype(np.float64)
    for step, after in zip(plan.steps, [*plan.steps[1:], None], strict=True):
        x0 = THREE.exact_x0(x, SCHEDULE.time(step.time))
        best = total(x0).argmax()
        x, x0 = np.tile(x[best], (M, 1)), np.tile(x0[best], (M, 1))
        if after is None:
            x = x0
            break
        kept = (step.alpha / after.alpha) ** 2 * after.sigma**2 / step.sigma**2  # DDPM's posterior
        fresh = after.sigma**2 * (1 - kept)
        eps = (x - step.alpha * x0) / step.sigma
        z = noise.particle_normals(seed, step.draws[0], (2,), M)
        x = after.alpha * x0 + np.sqrt(after.sigma**2 - fresh) * eps + np.sqrt(fresh) * z
    np.testing.assert_allclose(made.samples[0], x, atol=1e-5)
    assert len(made.ancestors) == 6


def test_guidance_by_value_beats_the_best_of_as_many() -> None:
    """At equal evaluations, over seeds that nothing was tuned on."""
    plan, seeds = compile_plan("ddpm:20", FACTS), range(50, 74)
    value = lambda state: 4 * total(state.x0)  # noqa: E731
    best_of = evolve(plan, network(THREE), value, seeds, 8, (4,), at=[]).samples
    svdd = evolve(plan, network(THREE), value, seeds, 8, (4,), choice="one").samples
    plain = total(best_of.reshape(-1, 4)).mean()
    best = best_of.sum(-1).max(1).mean()
    assert plain + 3 < best < svdd.sum(-1).max(1).mean()


def test_the_best_of_n_is_the_best_of_the_seed_s_particles(sampler: Sampler) -> None:
    plan = sampler.compile("dpmpp_2m:4")  # draws nothing after its start
    made = population(sampler, plan, lambda state: total(state.x0), [3, 9], 6, {"class": [0, 2]}, at=[])
    assert made.samples.shape == (2, 6, 1, 4, 4) and made.evaluations == 4
    first = sampler.sample(plan, [3, 9], {"class": [0, 2]})
    np.testing.assert_array_equal(made.samples[:, 0], first)  # particle 0 has the seed's own noise
    last = np.stack([sample[total(sample).argmax()] for sample in made.samples])
    assert made.best().shape == last.shape and (made.log_weights.argmax(1) < 6).all()


def test_a_seed_s_population_depends_on_nothing_else(sampler: Sampler) -> None:
    plan = sampler.compile("ddpm:5")

    def run(seeds, labels, batch=64):
        hook = Steering(total, 2.0, plan)
        return population(sampler, plan, hook, seeds, 4, {"class": labels}, threshold=0.9, batch=batch)

    together, alone = run([3, 7, 1], [0, 2, 1]), run([7], [2])
    assert together.ancestors
    np.testing.assert_array_equal(together.samples[1], alone.samples[0])
    np.testing.assert_array_equal(together.log_weights[1], alone.log_weights[0])
    np.testing.assert_array_equal(run([3, 7, 1], [0, 2, 1], batch=5).samples, together.samples)


def test_copies_of_a_particle_part_by_their_next_draw(sampler: Sampler) -> None:
    made = population(sampler, sampler.compile("ddpm:5"), lambda s: total(s.x0), [1], 4, {"class": [0]}, choice="best")
    assert len({each.tobytes() for each in made.samples[0]}) == 4


def test_a_reward_is_one_number_for_each_sample(sampler: Sampler) -> None:
    plan, label = sampler.compile("ddpm:2"), {"class": [0]}
    for reward, said in (
        (lambda x: x, r"has the shape \[4, 1, 4, 4\]"),
        (lambda x: "good", "is not an array of numbers"),
    ):
        with pytest.raises(UserError, match=f"the reward at step 0 {said}.*; return one number for each of the 4"):
            population(sampler, plan, Steering(reward, 1.0, plan), [0], 4, label)


def test_a_hook_of_another_plan_is_refused(sampler: Sampler) -> None:
    """Its last step, or its noise levels, would silently be wrong."""
    plan, other, label = sampler.compile("ddpm:5"), sampler.compile("ddpm:4"), {"class": [0]}
    with refuses(("weigh", "'ddpm:4'", "'ddpm:5'")):
        population(sampler, plan, Steering(total, 1.0, other), [0], 4, label)
    with pytest.raises(UserError, match="weigh was made for plan 'ddpm:5'"):
        hook = guidance_corrector(sampler.compile("ddpm:5", 2.0))
        population(sampler, sampler.compile("ddpm:4", 2.0), hook, [0], 4, label)
    with pytest.raises(UserError, match="plan 'ddpm:5' is not compiled"):
        Steering(total, 1.0, "ddpm:5")
    with refuses("'min'", "difference, max, sum"):
        Steering(total, 1.0, plan, "min")


def test_an_overflow_is_reported_at_the_network_s_step() -> None:
    plan = compile_plan("ddpm:4", FACTS)
    network = lambda index, step, u: [u * np.float32(np.inf if index == 2 else 1)]  # noqa: E731
    with refuses(("not finite", "step 3 of 4")):
        evolve(plan, network, Steering(total, 1.0, plan), [0], 4, (2,))
    with pytest.raises(UserError, match="-inf after step 1"):  # weights that add up beyond float64
        evolve(plan, network, lambda state: np.full(len(state.u), -1e308), [0], 4, (2,), at=[])


@pytest.mark.parametrize("choice", ["systematic", "one", "best"])
def test_a_particle_of_weight_nought_ends(sampler: Sampler, choice) -> None:
    def weigh(state: StepEvaluation) -> np.ndarray:
        return np.where(np.arange(len(state.u)) == 2, 0, -np.inf if state.index == 1 else 0)

    made = population(sampler, "ddpm:4", weigh, [3], 4, {"class": [0]}, at=[1], choice=choice)
    assert [ancestor.tolist() for ancestor in made.ancestors] == [[[2] * 4]] and (made.weights() == 0.25).all()


def test_a_plan_runs_in_the_body_s_groups(sampler: Sampler, two_groups: Sampler) -> None:
    """By its name, or compiled for a body of one group."""
    own, label = two_groups.compile("ddpm:4"), {"class": [0]}
    assert {step.group for step in own.steps} == {0, 1}
    expected = population(two_groups, own, no_weights, [3], 2, label).samples
    for plan in ("ddpm:4", sampler.compile("ddpm:4")):
        np.testing.assert_array_equal(population(two_groups, plan, no_weights, [3], 2, label).samples, expected)
    population(two_groups, plan, Steering(total, 1.0, plan), [3], 2, label)  # a hook whose ranges are others
    with pytest.raises(UserError, match="is for schedule"):
        population(sampler, compile_plan("ddpm:4", FACTS), no_weights, [3], 2, label)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"guidance": 2.0}, r"no option 'guidance'; compile the plan with it: sampler.compile\(plan, guidance=...\)"),
        ({"conditions": {}}, "no option 'conditions'; leave it out"),
        ({"condition": {"class": [0, 1, 2]}}, "3 values for 1 sample"),
        ({"condition": None}, "'class' is missing"),
        ({"particles": 2.5}, "particles 2.5; give a whole number from 1 up"),
        ({"choice": "top"}, "choice 'top'; give systematic, one or best"),
        ({"threshold": np.nan}, "threshold nan is out of range; give a share of the particles, from 0 to 1"),
        ({"threshold": -1}, "threshold -1 is out of range; give a share"),
        ({"at": 2}, r"at 2 is not a list of steps; give at=\[2\]"),
        ({"at": [1.5]}, "plan 'ddpm:4' has no step 1.5; give a whole number from 0 to 3"),
        ({"weigh": 1.0}, "weigh 1.0 is not a function"),
        ({"plan": "dpmpp_2m:8"}, "'dpmpp_2m:8' draws no noise after its start"),
        ({"particles": 0}, "particles 0; give a whole number from 1 up"),
        ({"batch": 0}, "batch 0; give a whole number from 1 up"),
        ({"at": [5]}, "has no step 5"),
        ({"weigh": lambda state: np.zeros(1)}, r"weigh returned an array of shape \[1\] at step 0"),
        ({"weigh": lambda state: np.array([0, np.nan])}, r"with NaN or \+inf at step 0"),
        ({"weigh": lambda state: np.array([0, np.inf])}, r"with NaN or \+inf at step 0"),
        (
            {"weigh": lambda state: np.repeat([0, -np.inf], 2), "seeds": [2, 3], "condition": {"class": [0, 1]}},
            "the log weight of each particle of seed 3 is -inf after step 0",
        ),
        (
            {"weigh": lambda state: ["a", "b"]},
            r"what weigh returned at step 0 is not an array of numbers \('a'\); return one number for each of the 2",
        ),
    ],
)
def test_a_wrong_argument_is_one_line(sampler: Sampler, wrong: dict, said: str) -> None:
    run = {"plan": "ddpm:4", "weigh": no_weights, "particles": 2, "condition": {"class": [1]}}
    with pytest.raises(UserError, match=said):
        population(sampler, **run | wrong)


@pytest.mark.parametrize("at", [np.array([1, 2]), {1, 2}, (index for index in (1, 2))])
def test_steps_are_of_any_collection(sampler: Sampler, at) -> None:
    run = {"plan": "ddpm:4", "weigh": lambda state: total(state.x0), "particles": 3, "condition": {"class": [1]}}
    made = population(sampler, **run, at=at, threshold=1)
    np.testing.assert_array_equal(made.samples, population(sampler, **run, at=[1, 2], threshold=1).samples)
    assert len(made.ancestors) == 2


def test_counts_are_the_weights_rounded() -> None:
    weights = np.array([0.5, 0.05, 0.3, 0.15])
    counts = np.zeros((200, 4))
    for place, chance in enumerate((np.arange(200) + 0.5) / 200):
        chosen = ancestors(np.log(weights) + 7, "systematic", chance)
        counts[place] = np.bincount(chosen, minlength=4)
    assert (np.abs(counts - 4 * weights) < 1).all()
    np.testing.assert_allclose(counts.mean(0), 4 * weights, atol=0.02)


def test_one_is_drawn_by_weight_and_best_is_the_heaviest() -> None:
    logs = np.log([0.2, 0.7, 0.1])
    assert set(ancestors(logs, "best", 0.9)) == {1}
    drawn = [ancestors(logs, "one", chance) for chance in (np.arange(100) + 0.5) / 100]
    assert all(len(set(each)) == 1 for each in drawn)
    np.testing.assert_allclose(np.bincount([each[0] for each in drawn]) / 100, [0.2, 0.7, 0.1], atol=0.011)


@pytest.mark.parametrize(("logs", "expected"), [([0, 0, 0, 0], 4), ([0, -800, -800, -800], 1), ([5, 5, -800, -800], 2)])
def test_the_effective_number(logs, expected) -> None:
    assert effective_count(np.array([logs], float)) == pytest.approx(expected)
