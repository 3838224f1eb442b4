"""The memory of calibrating 300 MB of weights, and of running them in int8: `pytest -m large`.

The network is that of benchmarks/memory.py. The limit above which weights leave a graph is lowered, so that its int8
bodies are large too.
"""

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import memory
from benchmarks.command_cost import measure
from fewstep.graph.files import io
from fewstep.graph.files.weights import weight_bytes
from fewstep.runtime.bundle.reading import open_bundle

pytestmark = [
    pytest.mark.large,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc"),
]

MB = 10**6
ALONE = 200 * MB  # of the command, its engines and one evaluation of this network: some 130 measured
ACTIVATIONS = 20 * MB  # of one evaluation, and what onnxruntime keeps besides weights
COMMAND = """
import os
import sys
from fewstep.cli.main import main

main(["--version"])  # sets what it sets before numpy is there
assert "numpy" not in sys.modules
from fewstep.cli.verbs import calibrate
from fewstep.graph.files import io

io.EXTERNAL_ABOVE = 10_000_000
calibrate.time_bf16 = lambda *arguments: None  # it is measured alone
sys.exit(main())
"""
TIME_BF16 = """
import sys
from pathlib import Path
from fewstep.report.choosing.int8_speedup import time_bf16

assert time_bf16(Path(sys.argv[1]), ("openvino",), 0) is not None
"""
TIME_CALLS = """
import sys
from pathlib import Path
from fewstep.report.choosing.whole_call import time_calls

assert list(time_calls(Path(sys.argv[1]), sys.argv[2:], 0))
"""
SAMPLE = """
import sys
from pathlib import Path
import onnxruntime
import fewstep.runtime

def most():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

onnxruntime.get_available_providers()
before = most()
fewstep.runtime.load(sys.argv[1], body=sys.argv[2]).sample("ddim:2", seeds=[0])
print(most() - before)
"""


@pytest.fixture(scope="module")
def large_bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The bundle, and the bytes of its weights."""
    folder = tmp_path_factory.mktemp("exported")
    return folder / "bundle", memory.measure(300 * MB, folder).weights


def peak(arguments: Sequence[str]) -> int:
    """Return the largest resident memory of a command of fewstep, including mapped files."""
    return measure([sys.executable, "-c", COMMAND, *arguments]).peak


@pytest.fixture(scope="module")
def calibration_peak(large_bundle: tuple[Path, int]) -> int:
    """The peak of calibrating the bundle for ONNX Runtime and TensorRT."""
    return calibrating(large_bundle[0], "cpu-x86,tensorrt")


def calibrating(bundle: Path, targets: str) -> int:
    plan = ("--plan", "ddim:2", "--trajectories", "4", "--target", targets, "-q")
    return peak(["calibrate", str(bundle), *plan])


def test_calibrating_takes_half_of_the_weights_in_addition(
    calibration_peak: int, large_bundle: tuple[Path, int]
) -> None:
    """A second session of them would miss the bar by 150 MB, bodies that all wait in memory by more."""
    weights = large_bundle[1]
    assert weights < calibration_peak < 1.5 * weights + ALONE


needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")


@needs_openvino
def test_timing_bf16_first_takes_the_weights_twice(large_bundle: tuple[Path, int]) -> None:
    """Mapped, and as OpenVINO computes with them; with its cached graph or its comparison they would be there three
    times."""
    bundle, weights = large_bundle
    assert weights < measure([sys.executable, "-c", TIME_BF16, str(bundle)]).peak < 2 * weights + ALONE


@pytest.mark.usefixtures(
    "calibration_peak"
)  # the other bodies are made first: `calibrate` keeps those of its own targets
@needs_openvino
def test_openvino_takes_no_more(large_bundle: tuple[Path, int]) -> None:
    """Its float network is compared with ONNX Runtime's part by part: whole, OpenVINO alone would miss the bar."""
    bundle, weights = large_bundle
    assert weights < calibrating(bundle, "cpu-x86,openvino") < 1.5 * weights + ALONE


@pytest.mark.usefixtures("calibration_peak")
@needs_openvino
def test_timing_calls_holds_one_network_at_a_time(large_bundle: tuple[Path, int]) -> None:
    """Float32 and each body have processes of their own, one after the other."""
    bundle, weights = large_bundle
    bodies = ("int8-cpu-x86", "int8-openvino")
    assert weights < measure([sys.executable, "-c", TIME_CALLS, str(bundle), *bodies]).peak < 1.5 * weights + ALONE


@pytest.mark.usefixtures("calibration_peak")
def test_running_in_int8_takes_little_besides_its_weights(large_bundle: tuple[Path, int]) -> None:
    bundle, weights = large_bundle
    manifest = open_bundle(bundle).manifest
    assert manifest.prologue is not None
    graphs = (manifest.prologue, manifest.bodies["int8-cpu-x86"].graph)  # the former in float32
    held = sum(weight_bytes(io.load(bundle / graph.file, root=bundle)) for graph in graphs)
    assert 0.25 * weights < held < 0.4 * weights
    command = [sys.executable, "-c", SAMPLE, str(bundle), "int8-cpu-x86"]
    with_openvino = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert held < with_openvino < 1.3 * held + ACTIVATIONS
