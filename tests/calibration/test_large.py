"""Every target and verb on a network too large for one file and for onnxruntime's messages, such as one of 860 M
weights.

With lower limits, 1.5 MB count as large: all but the smallest constants are passed to onnxruntime apart from the graph,
mapped from files or, if they are in none yet, in memory.
"""

import importlib.util
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.failed_bodies import target_body_name
from fewstep.calibration.lowering.targets import load_target, target_names
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.graph.files import io, weights
from fewstep.graph.files.pack import PackOptions, pack
from fewstep.measure.measure import measure
from fewstep.measure.options import MeasureOptions
from fewstep.report.bundle_contents import InspectOptions, inspect
from fewstep.report.integrity import VerifyOptions, verify
from fewstep.report.options import ReportOptions
from fewstep.report.report import report
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from tests.calibration.test_calibration_settings import FEW

pytestmark = pytest.mark.slow

HERE = tuple(each for each in target_names() if each != "openvino" or importlib.util.find_spec("openvino"))
BODIES = tuple(target_body_name(load_target(target)) for target in HERE)
PLAN = "ddim:2"
APART = 256  # bytes: enough for what onnxruntime reads while it loads, such as the widths of a Pad
DENOISER = """
import torch
from torch import nn
from fewstep.export import ScheduleSpec, Spec


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.time, self.shift = nn.Linear(1, 128), nn.Linear(128, 128)
        self.first, self.second = nn.Conv2d(2, 64, 3, padding=1), nn.Conv2d(64, 128, 3, padding=1)
        self.up, self.down = nn.Linear(128, 512), nn.Linear(512, 128)
        self.last = nn.Conv2d(128, 2, 3, padding=1)

    def forward(self, x, time):
        t = self.shift(torch.relu(self.time(time[:, None] / 1000)))
        h = torch.relu(self.second(torch.relu(self.first(x))) + t[:, :, None, None])
        tokens = h.flatten(2).transpose(1, 2)
        tokens = tokens + self.down(torch.nn.functional.silu(self.up(tokens)))
        return self.last(tokens.transpose(1, 2).unflatten(2, (8, 8)))


def make():
    torch.manual_seed(0)
    denoiser = Denoiser()
    with torch.no_grad():
        denoiser.up.bias += 8.0 * torch.rand(512) * (torch.arange(512) % 16 == 0)  # channels of their own ranges
    return denoiser, Spec("large", (2, 8, 8), (), "v", ScheduleSpec("cosine"))
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with all its weights in its graphs."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "denoiser.py").write_text(DENOISER)
    export(ExportOptions(f"{folder / 'denoiser.py'}:make", folder / "bundle"))
    calibrate(CalibrateOptions(folder / "bundle", PLAN, target=HERE, trajectories=4))
    return folder / "bundle"


@pytest.fixture(scope="module")
def large(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle with lower limits."""
    bundle = tmp_path_factory.mktemp("large") / "bundle"
    with pytest.MonkeyPatch.context() as patched:
        lower_limits(patched)
        export(ExportOptions(f"{small.parent / 'denoiser.py'}:make", bundle))
        calibrate(CalibrateOptions(bundle, PLAN, target=HERE, trajectories=4))
    return bundle


def lower_limits(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(io, "EXTERNAL_ABOVE", 0)
    patched.setattr(weights, "LARGE", APART)


@pytest.fixture
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    lower_limits(monkeypatch)


@pytest.mark.parametrize("name", ["float32", *BODIES])
def test_each_body_is_that_of_the_small_bundle_with_its_weights_in_files(small: Path, large: Path, name: str) -> None:
    one, files = (open_bundle(bundle).manifest.bodies[name] for bundle in (small, large))
    assert not one.graph.data and files.graph.data
    same = {
        "graphs": one.graphs,
        "ranges": one.ranges,
        "trials": one.trials,
        "replaces": one.replaces,
    }  # tables name graphs
    assert msgspec.structs.replace(files, **same) == one  # groups and coverage
    for small_trial, large_trial in zip(one.trials, files.trials, strict=True):
        assert large_trial.psnr == pytest.approx(small_trial.psnr, abs=0.05)
    assert not any(array.nbytes >= APART for array in inside(large / files.graph.file))
    expected, found = (load(bundle, body=name).sample(PLAN, seeds=[0, 1]) for bundle in (small, large))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_every_file_of_a_large_bundle_is_named(large: Path) -> None:
    manifest = open_bundle(large).manifest
    found = {path.relative_to(large).as_posix() for path in large.rglob("*") if path.is_file()}
    assert found == {*manifest.files, "manifest.json"}


def inside(path: Path) -> list[np.ndarray]:
    """Return the constants inside a graph."""
    constants = io.load(path, root=path.parent.parent).constants.values()
    return [array for array in constants if weights.place_of(array) is None]


def test_scales_of_channels_are_among_what_is_given_apart(large: Path) -> None:
    """onnxruntime once reported them as missing initializers."""
    names = set()
    for body in BODIES:
        file = open_bundle(large).manifest.bodies[body].graph.file
        constants = io.load(large / file, root=large).constants
        names |= {name for name, array in constants.items() if "_multipliers" in name and array.nbytes >= APART}
    assert names


@pytest.mark.usefixtures("low_limits")
def test_every_verb_takes_it(large: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(large, bundle)
    measure(MeasureOptions(bundle, ("psnr",), seeds=2, teacher=PLAN))
    report(ReportOptions(bundle, teacher=PLAN, turn_seconds=0.01, **FEW))  # type: ignore[arg-type]
    assert set(BODIES) <= set(inspect(InspectOptions(bundle)).bodies)
    assert verify(VerifyOptions(bundle)).is_whole
    pack(PackOptions(bundle, tmp_path / "device"))
    assert verify(VerifyOptions(tmp_path / "device")).is_whole
    packed, whole = (load(each, body="int8-cpu-x86").sample(PLAN, seeds=[3]) for each in (tmp_path / "device", bundle))
    np.testing.assert_array_equal(packed, whole)


@pytest.mark.usefixtures("low_limits")
def test_a_precision_map_is_searched(large: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(large, bundle)
    calibrate(
        CalibrateOptions(bundle, PLAN, target="cpu-x86", trajectories=4, quality="10dB")  # type: ignore[arg-type]
    )
    assert open_bundle(bundle).manifest.precision is not None
    assert verify(VerifyOptions(bundle)).is_whole
