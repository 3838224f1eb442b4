"""The advice after a measurement: the largest quality loss, as text, and the next command."""

from dataclasses import dataclass, replace
from math import floor
from pathlib import Path
from typing import Any

from fewstep.calibration.options import CalibrateOptions
from fewstep.fitting.options import FitOptions
from fewstep.measure.body_backends import is_simulated
from fewstep.measure.results import Results
from fewstep.measure.rollouts.end_quality import EndQuality
from fewstep.measure.rollouts.nearness import LEAST_PSNR, beyond_data, leaves_range
from fewstep.measure.rollouts.output_differences import GUIDANCE as DIRECTION
from fewstep.measure.rollouts.output_differences import is_lost, worst_difference
from fewstep.measure.sampling import FLOAT
from fewstep.plans.errors import quote_path
from fewstep.plans.guidance import describe
from fewstep.plans.names.plan_reference import (
    MOST_FITTED,
    FittedReference,
    SchedulerReference,
    parse_plan_text,
)
from fewstep.report.calibrate_again import calibrate_again
from fewstep.report.choosing.options import ChooseOptions
from fewstep.report.float_body import float_reason
from fewstep.report.judgement import judgement
from fewstep.report.verdict import differences_of
from fewstep.runtime.bundle.manifest import FittedPlan
from fewstep.runtime.bundle.platforms import INT8_WEIGHTS, WEIGHTS_ONLY
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.bundle.unsuited_bodies import describe_saturation
from fewstep.runtime.sampling.finite_checks import clip_advice, clip_option
from fewstep.runtime.sampling.fitted_plans import read_fitted_plans

ALIKE_PSNR = 3.0  # dB: an error of twice the energy


LongWork = CalibrateOptions | ChooseOptions | FitOptions


@dataclass(frozen=True)
class Advice:
    """A verdict in sentences, and the next command line. `options` are those of the command if it can take minutes."""

    verdict: str
    command: str
    options: LongWork | None = None

    def __str__(self) -> str:
        return f"{self.verdict} Next: {self.command}"


def advice(results: Results, bundle: Bundle, path: Path) -> Advice | None:
    """Return the verdict on the first body, which runs on this machine, and advice about the largest loss of quality
    between the teacher's samples and those of int8. The loss is due to few steps, to int8, to a lost effect of
    guidance, or there is none. `path` is the bundle's path in suggested commands. Returns None if no quality was
    measured."""
    if not results.qualities:
        return None
    first, lost = results.qualities[0], _loses_guidance(results)
    end = first.against_float
    beyond = beyond_data(end.nearness, bundle.manifest, results.shaping is not None)
    body = bundle.manifest.bodies.get(first.body)
    reason = None if body is None else float_reason(bundle.manifest, body, results.int8_share(first.body))
    word = judgement(
        end.nearness,
        end.p5,
        first.tokens,
        results.random_conditions,
        results.fixed_conditions,
        lost,
        first.body,
        beyond,
        reason,
        first.reference,
        (None, None) if first.tokens is not None else (end.mean_range, end.p5_range),
        first.judged,
        results.mean_picture_psnr(first.body),
        end.seeds,
    )
    if reason is not None:
        again = calibrate_again(bundle, first.body)
        return replace(_advise("", again, quote_path(path)), verdict=f"{word}.")
    given = _cost(results, bundle, quote_path(path), lost)
    included = None if body is None or is_simulated(body) else describe_saturation(body)
    verdict = " ".join(f"{sentence}." for sentence in (word, included, given.verdict) if sentence)
    return replace(given, verdict=verdict)


def _loses_guidance(results: Results) -> bool:
    first = results.qualities[0]
    lost = worst_difference(differences_of(first)[DIRECTION]) if first.steps else None
    return lost is not None and is_lost(lost)


def _cost(results: Results, bundle: Bundle, path: str, loses_guidance: bool) -> Advice:
    """Return a sentence on the largest loss, and the command that lowers it.

    The sentence is "" if the loss of few steps is unknown.
    """
    first = results.qualities[0]
    (steps, unknown), int8 = _loss_of_steps(results), first.against_float.mean
    precision, float32 = _precision_of(bundle, first.body), f"fewstep run {path} --precision float32"
    deploy = "run" if bundle.manifest.policy is None else "serve"
    run, choose = f"fewstep {deploy} {path} --precision {precision}", _choose_better(first.against_teacher, bundle)
    calibrate = calibrate_again(bundle, first.body)
    near, is_clipped = first.against_float.nearness, results.shaping is not None
    if leaves_range(near, bundle.manifest, is_clipped) and calibrate.clip is None:
        said = f"Samples leave the range of the data: {clip_advice(bundle.manifest)}"
        if isinstance(calibrate.plan, SchedulerReference):  # it takes no clip but that of its config
            calibrate = replace(calibrate, plan=parse_plan_text(f"dpmpp_2m:{calibrate.plan.steps}"))
        return _with_clip(_advise(said, calibrate, path), bundle)
    if first.reference is not None and first.reference.problem is not None:
        if (longer := first.reference.instead) is None:
            return Advice("", float32)
        return _advise("", replace(calibrate, plan=parse_plan_text(longer)), path)
    if first.judged is not None and (first.judged.problem is None or not first.judged.float32.is_kept):
        return Advice("", run if first.judged.problem is None else float32)
    if loses_guidance:
        return _advise_finer("", calibrate, precision, "30dB", path)
    if steps is None:
        return Advice(unknown, run)
    figures = (
        f"float32 has {steps.mean:.1f} dB PSNR against many steps on {_count_seeds(steps)}, and {first.body} "
        f"{int8:.1f} dB against float32 on {_count_seeds(first.against_float)}"
    )
    if steps.nearness.is_near and first.against_float.nearness.is_near:
        return Advice(f"Neither few steps nor {precision} loses much: {figures}", run)
    if steps.mean < int8 - ALIKE_PSNR:
        said = f"Few steps lose more than {precision}: {figures}"
        if results.shaping is not None:  # fitted plans have no shaping
            return _advise(f"{said}. `choose` measures other numbers of steps", choose, path)
        if (better := _find_better_fit(results, bundle, steps.mean)) is not None:
            plan = FittedReference(better.evaluations)
            said += f"; the bundle's plan {plan} has {better.psnr:.1f} dB"
            return _advise(said, replace(calibrate, plan=plan, clip=None), path)
        fit = FitOptions(bundle.path)
        count = len(first.steps)
        return _advise(said, replace(fit, steps=count) if 0 < count <= MOST_FITTED else fit, path)
    if int8 < steps.mean - ALIKE_PSNR:
        said = f"{precision} loses more than few steps: {figures}"
        return _advise_finer(said, calibrate, precision, f"{steps.mean:.0f}dB", path)
    return _advise(f"Few steps and {precision} lose about the same: {figures}", choose, path)


def _loss_of_steps(results: Results) -> tuple[EndQuality | None, str]:
    """Return float32's quality against the teacher and "". Without a teacher, or with one that cannot be a reference,
    return None and the reason, or "" if there is none."""
    if (further := results.further_teacher) is not None:
        return None, f"More steps do not help: {further}"
    return results.float_against_teacher, ""


def _precision_of(bundle: Bundle, name: str) -> str:
    """Return the precision of a judged body; int8 if the bundle no longer has it."""
    return bundle.manifest.bodies[name].precision if name in bundle.manifest.bodies else "int8"


def _count_seeds(end: EndQuality) -> str:
    return f"{end.seeds} seed{'s' * (end.seeds != 1)}"


def _advise(verdict: str, options: LongWork, path: str) -> Advice:
    """Return advice that consists of a verdict and the command to run next, with these options."""
    verb = {CalibrateOptions: "calibrate", ChooseOptions: "choose", FitOptions: "fit"}[type(options)]
    return Advice(verdict, options.command_line(verb, of=path), options)


def _advise_finer(said: str, calibrate: LongWork, precision: str, quality: str, path: str) -> Advice:
    """Return advice on a body that is nearer to float32: one of this quality. If only weights are quantized, --quality
    does not apply: then a body of 8 bits, or float32 itself."""
    if precision == INT8_WEIGHTS.precision:
        return Advice(said, f"fewstep run {path} --precision float32")
    is_weights_only = precision in WEIGHTS_ONLY
    changes: dict[str, Any] = {"target": (INT8_WEIGHTS.name,)} if is_weights_only else {"quality": quality}
    return _advise(said, replace(calibrate, **changes), path)


def _with_clip(given: Advice, bundle: Bundle) -> Advice:
    """Return the advice with an option that clips to the range of the data added to its command."""
    return replace(given, command=f"{given.command} {clip_option(bundle.manifest)}")


def _choose_better(now: EndQuality | None, bundle: Bundle) -> ChooseOptions:
    """Return options for `choose` that require a higher PSNR against the teacher than `now`: the next whole number in
    dB, or LEAST_PSNR if that is higher."""
    least = LEAST_PSNR if now is None else max(LEAST_PSNR, floor(now.mean) + 1)
    return ChooseOptions(bundle.path, at_least=f"{least:g}dB")


def _find_better_fit(results: Results, bundle: Bundle, psnr: float) -> FittedPlan | None:
    """Return the stored fitted plan with the highest PSNR against the teacher, among those with at most as many
    evaluations as the judged plan and the same guidance. None if its PSNR is not clearly above `psnr`, in dB."""
    count = len(results.qualities[0].steps)
    entries = [entry for entry in bundle.manifest.fitted if entry.body == FLOAT and entry.evaluations <= count]
    for entry in sorted(entries, key=lambda each: each.psnr, reverse=True):
        if entry.psnr <= psnr + ALIKE_PSNR:
            return None
        plans, _ = read_fitted_plans(bundle, [entry])
        if plans and (None if plans[0].guidance is None else describe(plans[0].guidance)) == results.guidance:
            return entry
    return None
