"""A network evaluates each sample once while its spec is checked."""

from collections.abc import Mapping

import numpy as np
import pytest

from fewstep.measure.spec import remembered_outputs
from fewstep.measure.spec.remembered_outputs import remember_outputs
from fewstep.measure.spec.spec_check import FIRST, check_spec
from tests.measure.spec.test_spec_check import CLASSES, DATA, NULLS, exact

TIMES, LABELS = np.array([1.0, 1.0, 2.0]), np.array([0, 1, 0])
X = np.arange(12, dtype=np.float32).reshape(3, 4)


class Counted:
    """A network that keeps the samples that it evaluated, with their times and labels."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float, int]] = []

    def __call__(self, x: np.ndarray, times: np.ndarray, conditions: Mapping[str, np.ndarray]) -> np.ndarray:
        labels = conditions["class"]
        self.seen += [(float(row[0]), float(t), int(c)) for row, t, c in zip(x, times, labels, strict=True)]
        scaled: np.ndarray = x * times[:, None].astype(np.float32) + labels[:, None].astype(np.float32)
        return scaled


def test_an_output_is_that_of_its_sample_time_and_condition() -> None:
    network, whole = Counted(), Counted()(X, TIMES, {"class": LABELS})
    remembered = remember_outputs(network)
    order = np.array([2, 0])
    assert np.array_equal(remembered(X[order], TIMES[order], {"class": LABELS[order]}), whole[order])
    assert np.array_equal(remembered(X, TIMES, {"class": LABELS}), whole)
    assert network.seen == [(8.0, 2.0, 0), (0.0, 1.0, 0), (4.0, 1.0, 1)]
    remembered(X[:1], TIMES[2:], {"class": LABELS[:1]})
    remembered(X[:1], TIMES[:1], {"class": LABELS[1:2]})
    assert network.seen[3:] == [(0.0, 2.0, 0), (0.0, 1.0, 1)]


def test_outputs_beyond_the_limit_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered_outputs, "MOST_BYTES", 2 * X[0].nbytes)
    network = Counted()
    remembered = remember_outputs(network)
    for _ in range(2):
        assert np.array_equal(remembered(X, TIMES, {"class": LABELS}), Counted()(X, TIMES, {"class": LABELS}))
    assert len(network.seen) == 6


def test_a_check_evaluates_no_sample_twice_but_for_the_test_of_its_time() -> None:
    network, facts = exact("edm", "edm")
    seen = list[bytes]()

    def count_calls(x: np.ndarray, times: np.ndarray, given: Mapping[str, np.ndarray]) -> np.ndarray:
        inputs = zip(x, times, given["class"], strict=True)
        seen.extend(row.tobytes() + time.tobytes() + label.tobytes() for row, time, label in inputs)
        made: np.ndarray = network(x, times, given)
        return made

    assert check_spec(count_calls, facts, DATA, CLASSES, NULLS).mistake == ""
    of_time, of_check = seen[: 3 * FIRST], seen[3 * FIRST :]
    assert len(set(of_time)) == 3 * FIRST and len(set(of_check)) == len(of_check)
