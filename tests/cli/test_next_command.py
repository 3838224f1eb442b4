"""Verbs end with the next command, quoted for a shell, and with its duration if that is over a minute."""

import logging
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from fewstep.calibration.open_task import open_tasks
from fewstep.calibration.options import CalibrateOptions, check_options
from fewstep.cli import next_command as following
from fewstep.cli.next_command import (
    NextCommand,
    calibrate_next,
    deploy_next,
    next_after_calibration,
    next_command,
    report_next,
    run_next,
    suggest_advice,
)
from fewstep.cli.outcome import Outcome, print_outcome
from fewstep.cli.output_flags import OutputOptions
from fewstep.fitting.options import FitOptions
from fewstep.measure.estimate import Estimate
from fewstep.measure.options import MeasureOptions
from fewstep.plans.configs.pipelines import RECORDED
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.plans.spec import ScheduleSpec
from fewstep.report.advice import Advice, LongWork
from fewstep.report.choosing.options import ChooseOptions
from fewstep.report.options import ReportOptions
from fewstep.runtime.bundle.manifest import Condition, Policy
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import change_bundle
from tests.calibration.latent_bundle import write_latent_bundle
from tests.calibration.test_calibrate import denoiser, write_bundle
from tests.cli.conftest import Command
from tests.free_size_bundle import free

LOG = logging.getLogger("fewstep")


@pytest.mark.parametrize(
    ("sampling", "timing", "said"),
    [(59.0, 0.0, ""), (59.0, 5.0, " (up to 64 seconds)"), (1920.0, 0.0, " (up to 32 minutes)")],
)
def test_a_duration_over_a_minute_is_said(sampling: float, timing: float, said: str) -> None:
    command = NextCommand("fewstep fit b", lambda: Estimate(1, sampling, timing))
    assert str(command) == f"Next: fewstep fit b{said}"


def test_words_are_quoted_for_a_shell() -> None:
    assert str(next_command("report", Path("my models/a"))) == "Next: fewstep report 'my models/a'"
    assert next_command("report", Path("-b"), "--plan", "ddim(eta=1):4").command == (
        "fewstep report ./-b --plan 'ddim(eta=1):4'"
    )


def test_what_cannot_be_estimated_is_left_out_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    def refuse() -> Estimate:
        LOG.warning("of the next command")
        raise UserError("no", "fix")

    assert str(NextCommand("fewstep fit b", refuse)) == "Next: fewstep fit b" and not caplog.messages
    LOG.warning("of this one")
    assert caplog.messages == ["of this one"]


def test_a_large_bundle_is_not_opened_again(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert report_next(tiny_bundle).estimate is not None
    monkeypatch.setattr(following, "LARGE", 1)
    assert report_next(tiny_bundle).estimate is None


@pytest.mark.parametrize(
    ("make", "verb"),
    [
        (lambda b: CalibrateOptions(b, target=("cpu-x86",), guidance=1.0), "calibrate"),
        (lambda b: ChooseOptions(b, at_least="25dB"), "choose"),
        (lambda b: FitOptions(b, steps=3), "fit"),
    ],
)
def test_every_advised_command_that_can_take_minutes_has_a_duration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], LongWork], verb: str
) -> None:
    monkeypatch.setattr(following, "LONG", -1.0)  # of any duration
    bundle = write_bundle(tmp_path / "bundle", denoiser())
    options = make(bundle)
    said = str(suggest_advice(Advice("", options.command_line(verb, of="b"), options), bundle))
    assert re.fullmatch(rf"Next: fewstep {verb} b [^(]*\(up to .*(second|minute)s?\)", said), said
    assert str(suggest_advice(Advice("", "fewstep run b"), bundle)).startswith("Next: fewstep run b")


def test_the_line_is_the_last_and_not_for_json(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome({"a": 1}, ("done",), then=next_command("report", "b"))
    print_outcome(outcome, OutputOptions())
    assert capsys.readouterr().out == "done\nNext: fewstep report b\n"
    print_outcome(outcome, OutputOptions(json=True))
    assert "Next" not in capsys.readouterr().out


def test_after_export_comes_calibrate_with_its_default_plan(tiny_bundle: Path) -> None:
    assert calibrate_next(tiny_bundle).command == f"fewstep calibrate {tiny_bundle} --plan dpmpp_2m:8"
    change_bundle(tiny_bundle, distilled=True)  # whose solver is the user's choice
    assert calibrate_next(tiny_bundle).command.endswith("--plan SOLVER:STEPS")


FLOW = {"schedule": ScheduleSpec("flow"), "prediction": "flow", "grid": "arctan"}
EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "_pipeline": "FluxPipeline"}
UNKNOWN_SHIFT = {**EULER, "use_dynamic_shifting": True, "_pipeline": "MyPipeline"}


@pytest.mark.parametrize(
    ("scheduler", "source", "plan"),
    [
        (None, "model", "euler:8"),
        ({**EULER, "shift": 3.0}, "model", "scheduler:8"),
        (UNKNOWN_SHIFT, "model", "euler:8"),
        (EULER, "FastWan2.1-T2V-3step-distilled", "scheduler:STEPS"),
        ({**EULER, "dmd_denoising_steps": [1000, 757, 522]}, "model", "scheduler:STEPS"),
    ],
)
def test_a_flow_begins_with_euler_or_its_scheduler_and_a_student_with_its_own(
    tiny_bundle: Path, scheduler: dict[str, object] | None, source: str, plan: str
) -> None:
    origin = msgspec.structs.replace(open_bundle(tiny_bundle).manifest.provenance, source=source)
    files = {} if scheduler is None else {"scheduler.json": msgspec.json.encode(scheduler)}
    change_bundle(tiny_bundle, files, scheduler=next(iter(files), None), provenance=origin, **FLOW)
    assert calibrate_next(tiny_bundle).command == f"fewstep calibrate {tiny_bundle} --plan {plan}"


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("Wan2.2-T2V-4steps-lora-V1.1/high_noise_model.safetensors@transformer", "--plan scheduler:4 --guidance 1"),
        ("a/b/wan_lightning_8steps_lora.safetensors:0.5", "--plan scheduler:8 --guidance 1"),
        ("lcm-lora-sdv1-5.safetensors", "--plan lcm:4 --guidance 1"),
        ("turbo/loras/style.safetensors", "--plan scheduler:8"),
        ("/models/hyper/cats.safetensors", "--plan scheduler:8"),
    ],
)
def test_a_lora_whose_name_says_few_steps_is_calibrated_with_these(tiny_bundle: Path, file: str, options: str) -> None:
    change_bundle(tiny_bundle, {"scheduler.json": msgspec.json.encode(EULER)}, scheduler="scheduler.json", **FLOW)
    assert calibrate_next(tiny_bundle, [file]).command == f"fewstep calibrate {tiny_bundle} {options}"


@pytest.mark.parametrize(
    ("limit", "prediction", "clip"),
    [(1.0, "epsilon", " --clip 1"), (1.0, "v", ""), (3.7, "epsilon", ""), (None, "epsilon", "")],
)
def test_epsilon_of_data_in_1_is_calibrated_with_a_clip(
    tiny_bundle: Path, limit: float | None, prediction: str, clip: str
) -> None:
    change_bundle(tiny_bundle, data_limit=limit, prediction=prediction)
    assert calibrate_next(tiny_bundle).command == f"fewstep calibrate {tiny_bundle} --plan dpmpp_2m:8{clip}"


@pytest.mark.parametrize(("is_clipping", "clip"), [(True, " --clip 1.5"), (False, "")])
def test_a_clip_of_the_scheduler_is_kept_in_the_calibration(tiny_bundle: Path, is_clipping: bool, clip: str) -> None:
    config = {"_class_name": "DDPMScheduler", "clip_sample": is_clipping, "clip_sample_range": 1.5}
    content = msgspec.json.encode({**config, "prediction_type": "v_prediction"})
    change_bundle(tiny_bundle, {"plans/scheduler.json": content}, scheduler="plans/scheduler.json")
    assert calibrate_next(tiny_bundle).command == f"fewstep calibrate {tiny_bundle} --plan dpmpp_2m:8{clip}"


def test_after_export_with_a_light_network_comes_a_plan_that_runs_it(exported_light: Path) -> None:
    shown = calibrate_next(exported_light)
    assert shown.command == f"fewstep calibrate {exported_light} --plan dpmpp_2m:8+every"
    options = CalibrateOptions(exported_light)  # the default plan
    tasks = open_tasks(open_bundle(exported_light), options, check_options(options))
    assert {name: task.plan.name for name, task in tasks.items()} == dict.fromkeys(
        ("light", "denoiser"), "dpmpp_2m:8@arctan+every"
    )


def test_conditions_that_cannot_be_drawn_are_asked_for(tiny_bundle: Path) -> None:
    """A text has no range, so a calibration without a file is refused. A run needs a value of each condition."""
    text = Condition("text", "text", (77, 16), "float32")
    label, *_ = open_bundle(tiny_bundle).manifest.conditions
    assert calibrate_next(tiny_bundle).command.endswith("--plan dpmpp_2m:8")
    assert run_next(tiny_bundle, "--chosen").command == f"fewstep run {tiny_bundle} --chosen -c class=shirt"
    change_bundle(tiny_bundle, conditions=(label, text))
    assert calibrate_next(tiny_bundle).command.endswith("--plan dpmpp_2m:8 --conditions CONDITIONS.npz")
    assert report_next(tiny_bundle).command == f"fewstep report {tiny_bundle} --conditions CONDITIONS.npz"
    fit = Advice("", "fewstep fit b", FitOptions(tiny_bundle))
    assert suggest_advice(fit, tiny_bundle).command == "fewstep fit b --conditions CONDITIONS.npz"
    run = suggest_advice(Advice("", "fewstep run b --precision int8"), tiny_bundle)
    assert run.command == "fewstep run b --precision int8 -c class=shirt -c text=@FILE.npy"


def test_a_policy_is_deployed_by_a_server(tiny_bundle: Path) -> None:
    change_bundle(tiny_bundle, policy=Policy(1, 0, 1))
    assert deploy_next(tiny_bundle, "--chosen").command == f"fewstep serve {tiny_bundle} --chosen"
    served = suggest_advice(Advice("", "fewstep serve b --precision int8"), tiny_bundle)
    assert served.command == "fewstep serve b --precision int8"


def test_files_and_guidance_of_a_verb_are_kept_in_the_next_command(tiny_bundle: Path) -> None:
    file = Path("my data/c.npz")
    given = ReportOptions(tiny_bundle, conditions=file, guidance="4,3")
    kept = "--conditions 'my data/c.npz'"
    assert report_next(tiny_bundle, given).command == f"fewstep report {tiny_bundle} {kept}"
    assert run_next(tiny_bundle, "--chosen", given=given).command == f"fewstep run {tiny_bundle} --chosen {kept}"
    choose = Advice("", "fewstep choose b --at-least 30dB", ChooseOptions(tiny_bundle, at_least="30dB"))
    assert suggest_advice(choose, tiny_bundle, given).command == f"{choose.command} --guidance 4,3 {kept}"
    fit = Advice("", "fewstep fit b --steps 8", FitOptions(tiny_bundle))  # takes one weight
    other = "--conditions CALIBRATION.npz"  # a report judges on its own
    assert suggest_advice(fit, tiny_bundle, given).command == f"fewstep fit b --steps 8 {other}"
    prompts = ReportOptions(tiny_bundle, prompts=Path("p.txt"), guidance=3.0)
    assert suggest_advice(fit, tiny_bundle, prompts).command == (
        "fewstep fit b --steps 8 --guidance 3 --prompts CALIBRATION.txt"
    )
    own = Advice("", "fewstep calibrate b --guidance 2", CalibrateOptions(tiny_bundle))
    assert suggest_advice(own, tiny_bundle, prompts).command == f"{own.command} --prompts CALIBRATION.txt"


def test_a_report_after_a_calibration_judges_on_other_conditions(tiny_bundle: Path, tmp_path: Path) -> None:
    given = CalibrateOptions(tiny_bundle, conditions=Path("c.npz"), prompts=Path("p.txt"))
    said = report_next(tiny_bundle, given).command
    assert said == f"fewstep report {tiny_bundle} --conditions HELD_OUT.npz --prompts HELD_OUT.txt"
    given = CalibrateOptions(tiny_bundle, conditions=tmp_path)
    assert report_next(tiny_bundle, given).command == f"fewstep report {tiny_bundle} --conditions HELD_OUT"


def test_after_figures_of_another_plan_comes_a_report_of_it(tiny_bundle: Path) -> None:
    """A bundle stores only the report of its calibrated plan."""
    plan, file = parse_plan_text("ddim:4"), Path("my data/f.json")
    given = MeasureOptions(tiny_bundle, plan=plan, guidance=3.0, output=file, columns=("ms",))
    other = "--plan ddim:4 --guidance 3 -o 'my data/f.html'"
    assert report_next(tiny_bundle, given).command == f"fewstep report {tiny_bundle} {other}"
    assert report_next(tiny_bundle, MeasureOptions(tiny_bundle)).command == f"fewstep report {tiny_bundle}"
    dashed = MeasureOptions(tiny_bundle, plan=plan, output=Path("-f.json"), columns=("ms",))
    assert report_next(tiny_bundle, dashed).command.endswith("--plan ddim:4 -o ./-f.html")


def test_a_distilled_bundle_with_a_scheduler_is_calibrated_along_it(tiny_bundle: Path) -> None:
    content = msgspec.json.encode({"_class_name": "TCDScheduler"})
    change_bundle(tiny_bundle, {"plans/scheduler.json": content}, distilled=True, scheduler="plans/scheduler.json")
    assert calibrate_next(tiny_bundle).command == f"fewstep calibrate {tiny_bundle} --plan scheduler:STEPS"


def test_what_pack_names_next_runs(tiny_bundle: Path, tmp_path: Path, fewstep: Command) -> None:
    last = fewstep("pack", tiny_bundle, "-o", tmp_path / "small device").out.splitlines()[-1]
    assert last.startswith("Next: fewstep verify ")
    fewstep(*shlex.split(last.partition("fewstep ")[2]))


def test_a_longer_plan_is_calibrated_on_the_same_folder_of_conditions() -> None:
    check = SimpleNamespace(instead="ddim:8", problem="float32 itself: ...")
    body = SimpleNamespace(trials=[SimpleNamespace(reference=check)])
    calibration = SimpleNamespace(lowered=["int8"], bodies={"int8": body})
    options = CalibrateOptions(Path("b"), parse_plan_text("ddim:1"), conditions=Path("outputs/o.npz"))
    command = next_after_calibration(options, calibration).command  # type: ignore[arg-type]
    assert command.endswith("--conditions outputs/o.npz") and "--plan ddim:8" in command


def test_samples_that_nothing_makes_usable_are_shown_next(tiny_bundle: Path) -> None:
    check = SimpleNamespace(instead=None, problem="float32 itself: ...")
    body = SimpleNamespace(trials=[SimpleNamespace(reference=check)])
    calibration = SimpleNamespace(lowered=["int8"], bodies={"int8": body})
    command = next_after_calibration(CalibrateOptions(tiny_bundle), calibration).command  # type: ignore[arg-type]
    assert command == f"fewstep run {tiny_bundle} --precision float32 -c class=shirt"


def test_conditions_of_which_random_values_are_not_realistic_are_asked_for(tiny_bundle: Path) -> None:
    """As the pictures of a camera, which can be drawn."""
    (label,) = open_bundle(tiny_bundle).manifest.conditions
    camera = Condition("camera", "camera", (1, 3, 4, 4), "uint8", low=0, high=255)
    change_bundle(tiny_bundle, conditions=(label, camera))
    assert calibrate_next(tiny_bundle).command.endswith("--plan dpmpp_2m:8 --conditions CONDITIONS.npz")


def test_conditions_that_give_samples_their_size_are_asked_for_as_a_folder(tiny_bundle: Path) -> None:
    """Each file has one size."""
    said = calibrate_next(free(tiny_bundle))
    assert said.command.endswith(" --conditions CONDITIONS")
    assert str(said).endswith("(CONDITIONS: a folder of values of your conditions, with a file for each size)")


def test_prompts_and_guidance_are_asked_for(tmp_path: Path) -> None:
    bundle = write_latent_bundle(tmp_path / "bundle")
    assert calibrate_next(bundle).command.endswith(" --guidance W --prompts PROMPTS.txt")


def test_the_guidance_of_a_recorded_pipeline_is_advised(tmp_path: Path) -> None:
    content = msgspec.json.encode({"_class_name": "DDIMScheduler", RECORDED: {"guidance": 3.0}})
    bundle = write_latent_bundle(tmp_path / "bundle")
    change_bundle(bundle, {"scheduler.json": content}, scheduler="scheduler.json")
    assert calibrate_next(bundle).command.endswith(" --guidance 3 --prompts PROMPTS.txt")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("fewstep report b --conditions HELD_OUT.npz", "HELD_OUT.npz: conditions that did not calibrate"),
        ("fewstep run b -c text=@FILE.npy --clip LIMIT", "@FILE.npy: a value of the condition; LIMIT: the largest"),
        ("fewstep run UNLIMITED.npz", ""),
    ],
)
def test_what_stands_for_a_value_of_the_user_is_explained(command: str, said: str) -> None:
    shown = str(NextCommand(command))
    assert shown.startswith(f"Next: {command} ({said}" if said else f"Next: {command}") and ("(" in shown) == bool(said)
