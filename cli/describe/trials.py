"""The quality of a body that calibration measured on samples, as lines of text."""

from collections.abc import Iterator, Sequence

from fewstep.cli.outcome import pluralize
from fewstep.measure.rollouts.nearness import Nearness
from fewstep.measure.rollouts.output_differences import CONDITION, GUIDANCE, describe_difference, is_lost
from fewstep.measure.rollouts.quality_range import OTHERS
from fewstep.measure.rollouts.size_quality import describe_qualities
from fewstep.report.judgement import judgement
from fewstep.runtime.bundle.figures import Together
from fewstep.runtime.bundle.manifest import Trial


def describe_trials(trials: Sequence[Trial], float_reason: str | None = None, precision: str = "int8") -> Iterator[str]:
    """Yield lines about the deployed body: the verdict, the number of seeds that it is based on, for tokens the
    fraction that int8 changes, and how well the effects of guidance and of conditions are preserved.

    float_reason: why no operation of the body is in int8 (`fewstep.report.float_body`), or None if some are.
    precision: that of the body.
    """
    for trial in trials:
        if trial.is_chosen:
            near, seeds = Nearness(trial.psnr, trial.snr, trial.unrelated), pluralize(trial.seeds, "seed")
            lost = trial.guidance is not None and is_lost(trial.guidance)
            yield judgement(
                near,
                trial.p5,
                trial.tokens,
                trial.random_conditions,
                trial.fixed_conditions,
                lost,
                precision,
                beyond=trial.beyond,
                float_reason=float_reason,
                reference=trial.reference,
                ranges=(trial.psnr_range, trial.p5_range) if trial.tokens is None else (None, None),
                judged=trial.judged,
                pictures=trial.picture_psnr,
                seeds=trial.seeds,
            )
            if float_reason is not None or (trial.reference is not None and trial.reference.problem is not None):
                continue
            ranged = "" if trial.psnr_range is None else f" (ranges: those of {OTHERS} other seeds, in 95 of 100 cases)"
            yield f"on {seeds}{_describe_records(trial.held_out)}{ranged}{near.snr_text}{near.other_seed_text}"
            if trial.together is not None:
                yield f"with all networks in {precision}: {_describe_together(trial.together)}"
            if trial.by_size:
                yield f"by size: {describe_qualities(trial.by_size)}"
            if trial.tokens is not None:
                differ, same = (f"{100 * share:.1f} %" for share in (trial.tokens.disagreement, trial.tokens.same))
                yield (
                    f"{differ} of the most likely tokens differ at float32's states; {same} are equal in the finished "
                    "samples"
                )
            for kind, difference in ((GUIDANCE, trial.guidance), (CONDITION, trial.condition)):
                if difference is not None:
                    yield f"{kind} at its worst step: {describe_difference(difference)}"


def _describe_records(held_out: int | None) -> str:
    """Return a clause on the records of conditions that judged a body, or "" if none were given."""
    if held_out is None:
        return ""
    if held_out == 0:
        return ", with the conditions that calibrated it, which are too few to hold some out"
    return f", with {pluralize(held_out, 'record')} of conditions that did not calibrate it"


def _describe_together(together: Together) -> str:
    """Return the verdict on the samples that all networks of a body make together."""
    near = Nearness(together.psnr, together.snr, together.unrelated)
    return judgement(near, together.p5, seeds=together.seeds)
