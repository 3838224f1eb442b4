"""The facts of both sample spaces."""

import numpy as np
import pytest

from fewstep.plans.compile_tokens import compile_tokens
from fewstep.plans.names.plan_name import parse_plan_name
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.kinds.sample_space import CONTINUOUS, SampleSpace, Vocabulary

IDS = Vocabulary(16, 20)


@pytest.mark.parametrize(("space", "dtype"), [(CONTINUOUS, "float32"), (IDS, "int64")])
def test_x_has_the_dtype_of_its_space(space: SampleSpace, dtype: str) -> None:
    assert space.dtype == space.random_x((2, 3), np.random.default_rng(0)).dtype == dtype


def test_random_ids_are_of_the_vocabulary_or_open() -> None:
    x = IDS.random_x((64, 32), np.random.default_rng(0))
    assert set(np.unique(x)) == {*range(16), 20}


def test_each_sample_of_random_ids_has_its_own_share_of_open_positions() -> None:
    shares = (IDS.random_x((64, 1000), np.random.default_rng(0)) == 20).mean(1)
    assert shares.min() < 0.1 < 0.9 < shares.max()


def test_default_plans_compile_for_their_space() -> None:
    facts = DenoiserFacts(ScheduleSpec("flow"), "logits")
    steps = compile_tokens(IDS.default_plan, facts, (8,), 16).steps
    assert len(steps) == parse_plan_name(CONTINUOUS.default_plan).steps == 8


def test_stored_bytes_become_the_model_range() -> None:
    stored = np.array([[0, 255]], np.uint8)
    assert CONTINUOUS.file_problem(stored, 8) is None
    np.testing.assert_array_equal(CONTINUOUS.from_file(stored), np.array([[-1, 1]], np.float32))


@pytest.mark.parametrize(
    ("space", "values", "problem"),
    [
        (CONTINUOUS, np.array([[0.0, 1.1]]), "holds values outside [-1, 1]"),
        (CONTINUOUS, np.array([[0, 1]]), "holds int64"),
        (IDS, np.array([[0, 16]]), "has numbers that are not ids"),
        (IDS, np.array([[0, -1]]), "has numbers that are not ids"),
        (IDS, np.array([[0.0, 1.0]]), "has numbers that are not ids"),
    ],
)
def test_other_stored_samples_are_refused(space: SampleSpace, values: np.ndarray, problem: str) -> None:
    assert space.file_problem(values, 8) == problem
