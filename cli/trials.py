"""Trials of a calibration as lines of text."""

from collections.abc import Iterator, Sequence

from fewstep.cli.outcome import counted
from fewstep.runtime.bundle.manifest import Trial


def trial_lines(trials: Sequence[Trial]) -> Iterator[str]:
    """What was tried for one body, in the order of trying; nothing for a single way, which was not. One that was behind
    got fewer seeds than others: its figure cannot be compared with theirs."""
    most = max((each.seeds for each in trials), default=0)
    for each in trials:
        left = f", {counted(len(each.in_float), 'thin convolution')} in float" if each.in_float else ""
        taken = ", mean error of the output taken out" if each.has_bias else ""
        seeds = counted(each.seeds, "seed")
        if each.seeds == most:
            parts = (f"5th percentile {each.p5:.1f} dB", f"{100 * each.shift:.1f} % of the error constant", seeds)
            judged = ", ".join((f"{each.psnr:.1f} dB", *parts))
        else:
            judged = f"{each.psnr:.1f} dB on the first {seeds}, where it was behind"
        yield f"{each.ranges}{left}{taken}: {judged}{', kept' * each.is_chosen}"
