"""Every fit of the literature on denoisers of closed form: nearer to the teacher on seeds that it has not seen."""

from types import ModuleType

import pytest

from fewstep.literature.fits import (
    auto_diffusion,
    compensation,
    ems,
    olss,
    solver_search,
    teleportation,
    time_shift,
    times,
)
from fewstep.literature.fits.setting import FitSetting
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode, encode
from tests.calibration.fitting.analytic import Analytic, blocks, facts, gaussian, mean_psnr, mixture, taught

FAMILIES = [("cosine", "v"), *(pytest.param(kind, kind, marks=pytest.mark.slow) for kind in ("flow", "edm"))]


def setting(sampler: Analytic, nominal: str = "dpmpp_2m:5@arctan", seeds: int = 32) -> FitSetting:
    teacher = compile_plan("dpmpp_2m:80@arctan", sampler.facts)
    parts = taught(sampler, teacher, blocks(range(seeds)))
    return FitSetting(sampler, sampler, sampler.facts, None, compile_plan(nominal, sampler.facts), teacher, parts)


def gain(fit: ModuleType, known: FitSetting) -> float:
    """dB over the nominal plan on other seeds, of a plan as it is read from its file."""
    plan = fit.fitted(known)
    assert len(plan.steps) == known.evaluations
    judges = taught(known.sampler, known.teacher, blocks(range(1000, 1032)))
    fitted, nominal = (mean_psnr(known.sampler, each, judges) for each in (decode(encode(plan)), known.nominal))
    return fitted - nominal


@pytest.mark.parametrize(("kind", "prediction"), FAMILIES)
@pytest.mark.parametrize(
    ("fit", "least"), [(compensation, 2.5), (times, 4), (auto_diffusion, 2), (solver_search, 4), (olss, 10)]
)
def test_samples_of_other_seeds_come_nearer_to_the_teacher(
    fit: ModuleType, least: float, kind: str, prediction: str
) -> None:
    assert gain(fit, setting(Analytic(facts(kind, prediction), mixture))) > least


def test_a_start_from_statistics_saves_a_step() -> None:
    """Exact on Gaussian data, whose first step it makes without an error."""
    assert gain(teleportation, setting(Analytic(facts("cosine", "v"), gaussian()))) > 3


def test_statistics_of_some_hundred_rollouts_are_worth_a_decibel() -> None:
    known = setting(Analytic(facts("cosine", "v"), gaussian()), "dpmpp_2m:8@trailing", 256)
    assert gain(ems, known) > 0.5


def test_a_time_shift_is_for_a_table_of_timesteps() -> None:
    with pytest.raises(UserError, match="no table of a generator's timesteps"):
        time_shift.fitted(setting(Analytic(facts("flow", "flow"), mixture)))
    known = setting(Analytic(facts("linear", "epsilon"), mixture))
    shifted = time_shift.fitted(known)
    moved = [abs(after.time - before.time) for after, before in zip(shifted.steps, known.nominal.steps, strict=True)]
    assert 0 < max(moved) <= time_shift.WINDOWS[-1] / 2 and moved[0] == 0 == moved[-1]


def test_no_plan_with_finite_samples_is_the_last_reason() -> None:
    known = setting(Analytic(facts("cosine", "v"), mixture))

    def fails() -> None:
        raise UserError("this one does not compile", "take another")

    assert known.best([fails, lambda: known.nominal]) == known.nominal
    with pytest.raises(UserError, match="does not compile"):
        known.best([fails])
