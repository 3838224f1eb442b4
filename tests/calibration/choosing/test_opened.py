"""Lowered graphs opened for trials: at any batch, on the engine or in its place."""

import numpy as np

from fewstep.calibration.choosing.opened import open_lowered
from fewstep.calibration.lowering.quantize import lower
from fewstep.calibration.lowering.scheme import Target
from fewstep.graph.graph import GROUP
from fewstep.graph.session import run
from tests.calibration.bodies.small_body import EDGES, body, feeds, sqnr, table
from tests.calibration.every_target import every_target


@every_target
def test_a_lowered_graph_takes_batches_of_any_size_and_more_feeds_than_it_has_inputs(target: Target) -> None:
    graph = body()
    network = open_lowered(lower(graph, table(graph, EDGES), target).graph, target)
    for batch in (4, 1, 4):
        given = feeds(graph, batch)
        found = network({**given, GROUP: np.array([2]), "more": np.zeros(3, np.float32)})["output"]
        assert found.dtype == np.float32 and sqnr(run(graph, given)["output"], found) > 30
