"""The time of an evaluation is measured after the step that allocates memory."""

from dataclasses import replace
from pathlib import Path

import pytest

from fewstep.measure.estimate import seconds_per_evaluation
from fewstep.runtime.sampling.loading import load


@pytest.mark.parametrize("plan", ["ddim:1", "ddim:2", "ddim:8"])
def test_an_evaluation_is_timed_at_the_second_call_of_the_network(plan: str, tiny_bundle: Path) -> None:
    calls: list[int] = []
    sampler = replace(load(tiny_bundle), on_call=lambda index, _: calls.append(index))
    assert seconds_per_evaluation(sampler, sampler.compile(plan)) > 0
    assert len(calls) == 2
