"""Whether a body has a graph of its own, and why not: figures, seeds, limits, and how many seeds decide."""

from collections.abc import Iterator
from math import log10

import pytest

from fewstep.calibration.graph_verdict import GraphVerdict, Losses, PairedQuality, decide
from fewstep.calibration.policy import POLICY
from fewstep.runtime.bundle.figures import Figure, JudgeScore

NONE = Losses()


def quality(losses: tuple[float, ...], after: float) -> PairedQuality:
    values = (after,) * len(losses)
    return PairedQuality([after + loss for loss in losses], values, values)


def verdict(
    losses: tuple[float, ...],
    after: float,
    judged: JudgeScore | None = None,
    before: Losses = NONE,
    worth: float = 1.0,
) -> GraphVerdict:
    paired = quality(losses, after)
    return GraphVerdict("int8", "samples", paired, judged, worth, "20.0 % of products", before, POLICY)


def test_a_loss_is_the_mean_difference_of_the_same_seeds_with_its_range() -> None:
    """Student's quantile of 3 degrees of freedom is 3.18, and the spread of the losses 0.0816."""
    small = verdict((1.1, 1.2, 1.3, 1.2), 39.4)
    assert small.losses.seen == pytest.approx(1.2)
    assert small.reason == "int8 would cost 1.2 dB (1.1 to 1.3) of the samples of 4 seeds, for 20.0 % of products"


@pytest.mark.parametrize(
    ("losses", "after", "is_taken", "is_certain"),
    [
        ((0.6, 0.7, 0.8, 0.7), 45.0, True, True),  # worth up to 1 dB
        ((2.1, 2.2, 2.3, 2.2), 39.0, False, True),
        ((0.2, 0.9, 1.6, 0.9), 39.0, True, False),  # the limit lies in the range
        ((0.6, 0.7, 0.8, 0.7), 26.0, True, True),
        ((0.1, 0.1, 0.1, 0.1), 24.0, False, True),  # below the minimum quality
        ((0.1, 0.1), 45.0, True, False),  # too few for a range
    ],
)
def test_a_verdict_is_certain_if_its_range_decides_alike(
    losses: tuple[float, ...], after: float, is_taken: bool, is_certain: bool
) -> None:
    decided = verdict(losses, after)
    assert (decided.is_taken, decided.is_certain) == (is_taken, is_certain)


def test_a_loss_is_hidden_by_errors_of_enough_psnr() -> None:
    """A text encoder that leaves 56 dB of 74 costs 0.3 dB next to 44 dB, and one that leaves 47 dB costs 1.8."""
    near, far = verdict((18.0,) * 4, 56.0), verdict((27.0,) * 4, 47.0)
    added = 10**-5.6 - 10**-7.4
    assert near.losses == Losses(pytest.approx(18.0), pytest.approx(10 * log10(1 + added * 10**4.4)))
    assert [near.is_taken, near.is_hidden, far.is_hidden] == [False, True, False]
    assert near.is_certain and far.is_certain
    assert near.losses.hidden < 0.3 < 1.7 < far.losses.hidden


def test_a_loss_below_enough_psnr_is_not_hidden() -> None:
    low = verdict((1.2,) * 4, 39.0)
    assert low.losses == Losses(pytest.approx(1.2), pytest.approx(1.2)) and not low.is_hidden


def test_graphs_share_what_they_may_cost() -> None:
    """However much the last one saves."""
    losses = (0.8,) * 4
    first, later = (verdict(losses, 39.0, before=Losses(spent, spent), worth=20.0) for spent in (0.6, 0.8))
    assert first.is_taken and not later.is_taken and not later.is_hidden
    assert later.reason.endswith(
        "for 20.0 % of products; the networks around the denoiser may cost 1.5 dB together; "
        "--judge lets your own measure decide instead of dB"
    )
    assert Losses(0.3, 0.1).add(Losses(-0.4, 0.2)) == Losses(0.3, pytest.approx(0.3)), "a gain makes no room"


def test_seeds_are_added_until_the_verdict_is_certain() -> None:
    """Eight of a mean loss of 0.9 leave the limit of 1 dB open; the loss on the next ones is 2.2 dB."""
    read = list[int]()

    def further() -> Iterator[PairedQuality]:
        for number in range(7):
            read.append(number)
            yield quality((2.0, 2.2, 2.4, 2.2, 2.0, 2.2, 2.4, 2.2), 39.0)

    first = verdict((0.2, 0.9, 1.6, 0.9, 0.2, 0.9, 1.6, 0.9), 39.0)
    decided = decide(first, further())
    assert first.is_taken and not decided.is_taken and 0 < len(read) < 7
    assert len(decided.quality.after) == 8 * (1 + len(read))
    assert decided.reason.endswith(f"of the samples of {8 * (1 + len(read))} seeds, for 20.0 % of products")
    read.clear()
    assert decide(verdict((2.1, 2.2, 2.3, 2.2), 39.0), further()).quality.after == (39.0,) * 4 and not read


def test_without_further_seeds_the_mean_decides() -> None:
    decided = decide(verdict((0.2, 0.9, 1.6, 0.9), 39.0), iter(()))
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
    assert decided.reason == f"in int8 it {end}" and not decided.is_taken and not decided.is_hidden
