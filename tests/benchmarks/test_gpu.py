"""benchmarks/gpu.py without a GPU: what it says, its rows and page on doubles, and torch's samples on the CPU."""

import runpy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from msgspec import structs

from benchmarks.zoo.members import Shipped
from fewstep.graph.engines.kernels import Kernel, Kernels
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.tensorrt import TensorRt
from fewstep.runtime.machine.gpu import Gpu
from tests.runtime.backends.built import add_engine
from tests.runtime.backends.conftest import cuda as cuda
from tests.runtime.backends.conftest import tensorrt as tensorrt

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/gpu.py"))
Contender, GpuRow, measure = SCRIPT["Contender"], SCRIPT["GpuRow"], SCRIPT["measure"]
FASHION_MNIST = SCRIPT["KNOWN"]["fashion_mnist"]
TINY = Shipped("tiny", "dpmpp_2m:8", guidance=2.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(measure.__globals__, "SECONDS", 0.0)
    monkeypatch.setitem(measure.__globals__, "LEAST", 1)


def test_a_machine_without_a_gpu_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(SCRIPT["main"].__globals__, "these_gpus", lambda: ())
    monkeypatch.setitem(SCRIPT["main"].__globals__, "this_jetson", lambda: None)
    assert SCRIPT["main"](["--output", str(tmp_path / "gpu.md")]) == 0
    assert capsys.readouterr().out.splitlines() == [SCRIPT["NO_GPU"]] and not (tmp_path / "gpu.md").exists()


def test_engines_on_doubles_agree_and_what_fails_is_a_row(tiny_bundle: Path, cuda: Any, tensorrt: Any) -> None:
    add_engine(tiny_bundle, "float32")
    backend = TensorRt(cuda_graph=True)

    def fail() -> None:
        raise UserError("there is no engine", "build one")

    of = SCRIPT["Deployed"](TINY, tiny_bundle)
    expected = SCRIPT["expected_samples"](of, seeds=5)
    rows = [
        measure(each, expected, batches=(1, 3))
        for each in (
            Contender("tensorrt", "float32", SCRIPT["on_backend"](of, "float32", backend)),
            Contender("broken", "int8", fail),
        )
    ]
    assert [each.least > 120 for each in rows] == [True, False]
    assert [len(each.milliseconds) for each in rows] == [2, 0]
    assert all(0 < half <= most for each in rows for half, most in each.milliseconds)
    page = SCRIPT["page"](("a GPU", "today"), {"fashion_mnist": rows})
    assert page.endswith("| broken | int8 | there is no engine; build one |  |  |  |\n")
    assert page.count("| fashion_mnist, dpmpp_2m:8, guidance 2 | tensorrt | float32 |") == 1


def test_the_list_names_both_precisions_and_torch(tiny_bundle: Path) -> None:
    of = SCRIPT["Deployed"](TINY, tiny_bundle)
    found = [(each.name, each.precision) for each in SCRIPT["contenders"](of, "tensorrt", True)]
    assert [each for each in found if each[0].startswith("tensorrt")] == [
        (name, precision) for precision in ("float16", "int8") for name in ("tensorrt", "tensorrt, CUDA graph")
    ]
    assert ("torch, compiled", "float16") in found and ("torch, eager", "float32") in found
    assert ("onnxruntime-cuda, baked file", "float32") in found


def test_a_rehearsal_runs_what_needs_no_gpu_and_ends_in_time(tiny_bundle: Path) -> None:
    of = SCRIPT["Deployed"](TINY, tiny_bundle)
    expected = SCRIPT["expected_samples"](of, seeds=3)
    every = list(SCRIPT["contenders"](of, "", False, "cpu"))
    assert [each.precision for each in every] == ["float32"] * 2 + ["float16"] * 2
    cuda, baked, *_ = every
    assert measure(baked, expected, batches=(1,)).least > 120
    assert measure(baked, expected, until=0.0).reason == "the time was over; give more (--minutes)"
    assert "CUDA" in measure(cuda, expected).reason


def test_times_stand_beside_the_bound_of_a_gpu_that_is_known(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 steps of a kernel that moves 504 MB at 1008 GB/s."""
    add_engine(tiny_bundle, "float32")
    asked = []

    def read(engine: bytes, shapes: dict[str, tuple[int, ...]]) -> Kernels:
        asked.append(shapes["x"][0])
        return Kernels((Kernel("one", "function", ("float16",), ("float16",), 504_000_000, 0),))

    bounds, of = SCRIPT["bounds"], SCRIPT["Deployed"](TINY, tiny_bundle)
    monkeypatch.setitem(bounds.__globals__, "kernels_of", read)
    known = Gpu("NVIDIA GeForce RTX 4090", "sm89", "580.65", None, None)
    found = bounds(of, "float32", known, batches=(1, 8))
    assert asked == [2, 16] and found == pytest.approx((8 * 0.5005, 8 * 0.5005))
    row = GpuRow("tensorrt-rtx", "float32", 60.0, 50.0, ((5.0, 6.0), (7.0, 8.0)), bounds=found)
    assert "| 5.00, 6.00 | 7.00, 8.00 | 4.00, 4.00 |" in SCRIPT["page"](("a GPU",), {"cifar10": [row]})
    for name in ("NVIDIA GeForce RTX 4090 Laptop GPU", "another"):
        assert bounds(of, "float32", structs.replace(known, name=name)) == ()
    assert bounds(of, "int8", known) == bounds(of, "float32", None) == ()


def test_a_model_that_cannot_be_prepared_is_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpu = Gpu("a GPU", "sm90", "580.65", 1024, 1024)
    monkeypatch.setitem(SCRIPT["main"].__globals__, "these_gpus", lambda: (gpu,))
    monkeypatch.setitem(SCRIPT["main"].__globals__, "KNOWN", {"foo": Shipped("foo", "ddim:1")})
    assert SCRIPT["main"](["--model", "foo", "--output", str(tmp_path / "gpu.md")]) == 0
    page = (tmp_path / "gpu.md").read_text()
    assert "- a GPU (sm90), driver 580.65, 1024 of 1024 MiB free at the start\n" in page
    assert "| all |  | there is no file or folder 'foo'" in page


@pytest.mark.slow
def test_torch_gives_the_samples_of_the_bundle(exported_fashion_mnist: Path) -> None:
    of = SCRIPT["Deployed"](FASHION_MNIST, exported_fashion_mnist)
    expected = SCRIPT["expected_samples"](of, seeds=2)
    sample = SCRIPT["in_torch"](of, "cpu", "float32", False)()
    np.testing.assert_allclose(sample(range(2)), expected, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(SCRIPT["seen"]() is None, reason=SCRIPT["NO_GPU"])
def test_what_this_gpu_runs_agrees_with_the_cpu(tmp_path: Path) -> None:
    """float16 and int8 of every engine that is installed, beside float32 on the CPU."""
    installed = [each for each in ("tensorrt", "tensorrt-rtx") if find_spec(each.replace("-", "_"))]
    name = installed[0] if installed else ""
    of = SCRIPT["prepared"](FASHION_MNIST, tmp_path, name)
    expected = SCRIPT["expected_samples"](of, seeds=8)
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    least = {"float32": 60.0, "float16": 40.0, "int8": 25.0}
    for each in SCRIPT["contenders"](of, name, False):
        if has_cuda or not each.name.startswith("onnxruntime-cuda"):
            row = measure(each, expected)
            assert not row.reason and row.mean > least[each.precision], (row, each.name)
