"""Sequences that a baked file of the whole run computes in one call."""

import numpy as np
import pytest

from fewstep.robots.control import SequenceRequest, sample_actions, sample_sequences
from fewstep.runtime import Sampler
from tests.clients.bundles import write
from tests.runtime.sampling.test_whole_runs import bake_run, count_calls, steps_and_whole

WINDOW = {"observation.state": np.ones((2, 2)), "observation.environment_state": np.zeros((2, 16))}
FORMER = np.full((3, 2), 5.0)


@pytest.fixture(scope="module")
def samplers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sampler, Sampler]:
    bundle = write("pusht", tmp_path_factory.mktemp("policy") / "pusht")
    return steps_and_whole(bundle, bake_run(bundle, "ddim:2", guidance=1.0, batch=1))


def test_a_sequence_from_rest_is_one_call(samplers: tuple[Sampler, Sampler]) -> None:
    steps, whole = samplers
    calls = count_calls(whole)
    np.testing.assert_array_equal(sample_actions(whole, "ddim:2", WINDOW), sample_actions(steps, "ddim:2", WINDOW))
    assert len(calls) == 1


def test_decided_actions_and_a_deadline_need_the_steps(samplers: tuple[Sampler, Sampler]) -> None:
    _, whole = samplers
    calls = count_calls(whole)
    held = sample_actions(whole, "ddim:2", WINDOW, former=FORMER, decided=2)
    assert held[:2].tolist() == FORMER[:2].tolist()
    _, count = sample_sequences(whole, "ddim:2", [SequenceRequest(WINDOW, 0)], enough=lambda: True)
    assert (count, calls) == (1, [])
