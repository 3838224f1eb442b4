"""Kinds of operations: of events that are given, and of a graph that onnxruntime runs."""

from pathlib import Path

import numpy as np
import pytest

from fewstep.measure.speed.profile import KINDS, REST, kinds
from fewstep.measure.speed.race import TimedContender, race
from tests.measure.speed.test_race import matmuls


def event(node: str, operation: str, microseconds: int) -> dict[str, object]:
    return {"cat": "Node", "name": f"{node}_kernel_time", "args": {"op_name": operation}, "dur": microseconds}


def test_a_share_is_of_the_medians_of_all_nodes() -> None:
    """The first run of a node allocates; sessions and threads have events of their own."""
    events = [event("conv1", "QLinearConv", each) for each in (900, 60, 62)]
    events += [event("conv2", "QLinearConv", each) for each in (8, 8, 8)]
    events += [event("norm", "InstanceNormalization", each) for each in (20, 20, 25)]
    events += [event("own", "Mine", 10), {"cat": "Session", "name": "model_run", "dur": 1000}]
    assert list(kinds(events).items()) == [
        ("products in int8", pytest.approx(0.70)),
        ("norms", pytest.approx(0.20)),
        (REST, pytest.approx(0.10)),
    ]


def test_an_operation_is_of_one_kind() -> None:
    operations = [operation for each in KINDS.values() for operation in each.split()]
    assert len(operations) == len(set(operations))


def test_a_race_says_where_the_time_of_a_graph_goes(tmp_path: Path) -> None:
    contender = TimedContender("matmuls", matmuls(tmp_path, 4), {"x": np.ones((8, 256), np.float32)})
    (timing,) = race([contender], threads=1, rounds=1, profiled=True).timings
    assert timing.kinds == {"products in float": 1.0}
