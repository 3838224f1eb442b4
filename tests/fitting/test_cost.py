"""The cost that is printed before a fit is at least the cost of the fit."""

import pytest

from fewstep.fitting import levenberg_marquardt, task
from fewstep.fitting.cost import count_evaluations
from fewstep.fitting.fit import fit
from fewstep.fitting.options import FitOptions
from fewstep.fitting.rollouts import FitSampler
from fewstep.fitting.task import open_fit_task
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.sampler import Sampler

FEW = {"steps": 2, "plan": "dpmpp_2m:2", "seeds": 8, "selection_seeds": 8, "judge_seeds": 8, "teacher": "ddim:6"}


@pytest.mark.parametrize(("is_overfitted", "plan"), [(True, "dpmpp_2m:2"), (False, "dpmpp_2m:2"), (False, None)])
def test_a_fit_takes_no_more_evaluations_than_told(tiny_bundle, monkeypatch, is_overfitted, plan):
    """If all candidates are overfitted, each is judged, which takes more than a fit that takes the first. If no plan
    is named, the teacher's path is also sampled.
    """
    monkeypatch.setattr(task, "open_samplers", lambda path, *_: (load(path, "int8"), load(path)))  # counted apart
    options = FitOptions(tiny_bundle, guidance=2.0, iterations=1, **{**FEW, "plan": plan})
    body, teacher = count_evaluations(open_fit_task(options))
    counted = {"int8": 0, "float32": 0}
    network, sample = Sampler.step_network, Sampler.sample

    def counting(self, plan, samples, conditions):
        call = network(self, plan, samples, conditions)

        def count_call(*asked):
            counted[self.body.precision] += samples
            return call(*asked)

        return count_call

    def counting_sample(self, plan, seeds, *rest, **given):
        counted[self.body.precision] += len(self.compile(plan).steps) * len(seeds)
        return sample(self, plan, seeds, *rest, **given)

    monkeypatch.setattr(Sampler, "step_network", counting)
    monkeypatch.setattr(Sampler, "sample", counting_sample)
    monkeypatch.setattr(levenberg_marquardt, "is_overfitted", lambda *gains: is_overfitted)
    fit(options)
    assert body / 8 < counted["int8"] <= body
    assert counted["float32"] == teacher


def test_a_previous_plan_is_checked_with_the_teacher_too(tiny_bundle):
    options = FitOptions(tiny_bundle, guidance=2.0, iterations=1, **FEW)
    before = count_evaluations(open_fit_task(options))
    assert fit(options).is_kept
    assert count_evaluations(open_fit_task(options)) == (before[0], before[1] + 4 * 2)


def test_a_fit_goes_on_from_the_iteration_that_chose_its_start(tiny_bundle, monkeypatch):
    asked, columns = [], FitSampler.measure_columns

    def counting(self, numbers, free, blocks):
        asked.append((numbers, len(blocks)))
        return columns(self, numbers, free, blocks)

    monkeypatch.setattr(FitSampler, "measure_columns", counting)
    fit(FitOptions(tiny_bundle, guidance=2.0, iterations=1, **{**FEW, "plan": None}))
    starts = asked[:2]
    assert starts[0][0] is not starts[1][0]
    assert not any(numbers is start for numbers, _ in asked[2:] for start, _ in starts)
