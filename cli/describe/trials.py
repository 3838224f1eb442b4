"""The quality of a body that calibration measured on samples, as lines of text."""

from collections.abc import Iterator, Sequence

from fewstep.cli.outcome import pluralize
from fewstep.measure.judgement_options import SEEDS
from fewstep.measure.rollouts.nearness import Nearness
from fewstep.measure.rollouts.output_differences import CONDITION, GUIDANCE, describe_difference, is_lost
from fewstep.report.judgement import judgement
from fewstep.runtime.bundle.manifest import Trial


def describe_trials(trials: Sequence[Trial], float_reason: str | None = None) -> Iterator[str]:
    """Yield lines about the deployed body: the verdict, the number of seeds that it is based on, for tokens the
    fraction that int8 changes, and how well the effects of guidance and of conditions are preserved.

    float_reason: why no operation of the body is in int8 (`fewstep.report.float_body`), or None if some are.
    """
    for each in trials:
        if each.is_chosen:
            near, seeds = Nearness(each.psnr, each.snr, each.unrelated), pluralize(each.seeds, "seed")
            lost = each.guidance is not None and is_lost(each.guidance)
            yield judgement(
                near,
                each.p5,
                each.tokens,
                each.random_conditions,
                each.fixed_conditions,
                lost,
                beyond=each.beyond,
                float_reason=float_reason,
            )
            if float_reason is not None:
                continue
            yield f"on {seeds} (a first estimate: a report judges {SEEDS}){near.snr_text}{near.other_seed_text}"
            if each.tokens is not None:
                differ, same = (f"{100 * share:.1f} %" for share in (each.tokens.disagreement, each.tokens.same))
                yield (
                    f"{differ} of the most likely tokens differ at float32's states; {same} are equal in the finished "
                    "samples"
                )
            for kind, difference in ((GUIDANCE, each.guidance), (CONDITION, each.condition)):
                if difference is not None:
                    yield f"{kind} at its worst step: {describe_difference(difference)}"
