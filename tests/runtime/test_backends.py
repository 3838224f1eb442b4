"""ONNX Runtime behind the backend protocol."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.machine.cpu import this_cpu
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.onnxruntime import OnnxRuntime


def feeds(value: float) -> dict[str, np.ndarray]:
    return {"x": np.full((2, 1, 4, 4), value, np.float32), "row": np.ones((2, 1), np.float32)}


@pytest.mark.parametrize(
    "backend", [OnnxRuntime(), OnnxRuntime(threads=1, spinning=False), OnnxRuntime(fuse_qdq=False)]
)
def test_a_graph_runs_with_every_setting(tiny_bundle: Path, backend: OnnxRuntime) -> None:
    network = backend.open(tiny_bundle / "graphs/body.onnx")
    np.testing.assert_array_equal(network(feeds(4.0))["v"], np.full((2, 1, 4, 4), 3.0, np.float32))


def test_threads_share_a_network(tiny_bundle: Path) -> None:
    network = OnnxRuntime(threads=1).open(tiny_bundle / "graphs/body.onnx")
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda value: network(feeds(value))["v"].ravel(), range(200))
    for value, result in enumerate(results):
        np.testing.assert_array_equal(result, value / 2 + 1)


def test_a_graph_that_does_not_load_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(UserError, match=r"cannot load broken\.onnx"):
        OnnxRuntime().open(tmp_path / "broken.onnx")


def test_wrong_shapes_are_named(tiny_bundle: Path) -> None:
    network = OnnxRuntime().open(tiny_bundle / "graphs/body.onnx")
    with pytest.raises(UserError, match=r"body\.onnx failed on inputs x \[2, 3, 4, 4\]"):
        network(feeds(0) | {"x": np.zeros((2, 3, 4, 4), np.float32)})


@pytest.mark.parametrize("threads", [-1, 100_000])
def test_more_threads_than_cores_are_refused(threads: int) -> None:
    with pytest.raises(UserError, match=f"{threads} threads on"):
        OnnxRuntime(threads=threads)


def test_threads_that_are_no_number_are_refused() -> None:
    with pytest.raises(UserError, match="threads '2' is no whole number"):
        OnnxRuntime(threads="2")  # type: ignore[arg-type]


def test_without_onnxruntime_the_fix_is_a_pip_command(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'fewstep\[cpu\]'"):
        OnnxRuntime().open(tiny_bundle / "graphs/body.onnx")


@pytest.mark.parametrize(
    ("machine", "instructions", "bodies"),
    [
        ("x86_64", ("avx2", "avx512_vnni"), ["cpu-x86", "cpu-x86-7bit", "cpu-arm"]),
        ("x86_64", ("avx2",), ["cpu-x86-7bit", "cpu-x86", "cpu-arm"]),
        ("aarch64", ("asimddp",), ["cpu-arm", "cpu-x86", "cpu-x86-7bit"]),
    ],
)
def test_int8_means_the_body_for_this_cpu_and_any_other_before_none(
    monkeypatch: pytest.MonkeyPatch, machine: str, instructions: tuple[str, ...], bodies: list[str]
) -> None:
    seen = msgspec.structs.replace(this_cpu(), int8_instructions=instructions)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("fewstep.machine.cpu.this_cpu", lambda: seen)
    assert list(OnnxRuntime().bodies["int8"]) == [f"int8-{name}" for name in bodies]
