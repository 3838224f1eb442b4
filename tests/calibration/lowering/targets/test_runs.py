"""Lowered graphs, opened for judging: at any batch size, on the engine or on its substitute."""

from typing import Any

import numpy as np
import onnxruntime
import pytest

from fewstep.calibration.lowering.quantize import lower
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.lowering.targets.tensorrt import TENSORRT
from fewstep.graph.files import io
from fewstep.graph.graph import GROUP
from fewstep.graph.session import run
from tests.calibration.every_target import every_target
from tests.calibration.lowering.bodies.small_body import EDGES, body, feeds, sqnr, table


@every_target
def test_a_lowered_graph_takes_batches_of_any_size_and_more_feeds_than_it_has_inputs(target: Target) -> None:
    graph = body()
    network = target.runs(lower(graph, table(graph, EDGES), target).graph)
    for batch in (4, 1, 4):
        given = feeds(graph, batch)
        found = network({**given, GROUP: np.array([2]), "more": np.zeros(3, np.float32)})["output"]
        assert found.dtype == np.float32 and sqnr(run(graph, given)["output"], found) > 30


@pytest.mark.parametrize("is_large", [False, True], ids=["small", "large"])
def test_pairs_of_a_large_network_are_opened_without_an_arena(is_large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = onnxruntime.SessionOptions, []

    def record_making() -> Any:
        made.append(real())
        return made[-1]

    graph = body()
    lowered = lower(graph, table(graph, EDGES), TENSORRT).graph
    monkeypatch.setattr(onnxruntime, "SessionOptions", record_making)
    monkeypatch.setattr(io, "exceeds_one_file", lambda graph: is_large)
    TENSORRT.runs(lowered)
    (options,) = made
    assert options.enable_cpu_mem_arena is not is_large and not options.enable_mem_pattern
