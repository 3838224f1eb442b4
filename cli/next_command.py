"""The command to run after a verb, with its estimated duration if that exceeds a minute."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from fewstep.graph.resource_needs import format_duration
from fewstep.measure.estimate import Estimate
from fewstep.plans.errors import UserError, quote_path

if TYPE_CHECKING:
    from fewstep.calibration.calibrate import Calibration
    from fewstep.calibration.options import CalibrateOptions
    from fewstep.measure.rollouts.prompts import ConditionOptions
    from fewstep.plans.configs.student_signs import StudentSigns
    from fewstep.report.advice import Advice
    from fewstep.runtime.bundle.reading import Bundle

LOG = logging.getLogger("fewstep")
LONG = 60.0  # seconds
HELD_OUT, CALIBRATION = "HELD_OUT", "CALIBRATION"  # placeholders for files of conditions: to judge, and to calibrate
PLACEHOLDERS = {  # of values that only the user knows, each with what stands there
    "HELD_OUT": "a folder of conditions that did not calibrate",
    "HELD_OUT.npz": "conditions that did not calibrate",
    "HELD_OUT.txt": "prompts that did not calibrate",
    "CALIBRATION": "a folder of conditions other than those of the report",
    "CALIBRATION.npz": "conditions other than those of the report",
    "CALIBRATION.txt": "prompts other than those of the report",
    "CONDITIONS": "a folder of values of your conditions, with a file for each size",
    "CONDITIONS.npz": "values of your conditions",
    "PROMPTS.txt": "your prompts, one a line",
    "SOLVER:STEPS": "those that the network was distilled for",
    "scheduler:STEPS": "the steps that the network was distilled for",
    "@FILE.npy": "a value of the condition",
    "LIMIT": "the largest number in your data",
    "W": "the guidance that you sample with",
}
LARGE = 2**28  # bytes of a bundle: opening a larger one takes too long for a mere estimate


@dataclass(frozen=True)
class NextCommand:
    """A command line. `estimate` returns the work of the command, and is called when the line is shown. It is None if
    the command is short or its work is unknown."""

    command: str
    estimate: Callable[[], Estimate] | None = None

    def __str__(self) -> str:
        seconds = None if self.estimate is None else _seconds(self.estimate)
        takes = f" (up to {format_duration(seconds)})" if seconds is not None and seconds > LONG else ""
        words = _words_of(self.command)
        stand = "; ".join(f"{word}: {meaning}" for word, meaning in PLACEHOLDERS.items() if word in words)
        return f"Next: {self.command}{takes}{f' ({stand})' if stand else ''}"


def _words_of(command: str) -> set[str]:
    """Return the words of a command; of NAME=@FILE.npy, the value."""
    return {word.rpartition("=")[2] for word in command.split()}


def next_command(*words: object) -> NextCommand:
    """Return the `fewstep` command with these words, each quoted for a shell."""
    return NextCommand(
        " ".join(["fewstep", *(quote_path(word) if isinstance(word, Path) else quote(str(word)) for word in words)])
    )


def calibrate_next(bundle: Path, loras: Sequence[str] = ()) -> NextCommand:
    """Return the `fewstep calibrate` command to suggest after an export: with the default plan, or with the usual start
    of a flow. `loras` are the values of `--lora`, whose names may say that they distill to few steps. A bundle whose
    weights are integers cannot be calibrated: then it is the `fewstep run` command."""
    from fewstep.calibration.options import CalibrateOptions
    from fewstep.cli.estimate_work import estimate_work
    from fewstep.plans.configs.student_signs import find_words
    from fewstep.plans.names.plan_reference import SchedulerReference, parse_plan_text
    from fewstep.runtime.bundle.conditions import is_led_by_guidance
    from fewstep.runtime.bundle.reading import open_bundle
    from fewstep.runtime.sampling.scheduler_plans import find_usual_guidance
    from fewstep.runtime.sampling.suggested_clip import suggest_clip

    opened = open_bundle(bundle)
    manifest = opened.manifest
    if all(body.is_quantized for body in manifest.bodies.values()):
        return run_next(bundle)
    names = [name for lora in loras for name in _names_of(Path(lora))]
    if find_words(names) and (signs := _signs_of_student(opened, names)) is not None:
        command = f"fewstep calibrate {quote_path(bundle)} {signs.options}"
        return NextCommand(_with_conditions(command, bundle))
    weight = find_usual_guidance(opened)
    is_led = manifest.text is not None and is_led_by_guidance(manifest.conditions)
    guided = ("--guidance", "W" if weight is None else f"{weight:g}") if is_led else ()
    is_student = _signs_of_student(opened, [manifest.provenance.source]) is not None
    if manifest.distilled or manifest.towards or is_student:  # their solvers and steps are a user's choice
        plan = "SOLVER:STEPS" if manifest.scheduler is None else "scheduler:STEPS"
        return NextCommand(_with_conditions(f"fewstep calibrate {quote_path(bundle)} --plan {plan}", bundle))
    plan = _first_plan(opened)
    reference = parse_plan_text(plan)
    clip = None if isinstance(reference, SchedulerReference) else suggest_clip(opened)  # a scheduler has its own
    options = CalibrateOptions(bundle, reference, clip=clip)
    clipped = () if clip is None else ("--clip", f"{clip:g}")
    command = _with_conditions(next_command("calibrate", bundle, "--plan", plan, *clipped, *guided).command, bundle)
    return NextCommand(command, _of_small(bundle, lambda: estimate_work(options)))


def _names_of(lora: Path) -> list[str]:
    """Return the name of a LoRA's file, and that of its folder if it has a number of steps: "Wan2.2-4steps" names a
    student, while "hyper" may be a user."""
    from fewstep.plans.configs.student_signs import find_words

    has_steps = any(word[0].isdigit() for word in find_words([lora.parent.name]))
    return [lora.parent.name, lora.name] if has_steps else [lora.name]


def _first_plan(bundle: "Bundle") -> str:
    """Return the plan to begin with: for a flow the steps of its scheduler, or equal steps, as in the papers; otherwise
    the default plan of a calibration."""
    from fewstep.plans.names.plan_reference import SchedulerReference, join_plan_name, split_plan_name
    from fewstep.runtime.bundle.networks import calibration_plan

    manifest = bundle.manifest
    usual = split_plan_name(calibration_plan(manifest))
    if manifest.schedule.kind != "flow" or manifest.vocabulary:
        return str(usual)
    if manifest.scheduler is not None and usual.light is None:
        from fewstep.runtime.sampling.scheduler_plans import scheduler_plan, usual_steps

        with suppress(UserError):  # such as a shift that depends on a number of tokens
            steps = usual_steps(bundle, int(usual.steps))
            scheduler_plan(steps, None, True, bundle, None)
            return str(SchedulerReference(steps))
    return join_plan_name("euler", usual.steps, None, usual.light)


def _signs_of_student(bundle: "Bundle", names: Sequence[str]) -> "StudentSigns | None":
    """Return the signs in names, or in the bundle's scheduler, that it is a student of few steps. None if there are
    none, and for a bundle without a scheduler."""
    from fewstep.plans.configs.student_signs import find_signs
    from fewstep.runtime.sampling.scheduler_plans import read_scheduler_config

    if bundle.manifest.scheduler is None or bundle.manifest.vocabulary:
        return None
    return find_signs(names, read_scheduler_config(bundle))


def run_next(bundle: Path, *words: object, given: "ConditionOptions | None" = None) -> NextCommand:
    """Return the `fewstep run` command with these words. It contains the file of conditions that the previous command
    got, or an example value of each required condition."""
    return NextCommand(_with_values(next_command("run", bundle, *words).command, bundle, given))


def deploy_next(bundle: Path, *words: object, given: "ConditionOptions | None" = None) -> NextCommand:
    """Return the command that deploys a bundle with these words: `fewstep serve` for a policy, else `run_next`."""
    from fewstep.runtime.bundle.reading import open_bundle

    if open_bundle(bundle).manifest.policy is not None:
        return next_command("serve", bundle, *words)
    return run_next(bundle, *words, given=given)


def report_next(bundle: Path, given: "ConditionOptions | None" = None) -> NextCommand:
    """Return the `fewstep report` command, with the conditions that the previous command got, or with a placeholder for
    others if that was a calibration. If it was a `measure` with another plan or guidance than the calibrated one, whose
    results went to a file, the report gets these too."""
    from fewstep.calibration.options import CalibrateOptions
    from fewstep.report.options import ReportOptions
    from fewstep.report.report_task import open_report_task

    conditions, prompts = (None, None) if given is None else (given.conditions, given.prompts)
    options = ReportOptions(bundle, conditions=conditions, prompts=prompts)
    estimate = _of_small(bundle, lambda: open_report_task(options).estimate())
    command = f"{next_command('report', bundle).command}{_judge_option(given)}{_options_of_other_plan(given)}"
    other = HELD_OUT if isinstance(given, CalibrateOptions) else None
    return NextCommand(_with_conditions(command, bundle, given, other), estimate)


def next_after_calibration(options: "CalibrateOptions", calibration: "Calibration") -> NextCommand:
    """Return the command of a report or, if float32's samples are not usable, of a calibration along a longer plan
    whose samples are, or of a run that shows them."""
    from fewstep.plans.names.plan_reference import parse_plan_text

    trials = (trial for name in calibration.lowered for trial in calibration.bodies[name].trials)
    checks = [trial.reference for trial in trials if trial.reference is not None]
    longer = next((check.instead for check in checks if check.instead is not None), None)
    if longer is None and any(check.problem is not None for check in checks):
        return run_next(options.bundle, "--precision", "float32", given=options)
    if longer is None:
        return report_next(options.bundle, options)
    again = replace(options, plan=parse_plan_text(longer))
    return NextCommand(again.command_line("calibrate", of=quote_path(options.bundle), keeps_folders=True))


def _options_of_other_plan(given: "ConditionOptions | None") -> str:
    """Return the options --plan, --guidance and --output for a report of results that `measure` wrote to a file because
    they are for another plan or guidance than the calibrated one; "" if they are not."""
    from fewstep.measure.options import MeasureOptions

    if not isinstance(given, MeasureOptions) or given.output is None or (given.plan, given.guidance) == (None, None):
        return ""
    plan = "" if given.plan is None else f" --plan {quote(str(given.plan))}"
    guidance = _guidance_text(given)
    guided = "" if guidance is None else f" --guidance {quote(guidance)}"
    return f"{plan}{guided} -o {quote_path(given.output.with_suffix('.html'))}"


def suggest_advice(advised: "Advice", bundle: Path, given: "ConditionOptions | None" = None) -> NextCommand:
    """Return the command of a report's advice, with the guidance and the conditions of the report, and with an estimate
    if it can take minutes. A calibration and a fit get a placeholder for other conditions: those of a report judge
    them."""
    from fewstep.cli.estimate_work import estimate_work
    from fewstep.report.choosing.options import ChooseOptions

    options, command = advised.options, f"{advised.command}{_guidance_option(advised, given)}"
    command += _judge_option(given) if options is not None else ""
    if options is None:
        return NextCommand(_with_values(command, bundle, given))
    other = None if isinstance(options, ChooseOptions) else CALIBRATION
    command = _with_conditions(command, bundle, given, other)
    return NextCommand(command, _of_small(bundle, lambda: estimate_work(options)))


def _guidance_option(advised: "Advice", given: "ConditionOptions | None") -> str:
    """Return the option for the guidance that a verb was given, or "" if the advised command has one or takes none."""
    from fewstep.fitting.options import FitOptions
    from fewstep.plans.guidance import as_guidance, weight_of

    text = _guidance_text(given)
    if text is None or "--guidance" in advised.command:
        return ""
    form = as_guidance(getattr(given, "guidance", None))
    is_taken = not isinstance(advised.options, FitOptions) or form is None or weight_of(form) is not None
    return f" --guidance {quote(text)}" if is_taken else ""


def _judge_option(given: "ConditionOptions | None") -> str:
    """Return the option for the judge that a verb was given, or "" if it got none."""
    judge = getattr(given, "judge", None)
    return "" if judge is None else f" --judge {quote(judge)}"


def _guidance_text(given: "ConditionOptions | None") -> str | None:
    """Return the guidance that the previous command got, as the text of the option; None if it got none."""
    from fewstep.plans.guidance import as_guidance, to_text

    guidance = getattr(given, "guidance", None)
    if guidance is None:
        return None
    form = as_guidance(guidance)
    return "1" if form is None else to_text(form)


def _with_values(command: str, bundle: Path, given: "ConditionOptions | None") -> str:
    """Return a `run` command with the file of conditions, or with an example value of each required condition. A
    `serve` command, whose clients give the values, is returned as it is."""
    from fewstep.cli.conditions import list_required_arguments
    from fewstep.runtime.bundle.reading import open_bundle

    if command.startswith("fewstep serve "):
        return command
    file = None if given is None else given.conditions
    return " ".join([command, *list_required_arguments(open_bundle(bundle).manifest, file)])


def _with_conditions(
    command: str, bundle: Path, given: "ConditionOptions | None" = None, other: str | None = None
) -> str:
    """Return a command that samples a bundle, with the given files of conditions and prompts, or with placeholders if
    random values cannot replace data. `other` is the name of placeholders for files besides those that were given; None
    for these files themselves."""
    from fewstep.cli.conditions import needs_records
    from fewstep.measure.rollouts.seeds import random_conditions
    from fewstep.runtime.bundle.reading import open_bundle
    from fewstep.runtime.kinds.sizes import parse_dimension

    files = () if given is None else (("--conditions", given.conditions, ".npz"), ("--prompts", given.prompts, ".txt"))
    named = [
        (option, file if other is None else Path(other if file.is_dir() else other + end))
        for option, file, end in files
        if file is not None
    ]
    if words := [f"{option} {quote_path(file)}" for option, file in named]:
        return " ".join([command, *words])
    manifest = open_bundle(bundle).manifest
    words = [command, *(["--prompts PROMPTS.txt"] if manifest.text is not None else [])]
    encoded = () if manifest.text is None else manifest.text.encoded
    if needs_records(manifest) or {*random_conditions(manifest.conditions)}.difference(encoded):
        of_x = {size.name for size in manifest.sizes if size.axis is not None}
        sizes = [size for condition in manifest.conditions for size in condition.follows.values()]
        is_sized = any(name in of_x for size in sizes for name in parse_dimension(size)[1])
        words.append("--conditions CONDITIONS" if is_sized else "--conditions CONDITIONS.npz")
    return " ".join(words)


def _of_small(bundle: Path, estimate: Callable[[], Estimate]) -> Callable[[], Estimate] | None:
    """Return `estimate` itself, or None if the bundle is so large that opening it for an estimate would take long."""
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    return estimate if size < LARGE else None


def _seconds(estimate: Callable[[], Estimate]) -> float | None:
    """Return the seconds of the work; None if the command would refuse it. Warnings are left to the command itself."""
    level = LOG.level
    LOG.setLevel(logging.CRITICAL + 1)
    try:
        return estimate().seconds
    except Exception:  # the verb has succeeded already: a failed estimate must not change that
        return None
    finally:
        LOG.setLevel(level)
