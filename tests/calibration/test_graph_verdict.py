"""Whether a body has a graph of its own, and why not: figures, seeds, limits, and how many seeds decide."""

from collections.abc import Iterator

import pytest

from fewstep.calibration.graph_verdict import GraphVerdict, PairedQuality, decide
from fewstep.runtime.bundle.figures import Figure, JudgeScore


def quality(losses: tuple[float, ...], after: float) -> PairedQuality:
    values = (after,) * len(losses)
    return PairedQuality([after + loss for loss in losses], values, values)


def verdict(losses: tuple[float, ...], after: float, judged: JudgeScore | None = None) -> GraphVerdict:
    return GraphVerdict("int8", "samples", quality(losses, after), judged, 1.0, 0.5, "20.0 % of products")


def test_a_loss_is_the_mean_difference_of_the_same_seeds_with_its_range() -> None:
    """Student's quantile of 3 degrees of freedom is 3.18, and the spread of the losses 0.0816."""
    small = verdict((0.7, 0.8, 0.9, 0.8), 39.4)
    assert small.loss == pytest.approx(0.8)
    assert small.loss_range == pytest.approx((0.8 - 0.134, 0.8 + 0.134), abs=1e-3)
    assert small.reason.startswith(
        "in int8 the samples have 39.4 dB, less than 40 dB, with a loss of 0.8 dB (0.7 to 0.9) on 4 seeds"
    )


@pytest.mark.parametrize(
    ("losses", "after", "is_taken", "is_certain"),
    [
        ((0.6, 0.7, 0.8, 0.7), 45.0, True, True),  # worth up to 1 dB
        ((2.1, 2.2, 2.3, 2.2), 45.0, False, True),
        ((0.2, 0.9, 1.6, 0.9), 45.0, True, False),  # the limit lies in the range
        ((0.6, 0.7, 0.8, 0.7), 39.4, False, True),  # below 40 dB only up to 0.5 dB
        ((0.3, 0.4, 0.6, 0.4), 39.4, True, False),
        ((0.1, 0.1), 45.0, True, False),  # too few for a range
    ],
)
def test_a_verdict_is_certain_if_its_range_decides_alike(
    losses: tuple[float, ...], after: float, is_taken: bool, is_certain: bool
) -> None:
    decided = verdict(losses, after)
    assert (decided.is_taken, decided.is_certain) == (is_taken, is_certain)


def test_seeds_are_added_until_the_verdict_is_certain() -> None:
    """Eight of a mean loss of 0.9 leave the limit of 1 dB open; the loss on the next ones is 2.2 dB."""
    read = list[int]()

    def further() -> Iterator[PairedQuality]:
        for number in range(7):
            read.append(number)
            yield quality((2.0, 2.2, 2.4, 2.2, 2.0, 2.2, 2.4, 2.2), 45.0)

    first = verdict((0.2, 0.9, 1.6, 0.9, 0.2, 0.9, 1.6, 0.9), 45.0)
    decided = decide(first, further())
    assert first.is_taken and not decided.is_taken and 0 < len(read) < 7
    assert len(decided.quality.after) == 8 * (1 + len(read))
    assert decided.reason.endswith(f"of the samples of {8 * (1 + len(read))} seeds, for 20.0 % of products")
    read.clear()
    assert decide(verdict((2.1, 2.2, 2.3, 2.2), 45.0), further()).quality.after == (45.0,) * 4 and not read


def test_without_further_seeds_the_mean_decides() -> None:
    decided = decide(verdict((0.2, 0.9, 1.6, 0.9), 45.0), iter(()))
    assert decided.is_taken and not decided.is_certain


@pytest.mark.parametrize(
    ("score", "low", "end"),
    [
        (
            0.93,
            0.88,
            "scores 0.93 (0.88 to 0.98) by edges, at least its limit 0.9, on 8 seeds, but perhaps not on others",
        ),
        (0.85, 0.8, "scores 0.85 by edges, less than 0.9, on 8 seeds"),
    ],
)
def test_the_reason_of_a_judge_has_its_score_and_limit(score: float, low: float, end: str) -> None:
    figure = Figure("edges", score, 0.9, False, f"scores {score} by edges, less than 0.9")
    judged = JudgeScore(figure, Figure("edges", 1.0, 0.9, False, ""), "", 8, (low, score + 0.05))
    first = verdict((7.0,) * 8, 39.4, judged)
    decided = decide(first, iter([quality((7.0,), 39.4)]))
    assert decided is first, "its PSNR on further seeds is not computed"
    assert decided.reason == f"in int8 it {end}" and not decided.is_taken
