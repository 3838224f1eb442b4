"""A verb takes the time and the memory that it announced."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fewstep.cli.describe.results_table import results_table as table
from fewstep.cli.verbs import build, measure, report
from fewstep.graph.engines.build import EngineRequest
from fewstep.graph.engines.build_options import BuildOptions
from fewstep.measure import measurement
from fewstep.measure.measure import open_measure_task
from fewstep.measure.options import MeasureOptions
from fewstep.measure.rollouts.nearness import Nearness
from fewstep.report.figures import collect_figures
from fewstep.report.options import ReportOptions
from fewstep.report.report_task import open_report_task
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.run_maker import RunMaker
from fewstep.runtime.sampling.step_call import StepCall
from tests.bundles import with_bodies
from tests.report.judged_bundle import add_earlier, make_bundle


def test_engines_take_what_their_graphs_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """float16 is still to be made from float32."""
    bundle = make_bundle(tmp_path / "tiny")
    there = EngineRequest("int8-tensorrt", "sm89", True)
    asked = EngineRequest("prologue", "sm89", False), EngineRequest("float16", "sm89", False)
    monkeypatch.setattr(build, "list_requests", lambda _: (there, *asked))
    manifest = open_bundle(bundle).manifest
    assert manifest.prologue is not None
    graphs = (manifest.prologue, manifest.bodies["float32"].graph)
    ahead, exact = ((bundle / graph.file).stat().st_size for graph in graphs)
    stated = build.dry_run(BuildOptions(bundle)).shown
    assert (
        stated[3]
        == f"would write about {(ahead + exact // 2) / 1e6:.1f} MB in 4 files (an engine and its key file each)"
    )
    monkeypatch.setattr(build, "list_requests", lambda _: (there,))
    assert build.dry_run(BuildOptions(bundle)).shown == ("int8-tensorrt for sm89: up to date",)


def test_an_engine_takes_what_its_own_graph_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a bundle without float32, which has the graphs of its other engines."""
    bundle = make_bundle(tmp_path / "tiny")
    add_earlier(bundle)
    name = "int8-cpu-x86"
    manifest = open_bundle(bundle).manifest
    size = (bundle / manifest.bodies[name].graphs[0].file).stat().st_size
    with_bodies(bundle, name)
    monkeypatch.setattr(build, "list_requests", lambda _: (EngineRequest(f"{name}/0", "sm89", False),))
    stated = build.dry_run(BuildOptions(bundle)).shown
    assert stated[1] == f"would write about {size / 1e6:.1f} MB in 2 files (an engine and its key file each)"
    assert build._engine_bytes(bundle, EngineRequest(f"{name}/0", "sm89", False)) == size


def test_evaluations_are_counted_before_they_run(tmp_path: Path) -> None:
    """A plan of 4 steps, and a teacher of 12. Without an extractor nothing else is sampled."""
    options = MeasureOptions(
        make_bundle(tmp_path / "tiny"), ("psnr", "fd"), seeds=20, teacher="dpmpp_2m:12", teacher_seeds=5
    )
    judged = open_measure_task(options).judged
    assert judged is not None and judged.teacher is not None
    assert len(judged.plan.steps) == 4 and len(judged.bodies) == 1 and len(judged.teacher.steps) == 12
    others = 2 * 2  # runs with other seeds and with other conditions, which judge float32 itself
    assert judged.evaluations == (2 * 20 + others) * 4 + 5 * 12 + 4 * (4 + 3 * 12)  # the check of the teacher last
    stated = measure.dry_run(options).value
    assert isinstance(stated, dict) and stated["evaluations"] == 396 and stated["seconds"] > 0


def test_ssim_is_no_word_for_samples_that_are_no_images() -> None:
    end = SimpleNamespace(mean=30.0, p5=28.0, ssim=None, seeds=16, snr=19.0, nearness=Nearness(30.0, 19.0, 9.0))
    results: Any = SimpleNamespace(
        bundle="policy",
        guidance=None,
        shaping=None,
        covered=(),
        int8_share=lambda body: None,
        call_of=lambda body: None,
        races=(),
        plan="ddim:4",
        features=None,
        sizes={},
        qualities=[
            SimpleNamespace(body="int8", computed_by="a CPU", against_float=end, distances=(), tokens=None, judged=None)
        ],
    )
    shown = str(table(results).caption), str(table(results, is_image=False).caption)
    assert ["No SSIM" in caption for caption in shown] == [True, False]
    assert "signal: signal to error in dB; another seed's sample has 9.0 dB" in shown[1]


@pytest.mark.parametrize(
    ("of_call", "share", "said"), [(None, "50.0 %", "the steps alone"), (0.25, "25.0 %", "a whole call")]
)
def test_the_share_of_int8_says_of_what(of_call: float | None, share: str, said: str) -> None:
    """`measure` counts steps, as does a report that does not know the work of a whole call."""
    results: Any = SimpleNamespace(
        bundle="tiny",
        guidance=None,
        shaping=None,
        covered=[SimpleNamespace(body="int8")],
        int8_share=lambda body: 0.5,
        call_of=lambda body: SimpleNamespace(share_of_macs=of_call),
        races=(),
        plan="ddim:4",
        features=None,
        sizes={"int8": 1},
        qualities=[],
    )
    shown = table(results)
    assert share in [*shown.columns[1].cells] and f"(MACs) of {said}." in str(shown.caption)


def test_evaluations_are_those_that_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few: dict[str, Any] = {"seeds": 20, "forced_seeds": 18, "teacher_seeds": 3, "simulated_seeds": 5}
    options = ReportOptions(make_bundle(tmp_path / "tiny"), teacher="dpmpp_2m:12", batches=(1,), **few)
    stated = report.dry_run(options)
    evaluated = 0
    step_call = RunMaker._step_call

    def counting(runs: RunMaker, plan: Any, samples: int, *more: Any) -> StepCall:
        def record(*_: Any) -> None:
            nonlocal evaluated
            evaluated += samples

        return replace(step_call(runs, plan, samples, *more), on_call=record)

    monkeypatch.setattr(RunMaker, "_step_call", counting)
    monkeypatch.setattr(measurement, "run_races", lambda *_, **rest: ())
    collect_figures(open_report_task(options))
    assert isinstance(stated.value, dict) and stated.value["evaluations"] == evaluated
    assert stated.value["seconds"] > 0 and stated.value["needs"].files == 3
    assert f"{evaluated} evaluations of one sample" in "\n".join(map(str, stated.shown))
