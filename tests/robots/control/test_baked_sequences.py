"""Sequences that a baked file of the whole run computes in one call."""

from pathlib import Path

import numpy as np
import pytest

from fewstep.robots.control import SequenceRequest, sample_actions, sample_sequences
from fewstep.runtime import Sampler
from fewstep.runtime.sampling import finite_checks
from tests.clients.bundles import write
from tests.runtime.sampling.test_whole_runs import bake_run, count_calls, steps_and_whole

WINDOW = {"observation.state": np.ones((2, 2)), "observation.environment_state": np.zeros((2, 16))}
FORMER = np.full((3, 2), 5.0)


@pytest.fixture(scope="module")
def samplers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sampler, Sampler]:
    bundle = write("pusht", tmp_path_factory.mktemp("policy") / "pusht")
    return steps_and_whole(bundle, bake_run(bundle, "ddim:2", guidance=1.0, batch=1, hold="noised"))


@pytest.mark.parametrize("decided", [0, 2])
def test_a_sequence_is_one_call(samplers: tuple[Sampler, Sampler], decided: int) -> None:
    steps, whole = samplers
    calls = count_calls(whole)
    found, right = (
        sample_actions(sampler, "ddim:2", WINDOW, former=FORMER, decided=decided) for sampler in (whole, steps)
    )
    np.testing.assert_array_equal(found, right)
    assert len(calls) == 1
    assert found[:decided].tolist() == FORMER[:decided].tolist()


def test_one_call_does_not_end_at_a_deadline(samplers: tuple[Sampler, Sampler]) -> None:
    _, whole = samplers
    calls = count_calls(whole)
    _, count = sample_sequences(whole, "ddim:2", [SequenceRequest(WINDOW, 0)], enough=lambda: True)
    assert (count, len(calls)) == (2, 1)


def test_actions_far_beyond_the_data_are_warned_of(
    samplers: tuple[Sampler, Sampler], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(finite_checks, "_WARNED", set())
    monkeypatch.setattr(finite_checks, "data_range", lambda manifest: 1e-6)
    _, whole = samplers
    calls = count_calls(whole)
    sample_actions(whole, "ddim:2", WINDOW)
    assert len(calls) == 1 and "far beyond usual data" in caplog.text


def test_decided_actions_need_the_steps_without_a_hold_in_the_file(tmp_path: Path) -> None:
    bundle = write("pusht", tmp_path / "pusht")
    _, whole = steps_and_whole(bundle, bake_run(bundle, "ddim:2", guidance=1.0, batch=1))
    calls, request = count_calls(whole), SequenceRequest(WINDOW, 0, FORMER.astype(np.float32), 2)
    _, count = sample_sequences(whole, "ddim:2", [request], enough=lambda: True)
    assert (count, calls) == (1, [])
