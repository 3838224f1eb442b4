"""The advice after a measurement: the largest quality loss, as text, and the next command."""

from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from fewstep.measure.results import Results
from fewstep.measure.rollouts.nearness import CLIP, LEAST_PSNR, clip_hint
from fewstep.measure.rollouts.output_differences import GUIDANCE, is_lost, worst_difference
from fewstep.report.judgement import judgement
from fewstep.report.verdict import differences_of
from fewstep.runtime.bundle.manifest import Manifest

ALIKE_PSNR = 3.0  # dB: an error of twice the energy


@dataclass(frozen=True)
class Advice:
    """A verdict in sentences, and the next command line."""

    verdict: str
    command: str

    def __str__(self) -> str:
        return f"{self.verdict} Next: {self.command}"


def advice(results: Results, manifest: Manifest, bundle: Path) -> Advice | None:
    """Return the verdict on the first body, which runs here, and the largest loss from the teacher's samples to int8's.

    The loss is due to few steps, int8, a lost guidance direction, or nothing. `bundle` is its path in the command.
    Returns None if no quality was measured.
    """
    if not results.qualities:
        return None
    first, lost = results.qualities[0], _loses_guidance(results)
    end = first.against_float
    word = judgement(end.nearness, end.p5, first.tokens, results.random_conditions, lost, first.body)
    cost, command = _cost(results, manifest, quote(str(bundle)), lost)
    verdict = " ".join(f"{sentence}." for sentence in (word, cost) if sentence)
    return Advice(verdict, f"fewstep {command}")


def _loses_guidance(results: Results) -> bool:
    first = results.qualities[0]
    lost = worst_difference(differences_of(first)[GUIDANCE]) if first.steps else None
    return lost is not None and is_lost(lost)


def _cost(results: Results, manifest: Manifest, path: str, loses_guidance: bool) -> tuple[str | None, str]:
    """Return a sentence on the largest loss, and the command (without "fewstep") that lowers it.

    The sentence is None if the loss of few steps is unknown.
    """
    first = results.qualities[0]
    steps, int8 = results.float_against_teacher, first.against_float.mean
    if results.shaping is None and first.against_float.nearness.is_diverged:
        hint = clip_hint(manifest)
        return f"Neither few steps nor int8 loses most: {hint}", f"calibrate {path} {CLIP}"
    if loses_guidance:
        return None, f"calibrate {path} --quality 30dB"
    if steps is None:
        return None, f"run {path} --precision int8"
    figures = f"float32 has {steps.mean:.1f} dB PSNR against many steps, and {first.body} {int8:.1f} dB against float32"
    if steps.nearness.is_near and first.against_float.nearness.is_near:
        return f"Neither few steps nor int8 loses much: {figures}", f"run {path} --precision int8"
    if steps.mean < int8 - ALIKE_PSNR:
        can_fit = results.shaping is None  # fitted plans have no shaping
        command = f"fit {path}" if can_fit else f"choose {path} --at-least {LEAST_PSNR:g}dB"
        return f"Few steps lose more than int8, so more steps help: {figures}", command
    if int8 < steps.mean - ALIKE_PSNR:
        return f"int8 loses more than few steps: {figures}", f"calibrate {path} --quality {steps.mean:.0f}dB"
    return f"Few steps and int8 lose about the same: {figures}", f"choose {path} --at-least {LEAST_PSNR:g}dB"
