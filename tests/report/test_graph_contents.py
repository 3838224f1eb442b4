"""report/graph_contents.py: the types in which a body multiplies."""

from pathlib import Path

from fewstep.report.bundle_contents import InspectOptions, inspect
from fewstep.runtime.bundle.platforms import WEIGHTS_ONLY
from tests.calibration.precision.test_stored_weights import LAYERS, calibrated, mixer
from tests.calibration.test_calibrate import write_bundle


def test_stored_weights_are_listed_with_their_bits(tmp_path: Path) -> None:
    """The first and the last layer have float weights, and each product 8 bits or, of int4-weights, 4 or 8."""
    folder = write_bundle(tmp_path / "mixer", mixer())
    calibrated(folder)
    bodies = inspect(InspectOptions(folder)).bodies
    stored = {name: [op.precision for op in bodies[name].multiplying] for name in WEIGHTS_ONLY}
    eight, four = (f"float32, weights of {bits} bits" for bits in (8, 4))
    assert stored["int8-weights"] == ["float32", *[eight] * LAYERS, "float32"]
    assert four in stored["int4-weights"] and {*stored["int4-weights"][1:-1]} <= {eight, four}
