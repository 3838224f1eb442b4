"""The samples that judged a body, as lines of text."""

from collections.abc import Iterator, Sequence

from fewstep.cli.outcome import counted
from fewstep.evaluation.report.trials import tried
from fewstep.rollouts.direction import CONDITION, GUIDANCE, said
from fewstep.runtime.bundle.manifest import Trial


def trial_lines(trials: Sequence[Trial]) -> Iterator[str]:
    """A line for the body. Earlier versions tried several methods. A method that was behind got fewer seeds: its figure
    cannot be compared with the others'."""
    most = max((each.seeds for each in trials), default=0)
    for each in trials:
        seeds = counted(each.seeds, "seed")
        if each.seeds == most:
            judged = f"{each.psnr:.1f} dB, 5th percentile {each.p5:.1f} dB, {seeds}"
        else:
            judged = f"{each.psnr:.1f} dB on the first {seeds}, where it was behind"
        label = f"{tried(each)}: " if len(trials) > 1 else ""
        yield f"{label}{judged}{', kept' * (each.is_chosen and len(trials) > 1)}"
        for kind, difference in ((GUIDANCE, each.guidance), (CONDITION, each.condition)):
            if difference is not None:
                yield f"{kind} at its worst: {said(difference)}"
