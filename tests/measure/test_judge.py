"""Judging denoisers with a known error: the figures equal those of arithmetic."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fewstep.measure import sample_space
from fewstep.measure.judge import judge
from fewstep.measure.judged_batch import JudgedBatch
from fewstep.measure.judged_run import Contender, JudgedRun, combine_branches
from fewstep.measure.rollouts.metrics import CEILING, PEAK
from fewstep.measure.rollouts.seeds import SeedBatch
from fewstep.measure.tally import NOTHING, JudgementRequest, Tally
from fewstep.plans.compile import compile_plan
from fewstep.plans.compile_tokens import compile_tokens
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Cfg
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.bundle.manifest import TokenAgreement
from fewstep.runtime.sampling.execute import finish
from tests.bundles import manifest_of

DENOISING = DenoiserFacts(ScheduleSpec("linear"), "epsilon")
SHAPE = (1, 4, 4)


@dataclass(frozen=True)
class Body:
    """A denoiser given by its function `network(plan, samples, conditions)`."""

    called: Any
    bundle: Any = field(default_factory=lambda: SimpleNamespace(manifest=manifest_of({}, x_shape=SHAPE)))

    def compile(self, plan):
        return plan

    def step_call(self, plan, samples, conditions):
        return Called(self.called(plan, samples, conditions))

    def sample(self, plan, seeds, conditions):
        batch = SeedBatch(seeds, SHAPE, conditions)
        return finish(plan, batch.run(plan, self.called(plan, len(seeds), conditions)))


@dataclass(frozen=True)
class Called:
    """A `StepCall` given by its function."""

    step_network: Any
    slots: None = None

    def __call__(self, index, step, u):
        return self.step_network(index, step, u)


def gaussian(gain=1.0, noise=0.0, pull=1.0):
    """eps of data ~ N(0, 0.25). The branches differ by `pull` times the condition; `gain` and `noise` are the known
    error.
    """

    def denoiser(plan, samples, conditions):
        shift = pull * conditions["class"].astype(np.float32)[:, None, None, None] * 0.01
        rng = np.random.default_rng(0)

        def network(index, step, u):
            lam = -np.inf if step.lam is None else step.lam
            sigma2 = 1 / (1 + np.exp(2 * lam))
            eps = np.sqrt(sigma2) * u / (0.25 * (1 - sigma2) + sigma2)
            error = noise * rng.normal(size=u.shape)
            exact = [eps + (shift if branch == "cond" else 0) for branch in step.branches]
            return [(gain * output + error).astype(np.float32) for output in exact]

        return network

    return Body(denoiser)


PLAN, TEACHER = (compile_plan(name, DENOISING, guidance=2.0) for name in ("dpmpp_2m:4", "dpmpp_2m:40"))


def classes(seeds):
    return {"class": np.array([seed % 10 for seed in seeds])}


def batch_of(conditions):
    return lambda seeds: SeedBatch(seeds, SHAPE, conditions(seeds))


def batches(conditions):
    return lambda seeds, size: batch_of(conditions)(seeds).split(size)


def asking(bodies):
    """A judge with some bodies."""
    return lambda questions: (question.answer(bodies.__getitem__) for question in questions)


def judge_bodies(candidate, seeds=6, forced_seeds=6, groups=(), teacher_samples=2, batch=4, **wanted):
    ask = asking({"float32": gaussian(), "int8": candidate})
    want, int8 = (
        JudgementRequest(TEACHER, teacher_samples, samples=True, **wanted),
        Contender("int8", groups, seeds, forced_seeds),
    )
    judgements = judge(ask, [int8], PLAN, batches(classes), 6, want, batch=batch)
    return judgements, judgements.bodies["int8"]


def test_a_perfect_candidate_is_at_the_ceiling_everywhere():
    found, own = judge_bodies(gaussian())
    assert own.against_float.mean == own.against_float.worst == CEILING
    assert all((step.forced, step.x0, step.x) == (CEILING,) * 3 for step in own.steps)
    assert own.against_teacher.values == found.reference.against_teacher.values


def test_teacher_forced_sqnr_of_a_gain_error_is_that_gain_at_every_step():
    found, own = judge_bodies(gaussian(gain=1.1))
    assert [step.forced for step in own.steps] == pytest.approx([20.0] * 4, abs=0.01)
    assert own.against_float.reference == "float32, dpmpp_2m:4"
    assert own.against_teacher.reference == found.reference.against_teacher.reference == "float32, dpmpp_2m:40"
    assert own.against_float.mean != own.against_teacher.mean
    quality, samples, references = own.against_float, own.samples, own.reference
    assert quality.drift.energy == pytest.approx(samples.var() / references.var()) != pytest.approx(1)
    assert quality.snr - quality.mean == pytest.approx(10 * np.log10(references.var() / PEAK**2))


def test_closed_loop_error_is_not_the_single_step_error():
    _, own = judge_bodies(gaussian(noise=0.01))
    assert all(20 < step.x < CEILING and 0 < step.x0 < CEILING for step in own.steps)
    assert own.steps[-1].x != pytest.approx(own.steps[-1].forced, abs=0.1)


def test_a_lost_direction_has_its_gain_at_every_step():
    (_, own), (_, whole) = (judge_bodies(gaussian(pull=0.1), batch=batch) for batch in (4, 6))
    batch, (exact, lost) = (
        batch_of(classes)(range(6)),
        (each.called(PLAN, 6, classes(range(6))) for each in (gaussian(), gaussian(pull=0.1))),
    )
    first = next(batch.run(PLAN, exact))
    signal, other = (combine_branches(outputs, PLAN, 0) for outputs in (first.outputs, lost(0, PLAN.steps[0], first.u)))
    ratio = np.square(signal).sum() / np.square(signal - other).sum()
    assert own.steps[0].forced == pytest.approx(10 * np.log10(ratio))
    for step, in_one in zip(own.steps, whole.steps):
        assert step.guidance.share == pytest.approx(in_one.guidance.share)
        for each in (step.guidance, step.condition):
            assert (each.step, each.gain) == (step.index, pytest.approx(0.1, abs=1e-3))
    _, own = judge_bodies(gaussian(), seeds=1, forced_seeds=1)  # whose condition is 0, with no other next to it
    assert all(step.guidance is None and step.condition is None for step in own.steps)


def test_a_candidate_is_run_in_its_own_range_groups():
    """Also for single steps: a body with several graphs takes its graph by the step's group."""
    plan = compile_plan("dpmpp_2m:4", DENOISING, guidance=2.0)
    lams = [-20.0 if step.lam is None else step.lam for step in plan.steps]
    edges = tuple((a + b) / 2 for a, b in zip(lams[:-1], lams[1:], strict=True))

    def stage(plan, samples, conditions):
        exact, off = (gaussian(gain).called(plan, samples, conditions) for gain in (1.0, 1.1))
        return lambda index, step, u: (exact if step.group < 2 else off)(index, step, u)

    _, own = judge_bodies(Body(stage), groups=edges)
    assert [step.forced for step in own.steps] == pytest.approx([CEILING, CEILING, 20.0, 20.0], abs=0.01)
    assert [step.group for step in own.steps] == [0, 1, 2, 3]
    assert [step.x for step in own.steps][:2] == [CEILING] * 2 and own.steps[-1].x < CEILING


def test_every_seed_is_judged_once_whatever_the_batch():
    _, one = judge_bodies(gaussian(gain=1.02), batch=1)
    found, all_at_once = judge_bodies(gaussian(gain=1.02), batch=6)
    assert one.against_float.seeds == all_at_once.against_float.seeds == 6
    assert one.against_float.values == pytest.approx(all_at_once.against_float.values)
    assert one.steps[2].forced == pytest.approx(all_at_once.steps[2].forced)
    assert found.reference.samples.shape == all_at_once.samples.shape == (6, *SHAPE)
    assert found.teacher.shape == (2, *SHAPE) and found.reference.against_teacher.seeds == 2


def test_a_candidate_may_have_fewer_seeds_and_no_figure_of_steps_that_none_was_forced_along():
    _, own = judge_bodies(gaussian(gain=1.02), seeds=5, forced_seeds=1)
    assert own.against_float.seeds == 5 and own.samples.shape == (5, *SHAPE)
    assert own.steps[0].forced == pytest.approx(
        judge_bodies(gaussian(gain=1.02), seeds=1, forced_seeds=1)[1].steps[0].forced
    )
    _, own = judge_bodies(gaussian(gain=1.1), forced_seeds=0)
    assert [step.forced for step in own.steps] == [None] * 4 and own.steps[-1].x < CEILING


@pytest.mark.parametrize(("featured", "seeds"), [(3, 4), (8, 6)])
def test_a_body_with_a_plan_of_its_own_is_judged_along_it(featured, seeds):
    """Without a teacher no seed is compared with one. A body only runs batches of its own seeds."""
    own, asked, shown = compile_plan("ddim:3", DENOISING, guidance=2.0), [], []
    bodies = {"float32": gaussian(), "int8": gaussian(gain=1.02), "fitted": gaussian()}
    want = JudgementRequest(
        teacher_sample_count=9, extract=lambda samples: samples.reshape(len(samples), -1), featured=featured
    )
    contenders = [Contender("int8", (), seeds, 1), Contender("fitted", (), 6, 1, own)]
    ask, progress = (
        lambda all: asking(bodies)(asked.append(each) or each for each in all),
        lambda *each: shown.append(each),
    )
    judgements = judge(ask, contenders, PLAN, batches(classes), 6, want, progress, batch=2)
    body = judgements.bodies["fitted"]
    assert (body.against_float.reference, body.against_float.mean) == ("float32, ddim:3", CEILING)
    assert [(step.time, step.forced) for step in body.steps] == [(step.time, CEILING) for step in own.steps]
    expected = gaussian().sample(own, range(featured), classes(range(featured)))
    assert body.features == pytest.approx(expected.reshape(featured, -1), abs=1e-6)
    judged_batches = [[contender.name for contender in one.contenders] for one in asked if isinstance(one, JudgedBatch)]
    both = seeds // 2
    assert (
        judged_batches == [["int8", "fitted"]] * both + [["fitted"]] * (3 - both) and judgements.reference.steps == ()
    )
    assert all(0 < done <= total for _, done, total in shown)


def test_figures_of_tokens_are_means_over_samples():
    plan = compile_tokens("maskgit:2", DenoiserFacts(ScheduleSpec("flow"), "logits"), (4,), 8, Cfg((2.0, 1.0)))
    tally, ids = Tally(JudgementRequest(), NOTHING, plan), np.zeros((3, 4), np.int64)
    for rows, share in ((3, 0.2), (1, 0.6)):
        agreement = TokenAgreement(share, 1 - share, ((share, 2 * share),) * 2)
        tally.add(JudgedRun(ids[:rows], ids[:rows], agreement=agreement, decibels=np.full(rows, 30.0)))
    tokens = tally.judgement().tokens
    assert (tokens.disagreement, tokens.same) == pytest.approx((0.3, 0.7))
    assert [(step.disagreement, step.divergence) for step in tokens.steps] == [pytest.approx((0.3, 0.6))] * 2


def test_batches_of_tokens_are_as_large_as_their_logits_allow(monkeypatch):
    plan = compile_tokens("maskgit:2", DenoiserFacts(ScheduleSpec("flow"), "logits"), (4,), 8, Cfg((2.0, 1.0)))
    numbers = 2 * 2 * 4 * 8  # steps, branches, positions, vocabulary
    monkeypatch.setattr(sample_space, "LOGITS_HELD", 5 * numbers)
    assert [sample_space.judging_of(plan).batch_size(plan, batch) for batch in (16, 3)] == [5, 3]


def test_guidance_is_the_line_through_both_branches():
    cond, uncond = np.array([3.0], np.float32), np.array([1.0], np.float32)
    assert combine_branches([cond, uncond], compile_plan("ddim:2", DENOISING, 2.0), 1).tolist() == [5.0]
    assert combine_branches([cond], compile_plan("ddim:2", DENOISING), 0) is cond


@pytest.mark.parametrize(
    "more", [{"teacher_samples": 7}, {"seeds": 7}, {"seeds": 0}, {"seeds": 5, "extract": len, "featured": 6}]
)
def test_numbers_of_seeds_that_cannot_be_compared_are_refused(more):
    with pytest.raises(UserError, match="seeds, and the teacher ., but there are 6 in all"):
        judge_bodies(gaussian(), **more)


def test_a_degraded_sample_is_the_condition_of_each_seed():
    """A denoiser with x0 = y / 2: every trajectory from y ends there."""
    restoring = DenoiserFacts(ScheduleSpec("residual-shift", timesteps=4), "sample", towards="y")

    def degrade(seeds):
        return {"y": np.stack([np.full(SHAPE, seed, np.float32) for seed in seeds])}

    body = Body(
        lambda plan, samples, conditions: lambda index, step, u: [conditions["y"] / 2],
        SimpleNamespace(manifest=manifest_of({}, x_shape=SHAPE, towards="y")),
    )
    ask = asking({"float32": body, "int8": body})
    plan = compile_plan("resshift:2", restoring)
    want = JudgementRequest(compile_plan("resshift:4", restoring), 2, samples=True)
    judgements = judge(ask, [Contender("int8", (), 5, 5)], plan, batches(degrade), 5, want, batch=2)
    assert judgements.reference.samples == pytest.approx(degrade(range(5))["y"] / 2)
    assert judgements.bodies["int8"].against_float.mean == CEILING
    with pytest.raises(UserError, match="the plan starts from 'y'"):
        judge(ask, [], plan, batches(lambda seeds: {}), 5, want, batch=2)
