"""A state that stays on the device gives the executor's samples, bit by bit, on doubles of TensorRT and CUDA."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fewstep.runtime
from fewstep.graph.engines import built
from fewstep.graph.engines.build import BuildOptions, build
from fewstep.graph.engines.resident.run import resident
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.tensorrt import TensorRt
from fewstep.runtime.machine import cache
from tests.free_bundle import free
from tests.runtime.backends.cuda_double import CudaDouble

LABELS = [0, 2, 1]


def assert_bitwise(
    bundle: Path, backend: TensorRt, plan: str, seeds: Sequence[int], guidance: float | None = 2.0
) -> Any:
    """Also the second time, when a run may be a recording; returns what runs the steps of the last call."""
    with fewstep.runtime.load(bundle, "int8") as sampler:
        expected = sampler.sample(plan, seeds, {"class": LABELS[: len(seeds)]}, guidance)
        others = sampler.sample(plan, [each + 7 for each in seeds], {"class": LABELS[: len(seeds)]}, guidance)
    run = resident(bundle, plan, backend, "int8", "int8-cpu-x86", guidance)
    for _ in range(3):
        np.testing.assert_array_equal(run(seeds, {"class": LABELS[: len(seeds)]}), expected)
    np.testing.assert_array_equal(run([each + 7 for each in seeds], {"class": LABELS[: len(seeds)]}), others)
    ((stepper,),) = run._opened.values()
    return stepper


@pytest.mark.parametrize("plan", ["ddim:3", "dpmpp_2m:8", "heun:3", "ddim(eta=1):4", "sa_solver:4"])
@pytest.mark.parametrize("guidance", [None, 2.0])
def test_the_samples_are_those_of_the_executor(
    tiny_bundle: Path, plan: str, guidance: float | None, tensorrt: Any, builds: list[str]
) -> None:
    assert_bitwise(tiny_bundle, TensorRt(), plan, [3], guidance)
    assert_bitwise(tiny_bundle, TensorRt(), plan, [0, 1, 2], guidance)


@pytest.mark.parametrize("plan", ["dpmpp_2m:4", "ddim(eta=1):3"])
def test_in_tensorrt_the_whole_loop_is_one_recording(
    tiny_bundle: Path, plan: str, cuda: CudaDouble, tensorrt: Any, builds: list[str]
) -> None:
    stepper = assert_bitwise(tiny_bundle, TensorRt(), plan, [0, 1])
    assert stepper.graphs == "the whole loop"
    steps = int(plan.partition(":")[2])
    assert tensorrt.calls["execute_async_v3"] == 2 * steps  # in the first call, and for the recording
    assert cuda.calls["cudaGraphLaunch"] == 3 and len(builds) == 1
    again = assert_bitwise(tiny_bundle, TensorRt(cuda_graph=False), plan, [0, 1])
    assert again.graphs == "none" and len(builds) == 1  # the engine was kept


def test_a_kept_engine_that_is_refused_is_built_anew(tiny_bundle: Path, tensorrt: Any, builds: list[str]) -> None:
    backend = TensorRt()
    assert_bitwise(tiny_bundle, backend, "ddim:2", [0])
    (kept,) = cache.path("programs", "").iterdir()
    kept.write_bytes(b"of another driver")
    assert_bitwise(tiny_bundle, backend, "ddim:2", [0])
    assert len(builds) == 2
    assert_bitwise(tiny_bundle, backend, "ddim:2", [0])
    assert len(builds) == 2  # the new one was kept
    (timings,) = (cache.folder() / "timing").iterdir()
    assert timings.read_bytes() == b"measured measured "  # the second build began with the times of the first


def test_the_last_engines_alone_are_kept(
    tiny_bundle: Path, tensorrt: Any, builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(built, "PROGRAMS", 2)
    run = resident(tiny_bundle, "ddim:2", TensorRt())
    for batch in (1, 2, 3):
        run(range(batch), {"class": [0] * batch})
    assert len([*cache.path("programs", "").iterdir()]) == 2


def test_an_engine_that_cannot_be_recorded_runs_without(
    tiny_bundle: Path, tensorrt: Any, builds: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    tensorrt.records = False
    stepper = assert_bitwise(tiny_bundle, TensorRt(cuda_graph=True), "dpmpp_2m:4", [0, 1])
    assert stepper.graphs == "none" and "runs without a CUDA graph" in caplog.text


def test_tensorrt_rtx_is_asked_first(tiny_bundle: Path, tensorrt_rtx: Any, builds: list[str]) -> None:
    backend = TensorRt("tensorrt-rtx", cuda_graph=True)
    assert assert_bitwise(tiny_bundle, backend, "dpmpp_2m:4", [0, 1]).graphs == "the whole loop"
    assert tensorrt_rtx.calls["WHOLE_GRAPH_CAPTURE"] == 0


@pytest.mark.parametrize("steps", [3, 4])
def test_tensorrt_rtx_that_records_by_itself_keeps_its_addresses(
    tiny_bundle: Path, cuda: CudaDouble, tensorrt_rtx: Any, builds: list[str], steps: int
) -> None:
    tensorrt_rtx.records = False
    backend = TensorRt("tensorrt-rtx", cuda_graph=True)
    stepper = assert_bitwise(tiny_bundle, backend, f"dpmpp_2m:{steps}", [0, 1])
    assert stepper.graphs == "each step by the engine itself"
    assert tensorrt_rtx.calls["WHOLE_GRAPH_CAPTURE"] == 1 and cuda.calls["cudaGraphLaunch"] == 0
    assert len({tuple(each) for each in tensorrt_rtx.addresses}) == 1  # of all calls of that context


def test_what_a_run_takes_is_named(tiny_bundle: Path, tensorrt: Any, builds: list[str]) -> None:
    run = resident(tiny_bundle, "ddim:2", TensorRt())
    assert [port.name for port in run.inputs] == ["noise", "class"]
    np.testing.assert_array_equal(run([0], {"class": ["dress"]}), run([0], {"class": [1]}))
    for condition, message in (
        ({}, "condition 'class' is missing"),
        ({"class": [1, 2]}, "class"),
        ({"class": [-1]}, "class"),
        ({"class": [1.7]}, "class"),
        ({"class": [1], "style": [0]}, "unknown condition 'style'"),
    ):
        with pytest.raises(UserError, match=message):
            run([0], condition)
    with pytest.raises(UserError, match="no seeds"):
        run([], {"class": []})
    with pytest.raises(UserError, match="the run takes no 'image'; it takes noise, class"):
        run([0], {"class": [1]}, {"image": np.zeros((1, 1, 4, 4))})


def test_steps_stay_open_for_a_few_batches(tiny_bundle: Path, tensorrt: Any, builds: list[str]) -> None:
    run = resident(tiny_bundle, "ddim:2", TensorRt())
    for batch in (1, 2, 3, 4, 5, 1):
        assert run(range(batch), {"class": [0] * batch}).shape[0] == batch
    assert [shapes[0][0] for shapes in run._opened] == [3, 4, 5, 1]


def test_free_sizes_are_refused(tiny_bundle: Path) -> None:
    free(tiny_bundle)
    with pytest.raises(UserError, match="fixed sizes, and height, width are free"):
        resident(tiny_bundle, "ddim:2", TensorRt())


def test_a_float16_body_keeps_its_state_in_float32(tiny_bundle: Path, tensorrt: Any, builds: list[str]) -> None:
    build(BuildOptions(tiny_bundle, "onnxruntime-cuda", precision="float16"))
    run = resident(tiny_bundle, "dpmpp_2m:4", TensorRt(), "float16", "float16", 2.0)
    with fewstep.runtime.load(tiny_bundle, body="float16", backend=OnnxRuntime()) as sampler:
        expected = sampler.sample("dpmpp_2m:4", [0, 1], {"class": LABELS[:2]}, 2.0)
    np.testing.assert_array_equal(run([0, 1], {"class": LABELS[:2]}), expected)
