"""The start of a fit, and its judgement on seeds and conditions that no fit has used."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from msgspec.structs import replace

from fewstep.fitting import teacher_gate
from fewstep.fitting.conditions import fit_conditions
from fewstep.fitting.fit import fit
from fewstep.fitting.judgement import FitJudgement, FitScore, are_nearer, compare_fitted_sets, judge_fit
from fewstep.fitting.levenberg_marquardt import Gain
from fewstep.fitting.options import FitOptions
from fewstep.fitting.rollouts import BODY, FitSampler
from fewstep.fitting.start_plans import find_best_on_path, find_best_start
from fewstep.measure.judges.judge import Judge
from fewstep.measure.rollouts.prompts import CALIBRATION, HELD_OUT
from fewstep.measure.rollouts.seeds import FIT_SEEDS
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.figures import Figure, JudgeScore
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.finite_checks import NotFinite
from tests.fitting.analytic import Analytic, blocks, facts, mean_psnr, mixture, set_targets
from tests.fitting.test_fit import FEW

PIXELS = SimpleNamespace(name="pixels", extract=lambda samples: samples.reshape(len(samples), -1))


def targets(seeds=64):
    return np.random.default_rng(1).normal(size=(seeds, 1, 2, 2)).astype(np.float32)


def test_a_set_that_is_shifted_is_as_far_as_its_shift():
    exact = targets()
    found = compare_fitted_sets(PIXELS, exact + 0.1, exact + 0.3, exact)
    assert (found.frechet_paired, found.frechet) == pytest.approx((4 * 0.01, 4 * 0.09), rel=1e-4)
    assert found.error < 1e-4 and found.low > 0
    assert compare_fitted_sets(PIXELS, exact + 0.3, exact + 0.1, exact).high < 0


def test_a_difference_by_chance_is_no_warning():
    """Samples of both plans are around the teacher's with the same kind of noise."""
    exact, rng = targets(), np.random.default_rng(2)
    noisy = [exact + rng.normal(0, 0.3, exact.shape).astype(np.float32) for _ in range(2)]
    pair = [compare_fitted_sets(PIXELS, one, other, exact) for one, other in (noisy, noisy[::-1])]
    assert pair[0].error == pytest.approx(pair[1].error) and pair[0].error > 0
    assert not any(each.difference > 2 * each.error for each in pair)


def test_features_are_nearer_only_where_their_distance_falls_and_fd_does_not_rise():
    exact = targets()
    further, nearer = 0.5 * exact, 0.95 * exact
    assert are_nearer(PIXELS, nearer, further, exact)
    assert not are_nearer(PIXELS, further, nearer, exact)
    assert not are_nearer(PIXELS, nearer, nearer, exact)
    assert not are_nearer(PIXELS, nearer, exact[::-1], exact)  # row by row far, and no FD at all


@pytest.mark.parametrize(
    ("price", "extractor", "is_behind"), [(9.0, True, False), (9.0, False, True), (0.01, True, True)]
)
def test_a_plan_may_be_worse_than_a_previous_one_by_the_price_of_features_that_it_lacks(price, extractor, is_behind):
    """The features see a constant that the previous plan's samples lack; a plan of fewer steps has a lower PSNR."""
    sampler = Analytic(facts("cosine", "v"), mixture)
    parts = set_targets(sampler, compile_plan("dpmpp_2m:60", sampler.facts), blocks(range(16)))
    nominal, fitted, previous = (compile_plan(f"dpmpp_2m:{steps}", sampler.facts) for steps in (2, 5, 6))
    others = np.concatenate([part.sample(sampler, previous) for part in parts])
    features = SimpleNamespace(
        name="constant", extract=lambda samples: PIXELS.extract(samples + 9 * np.array_equal(samples, others))
    )
    judged = judge_fit(
        FitSampler(sampler, sampler), features if extractor else None, parts, nominal, fitted, previous, price
    )
    assert -9 < judged.over_previous.mean < -0.01 and judged.gain.is_significant
    assert judged.is_worse_than_previous == is_behind


def test_values_of_no_file_are_drawn_by_the_seed(tiny_bundle):
    rows = fit_conditions(open_bundle(tiny_bundle), None, None)
    assert (rows.fit, rows.selection, rows.judge) == (None, None, None)


@pytest.mark.parametrize("count", [24, 40])
def test_own_rows_are_divided(tiny_bundle, tmp_path, count, caplog):
    own = np.arange(count) % 3
    np.savez(tmp_path / "own.npz", **{"class": own})
    rows = fit_conditions(open_bundle(tiny_bundle), tmp_path / "own.npz", None)
    for part, found in enumerate((rows.fit, rows.selection, rows.judge)):
        np.testing.assert_array_equal(found["class"], own[part::3])
    assert caplog.text == ""


def test_a_condition_of_one_value_is_named(tiny_bundle, tmp_path, caplog):
    np.savez(tmp_path / "own.npz", **{"class": np.ones(24, int)})
    fit_conditions(open_bundle(tiny_bundle), tmp_path / "own.npz", None)
    assert "the fit is judged at one value of class only: give others with --conditions FILE" in caplog.text


def test_few_own_rows_are_shared_and_a_line_says_so(tiny_bundle, tmp_path, caplog):
    np.savez(tmp_path / "own.npz", **{"class": np.arange(23) % 3})
    rows = fit_conditions(open_bundle(tiny_bundle), tmp_path / "own.npz", None)
    assert rows.fit is rows.selection is rows.judge and len(rows.fit["class"]) == 23
    assert "share 23 records of conditions; give 24 or more" in caplog.text


def test_prompts_that_come_with_fewstep_are_held_out_of_the_fit(tiny_bundle):
    pytest.importorskip("tokenizers")
    from fewstep.runtime.text import load_text_encoder
    from tests.runtime.text_bundle import with_companions

    bundle = open_bundle(with_companions(tiny_bundle))
    rows, encoder = fit_conditions(bundle, None, None), load_text_encoder(bundle)
    np.testing.assert_array_equal(rows.fit["text"], encoder.encode(CALIBRATION)["text"])
    np.testing.assert_array_equal(rows.selection["text"], rows.fit["text"])
    np.testing.assert_array_equal(rows.judge["text"], encoder.encode(HELD_OUT)["text"])


def test_each_use_of_a_fit_has_its_part_and_its_seeds(tiny_bundle, tmp_path, monkeypatch):
    np.savez(tmp_path / "own.npz", **{"class": np.arange(24) % 3})
    checked, judged = [], []
    teacher, samples = teacher_gate.find_teacher, FitSampler.sample_blocks

    def check(sampler, asked, plan, seeds, rows, *rest):
        checked.append((seeds, rows["class"].tolist()))
        return teacher(sampler, asked, plan, seeds, rows, *rest)

    def count_measurement(rolled, plan, blocks, by=BODY):
        judged.append({int(value) for block in blocks for value in block.conditions["class"]})
        return samples(rolled, plan, blocks, by)

    monkeypatch.setattr(teacher_gate, "find_teacher", check)
    monkeypatch.setattr(FitSampler, "sample_blocks", count_measurement)
    fit(FitOptions(tiny_bundle, guidance=2.0, conditions=tmp_path / "own.npz", iterations=1, **FEW))
    assert checked == [(FIT_SEEDS[:4], [0] * 8)] * 2  # row i has class i mod 3, and so each part one class
    assert {0} in judged and {1} in judged and {2} in judged and {0, 1, 2} not in judged


NAMES = ("ddim:4", "dpmpp_2m:4", "dpmpp_2m:4@karras")


@dataclass
class Broken(Analytic):
    """A network that fails along some plans, or has no finite answer there."""

    of: set[str] = field(default_factory=set)
    error: UserError | None = None

    def step_network(self, plan, samples, conditions):
        if plan.name in self.of and self.error is not None:
            raise self.error
        call = super().step_network(plan, samples, conditions)
        return (lambda *asked: [each * np.nan for each in call(*asked)]) if plan.name in self.of else call


def plans_and_blocks(sampler):
    teacher = compile_plan("dpmpp_2m:60@uniform_lambda", sampler.facts)
    return [compile_plan(name, sampler.facts) for name in NAMES], set_targets(sampler, teacher, blocks(range(16)))


def test_it_is_the_nearest_to_the_teacher_and_no_plan_without_a_finite_sample():
    sampler = Broken(facts("cosine", "v"), mixture)
    plans, parts = plans_and_blocks(sampler)
    best, second = sorted(plans, key=lambda plan: -mean_psnr(sampler, plan, parts))[:2]
    assert find_best_start(FitSampler(sampler, sampler), plans, parts) is best
    sampler.of = {best.name}
    assert find_best_start(FitSampler(sampler, sampler), plans, parts) is second


@pytest.mark.parametrize(
    ("count", "error", "words"),
    [
        (1, None, "no sample of ddim:4 is finite; name another plan"),
        (3, NotFinite("the output", "check it"), f"no sample of {', '.join(NAMES)} is finite; name another plan"),
        (3, UserError("the engine is gone", "build it"), "the engine is gone; build it"),
    ],
)
def test_without_a_finite_sample_the_plans_that_were_tried_are_named(count, error, words):
    """Any other error of the network is raised unchanged."""
    sampler = Broken(facts("cosine", "v"), mixture, of=set(NAMES), error=error)
    plans, parts = plans_and_blocks(sampler)
    with pytest.raises(UserError, match=words):
        find_best_start(FitSampler(sampler, sampler), plans[:count], parts)


def test_a_solver_over_the_times_of_the_teachers_path_comes_nearer_to_it(caplog):
    sampler = Analytic(facts("cosine", "v"), mixture)
    nominal, teacher = (sampler.compile(name) for name in ("dpmpp_2m:4@karras", "dpmpp_2m:60@arctan"))
    fit, judges = (set_targets(sampler, teacher, blocks(seeds)) for seeds in (range(16), range(16, 32)))
    best = find_best_on_path(FitSampler(sampler, sampler), teacher, nominal, fit, fit)
    assert best.name.partition("@")[2].startswith("custom(times=[999") and len(best.steps) == 4
    assert mean_psnr(sampler, best, judges) > mean_psnr(sampler, nominal, judges) + 15
    with caplog.at_level("INFO", "fewstep"):
        assert (
            find_best_on_path(FitSampler(sampler, sampler), replace(teacher, given=("y",)), nominal, fit, fit) is None
        )
    assert "not start on the teacher's path: the states of the teacher dpmpp_2m:60@arctan have parts" in caplog.text


@pytest.mark.parametrize(
    ("limit", "shift", "problem"),
    [
        (-9.0, 0.0, None),
        (-1e-9, 0.0, "the new plan scores -"),
        (-9.0, 1.0, "the new plan scores 0.7"),
    ],
)
def test_a_judge_rejects_a_fit_that_misses_its_limit_or_scores_less(limit, shift, problem):
    """The judge subtracts `shift` from the scores of all samples but those of the nominal plan and of the teacher."""
    sampler = Analytic(facts("cosine", "v"), mixture)
    parts = set_targets(sampler, compile_plan("dpmpp_2m:60", sampler.facts), blocks(range(16)))
    nominal, fitted = (compile_plan(f"dpmpp_2m:{steps}", sampler.facts) for steps in (2, 5))
    plain = np.concatenate([part.sample(sampler, nominal) for part in parts])

    def score(samples, reference, conditions):
        error = np.abs(samples - reference).reshape(len(samples), -1).mean(axis=1)
        return -error - shift * (not np.array_equal(samples, plain)) * (error > 0), limit

    judge = Judge("own", "", score)
    judged = judge_fit(FitSampler(sampler, sampler), None, parts, nominal, fitted, None, 0.0, judge)
    assert judged.gain.is_significant and judged.is_better(judged.gain) == (problem is None)
    assert judged.score.problem == problem or judged.score.problem.startswith(problem)
    assert judged.score.fitted.float32.value == 0.0 and judged.score.fitted.seeds == 16
    assert (judged.score.fitted.score.value > judged.score.nominal.score.value) == (not shift)


def test_a_fit_calls_a_judge_once_for_each_plan_and_once_for_the_teacher():
    """A loss of one score for all samples counts, however small, since its chance is unknown."""
    sampler, scored = Analytic(facts("cosine", "v"), mixture), []
    parts = set_targets(sampler, compile_plan("dpmpp_2m:60", sampler.facts), blocks(range(16)))
    nominal, fitted = (compile_plan(f"dpmpp_2m:{steps}", sampler.facts) for steps in (2, 5))

    def score(samples, reference, conditions):
        scored.append(samples)
        return np.abs(samples - reference).mean(), -1.0

    judged = judge_fit(FitSampler(sampler, sampler), None, parts, nominal, fitted, None, 0.0, Judge("own", "", score))
    assert len(scored) == 3 and judged.gain.is_significant and not judged.is_better(judged.gain)
    assert judged.score.gain is None and judged.score.problem.startswith("the new plan scores 0.")
    assert (
        judged.score.nominal.float32.value == 0.0 < judged.score.fitted.score.value < judged.score.nominal.score.value
    )


def test_a_share_of_successes_gains_over_that_of_the_nominal_plan():
    sampler = Analytic(facts("cosine", "v"), mixture)
    parts = set_targets(sampler, compile_plan("dpmpp_2m:60", sampler.facts), blocks(range(16)))
    nominal, fitted = (compile_plan(f"dpmpp_2m:{steps}", sampler.facts) for steps in (2, 5))
    plain = np.concatenate([part.sample(sampler, nominal) for part in parts])
    solved = Judge("own", "", lambda samples, *_: (np.full(16, not np.array_equal(samples, plain)), 0.5))
    judged = judge_fit(FitSampler(sampler, sampler), None, parts, nominal, fitted, None, 0.0, solved)
    assert judged.score.gain.mean == 1.0 and judged.score.fitted.score_range[0] < 1.0


def test_a_score_that_gains_suffices_where_the_psnr_does_not():
    gains = [Gain(1.0, 0.1), Gain(0.1, 0.1)]
    score = JudgeScore(*[Figure("j", 1.0, 0.5, False, "")] * 2, "", 16)
    for by_psnr, by_score, is_better in ((1, 0, True), (0, 1, True), (1, 1, False)):
        judged = FitJudgement(30.0, gains[by_psnr], None, False, None, FitScore(score, score, gains[by_score]))
        assert judged.is_better(gains[by_psnr]) == is_better
    behind = FitJudgement(30.0, gains[0], None, True, None, FitScore(score, score, gains[0]))
    assert not behind.is_better(gains[0])
