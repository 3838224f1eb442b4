"""Why a body shares a graph with the others: figures, seeds and limits."""

import pytest

from fewstep.calibration.graph_verdict import GraphVerdict
from fewstep.measure.rollouts.nearness import Nearness
from fewstep.runtime.bundle.figures import Figure, JudgeScore


def verdict(after: float, judged: JudgeScore | None = None) -> GraphVerdict:
    return GraphVerdict("int8", "samples", 46.4, after, Nearness(after), judged, 10.0, 0.5, "20.0 % of products", 8)


def test_a_loss_is_the_difference_of_two_psnr_of_the_same_seeds() -> None:
    assert verdict(39.4).reason.startswith(
        "in int8 the samples have 39.4 dB, less than 40 dB, with a loss of 7.0 dB on 8"
    )


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
    assert verdict(39.4, judged).reason == f"in int8 it {end}" and not verdict(39.4, judged).is_taken
