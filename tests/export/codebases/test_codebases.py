"""Published networks of PyPI go through export, calibrate and run. `.ci/run` installs them, and so does `pip install
--no-deps -r .ci/codebases.txt`.
"""

from pathlib import Path

import numpy as np
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.graph.files import io
from fewstep.graph.index import index
from fewstep.graph.selection import FEW_CHANNELS, OUTER, explain_selection
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load

for package in ("einops", "a_unet", "ema_pytorch"):  # what their packages need
    pytest.importorskip(package, reason="codebases of others are not installed: .ci/codebases.txt")
pytestmark = pytest.mark.slow
NETWORKS = Path(__file__).parent / "networks.py"
PLAN, SEEDS = "dpmpp_2m:4", (0, 1)


@pytest.mark.parametrize(
    ("name", "int8"),
    [
        ("ddpm_unet", 0.9),
        ("small_unet", 0.9),
        ("small_dit", 0.84),  # the rest are attention's products
        ("audio_unet", 0.85),
    ],
)
def test_a_network_of_others_goes_from_its_class_to_int8_samples(name: str, int8: float, tmp_path: Path) -> None:
    export(ExportOptions(f"{NETWORKS}:{name}", tmp_path / "bundle", verify="quick"))
    bundle = open_bundle(tmp_path / "bundle")
    body = io.load(bundle.graph(bundle.body("float32").graph), root=bundle.path)
    assert {reason for _, reason in explain_selection(body)} <= {"", FEW_CHANNELS, OUTER}
    moving = index(body).dependents(["x"])
    assert all(op.x in moving for op, _ in explain_selection(body))  # the time's layers left the loop
    calibrate(CalibrateOptions(bundle.path, PLAN, ("cpu-x86",), trajectories=2))
    covered = open_bundle(bundle.path).body("int8-cpu-x86").graph.coverage
    assert covered is not None and covered.int8_macs / covered.total_macs > int8
    with load(bundle.path) as exact, load(bundle.path, "int8") as sampler:
        expected, found = (each.sample(PLAN, SEEDS) for each in (exact, sampler))
    assert np.isfinite(expected).all()
    assert 0 < np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)
