"""Calibration along a plan that clips its predictions, and the runs that follow it."""

import json
import logging
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.calibration.replaced_calibration import warn_of_replaced
from fewstep.cli.main import main
from fewstep.cli.run_plan import describe_calibration_mismatch
from fewstep.fitting.options import FitOptions
from fewstep.fitting.task import open_fit_task
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.bake.resolve_run import resolve_run
from fewstep.measure.rollouts.plan_selection import select_plan
from fewstep.plans.any_plan import shaping_of
from fewstep.plans.errors import UserError
from fewstep.plans.file import encode
from fewstep.plans.guidance import Cfg
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.plans.plan import Fitted
from fewstep.plans.shaping import UNCLIPPED, Clip, Rescale, Threshold, as_shaping, clip_to, describe_shaping
from fewstep.runtime.bundle.manifest import Precision
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.calibrated_plans import Defaults, find_defaults
from fewstep.runtime.sampling.loading import load
from tests.bundles import change_bundle
from tests.calibration.test_calibrate import denoiser, run, write_bundle
from tests.refusals import refuses

LOUD = 40.0  # scale of the network, whose predictions then reach beyond the clip
CLIP = 0.5


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", denoiser(LOUD))


def with_scheduler(bundle: Path, **settings: object) -> Path:
    """The bundle with another scheduler."""
    config = {"_class_name": "DDIMScheduler", "num_train_timesteps": 100, "beta_schedule": "squaredcos_cap_v2"}
    config |= {"prediction_type": "sample", **settings}
    return change_bundle(bundle, {"scheduler.json": json.dumps(config).encode()}, scheduler="scheduler.json")


def test_the_plan_of_a_clipped_calibration_clips(bundle: Path) -> None:
    made = run(bundle, clip=CLIP, target=("cpu-x86",))
    assert shaping_of(made.plan) == Clip(-CLIP, CLIP)
    assert " --clip 0.5 " in made.manifest.provenance.commands[-1]


def test_a_calibration_says_what_it_does_not_keep_of_the_earlier_one(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(bundle, plan=parse_plan_text("ddim:4"), guidance=1.5, clip=CLIP, target=("cpu-x86",))
    assert "replaces" not in caplog.text
    run(bundle, plan=parse_plan_text("ddim:4"), target=("cpu-x86",))
    assert "to keep them, give --guidance 1.5 --clip 0.5" in caplog.text


def test_a_file_of_conditions_and_no_guidance_are_kept_only_where_they_are_given_again(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "c.npz"
    np.savez(file, **{"class": np.arange(8) % 2})  # too few to hold some out
    given = {"plan": parse_plan_text("ddim:4"), "target": ("cpu-x86",)}
    run(bundle, **given, conditions=file, guidance=1.0)
    run(bundle, **given, conditions=file, guidance=1.0)
    assert "replaces" not in caplog.text
    run(bundle, **given)
    assert "conditions of the earlier one; to keep them, give --guidance 1 --conditions FILE" in caplog.text


@pytest.mark.parametrize(("command", "said"), [("--conditions FILE", True), ("--conditions 'FILE", False)])
def test_a_recorded_command_that_cannot_be_read_names_no_files(
    tiny_bundle: Path, command: str, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The second has a quotation mark without its partner."""
    caplog.set_level(logging.WARNING, "fewstep")
    provenance = open_bundle(tiny_bundle).manifest.provenance
    commands = (*provenance.commands, f"fewstep calibrate b {command}")
    change_bundle(tiny_bundle, provenance=msgspec.structs.replace(provenance, commands=commands))
    bundle = open_bundle(tiny_bundle)
    warn_of_replaced(bundle, load(tiny_bundle).compile("ddim:4"), ("plan", "guidance", "clip"))
    assert ("to keep them, give --conditions FILE" in caplog.text) == said


def test_int8_is_nearer_where_its_ranges_are_of_clipped_runs(bundle: Path, tmp_path: Path) -> None:
    """The state after a clipped prediction is a tenth of that after an unclipped one."""
    errors = []
    for folder, clip in ((bundle, CLIP), (write_bundle(tmp_path / "other", denoiser(LOUD)), None)):
        run(folder, clip=clip, target=("cpu-x86",))
        given = {"seeds": range(8), "condition": {"class": [0, 1] * 4}, "guidance": 2.0, "shaping": Clip(-CLIP, CLIP)}
        exact, made = (load(folder, precision).sample("ddim:3", **given) for precision in ("float32", "int8"))
        errors.append(float(np.square(made - exact).mean()))
    assert errors[0] < 0.5 * errors[1]


def test_runs_and_judgements_clip_as_the_calibration_did(bundle: Path, tmp_path: Path) -> None:
    run(bundle, clip=CLIP, target=("cpu-x86",))
    out = tmp_path / "x.npy"
    command = ["run", str(bundle), "-n", "2", "-o", str(out), "-c", "class=1", "--guidance", "2"]
    for given, most in (
        ("", CLIP),
        ("--plan ddim:3", CLIP),
        ("--plan ddim:4", CLIP),
        ("--plan ddim:4 --precision int8", CLIP),
        ("--plan ddim:4 --clip 0.25", 0.25),
    ):
        assert main([*command, *given.split()]) == 0
        assert np.abs(np.load(out)).max() == most
    with load(bundle) as sampler:
        body = sampler.bundle.body("int8-cpu-x86")
        for asked in (None, parse_plan_text("ddim:3"), parse_plan_text("ddim:5")):
            assert shaping_of(select_plan(sampler.plans, body, asked)) == Clip(-CLIP, CLIP)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_name_of_a_plan_clips_and_is_guided_as_the_calibration_was(bundle: Path, precision: Precision) -> None:
    """The caller's values take precedence, and another calibration starts without them."""
    run(bundle, clip=CLIP, target=("cpu-x86",))
    with load(bundle, precision) as sampler:
        for name in ("ddim:3@trailing", "ddim:3", "ddim:4"):
            plan = sampler.compile(name)
            assert (shaping_of(plan), plan.guidance) == (Clip(-CLIP, CLIP), Cfg(2.0))
            (baked,) = resolve_run(BakeOptions(bundle, parse_plan_text(name), bundle.parent / "b.onnx", precision))[2:]
            assert (shaping_of(baked), baked.guidance) == (Clip(-CLIP, CLIP), Cfg(2.0))
        given = sampler.compile("ddim:4", 1.0, shaping=Clip(-1.0, 1.0))
        assert (shaping_of(given), given.guidance) == (Clip(-1.0, 1.0), None)
        assert shaping_of(sampler.compile("ddim:4", shaping=UNCLIPPED)) is None
        file = bundle.parent / "plan.json"
        file.write_bytes(encode(sampler.compile("ddim:4", 1.0, shaping=UNCLIPPED)))
        own = sampler.compile(file)
        assert (shaping_of(own), own.guidance) == (None, None)
        judged = select_plan(sampler.plans, sampler.bundle.body("int8-cpu-x86"), parse_plan_text(str(file)))
        assert (shaping_of(judged), judged.guidance) == (None, None)
        of_scheduler = find_defaults(sampler.bundle, sampler.body, parse_plan_text("scheduler:4"))
        assert of_scheduler == Defaults(Cfg(2.0))
        every = {"seeds": [0, 1], "condition": {"class": [0, 1]}}
        for made in (sampler.sample("ddim:5", **every), sampler.sample_each(["ddim:4", "ddim:5"], **every)):
            assert np.abs(made).max() == CLIP
    with refuses("calibrated along ddim:3, clipped to [-0.5, 0.5]"):
        open_fit_task(FitOptions(bundle))
    assert shaping_of(run(bundle, target=("cpu-x86",)).plan) is None


def test_a_run_that_does_not_clip_is_warned_of_a_calibration_that_did(bundle: Path) -> None:
    made = run(bundle, clip=CLIP, target=("cpu-x86",))
    with load(bundle, "int8") as sampler:
        unclipped = sampler.compile("ddim:4", 2.0, shaping=UNCLIPPED)
        stated = describe_calibration_mismatch(sampler.bundle, sampler.body, unclipped)
        assert stated is not None and "guidance 2, clipped to [-0.5, 0.5], and runs along ddim:4" in stated
        assert stated.endswith("; give --plan ddim:3@trailing --clip 0.5, in Python shaping=Clip(-0.5, 0.5)")
        in_float = sampler.bundle.body("float32")
        stated = describe_calibration_mismatch(sampler.bundle, in_float, unclipped)
        assert stated is not None and "leave the range of the data" in stated and "--clip 0.5" in stated
        all_differ = describe_calibration_mismatch(
            sampler.bundle, sampler.body, sampler.compile("ddim:9", 4.0, shaping=UNCLIPPED)
        )
        options = "--plan ddim:3@trailing --guidance 2 --clip 0.5, in Python shaping=Clip(-0.5, 0.5)"
        assert all_differ is not None and all_differ.endswith(f"; give {options}")
        assert describe_calibration_mismatch(sampler.bundle, in_float, sampler.compile("ddim:4", 1.0)) is None
        assert describe_calibration_mismatch(sampler.bundle, sampler.body, sampler.compile(made.plan)) is None
        to = Fitted("ddim:3", "int8-cpu-x86", "0" * 64, "0" * 64)
        fitted = msgspec.structs.replace(unclipped, fitted=to)
        assert describe_calibration_mismatch(sampler.bundle, sampler.body, fitted) is not None
        clipped = msgspec.structs.replace(made.plan, fitted=to)
        assert describe_calibration_mismatch(sampler.bundle, sampler.body, clipped) is None


def test_a_model_whose_own_scheduler_clips_has_a_warning_with_the_option(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "fewstep"):
        run(with_scheduler(bundle, clip_sample=True, clip_sample_range=2.0), target=("cpu-x86",))
    assert sum("give --clip 2" in message for message in caplog.messages) == 1
    assert shaping_of(run(bundle, plan="scheduler:3", target=("cpu-x86",)).plan) is not None
    open_fit_task(FitOptions(bundle))  # a scheduler that clips forbids no fit
    caplog.clear()
    with caplog.at_level(logging.WARNING, "fewstep"):
        run(bundle, clip=2.0, target=("cpu-x86",))
        run(with_scheduler(bundle, clip_sample=False), target=("cpu-x86",))
    assert not any("own scheduler" in message for message in caplog.messages)


@pytest.mark.slow
def test_a_warning_of_samples_far_out_of_range_names_the_option(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"calibrate {bundle} --plan ddim:3 --target cpu-x86 --trajectories 4"
    for clip, said in (" --clip 1", 0), ("", 1):
        assert main((command + clip).split()) == 0
        printed = capsys.readouterr().out
        assert "groups of ranges along ddim:3, guidance 2 by default" in printed
        assert printed.count("beyond the range of usual data (a solver with --clip LIMIT") == said


def test_a_clip_is_above_zero_and_shapings_have_words() -> None:
    for number in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="give the largest value of a sample"):
            clip_to(number)
    assert clip_to(None) is None and clip_to(1.0) == Clip(-1.0, 1.0)
    assert clip_to(math.inf) == UNCLIPPED and as_shaping(UNCLIPPED) is None
    assert describe_shaping(Threshold(0.99)) == "thresholded at quantile 0.99"
    assert describe_shaping(Rescale()) == "rescaled with phi 0.7"
