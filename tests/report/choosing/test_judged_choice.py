"""The choice of a deployment by a user's judge."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.cli.describe.choice import choice_table
from fewstep.plans.errors import UserError
from fewstep.report.choosing.budget import Budget, choose_by_budget
from fewstep.report.choosing.choose import choose
from fewstep.report.choosing.deployments import pareto_front
from fewstep.report.choosing.saved_choice import Deployment, describe_deployment, load_choice
from fewstep.runtime.bundle.figures import Figure, JudgeScore
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from tests.refusals import refuses
from tests.report.choosing.test_budget import row
from tests.report.choosing.test_choose import options

JUDGE = """
import numpy as np


def steady(samples, reference, conditions, least: float):
    assert samples.shape == reference.shape and len(conditions["class"]) == len(samples)
    return -np.abs(samples - reference).mean(axis=(1, 2, 3)), least
"""


def judged(milliseconds: float, decibels: float, score: float, limit: float = 0.9) -> Deployment:
    figures = (
        Figure("j", value, limit, False, f"scores {value:g} by j, less than {limit:g}") for value in (score, 1.0)
    )
    return msgspec.structs.replace(row(milliseconds, decibels), judged=JudgeScore(*figures, "", 16))


def test_deployments_are_ranked_by_the_score_and_by_the_psnr_where_scores_are_equal() -> None:
    rows = [judged(1, 20, 0.8), judged(2, 50, 0.7), judged(3, 20, 0.95), judged(4, 30, 0.95), judged(5, 20, 0.95)]
    assert pareto_front(rows) == [rows[0], rows[2], rows[3]]


def test_the_fastest_that_reaches_the_limit_of_the_judge_wins(tiny_bundle: Path) -> None:
    rows = [judged(1, 60, 0.8), judged(2, 5, 0.9), judged(3, 6, 0.95)]
    bundle, plan = open_bundle(tiny_bundle), load(tiny_bundle).compile("ddim:2")
    chosen = choose_by_budget(bundle, Budget(None, None, None, None, "j"), 1, plan, rows)
    assert chosen.winner == rows[1] and chosen.asked == "good enough for j"
    within = Budget("3ms", "5.5dB", 3.0, 5.5, "j")
    assert choose_by_budget(bundle, within, 1, plan, rows).winner == rows[2]
    assert within.text == "within 3ms and at least 5.5dB and good enough for j"
    assert describe_deployment(rows[1]) == "p on b (onnxruntime): 2 ms, a score of 0.9, 5.0 dB"


def test_a_higher_score_with_too_few_decibels_hides_no_other(tiny_bundle: Path) -> None:
    rows = [judged(1, 20, 0.95), judged(2, 50, 0.92), judged(3, 55, 0.91), judged(4, 60, 0.99)]
    bundle, plan = open_bundle(tiny_bundle), load(tiny_bundle).compile("ddim:2")
    for within, place in ((None, 1), (3.0, 1), (4.0, 3)):
        budget = Budget(within and f"{within:g}ms", "40dB", within, 40.0, "j")
        assert choose_by_budget(bundle, budget, 1, plan, rows).winner == rows[place]


def test_no_deployment_that_reaches_the_limit_is_one_line(tiny_bundle: Path) -> None:
    bundle, plan = open_bundle(tiny_bundle), load(tiny_bundle).compile("ddim:2")
    with pytest.raises(UserError) as refused:
        choose_by_budget(
            bundle, Budget("2ms", None, 2.0, None, "j"), 1, plan, [judged(1, 60, 0.8), judged(4, 60, 0.95)]
        )
    assert "within 2ms and good enough for j: the fastest of this quality is p on b" in refused.value.what
    assert refused.value.fix == (
        "give --within 4ms or a judge with a lower limit, since the best of that time scores 0.8 by j, less "
        "than 0.9, or try more plans (--plan)"
    )


def test_a_choice_scores_the_samples_that_it_compares_and_caches_them(
    tiny_bundle: Path, tmp_path: Path, calls: list[str]
) -> None:
    file = tmp_path / "own.py"
    file.write_text(JUDGE)
    choice = choose(options(tiny_bundle, judge=f"{file}:steady:-10"))
    for deployment in choice.deployments:
        assert (
            deployment.judged is not None and -10 < deployment.judged.score.value < 0 == deployment.judged.float32.value
        )
    assert choice.chosen is not None and choice.chosen.winner.milliseconds == min(
        r.milliseconds for r in choice.deployments
    )
    calls.clear()
    assert choose(options(tiny_bundle, judge=f"{file}:steady:-10")) == choice and calls == []
    assert f"--judge {file}:steady:-10" in load_choice(tiny_bundle).options
    heads = [str(column.header) for column in choice_table(choice, 1).columns]
    assert heads[5] == "score"
    file.write_text(JUDGE.replace("-np.abs", "-2 * np.abs"))
    with refuses(f"no longer holds: {file} changed", f"--judge {file}:steady:-10"):
        load_choice(tiny_bundle)
    again = choose(options(tiny_bundle, judge=f"{file}:steady:-10"))
    scores = [
        [deployment.judged.score.value for deployment in these.deployments if deployment.judged]
        for these in (choice, again)
    ]
    np.testing.assert_allclose(2 * np.array(scores[0]), scores[1])
