"""What would bring samples nearer to the teacher: which changes are tried, and what the report makes of their gains."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from fewstep.evaluation.remedies import remedies
from fewstep.evaluation.report.remedies import remedies_section, verdict
from fewstep.evaluation.results import Remedy
from fewstep.graph.commit import open_for_update
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode, encode
from fewstep.plans.name import with_steps
from fewstep.rollouts.held_out import held_out_conditions
from fewstep.rollouts.metrics import psnr
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.loading import load
from fewstep.runtime.sampler import Sampler
from tests.runtime.test_fitted_plans import give

SEEDS = range(3)


@pytest.fixture
def sampler(tiny_bundle: Path) -> Sampler:
    """The tiny denoiser, in a bundle without a default grid of its own."""
    return load(tiny_bundle)


def tried(sampler: Sampler, name: str, guidance: float | None) -> tuple[Remedy, ...]:
    teacher = sampler.compile("dpmpp_2m:80@arctan", guidance)
    held_out = held_out_conditions(sampler.bundle.manifest.conditions, SEEDS)
    return remedies(sampler, sampler.compile(name, guidance), teacher, sampler.sample(teacher, SEEDS, held_out))


def test_each_change_is_tried_alone(sampler: Sampler) -> None:
    found = tried(sampler, "dpmpp_2m:4", 2.0)
    assert [(each.change, each.plan) for each in found] == [
        ("steps", "dpmpp_2m:8"),
        ("grid", "dpmpp_2m:4@arctan"),
        ("guidance", "dpmpp_2m:4"),
    ]
    assert {each.seeds for each in found} == {len(SEEDS)}


def test_figures_are_distances_of_the_changed_plan_to_the_teacher(sampler: Sampler) -> None:
    held_out = held_out_conditions(sampler.bundle.manifest.conditions, SEEDS)
    steps, _, plain = tried(sampler, "ddim:3@karras", 2.0)
    teacher, changed = (sampler.sample(name, SEEDS, held_out, 2.0) for name in ("dpmpp_2m:80@arctan", "ddim:6@karras"))
    assert steps.psnr == pytest.approx(psnr(changed, teacher).mean())
    teacher, changed = (sampler.sample(name, SEEDS, held_out) for name in ("dpmpp_2m:80@arctan", "ddim:3@karras"))
    assert plain.psnr == pytest.approx(psnr(changed, teacher).mean())


def test_a_plan_on_the_default_grid_without_guidance_has_steps_alone(sampler: Sampler) -> None:
    assert [each.change for each in tried(sampler, "ddim:3@arctan", None)] == ["steps"]


@pytest.mark.parametrize(
    ("name", "guidance", "changes"),
    [
        ("ddim:4", 2.0, ["steps", "grid", "guidance", "fit"]),
        ("ddim:3", 2.0, ["steps", "grid", "guidance", "fit"]),
        ("dpmpp_2m:3", 2.0, ["steps", "grid", "guidance"]),  # the very numbers of the fit
        ("ddim:2", 2.0, ["steps", "grid", "guidance"]),  # has fewer evaluations
        ("ddim:4", None, ["steps", "grid"]),
    ],
)
def test_a_fitted_plan_of_no_more_evaluations_is_tried(
    tiny_bundle: Path, name: str, guidance: float | None, changes: list[str]
) -> None:
    give(tiny_bundle)  # fitted:3 of guidance 2, with the numbers of dpmpp_2m:3
    found = tried(load(tiny_bundle), name, guidance)
    assert [each.change for each in found] == changes
    if "fit" in changes:
        assert found[-1].plan == "fitted:3"
        same = next(each for each in tried(load(tiny_bundle), "dpmpp_2m:6", 2.0) if each.change == "fit")
        assert found[-1].psnr == same.psnr


def test_a_fitted_plan_gives_way_to_more_steps_of_the_plan_that_it_began_as(tiny_bundle: Path) -> None:
    give(tiny_bundle)
    found = tried(load(tiny_bundle), "fitted:3", 2.0)
    began = load(tiny_bundle).bundle.manifest.fitted[0].nominal
    assert [each.change for each in found] == ["steps", "guidance"]
    assert found[0].plan == with_steps(began, 6) and found[1].plan == began


def test_a_fitted_plan_gives_way_to_its_own_beginning_whatever_others_began_as(tiny_bundle: Path) -> None:
    give(tiny_bundle)
    with open_for_update(tiny_bundle, must_exist=True) as writer:
        manifest = open_bundle(tiny_bundle).manifest
        other = msgspec.structs.replace(manifest.fitted[0], body="int8-cpu-x86", nominal="ddim:3")
        writer.commit(msgspec.structs.replace(manifest, fitted=(*manifest.fitted, other)))
    assert tried(load(tiny_bundle), "fitted:3", 2.0)[0].plan.startswith("dpmpp_2m:6")


def test_a_kept_plan_without_a_grid_is_changed_on_its_own_grid(sampler: Sampler) -> None:
    kept, manifest = sampler.compile("ddim:3", 2.0), msgspec.structs.replace(sampler.bundle.manifest, grid="arctan")
    teacher = sampler.compile("ddim:9", 2.0)
    lessons = sampler.sample(teacher, SEEDS, held_out_conditions(manifest.conditions, SEEDS))
    new = replace(sampler, bundle=replace(sampler.bundle, manifest=manifest))
    plans = {each.change: each.plan for each in remedies(new, kept, teacher, lessons)}
    assert plans == {"steps": "ddim:6@trailing", "grid": "ddim:3@arctan", "guidance": "ddim:3@trailing"}
    with pytest.raises(UserError, match="give the plan by its name, 'ddim:3@trailing'"):
        new.compile(kept, 3.0)


def test_a_plan_whose_name_says_no_steps_has_none(sampler: Sampler) -> None:
    mine = decode(encode(msgspec.structs.replace(sampler.compile("ddim:3"), name="mine")), "mine")
    lessons = sampler.sample("ddim:9", SEEDS, held_out_conditions(sampler.bundle.manifest.conditions, SEEDS))
    assert remedies(sampler, mine, sampler.compile("ddim:9"), lessons) == ()


@dataclass
class Figures:
    """What the section reads of a report's results: 30 dB deployed, 31 dB in float32."""

    remedies: tuple[Remedy, ...]
    plan: str = "ddim:4@trailing"
    float_against_teacher: Any = field(default_factory=lambda: SimpleNamespace(mean=30.4))
    qualities: Any = (SimpleNamespace(body="int8-x", against_teacher=SimpleNamespace(mean=30.0)),)


def test_the_page_names_the_largest_gain() -> None:
    figures: Any = Figures((Remedy("steps", "ddim:8@trailing", 34.0, 3), Remedy("grid", "ddim:4@arctan", 36.25, 3)))
    text = remedies_section(figures).markup
    assert "The largest gain is 5.9 dB: the default grid of new bundles." in text
    assert ">+0.4 dB<" in text and ">36.2 dB<" in text and "ddim:8@trailing" in text


def test_small_gains_are_none() -> None:
    figures: Any = Figures((Remedy("steps", "ddim:8@trailing", 30.9, 3),))
    assert verdict(figures) == "None of these changes wins 1 dB: what is left is the denoiser's own."


def test_without_more_steps_nothing_is_said_of_the_denoiser() -> None:
    figures: Any = Figures(())
    assert verdict(figures) == "None of these changes wins 1 dB: more steps were not tried."
