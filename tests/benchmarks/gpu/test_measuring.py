"""Contenders of a denoiser without a GPU: on the CPU, and on doubles of TensorRT."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from msgspec import structs

from benchmarks.gpu import __main__ as script
from benchmarks.gpu import bounds as bounds_module
from benchmarks.gpu import deployed as deployed_module
from benchmarks.gpu import measuring
from benchmarks.gpu.bounds import bounds
from benchmarks.gpu.contenders import FORM, LOOP, STEPS, UNROLLED, WHOLE, Contender, contenders
from benchmarks.gpu.deployed import Deployed, Preparation, expected_samples, on_backend, unroll
from benchmarks.gpu.machine import NO_GPU, seen
from benchmarks.gpu.measuring import Measurement, measure, measurements
from benchmarks.gpu.results import DenoiserRow
from benchmarks.gpu.torch_sampler import in_torch
from benchmarks.nvidia.int8_forms import KNOWN
from fewstep.graph.engines.kernels import Kernel, Kernels
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.tensorrt import TensorRt
from fewstep.runtime.machine.gpu import Gpu
from tests.runtime.backends.add_engines import add_engine
from tests.runtime.backends.conftest import cuda as cuda
from tests.runtime.backends.conftest import tensorrt as tensorrt
from zoo.members import Shipped

TINY = Shipped("tiny", "dpmpp_2m:8", guidance=2.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "SECONDS", 0.0)
    monkeypatch.setattr(measuring, "LEAST", 1)


def test_a_machine_without_a_gpu_gets_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(script, "seen", lambda: None)
    with pytest.raises(SystemExit, match="2"):
        script.main(["--output", str(tmp_path)])
    assert capsys.readouterr().err.endswith(f"error: {NO_GPU}\n") and not list(tmp_path.iterdir())


def test_a_denoiser_that_was_not_prepared_in_time_is_a_row_with_the_fix(tmp_path: Path) -> None:
    (row,) = Measurement("fashion_mnist", tmp_path, 0, "", "cpu", None).run()
    assert isinstance(row, DenoiserRow) and row.reason.endswith("give more --minutes") and not row.timings


def test_engines_on_doubles_agree_and_what_fails_is_a_row(tiny_bundle: Path, cuda: Any, tensorrt: Any) -> None:
    add_engine(tiny_bundle, "float32")

    def fail() -> None:
        raise UserError("there is no engine", "build one")

    of = Deployed(TINY, tiny_bundle)
    good, broken = (
        measure("tiny", each, expected_samples(of, seeds=5), batches=(1, 3))
        for each in (
            Contender("tensorrt", "float32", on_backend(of, "float32", TensorRt(cuda_graph=True))),
            Contender("broken", "int8", fail),  # type: ignore[arg-type]
        )
    )
    assert good.least is not None and good.least > 120 and not good.reason
    assert [timing.batch for timing in good.timings] == [1, 3]
    assert all(0 < timing.median <= timing.percentile_99 for timing in good.timings)
    assert broken.reason == "UserError: there is no engine; build one" and broken.timings == ()


def test_times_that_were_taken_before_a_failure_are_kept(tiny_bundle: Path) -> None:
    def open_sample() -> Any:
        def sample(seeds: Any) -> np.ndarray:
            if len(seeds) == 3 and made:
                raise RuntimeError("out of memory")
            made.append(1) if len(seeds) == 1 else None
            return np.zeros((len(seeds), 2), np.float32)

        return sample

    made: list[int] = []
    row = measure("tiny", Contender("one", "float32", open_sample), np.zeros((3, 2), np.float32), batches=(1, 3))
    assert [timing.batch for timing in row.timings] == [1] and row.reason == "RuntimeError: out of memory"


@pytest.mark.parametrize("name", [UNROLLED, WHOLE])
def test_the_unrolled_run_gives_the_samples_of_the_cpu(tiny_bundle: Path, name: str) -> None:
    of = Deployed(TINY, tiny_bundle)
    for batch in deployed_module.BATCHES:
        unroll(of, "float32", batch)
    every = {(contender.name, contender.precision): contender for contender in contenders(of, device="cpu")}
    row = measure("tiny", every[name, "float32"], expected_samples(of, seeds=11), batches=(1, 8))
    assert row.least is not None and row.least > 120 and len(row.timings) == 2


def test_the_baked_run_gives_the_samples_of_the_cpu(tiny_bundle: Path) -> None:
    of = Deployed(TINY, tiny_bundle)
    every = {(contender.name, contender.precision): contender for contender in contenders(of, device="cpu")}
    row = measure("tiny", every[LOOP, "float32"], expected_samples(of, seeds=3), batches=(1,))
    assert row.least is not None and row.least > 120


def test_without_the_cuda_provider_a_row_says_so(tiny_bundle: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("it is there")
    of = Deployed(TINY, tiny_bundle)
    every = [contender for contender in contenders(of) if contender.precision == "float32"]
    rows = [measure("tiny", each, expected_samples(of, seeds=2)) for each in every if each.name != LOOP]
    assert all("CUDA" in row.reason for row in rows)


def test_the_list_names_both_precisions_of_an_engine(tiny_bundle: Path) -> None:
    found = [(contender.name, contender.precision) for contender in contenders(Deployed(TINY, tiny_bundle), "tensorrt")]
    assert found[:4] == [
        (name, precision) for precision in ("float16", "int8") for name in ("tensorrt", "tensorrt, CUDA graph")
    ]
    names = (FORM, WHOLE, STEPS, UNROLLED, LOOP)
    assert found[4:] == [(name, each) for name in names for each in ("float16", "float32")]


def test_the_first_contenders_of_all_denoisers_come_first(tmp_path: Path) -> None:
    found = measurements(("cifar10", "dit_flow"), tmp_path, "", "cpu", None)
    assert [(each.name, each.number) for each in found[:5]] == [
        ("cifar10", 0),
        ("cifar10", 1),
        ("dit_flow", 0),
        ("dit_flow", 1),
        ("cifar10", 2),
    ]
    assert len(found) == 20


def test_a_denoiser_beyond_float16_is_measured_in_bfloat16(tmp_path: Path) -> None:
    """It has no portable graph on the provider, so two of its five engines remain."""
    found = measurements(("cifar10", "residual_outliers"), tmp_path, "", "cuda", None)
    names = [each.failure("").engine for each in found if each.failure("").precision == "bfloat16"]
    assert names == [FORM, WHOLE] and len(found) == 10 + 7


def test_a_known_gpu_has_bounds(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 steps of a kernel that moves 504 MB at 1008 GB/s."""
    add_engine(tiny_bundle, "float32")
    asked = []

    def read(engine: bytes, shapes: dict[str, tuple[int, ...]]) -> Kernels:
        asked.append(shapes["x"][0])
        return Kernels((Kernel("one", "function", ("float16",), ("float16",), 504_000_000, 0),))

    of = Deployed(TINY, tiny_bundle)
    monkeypatch.setattr(bounds_module, "kernels_of", read)
    known = Gpu("NVIDIA GeForce RTX 4090", "sm89", "580.65", None, None)
    assert bounds(of, "float32", known, batches=(1, 8)) == pytest.approx((8 * 0.5005, 8 * 0.5005))
    assert asked == [2, 16]
    for name in ("NVIDIA GeForce RTX 4090 Laptop GPU", "another"):
        assert bounds(of, "float32", structs.replace(known, name=name)) == ()
    assert bounds(of, "int8", known) == bounds(of, "float32", None) == ()


def test_a_model_that_cannot_be_prepared_is_a_row() -> None:
    job = Preparation("fashion_mnist", Path("folder"))
    row = job.failure("UserError: there is no file")
    assert (row.denoiser, row.engine, row.reason) == ("fashion_mnist", "all", "UserError: there is no file")


@pytest.mark.slow
def test_torch_gives_the_samples_of_the_bundle(exported_fashion_mnist: Path) -> None:
    of = Deployed(KNOWN["fashion_mnist"], exported_fashion_mnist)
    sample = in_torch(of, "cpu", "float32", None)()
    np.testing.assert_allclose(sample(range(2)), expected_samples(of, seeds=2), atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(seen() is None, reason=NO_GPU)
def test_what_this_gpu_runs_agrees_with_the_cpu(tmp_path: Path) -> None:
    """float16 and int8 of every engine that is installed, compared with float32 on the CPU."""
    name = next((each for each in ("tensorrt", "tensorrt-rtx") if find_spec(each.replace("-", "_"))), "")
    list(Preparation("fashion_mnist", tmp_path, name).run())
    of = deployed_module.deploy("fashion_mnist", tmp_path)
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    least = {"float32": 60.0, "float16": 40.0, "int8": 25.0}
    for contender in contenders(of, name):
        if has_cuda or not contender.name.startswith(STEPS):
            row = measure("fashion_mnist", contender, np.load(of.expected_file))
            assert not row.reason and row.mean is not None and row.mean > least[contender.precision], (
                row,
                contender.name,
            )
