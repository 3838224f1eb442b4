"""Plans whose samples lie at the limits of their clip are not compared."""

from dataclasses import replace
from pathlib import Path

from fewstep.plans.compile import compile_plan
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import Clip
from fewstep.report.choosing.choose import open_judging
from fewstep.report.choosing.deployment_judge import DeploymentJudge
from fewstep.report.choosing.options import ChooseOptions
from fewstep.report.choosing.usable_plans import count_checks, without_useless_plans
from fewstep.runtime.sampling.request import denoiser_facts
from tests.refusals import refuses

Plans = dict[str, dict[str, Plan]]


def with_clips(bundle: Path) -> tuple[DeploymentJudge, Plans]:
    """A plan whose clip all values exceed, and one that clips nothing."""
    judging = open_judging(ChooseOptions(bundle, seeds=2, threads=1))
    facts = denoiser_facts(judging.bundle.manifest)
    narrow, wide = (compile_plan("ddim:4", facts, None, Clip(-limit, limit)) for limit in (1e-6, 1e6))
    return judging, {"float32": {"narrow": narrow, "wide": wide}, "int8": {"narrow": narrow}}


def test_a_plan_whose_values_lie_beyond_its_clip_is_left_out_by_name(tiny_bundle: Path) -> None:
    judging, tried = with_clips(tiny_bundle)
    usable, said = without_useless_plans(judging, tried)
    assert {body: list(plans) for body, plans in usable.items()} == {"float32": ["wide"]}
    (sentence,) = said
    assert sentence.startswith("narrow is left out: ") and "% beyond the clip" in sentence


def test_the_only_plan_is_refused_if_its_values_lie_beyond_its_clip(tiny_bundle: Path) -> None:
    judging, tried = with_clips(tiny_bundle)
    with refuses("no plan can be compared: narrow is left out", "more steps"):
        without_useless_plans(judging, {"int8": tried["int8"]})


def test_without_a_teacher_all_plans_are_compared(tiny_bundle: Path) -> None:
    judging, tried = with_clips(tiny_bundle)
    assert without_useless_plans(replace(judging, teacher=None), tried) == (tried, [])


def test_plans_with_a_clip_are_checked_on_two_seeds(tiny_bundle: Path) -> None:
    judging, tried = with_clips(tiny_bundle)
    assert count_checks(judging, tried) == 2 * (4 + 4)
