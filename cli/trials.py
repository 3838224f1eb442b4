"""The samples by which calibration judged a body, as lines of text."""

from collections.abc import Iterator, Sequence

from fewstep.cli.outcome import counted
from fewstep.measure.rollouts.conditions_file import random_note
from fewstep.measure.rollouts.direction import CONDITION, GUIDANCE, text_of
from fewstep.measure.rollouts.nearness import Nearness
from fewstep.runtime.bundle.manifest import Trial


def trial_lines(trials: Sequence[Trial]) -> Iterator[str]:
    """The quality of the body that is deployed, and a line for each difference of outputs that it may lose."""
    for each in trials:
        if each.is_chosen:
            near, seeds = Nearness(each.psnr, each.snr, each.unrelated), counted(each.seeds, "seed")
            yield f"{each.psnr:.1f} dB, 5th percentile {each.p5:.1f} dB{near.over}, {seeds}{near.other_seed}"
            if (note := random_note(each.random_conditions)) is not None:
                yield note
            if each.tokens is not None:
                differ, same = (f"{100 * share:.1f} %" for share in (each.tokens.disagreement, each.tokens.same))
                yield f"{differ} of the likeliest tokens differ at float32's states; {same} are the same at the end"
            for kind, difference in ((GUIDANCE, each.guidance), (CONDITION, each.condition)):
                if difference is not None:
                    yield f"{kind} at its worst: {text_of(difference)}"
