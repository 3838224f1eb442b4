"""Trials of a calibration as lines of text."""

from collections.abc import Iterator, Sequence

from fewstep.cli.outcome import counted
from fewstep.runtime.bundle.manifest import Trial


def trial_line(trial: Trial) -> str:
    left = f", {counted(len(trial.in_float), 'thin convolution')} in float" if trial.in_float else ""
    taken = ", mean error of the output taken out" if trial.has_bias else ""
    return (
        f"{trial.ranges}{left}{taken}: {trial.psnr:.1f} dB, 5th percentile {trial.p5:.1f} dB, "
        f"{100 * trial.shift:.1f} % of the error constant, {counted(trial.seeds, 'seed')}{', kept' * trial.is_chosen}"
    )


def trial_lines(trials: Sequence[Trial]) -> Iterator[str]:
    """What was tried for one body, in the order of trying; nothing for a single way, which was not."""
    yield from (f"  tried {trial_line(each)}" for each in trials)
