"""benchmarks/fits/fit.py: a fitted plan and the nominal one, on a tiny bundle."""

import sys

import pytest

from benchmarks.fits import fit as benchmark
from benchmarks.fits import fit_page
from benchmarks.fits.fit import main
from benchmarks.fits.fit_judgement import Judged, Judgement
from benchmarks.fits.fit_page import PAGE, page
from fewstep.fitting.fit import fit
from fewstep.fitting.options import FitOptions
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import open_bundle


def test_a_fitted_plan_stands_next_to_plans_without_a_fit(tiny_bundle, monkeypatch, tmp_path):
    few = {"seeds": 8, "selection_seeds": 8, "judge_seeds": 8, "iterations": 1}
    fit(FitOptions(tiny_bundle, steps=2, plan="dpmpp_2m:2", guidance=2.0, **few))
    monkeypatch.setattr(benchmark, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text(PAGE.read_text())
    monkeypatch.setattr(benchmark, "KEPT", tmp_path / "page.json")
    arguments = [str(tiny_bundle), "--seeds", "8", "--nominal", "dpmpp_2m:4", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["fit.py", *arguments])
    assert main() == 0
    (judgement,) = benchmark.judgements().values()
    began, fitted, in_int8, _ = judgement.plans
    assert [plan.plan for plan in judgement.plans] == ["dpmpp_2m:2", "fitted:2", "fitted:2", "dpmpp_2m:4"]
    assert in_int8.body == "int8-cpu-x86" and in_int8.mean != fitted.mean
    assert (began.method, fitted.method) == (None, "end")
    assert fitted.mean > began.mean + 3 and len(fitted.psnr) == 8
    written = (tmp_path / "page.md").read_text()
    assert f"| {fitted.mean:.1f} | {fit_page.over(fitted, began)} |" in written
    # a second call measures nothing, and the page follows from what is kept
    monkeypatch.setattr(benchmark.Judge, "judge_plan", None)
    assert main() == 0
    monkeypatch.setattr(sys, "argv", ["fit.py"])
    assert main() == 0
    assert (tmp_path / "page.md").read_text() == written


def test_the_page_is_the_one_of_what_was_measured():
    assert benchmark.PAGE.read_text() == page(PAGE.read_text(), benchmark.judgements().values())


def judgement_of(plan, evaluations, psnr, body="float32", frechet=()):
    method = "end" if plan.startswith("fitted") else None
    return Judged(plan, body, plan, method, evaluations, psnr, frechet)


def tables(judgement):
    return page(PAGE.read_text(), [judgement])


def test_gains_are_over_the_best_of_float32_seed_by_seed():
    plans = (
        judgement_of("a:4", 4, (20.0, 30.0)),
        judgement_of("b:4", 4, (22.0, 30.0)),
        judgement_of("c:5", 5, (26.0, 35.0)),
        judgement_of("d:6", 6, (29.0, 36.0)),
        judgement_of("fitted:4", 4, (28.0, 36.0)),
        judgement_of("fitted:4", 4, (28.0, 34.0), body="int8"),
    )
    written = tables(Judgement("cifar10", "no guidance", "teacher", plans))
    assert "| `float32` | 4 | 26.0 `b:4` | 32.0 | +6.0 ± 0.0 | 22.4, 28.4 | 5 (4 5 6) | 2 |" in written
    assert "| `int8` | 4 | 26.0 `b:4` | 31.0 | +5.0 ± 1.0 | 22.4, 28.3 | 5 (4 5 6) | 2 |" in written


def test_distances_are_next_to_the_lowest_without_a_fit_draw_by_draw():
    plans = (
        judgement_of("a:4", 4, (22.0, 30.0), frechet=(2.0, 2.0, 2.4)),
        judgement_of("b:4", 4, (20.0, 30.0), frechet=(1.0, 1.2, 1.4)),
        judgement_of("c:5", 5, (26.0, 35.0), frechet=(0.6, 0.7, 0.8)),
        judgement_of("d:6", 6, (27.0, 36.0), frechet=(0.4, 0.7, 0.8)),
        judgement_of("fitted:4", 4, (28.0, 34.0), frechet=(0.5, 0.5, 0.9)),
    )
    written = tables(Judgement("denoiser", "no guidance", "teacher", plans))
    assert "| 1.00 `b:4` | 0.50 | -0.50 ± 0.14 | 0.50 | 0.18 | 5 (4 5 6) | 2 |" in written


def test_what_a_gate_has_seen_is_no_verdict(tiny_bundle, monkeypatch):
    few = {"seeds": 8, "selection_seeds": 8, "judge_seeds": 8, "iterations": 1}
    fit(FitOptions(tiny_bundle, steps=2, plan="dpmpp_2m:2", guidance=2.0, **few))
    monkeypatch.setattr(benchmark, "GATED", 7)
    with pytest.raises(UserError, match="seen seeds of the verdict"):
        list(benchmark.measure(open_bundle(tiny_bundle), "tiny", 8, [], 1, None))


def test_a_bundle_without_fitted_plans_is_refused(tiny_bundle):
    with pytest.raises(UserError, match="tiny has no fitted plan"):
        list(benchmark.measure(open_bundle(tiny_bundle), "tiny", 8, [], 1, None))
