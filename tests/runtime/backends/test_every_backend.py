"""Every backend: the samples of onnxruntime in any batch and thread, and one line for invalid inputs."""

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import fewstep.runtime
from fewstep.plans.errors import UserError
from fewstep.runtime.backends import Backend, onnxruntime_cuda
from fewstep.runtime.backends.checks import describe_shapes
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda
from fewstep.runtime.backends.onnxruntime_rows import OnnxRuntimeRows
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.backends.tensorrt import TensorRt
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import change_bundle
from tests.runtime.backends.add_engines import add_engine, feeds

PACKAGES = {  # with the words of the command
    OnnxRuntime: ("onnxruntime", r"pip install 'fewstep\[cpu\]'"),
    OnnxRuntimeRows: ("onnxruntime", r"pip install 'fewstep\[cpu\]'"),
    OnnxRuntimeCuda: ("onnxruntime", r"pip install 'fewstep\[gpu\]'"),
    OpenVino: ("openvino", r"pip install 'fewstep\[openvino\]'"),
    TensorRt: ("tensorrt", r"python3-libnvinfer .*pip install 'fewstep\[tensorrt\]'"),
}
BACKENDS = {
    "onnxruntime": OnnxRuntime(threads=1),
    "onnxruntime-rows": OnnxRuntimeRows(),
    "onnxruntime-cuda": OnnxRuntimeCuda(),  # by the same code on the CPU
    "openvino": OpenVino(),
    "openvino, 2 contexts": OpenVino(contexts=2),
    "tensorrt": TensorRt(device=1),  # on doubles; a device that no new thread has selected
    "tensorrt, 3 contexts": TensorRt(contexts=3, device=1),
}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    if "openvino" in request.param:
        pytest.importorskip("openvino", reason="openvino is not installed")
    if "tensorrt" in request.param:
        request.getfixturevalue("tensorrt")
        add_engine(tiny_bundle, "float32")
        add_engine(tiny_bundle, "prologue")
    monkeypatch.setattr(onnxruntime_cuda, "PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(onnxruntime_cuda, "provider_settings", lambda *_: {})
    return BACKENDS[request.param]


def test_samples_are_those_of_onnxruntime(tiny_bundle: Path, backend: Backend) -> None:
    options: dict[str, Any] = {"seeds": [0, 1, 2], "condition": {"class": [0, 1, 2]}, "guidance": 2.0}
    expected = fewstep.runtime.load(tiny_bundle).sample("dpmpp_2m:8", **options)
    with fewstep.runtime.load(tiny_bundle, backend=backend) as sampler:
        np.testing.assert_allclose(sampler.sample("dpmpp_2m:8", **options), expected, atol=1e-5)


def test_threads_of_any_batch_get_what_they_computed_and_keep_it(tiny_bundle: Path, backend: Backend) -> None:
    """Also batches beyond those that stay open, each of which is opened again."""
    network = backend.load(open_bundle(tiny_bundle), "float32")
    jobs = [(float(value), 1 + value % 8) for value in range(64)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda job: network(feeds(*job))["v"], jobs))
    for (value, batch), result in zip(jobs, results, strict=True):
        np.testing.assert_array_equal(result, np.full((batch, 1, 4, 4), value / 2 + 1, np.float32))


AHEAD = {"time": np.full(3, 10.0, np.float32), "label": np.array([0, 1, 2])}
WRONG = [  # with what the reason names; onnxruntime names a type alone, and the node that two inputs meet in
    ("float32", "x", np.zeros((2, 1, 3, 3), np.float32), r"\bx\b"),
    ("float32", "x", np.zeros((2, 4), np.float32), r"\bx\b"),
    ("float32", "x", np.zeros((2, 1, 4, 4)), r"\bx\b|double"),
    ("float32", "row", np.zeros((3, 1), np.float32), r"\brow\b|\bx takes \[3|\bAdd\b"),
    ("float32", "row", None, r"\brow\b"),
    ("prologue", "time", np.full(3, 10.0), r"\btime\b|double"),
    ("prologue", "label", np.array([0, 1, 2], np.int32), r"\blabel\b|int32"),
]


def test_wrong_shapes_and_types_are_named_and_never_rounded_or_taken_from_the_call_before(
    tiny_bundle: Path, backend: Backend
) -> None:
    for graph, name, wrong, words in WRONG:
        network, given = backend.load(open_bundle(tiny_bundle), graph), AHEAD if graph == "prologue" else feeds(1.0)
        network(given)
        fed = {key: each for key, each in (given | {name: wrong}).items() if each is not None}
        with pytest.raises(UserError) as caught:
            network(fed)
        assert re.search(words, str(caught.value).replace(describe_shapes(fed), "")), name


def test_a_graph_with_other_inputs_than_the_manifest_says_is_refused(tiny_bundle: Path, backend: Backend) -> None:
    body = open_bundle(tiny_bundle).manifest.bodies["float32"]
    fewer = msgspec.structs.replace(body, graphs=(msgspec.structs.replace(body.graph, inputs=body.graph.inputs[:1]),))
    change_bundle(tiny_bundle, bodies={"float32": fewer})
    with pytest.raises(UserError, match="'?row'?"):
        backend.load(open_bundle(tiny_bundle), "float32")


def test_what_is_not_installed_is_named_with_the_command(
    tiny_bundle: Path, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(tiny_bundle)
    package, command = PACKAGES[type(backend)]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package} cannot be imported .*; .*{command}"):
        backend.load(bundle, "float32")
