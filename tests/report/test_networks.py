"""Verbs that judge and time, on a bundle of two networks."""

import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fewstep.calibration import together
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.cli.describe.trials import describe_trials
from fewstep.fitting.fit import fit
from fewstep.fitting.options import FitOptions
from fewstep.graph.files.pack import PackOptions, pack
from fewstep.measure.cost import body_bytes
from fewstep.measure.estimate import seconds_per_evaluation
from fewstep.measure.measure import measure
from fewstep.measure.options import MeasureOptions
from fewstep.measure.rollouts.metrics import psnr
from fewstep.measure.rollouts.seeds import BODY_SEEDS, PAIRED
from fewstep.measure.speed import race as racing
from fewstep.measure.speed.contender_process import Seconds
from fewstep.plans.errors import UserError
from fewstep.report.choosing.choose import choose
from fewstep.report.choosing.options import ChooseOptions
from fewstep.report.options import ReportOptions
from fewstep.report.report import report
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.fitted_plans import graph_of_fit
from fewstep.runtime.sampling.loading import load
from tests.refusals import refuses

BODIES = ("float32", "int8-cpu-x86")


@pytest.fixture(scope="module")
def bundle(layers_of_experts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = shutil.copytree(layers_of_experts, tmp_path_factory.mktemp("experts") / "bundle")
    calibrate(CalibrateOptions(path, "ddim:6", target=("cpu-x86",), trajectories=8))
    return path


@pytest.mark.slow
def test_a_report_judges_the_run_and_each_network(bundle: Path) -> None:
    few = {"seeds": 4, "forced_seeds": 2, "teacher_seeds": 2, "batches": (1,), "rounds": 1, "turn_seconds": 1e-3}
    measured = report(ReportOptions(bundle, teacher="ddim:12", **few))
    (quality,) = measured.qualities
    assert [(step.network, step.group) for step in quality.steps] == [
        *(("noisy", group) for group in range(4)),
        *(("denoiser", group) for group in range(2)),
    ]
    with load(bundle) as exact, load(bundle, "int8") as int8:
        samples = [each.sample("ddim:6", range(4)) for each in (int8, exact)]
    assert quality.against_float.values == pytest.approx(psnr(*samples), abs=1e-3)
    work = {each.network: (each.work, each.coverage) for each in measured.covered}
    macs = {name: coverage.total_macs for name, (_, coverage) in work.items()}
    assert {name: each for name, (each, _) in work.items()} == {
        "noisy": 4 * macs["noisy"],
        "denoiser": 2 * macs["denoiser"],
    }
    int8_macs = 4 * work["noisy"][1].int8_macs + 2 * work["denoiser"][1].int8_macs
    assert measured.int8_share("int8-cpu-x86") == pytest.approx(int8_macs / (4 * macs["noisy"] + 2 * macs["denoiser"]))
    opened = open_bundle(bundle)
    files = {name: opened.select_network(name).body("float32").graph.file for name in ("noisy", "denoiser")}
    assert body_bytes(opened, "float32") == sum((bundle / file).stat().st_size for file in files.values())
    text = (bundle / "report" / "index.html").read_text()
    assert "noisy: int8-cpu-x86" in text


def test_each_network_and_the_plan_are_timed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Process(nullcontext[None]):
        """A call of the noisy network takes 1 s, of the other one 4 s, and half of that in int8."""

        load = 0.0

        def __init__(self, name: str, opener: partial[object]) -> None:
            self.name, (self.graphs,) = name, opener.args

        def __enter__(self) -> Any:
            return self

        def run_turn(self, seconds: float, call: str = "") -> list[Seconds]:
            each = {"noisy": 1.0, "denoiser": 4.0}
            runs = [times * each[network] for network, times, _ in self.graphs if call in ("", network)]
            time = sum(runs) * (0.5 if self.name != "float32" else 1.0)
            return [(time, time)]

        peak_mib = run_call = lambda *_: {}

    monkeypatch.setattr(racing, "TimedProcess", Process)
    (measured,) = measure(MeasureOptions(bundle, ("ms",), batches=(1,))).races
    assert {timing.name: (timing.median, timing.ratio) for timing in measured.timings} == {
        "float32": (2.0, 1.0),  # (4 * 1 + 2 * 4) / 6
        "int8-cpu-x86": (1.0, 2.0),
        "float32, noisy": (1.0, 1.0),
        "int8-cpu-x86, noisy": (0.5, 2.0),
        "float32, denoiser": (4.0, 1.0),
        "int8-cpu-x86, denoiser": (2.0, 2.0),
    }


def test_a_plan_is_fitted_to_all_networks(bundle: Path) -> None:
    few = {"seeds": 8, "selection_seeds": 8, "judge_seeds": 16, "teacher": "dpmpp_2m:24"}
    result = fit(FitOptions(bundle, steps=3, plan="ddim:3", **few))
    assert result.is_kept and result.on_judge.mean > 1
    with load(bundle) as exact, load(bundle, "int8") as sampler:
        plan = exact.compile("fitted:3")
        assert [step.network for step in plan.steps] == ["noisy", "noisy", "denoiser"]
        teacher = exact.sample("dpmpp_2m:24", PAIRED[:16])
        gain = psnr(exact.sample(plan, PAIRED[:16]), teacher) - psnr(exact.sample("ddim:3", PAIRED[:16]), teacher)
        assert psnr(sampler.sample("fitted:3", PAIRED[:16]), exact.sample(plan, PAIRED[:16])).mean() > 30
    assert gain.mean() == pytest.approx(result.on_judge.mean, abs=1e-3)
    assert plan.fitted.graph == graph_of_fit(open_bundle(bundle).manifest, BODIES[0])
    pack(PackOptions(bundle, bundle.parent / "device", BODIES))
    with load(bundle.parent / "device") as sampler:
        packed, manifest = sampler.compile("fitted:3"), sampler.bundle.manifest
    assert packed.steps == plan.steps and packed.fitted.graph == graph_of_fit(manifest, BODIES[0])
    noisy = msgspec.structs.replace(manifest.networks["noisy"], bodies=manifest.bodies)
    other = msgspec.structs.replace(manifest, networks={"noisy": noisy})
    assert packed.fitted.graph != graph_of_fit(other, BODIES[0])  # next to another expert it is an earlier plan
    assert graph_of_fit(manifest, "int8-cpu-arm") is None
    noisy = msgspec.structs.replace(noisy, bodies={"float32": manifest.bodies[BODIES[1]]})
    assert graph_of_fit(msgspec.structs.replace(manifest, networks={"noisy": noisy}), BODIES[1]) is None


def test_a_bound_for_several_networks_is_refused_before_anything_is_measured(bundle: Path) -> None:
    for bound in ({"quality": "40dB"}, {"speed": "1.2x"}):
        with refuses(("--speed", "a bundle of 2 networks"), "leave them"):
            calibrate(CalibrateOptions(bundle, "ddim:6", target=("cpu-x86",), **bound), lambda *_: pytest.fail("work"))


@pytest.mark.slow
def test_a_choice_is_of_whole_runs(bundle: Path) -> None:
    asked = ChooseOptions(bundle, plan=("ddim:2", "ddim:6"), at_least="10dB", teacher="ddim:12", seeds=4, threads=1)
    choice = choose(asked)
    assert {(row.body, row.evaluations) for row in choice.deployments} == {(body, n) for body in BODIES for n in (2, 6)}
    assert choice.chosen is not None and choice.chosen.winner.psnr > 10
    with load(bundle) as sampler:
        assert 0 < seconds_per_evaluation(sampler, sampler.compile("ddim:2")) < 1
        assert np.isfinite(sampler.sample("ddim:2")).all()


def test_bodies_that_cannot_be_judged_together_are_kept_with_a_warning(
    layers_of_experts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise UserError("samples are not finite", "calibrate for another --target")

    monkeypatch.setattr(together, "_judge", refuse)
    path = shutil.copytree(layers_of_experts, tmp_path / "bundle")
    made = calibrate(CalibrateOptions(path, "ddim:6", target=("cpu-x86",), trajectories=4))
    assert "not judged with all networks in int8: samples are not finite" in caplog.text
    assert open_bundle(path).body("int8-cpu-x86") == made.bodies["int8-cpu-x86"]
    assert made.bodies["int8-cpu-x86"].trials[0].together is None


def test_all_networks_in_int8_are_judged_together(bundle: Path) -> None:
    """By the samples that a run of the body makes, on the seeds that judge each network alone."""
    manifest, seeds = open_bundle(bundle).manifest, BODY_SEEDS
    (trial,) = manifest.bodies["int8-cpu-x86"].trials
    with load(bundle) as exact, load(bundle, body="int8-cpu-x86") as int8:
        in_one_run = psnr(int8.sample("ddim:6", seeds), exact.sample("ddim:6", seeds))
    assert trial.together is not None and trial.together.seeds == len(seeds)
    assert trial.together.psnr == pytest.approx(in_one_run.mean(), abs=0.01) and trial.together.psnr < trial.psnr + 1
    lines = [line for line in describe_trials((trial,)) if line.startswith("with all networks in int8: ")]
    assert len(lines) == 1 and f"int8 has {trial.together.psnr:.1f} dB PSNR" in lines[0]
    (of_noisy,) = manifest.networks["noisy"].bodies["int8-cpu-x86"].trials
    assert of_noisy.together is None
