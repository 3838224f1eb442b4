"""Networks for an interval of lambda: exported, run and calibrated as one bundle."""

import shutil
from dataclasses import replace
from math import log
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fewstep.calibration import calibrate as calibrating
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.cli.verbs.export import dry_run
from fewstep.export import experts
from fewstep.export import export as exporting
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.spec import Spec
from fewstep.graph.files.pack import PackOptions, pack
from fewstep.plans.errors import UserError
from fewstep.plans.spec import PURE_NOISE, ScheduleSpec
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from tests.bundle_of_experts import EDGE, LAYERS
from tests.export.networks import gaussian_denoisers
from tests.refusals import refuses


@pytest.mark.slow
def test_two_exact_denoisers_with_a_switch_are_a_loop_by_hand(tmp_path: Path) -> None:
    file, bundle = gaussian_denoisers.__file__, tmp_path / "bundle"
    made = export(ExportOptions(f"{file}:quiet", bundle, verify="quick", expert=(f"noisy={file}:noisy@{EDGE}",)))
    assert (made.networks["noisy"].until, made.networks["noisy"].prediction) == (EDGE, "sample")
    assert made.provenance.commands == (
        "fewstep export gaussian_denoisers.py:quiet -o BUNDLE --verify quick"
        " --expert noisy=gaussian_denoisers.py:noisy@-0.5",
    )
    sampler = load(bundle)
    plan = sampler.compile("ddim:8@trailing")  # of -0.51 and 0.0, at both sides of the edge
    x = sampler.draws([0, 1])(0).astype(np.float64)
    labels, networks = np.array([1, 2]), []
    times = [(step.alpha, step.sigma) for step in plan.steps] + [(1.0, 0.0)]
    for (alpha, sigma), (alpha_t, sigma_t) in zip(times[:-1], times[1:], strict=True):
        is_noisy = alpha == 0 or log(alpha / sigma) < EDGE
        networks.append("noisy" if is_noisy else "denoiser")
        mean, deviation = (-0.2, 0.8) if is_noisy else (0.5, 0.3)
        means = (mean + 0.1 * labels)[:, None, None, None]
        x0 = means + alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2) * (x - alpha * means)
        x = alpha_t * x0 + sigma_t * (x - alpha * x0) / sigma
    assert [step.network for step in plan.steps] == networks and len(set(networks)) == 2
    np.testing.assert_allclose(sampler.sample(plan, [0, 1], {"class": labels}), x, atol=2e-6)


def _fails(*_: object) -> None:
    raise UserError("the second fails", "never")


@pytest.mark.slow
def test_each_network_is_calibrated_on_the_steps_that_reach_it_and_packed(
    layers_of_experts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = shutil.copytree(layers_of_experts, tmp_path / "bundle")
    options, before = CalibrateOptions(bundle, "ddim:6", target=("cpu-x86",), trajectories=8), open_bundle(bundle)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="the second fails"):
        answers = iter([calibrating.add_bodies])
        patch.setattr(calibrating, "add_bodies", lambda *given: next(answers, _fails)(*given))
        calibrate(options)
    assert open_bundle(bundle).manifest == before.manifest  # all networks or none
    caplog.clear()
    made = calibrate(options)
    assert caplog.text.count("unfinished calibration after 8 trajectories") == 2  # nothing is counted twice
    manifest = open_bundle(bundle).manifest
    quiet, noisy = manifest.bodies["int8-cpu-x86"], manifest.networks["noisy"].bodies["int8-cpu-x86"]
    assert max(noisy.groups) < EDGE < min(quiet.groups)
    assert len(noisy.groups) + len(quiet.groups) + 2 == 6  # a group for each step
    assert set(made.others) == {"noisy"} and made.others["noisy"].table.groups == noisy.groups
    assert quiet.trials[0].psnr > 40 and noisy.trials[0].psnr > 40
    with load(bundle) as exact, load(bundle, "int8") as int8:
        assert [step.group for step in int8.compile("ddim:6").steps] == [0, 1, 2, 3, 0, 1]
        expected, samples = (each.sample("ddim:6", range(4)) for each in (exact, int8))
    assert 10 * np.log10(4 / np.square(samples - expected).mean()) > 40
    pack(PackOptions(bundle, tmp_path / "device"))
    np.testing.assert_array_equal(load(tmp_path / "device", "int8").sample("ddim:6", range(4)), samples)
    with refuses(("ddim:1@", "denoiser"), "give a longer plan"):
        calibrate(CalibrateOptions(bundle, "ddim:1@trailing"))


@pytest.mark.parametrize("text", ["noisy", "noisy=a.py:f", "denoiser=a.py:f@1", "no word=a.py:f@1", "a=b@inf", "a=@1"])
def test_an_expert_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"--expert .*; write NAME=SOURCE@LAMBDA"):
        export(ExportOptions("fashion_mnist", tmp_path / "bundle", expert=(text,)))


def test_every_source_is_read_before_one_is_traced_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, other = tmp_path / "layers.py", tmp_path / "other.py"
    file.write_text(LAYERS)
    other.write_text(LAYERS.replace('"flow", ScheduleSpec("flow")', '"v", ScheduleSpec("cosine")'))
    plain = ExportOptions(f"{file}:wide", tmp_path / "bundle", verify="quick")
    counted = [
        dry_run(replace(plain, expert=expert)).value
        for expert in ((), (f"noisy={file}:thin@0",), (f"a={file}:wide@0",))
    ]
    needed = [each["needs"] for each in counted]
    assert counted[1]["evaluations"] == 2 * counted[0]["evaluations"]
    assert needed[0].disk < needed[1].disk < needed[2].disk == 2 * needed[0].disk
    assert needed[2].memory == needed[0].memory  # one after the other
    monkeypatch.setattr(exporting, "export_network", _fails)
    with pytest.raises(UserError, match="expert noisy has schedule.kind cosine"):
        export(replace(plain, expert=(f"noisy={other}:thin@0",)))


def test_experts_are_in_the_order_of_noise_and_share_what_they_can() -> None:
    def load(text: str) -> str:
        return text

    first, second = experts.parse_experts(["late=ORG/NAME@main@1.5", "oms=a.py:f@-inf"], load)
    assert [(each.name, each.until) for each in (first, second)] == [("oms", PURE_NOISE), ("late", 1.5)]
    assert second.load() == "ORG/NAME@main"
    with refuses("experts a and b have the same name or the same lambda"):
        experts.parse_experts(["a=x@1", "b=y@1"], load)
    label = Condition("class", "label", (), "int64", null=3, low=0, high=2)
    text, other = Condition("text", "text", (4,), "float32"), Condition("text", "prompt", (8,), "float32")
    own = Condition("class", "y", (), "int64", null=3, low=0, high=2)
    conditions, inputs = experts.join_conditions((label, text), second, (own, other))
    assert [(condition.name, condition.input) for condition in conditions][2:] == [("late_text", "late.prompt")]
    assert inputs == {"class": "y", "late_text": "prompt"}


def test_an_expert_of_another_process_is_one_line() -> None:
    flow, other = (Spec("a", (1, 4, 4), (), "sample", ScheduleSpec(kind)) for kind in ("flow", "cosine"))
    expert = experts.Expert("noisy", 0.0, lambda: SimpleNamespace(spec=other))
    with refuses(("noisy", "schedule.kind", "cosine", "flow")):
        experts.load_expert(expert, flow, (), ())
