"""TensorRT under the backend protocol, on doubles of TensorRT and CUDA whose engines onnxruntime computes."""

import gc
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import fewstep.runtime
from fewstep.graph.files.pack import PackOptions, pack
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.tensorrt import TensorRt
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.machine import cache
from tests.bundles import change_bundle
from tests.free_size_bundle import free
from tests.refusals import refuses
from tests.runtime.backends.add_engines import BATCHES, add_engine, feeds
from tests.runtime.backends.cuda_double import CudaDouble, Error
from tests.runtime.backends.tensorrt_double import engine


@pytest.fixture
def built(tiny_bundle: Path, tensorrt: Any) -> Path:
    """The tiny bundle with engines of its float32 body and its prologue."""
    add_engine(tiny_bundle, "float32")
    add_engine(tiny_bundle, "prologue")
    return tiny_bundle


def body(bundle: Path, **settings: Any) -> Any:
    return TensorRt(**settings).load(open_bundle(bundle), "float32")


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_every_step_runs_in_its_range_group(tiny_bundle: Path, tensorrt: Any, cuda_graph: bool) -> None:
    """The engine takes the group as an input of one number; steps of one group follow those of another."""
    bodies = open_bundle(tiny_bundle).manifest.bodies
    grouped = msgspec.structs.replace(bodies["int8-cpu-x86"], target="tensorrt")
    change_bundle(tiny_bundle, bodies={"float32": bodies["float32"], "int8-tensorrt": grouped})
    add_engine(tiny_bundle, "int8-tensorrt")
    options: dict[str, Any] = {"seeds": [0, 1], "condition": {"class": [0, 1]}, "guidance": 2.0}
    exact = fewstep.runtime.load(tiny_bundle, body="int8-tensorrt", backend=OnnxRuntime())
    assert {step.group for step in exact.compile("dpmpp_2m:8", guidance=2.0).steps} == {0, 1}
    with fewstep.runtime.load(tiny_bundle, "int8", backend=TensorRt(cuda_graph=cuda_graph)) as sampler:
        for _ in range(2):
            np.testing.assert_array_equal(
                sampler.sample("dpmpp_2m:8", **options), exact.sample("dpmpp_2m:8", **options)
            )


def test_a_call_allocates_nothing_and_sets_shapes_only_when_they_change(
    built: Path, cuda: CudaDouble, tensorrt: Any
) -> None:
    network = body(built)
    cuda.calls.clear(), tensorrt.calls.clear()
    for value in range(5):
        np.testing.assert_array_equal(network(feeds(value))["v"], np.full((2, 1, 4, 4), value / 2 + 1, np.float32))
    assert cuda.calls == {"cudaMemcpyAsync": 10, "cudaStreamSynchronize": 5}  # all inputs there, all outputs back
    assert tensorrt.calls == {"execute_async_v3": 5}
    np.testing.assert_array_equal(network(feeds(4.0, 7))["v"], np.full((7, 1, 4, 4), 3.0, np.float32))
    assert tensorrt.calls == {"execute_async_v3": 6, "set_input_shape": 2, "set_tensor_address": 3}


def test_memory_is_given_back_with_the_network_and_results_outlive_it(built: Path, cuda: CudaDouble) -> None:
    network = body(built)
    assert cuda.living() == 4  # inputs and outputs, on both sides
    result = network(feeds(2.0))["v"]
    del network
    gc.collect()
    assert cuda.living() == 0 and not cuda.streams
    np.testing.assert_array_equal(result, np.full((2, 1, 4, 4), 2.0, np.float32))


def test_several_contexts_run_at_once(built: Path, cuda: CudaDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    network = body(built, contexts=2)
    meeting = threading.Barrier(2, timeout=10)  # passed only if two calls wait for their streams together
    wait = cuda.cudaStreamSynchronize
    monkeypatch.setattr(cuda, "cudaStreamSynchronize", lambda stream: (meeting.wait(), wait(stream))[1])
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda value: network(feeds(value))["v"][0, 0, 0, 0], [2.0, 4.0]))
    assert results == [2.0, 3.0]


@pytest.mark.parametrize("batch", [0, 9])
def test_a_batch_outside_the_profile_names_it_and_the_fix(built: Path, batch: int) -> None:
    with pytest.raises(UserError) as caught:
        body(built)(feeds(1.0, batch))
    assert str(caught.value).startswith(
        f"the tensorrt engine of 'float32' for sm89 takes 1 to 8 rows, best 2, not {batch} (a guided sample has two);"
        f" give fewer samples per call, or fewstep build {built} --backend tensorrt --max-batch {max(batch, 8)}"
    )


def test_a_prologue_takes_any_number_of_rows(built: Path) -> None:
    network = TensorRt().load(open_bundle(built), "prologue")
    times, labels = np.arange(21, dtype=np.float32), np.zeros(21, np.int64)
    np.testing.assert_allclose(network({"time": times, "label": labels})["row"][:, 0], 0.1 + times / 1000, rtol=1e-6)


def test_a_prologue_without_an_engine_runs_on_the_cpu(tiny_bundle: Path, cuda: CudaDouble, tensorrt: Any) -> None:
    add_engine(tiny_bundle, "float32")
    add_engine(tiny_bundle, "prologue", device="sm120")  # of another GPU
    network = TensorRt().load(open_bundle(tiny_bundle), "prologue")
    row = network({"time": np.array([100.0], np.float32), "label": np.array([1])})["row"]
    np.testing.assert_allclose(row, [[0.3]], rtol=1e-6)
    assert not cuda.calls


def test_a_packed_bundle_takes_the_engines_of_its_bodies_along(built: Path, tmp_path: Path) -> None:
    add_engine(built, "prologue", device="sm120")  # where the body has none
    manifest = pack(PackOptions(built, tmp_path / "device", body=("float32",)))
    assert [(engine.body, engine.device) for engine in manifest.engines] == [("prologue", "sm89"), ("float32", "sm89")]
    options: dict[str, Any] = {"seeds": [0], "condition": {"class": [1]}}
    samples = [
        fewstep.runtime.load(each, backend=TensorRt()).sample("ddim:4", **options)
        for each in (built, tmp_path / "device")
    ]
    np.testing.assert_array_equal(*samples)


def test_a_data_centre_gpu_is_sent_to_another_backend(
    tiny_bundle: Path, tensorrt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_engine(tiny_bundle, "float32", backend="tensorrt-rtx", backend_version="1.7.1.116", multiprocessors=None)
    for device in ("sm90", "sm100"):
        monkeypatch.setattr("fewstep.runtime.backends.cuda.describe", lambda number, sm=device: (sm, 132))
        with refuses(("tensorrt-rtx", device), "use tensorrt"):
            body(tiny_bundle, name="tensorrt-rtx")


def test_an_engine_that_does_not_fit_is_refused_by_the_field(tiny_bundle: Path, tensorrt: Any) -> None:
    add_engine(tiny_bundle, "float32", multiprocessors=16)
    said = "no engine of 'float32' fits this machine: multiprocessors: built on 16, but this sm89 has 64"
    with pytest.raises(UserError, match=said) as caught:
        body(tiny_bundle)
    assert caught.value.fix == f"fewstep build {tiny_bundle} --backend tensorrt --precision float32"


def test_the_engine_for_this_gpu_is_found_among_others(tiny_bundle: Path, tensorrt: Any) -> None:
    add_engine(tiny_bundle, "float32", device="sm120")
    add_engine(tiny_bundle, "float32")
    assert body(tiny_bundle)(feeds(2.0))["v"][0, 0, 0, 0] == 2.0


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "has no tensorrt engine of 'float32'; fewstep build .* --backend tensorrt"),
        (b"no engine", "tensorrt 10.3.0 cannot load 'float32': Serialization assertion .* failed.;"),
        ("graphs/prologue.onnx", r"has a tensor 'time' \(float32\) that its graph does not have"),
    ],
)
def test_an_engine_that_is_none_or_another_graph_s_is_named(
    tiny_bundle: Path, tensorrt: Any, content: bytes | str | None, named: str
) -> None:
    if isinstance(content, str):
        content = engine((tiny_bundle / content).read_bytes(), "10.3.0", BATCHES)
    if content is not None:
        add_engine(tiny_bundle, "float32", content=content)
    with pytest.raises(UserError, match=named):
        body(tiny_bundle)


def test_an_engine_from_elsewhere_needs_a_word_of_trust(tiny_bundle: Path, tensorrt: Any) -> None:
    path = add_engine(tiny_bundle, "float32", remember=False)
    with refuses(path.name, "trust_engines"):
        body(tiny_bundle)
    assert body(tiny_bundle, trust_engines=True)(feeds(2.0))["v"][0, 0, 0, 0] == 2.0


def test_host_code_is_allowed_for_version_compatible_engines_only(tiny_bundle: Path, tensorrt: Any) -> None:
    add_engine(tiny_bundle, "float32", backend_version="10.2.0", flags={"version_compatible": True})
    body(tiny_bundle)
    add_engine(tiny_bundle, "prologue")
    TensorRt().load(open_bundle(tiny_bundle), "prologue")
    assert tensorrt.host_code == [True, False]


def test_too_little_memory_is_one_line(built: Path, cuda: CudaDouble) -> None:
    cuda.devices[0].memory = 1000
    with refuses("out of memory", "--max-batch"):
        body(built)


def test_a_call_that_fails_is_one_line_and_the_lane_serves_the_next(built: Path, cuda: CudaDouble) -> None:
    network = body(built)
    streams = cuda.streams.copy()
    cuda.streams.clear()
    with refuses(("tensorrt", "'float32'", "sm89")):
        network(feeds(1.0))
    cuda.streams.update(streams)
    np.testing.assert_array_equal(network(feeds(1.0))["v"], np.full((2, 1, 4, 4), 1.5, np.float32))


def test_tensorrt_rtx_keeps_what_it_compiled(
    tiny_bundle: Path, tensorrt_rtx: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rtx = {"backend": "tensorrt-rtx", "backend_version": "1.7.1.116", "multiprocessors": None}
    add_engine(tiny_bundle, "float32", **rtx)
    first = body(tiny_bundle, name="tensorrt-rtx")
    assert first(feeds(2.0))["v"][0, 0, 0, 0] == 2.0 and tensorrt_rtx.calls["compiled"] == 1
    (stored,) = (cache.folder() / "jit").iterdir()
    body(tiny_bundle, name="tensorrt-rtx")
    assert (tensorrt_rtx.calls["compiled"], tensorrt_rtx.calls["reused"]) == (1, 1)
    stored.write_bytes(b"compiled on sm86")
    with caplog.at_level(logging.INFO, logger="fewstep"):
        body(tiny_bundle, name="tensorrt-rtx")
    assert "no longer fits" in caplog.text and stored.read_bytes() == b"compiled on sm89"


def test_calls_of_one_batch_size_are_launched_as_a_graph(built: Path, cuda: CudaDouble, tensorrt: Any) -> None:
    network = body(built, cuda_graph=True)
    cuda.calls.clear(), tensorrt.calls.clear()
    for value in range(4):  # the preferred batch: recorded while loading
        assert network(feeds(value))["v"][1, 0, 3, 3] == value / 2 + 1
    assert cuda.calls == {"cudaGraphLaunch": 4, "cudaStreamSynchronize": 4} and tensorrt.calls == {}
    for value in range(4):  # another: twice as usual, and recorded then
        assert network(feeds(value, 5))["v"][4, 0, 3, 3] == value / 2 + 1
    assert cuda.calls["cudaGraphLaunch"] == 4 + 2 and tensorrt.calls["execute_async_v3"] == 2 + 1
    for value in range(6):  # in turns: a recording would be void before it is used
        assert network(feeds(value, 1 + value % 2))["v"][0, 0, 3, 3] == value / 2 + 1
    assert cuda.calls["cudaGraphLaunch"] == 6
    assert not cuda.graphs and len(cuda.launchable) == 0


@pytest.mark.parametrize("layers, chosen, launches", [(16, None, 1), (15, None, 0), (16, False, 0), (1, True, 1)])
def test_calls_of_many_kernels_are_launched_as_a_graph_by_default(
    tiny_bundle: Path, cuda: CudaDouble, tensorrt: Any, layers: int, chosen: bool | None, launches: int
) -> None:
    graph = (tiny_bundle / "graphs/body.onnx").read_bytes()
    add_engine(tiny_bundle, "float32", content=engine(graph, "10.3.0", (1, 2, 8), layers=layers))
    network = body(tiny_bundle, cuda_graph=chosen)
    assert network(feeds(2.0))["v"][1, 0, 3, 3] == 2.0 and cuda.calls["cudaGraphLaunch"] == launches


def test_what_cannot_be_recorded_runs_without_a_graph(
    built: Path, cuda: CudaDouble, tensorrt: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tensorrt.records = False
    with caplog.at_level(logging.WARNING, logger="fewstep"):
        network = body(built, cuda_graph=True)
    for value in range(4):
        assert network(feeds(value))["v"][0, 0, 0, 0] == value / 2 + 1
    assert caplog.text.count("runs without a CUDA graph") == 1 and cuda.calls["cudaGraphLaunch"] == 0
    assert not cuda.graphs


def test_a_recording_that_lacks_memory_is_tried_again(
    built: Path, cuda: CudaDouble, tensorrt: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_ready, lacks = cuda.cudaGraphInstantiate, [True]

    def instantiate(graph: Any, flags: int) -> tuple[Error, Any]:
        return (Error.cudaErrorMemoryAllocation, None) if lacks.pop() else make_ready(graph, flags)

    monkeypatch.setattr(cuda, "cudaGraphInstantiate", instantiate)
    with caplog.at_level(logging.WARNING, logger="fewstep"):
        network = body(built, cuda_graph=True)  # two calls, of which the second cannot be recorded
        lacks.append(False)
        for value in range(4):  # the second of these, the fourth in all, is recorded
            assert network(feeds(value))["v"][1, 0, 3, 3] == value / 2 + 1
    assert cuda.calls["cudaGraphLaunch"] == 2 and caplog.records == []


def test_tensorrt_rtx_records_by_itself(tiny_bundle: Path, cuda: CudaDouble, tensorrt_rtx: Any) -> None:
    add_engine(tiny_bundle, "float32", backend="tensorrt-rtx", backend_version="1.7.1.116", multiprocessors=None)
    body(tiny_bundle, name="tensorrt-rtx")
    body(tiny_bundle, name="tensorrt-rtx", cuda_graph=True)
    assert (tensorrt_rtx.calls["DISABLED"], tensorrt_rtx.calls["WHOLE_GRAPH_CAPTURE"]) == (1, 1)
    assert cuda.calls["cudaGraphLaunch"] == 0


def test_without_cuda_bindings_the_fix_is_a_pip_command(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with refuses("cuda.bindings", "cuda-bindings"):
        body(built)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"name": "tensorflow"}, "there is no TensorRT 'tensorflow'; choose tensorrt or tensorrt-rtx"),
        ({"contexts": 0}, "contexts 0; give a whole number from 1 up"),
        ({"device": 2}, "device 2 does not exist: this machine has 2 GPU"),
    ],
)
def test_impossible_settings_are_refused(built: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        body(built, **settings)


def test_precisions_choose_bodies(built: Path) -> None:
    with refuses("float16", "--precision float16"):
        fewstep.runtime.load(built, "float16", backend=TensorRt())
    with refuses("int8-tensorrt", "--target tensorrt"):
        fewstep.runtime.load(built, "int8", backend=TensorRt())


def test_an_engine_runs_the_sizes_of_its_profile(tiny_bundle: Path, cuda: CudaDouble, tensorrt: Any) -> None:
    sizes = {"height": (2, 4, 8), "width": (4, 8, 8)}
    bundle = free(tiny_bundle)
    add_engine(bundle, "float32", sizes=sizes)
    for settings in ({}, {"cuda_graph": True}):
        sampler = fewstep.runtime.load(bundle, backend=TensorRt(**settings))
        for height, width in ((4, 4), (8, 8), (8, 8), (2, 8)):
            picture = np.random.default_rng(height).standard_normal((2, 1, 2 * height, width), np.float32)
            asked: dict[str, Any] = {"seeds": [0, 1], "condition": {"class": [0, 1], "picture": picture}}
            own, expected = (
                each.with_options(height=height, width=width).sample("dpmpp_2m:4", **asked)
                for each in (sampler, fewstep.runtime.load(bundle))
            )
            np.testing.assert_array_equal(own, expected)
    with pytest.raises(UserError) as caught:
        picture = np.zeros((2, 1, 24, 4), np.float32)
        sampler.with_options(height=12).sample("ddim:2", [0, 1], {"class": [0, 1], "picture": picture})
    assert str(caught.value) == (
        "the tensorrt engine of 'float32' for sm89 takes a height of 2 to 8, best 4, not 12; choose sizes in that "
        f"range, or fewstep build {bundle} --backend tensorrt --max-batch x:8x1x12x4"
    )
