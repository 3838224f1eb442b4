"""fit_ways.py: each line runs the search that it names, next to its control's plan."""

import importlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.runtime import load
from fewstep.runtime.bundle.reading import open_bundle
from lab.claims import fit_ways
from lab.claims.claim import Claim
from lab.claims.fit_ways import BEST, CLAIMS, FitOptions, fit_and_sample, of_literature
from lab.claims.settings import Setting, W

PUBLISHED = {  # a system's module, and the paper that it names
    "AutoDiffusion": ("auto_diffusion", "2309.10438"),
    "S³": ("solver_search", "2312.07243"),
    "OLSS": ("olss", "2305.14677"),
    "DC-Solver": ("compensation", "2409.03755"),
    "analytical teleportation": ("teleportation", "2412.09726"),
}
SEEDS = range(10_000, 10_004)


@pytest.fixture
def tiny(tiny_bundle: Path) -> Setting:
    return Setting(load(tiny_bundle), None, "class", SEEDS, source="tiny")


def by_control(control: str) -> dict[str, Claim]:
    return {claim.system: claim for claim in CLAIMS if claim.control == control}


def runs_of_way(way: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """Return the plans and the guidance that a way samples along."""
    ran: list[tuple[Any, Any]] = []
    with monkeypatch.context() as patched:
        patched.setattr(Setting, "sample", lambda s, plan, guidance=None: ran.append((plan, guidance)))
        way()
    return ran


def test_each_system_has_both_controls_at_its_evaluations(tiny: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    best, fit = by_control("the best plan"), by_control("fewstep fit")
    assert best.keys() == fit.keys() == PUBLISHED.keys() and len(CLAIMS) == 2 * len(PUBLISHED)
    for claim in best.values():
        assert runs_of_way(lambda: claim.plain(tiny, claim.evaluations), monkeypatch) == [(BEST, W)]  # noqa: B023
    ((shipped, _),) = runs_of_way(lambda: fit["OLSS"].plain(tiny, 10), monkeypatch)
    assert shipped.fitted.method == "end" and shipped.guidance.weight == W
    compiled = tiny.sampler.compile(BEST, W)
    for plan in (shipped, compiled):
        assert {claim.evaluations for claim in CLAIMS} == {sum(len(step.branches) for step in plan.steps)}


@pytest.mark.parametrize("system", PUBLISHED)
def test_a_line_runs_the_search_that_it_names(system: str, tiny: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    method, paper = PUBLISHED[system]
    module = importlib.import_module(f"fewstep.literature.fits.{method}")
    assert f"arXiv {paper}" in (module.__doc__ or "")
    found = tiny.sampler.compile("ddim:2", W)
    monkeypatch.setattr(module, "fit_plan", lambda setting: settings.append(setting) or found)
    monkeypatch.setattr(fit_ways, "_search_plan", fit_ways._search_plan.__wrapped__)
    monkeypatch.setattr(fit_ways, "STEPS", 2)
    monkeypatch.setattr(fit_ways, "SEEDS", 16)
    monkeypatch.setattr(fit_ways, "SCORED", 8)
    for claim in (by_control("the best plan")[system], by_control("fewstep fit")[system]):
        settings: list[Any] = []
        assert [plan for plan, _ in runs_of_way(lambda: claim.ours(tiny), monkeypatch)] == [found]  # noqa: B023
        (setting,) = settings
        assert sum(len(block.seeds) for block in setting.blocks) == 16 and setting.guidance.weight == W
        assert len(setting.nominal.steps) == 2 and len(setting.teacher.steps) > 2


def test_a_search_gives_a_plan_of_its_own_that_the_setting_samples(
    tiny: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_ways, "_search_plan", fit_ways._search_plan.__wrapped__)
    monkeypatch.setattr(fit_ways, "STEPS", 2)
    monkeypatch.setattr(fit_ways, "SEEDS", 8)
    monkeypatch.setattr(fit_ways, "SCORED", 8)
    plan = fit_ways._search_plan(tiny.sampler.bundle.path, "olss")
    assert len(plan.steps) == 2
    made = of_literature("olss")(tiny)
    np.testing.assert_array_equal(made, tiny.sampler.sample(plan, SEEDS, tiny.who))


def test_a_fit_is_of_the_source_with_the_steps_and_the_guidance_that_are_asked_for(
    tiny: Setting, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = partial(FitOptions, plan="dpmpp_2m:2", seeds=8, selection_seeds=8, iterations=1)
    sources = []
    monkeypatch.setattr(fit_ways, "FitOptions", few)
    monkeypatch.setattr(fit_ways, "JUDGED", 8)
    monkeypatch.setattr(fit_ways, "export_source", lambda source: sources.append(source) or tiny_bundle)
    made = fit_and_sample(tiny, 2, W)
    assert sources == ["tiny"] and made.shape == (len(SEEDS), *tiny.sampler.bundle.manifest.x_shape)
    assert not open_bundle(tiny_bundle).manifest.fitted  # the bundle of a source is left as it is
    with load(fit_ways._open_fit("tiny", 2, W).bundle.path) as sampler:
        (entry,) = sampler.bundle.manifest.fitted
        assert (entry.evaluations, entry.body, sampler.compile("fitted:2", W).guidance.weight) == (2, "float32", W)
        np.testing.assert_array_equal(made, replace(tiny, sampler=sampler).sample("fitted:2", guidance=W))
