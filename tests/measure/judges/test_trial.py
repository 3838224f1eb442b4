"""The first call of a judge, before anything else is sampled."""

from pathlib import Path

import numpy as np
import pytest

from fewstep.fitting import fit as fitting
from fewstep.fitting.options import FitOptions
from fewstep.measure import quality
from fewstep.measure.judges.judge import Judge
from fewstep.measure.judges.trial import try_judge
from fewstep.report.choosing import choose as choosing
from fewstep.report.choosing.options import ChooseOptions
from fewstep.report.options import ReportOptions
from fewstep.report.report import report
from fewstep.runtime.sampling.loading import load
from tests.refusals import refuses


def test_a_judge_gets_two_samples_of_float32_as_the_reference_too(tiny_bundle: Path) -> None:
    calls = list[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]]()
    judge = Judge("j", "", lambda *given: calls.append(given) or (1.0, 0.0))  # type: ignore[arg-type,func-returns-value]
    with load(tiny_bundle, precision="float32") as sampler:
        plan = sampler.compile("ddim:2")
        try_judge(judge, sampler, plan, {"class": np.array([2, 1, 0])})
        expected = sampler.sample(plan, [500_088, 500_089], {"class": [2, 1]})
    for samples, reference, conditions in calls:
        np.testing.assert_array_equal(samples, expected)
        np.testing.assert_array_equal(reference, expected)
        np.testing.assert_array_equal(conditions["class"], [2, 1])
    assert len(calls) == 2


def test_errors_of_sampling_are_left_to_what_follows(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with load(tiny_bundle, precision="float32") as sampler:
        plan = sampler.compile("ddim:2")
        spoiled = sampler.with_network_parts(graph=lambda feeds: {"v": np.full_like(feeds["x"], np.nan)})
        try_judge(Judge("j", "", lambda *_: None), spoiled, plan, None)


def test_samples_that_are_useless_are_named_before_the_judge_that_fails_on_them(tiny_bundle: Path) -> None:
    with load(tiny_bundle, precision="float32") as sampler:
        plan = sampler.compile("ddim:2", shaping=None)
        constant = sampler.with_network_parts(graph=lambda feeds: {"v": 1e9 * np.ones_like(feeds["x"])})
        with refuses("nothing can be compared with the samples of ddim:2. Not usable:"):
            try_judge(Judge("j", "", lambda *_: None), constant, plan, None)


@pytest.mark.parametrize("verb", ["choose", "fit", "report"])
def test_each_verb_tries_the_judge_first(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    file = tmp_path / "own.py"
    file.write_text("def broken(samples, reference, conditions):\n    return samples, len(samples)\n")
    judge = f"{file}:broken"
    for module, name in ((choosing, "find_teacher_plan"), (fitting, "check_teacher"), (quality, "judge")):
        monkeypatch.setattr(module, name, None)
    with refuses(("judge own.py:broken returned ndarray", "as the score of 2 samples"), "return (score, limit)"):
        match verb:
            case "choose":
                choosing.choose(ChooseOptions(tiny_bundle, judge=judge, seeds=2, plan=("ddim:2",)))
            case "fit":
                fitting.fit(FitOptions(tiny_bundle, steps=2, plan="dpmpp_2m:2", guidance=2.0, judge=judge))
            case "report":
                page, few = tmp_path / "page.html", {"seeds": 4, "plan": "ddim:2", "teacher": "ddim:4"}
                report(ReportOptions(tiny_bundle, judge=judge, output=page, **few))  # type: ignore[arg-type]
