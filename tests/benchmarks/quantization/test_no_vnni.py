"""Networks outside the zoo: their data, and the weights of their bodies."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.quantization import no_vnni
from benchmarks.quantization.no_vnni import CASES, TARGETS, check_sums, write_rows
from fewstep.calibration.lowering.quantize import lower_graph
from fewstep.calibration.lowering.targets import load_target
from fewstep.graph.files.io import save
from fewstep.graph.weight_pairs import LARGEST_SUM
from tests.calibration.lowering.bodies.small_body import EDGES, body, table


@pytest.mark.parametrize("name", CASES)
def test_data_are_within_their_limits(name: str) -> None:
    drawn = CASES[name].draw(64, np.random.default_rng(0))
    assert drawn.dtype == np.float32 and drawn.ndim == 4 and 0.8 < np.abs(drawn).max() <= 1
    assert np.ptp(drawn, axis=0).max() > 1


@pytest.mark.parametrize("target", TARGETS)
def test_sums_of_all_weights_are_checked(target: str, tmp_path: Path) -> None:
    prepared = body()
    save(lower_graph(prepared, table(prepared, EDGES), load_target(target)).graph, tmp_path / "body.onnx")
    largest = check_sums(tmp_path / "body.onnx")
    assert (largest <= LARGEST_SUM) is target.endswith("no-vnni") and largest > 100


def test_a_row_has_the_losses_of_each_calibration() -> None:
    runs = {str(number): {**dict.fromkeys(TARGETS, [50.0, 52.0]), "time": [1.0]} for number in range(2)}
    runs["1"][TARGETS[1]] = [50.0, 51.0]
    (row,) = write_rows({"net": runs})
    assert row == ["net", "51.0", "50.8", "51.0", "51.0", "0.2 (0.0, 0.5)", "0.0 (0.0, 0.0)", "1.00"]
    assert no_vnni.PAGE.exists()
