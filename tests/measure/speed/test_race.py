"""Timing: the slower graph is called slower, and a child that dies is one line."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fewstep.measure.speed.machine import this_machine
from fewstep.measure.speed.race import OnBackend, TimedContender, race
from fewstep.plans.errors import UserError
from fewstep.runtime.machine.cpu import usable_cores


def matmuls(folder: Path, count: int) -> Path:
    """x [batch, 256] through `count` matrices."""
    weight = numpy_helper.from_array(np.eye(256, dtype=np.float32), "weight")
    names = ["x", *(f"h{i}" for i in range(1, count)), "output"]
    nodes = [helper.make_node("MatMul", [a, "weight"], [b]) for a, b in zip(names, names[1:], strict=False)]
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 256]) for n in ("x", "output")]
    graph = helper.make_graph(nodes, "matmuls", value[:1], value[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = folder / f"matmuls{count}.onnx"
    onnx.save(model, path)
    return path


def test_a_body_races_on_a_named_backend(tiny_bundle: Path) -> None:
    feeds = {"x": np.zeros((1, 1, 4, 4), np.float32), "row": np.zeros((1, 1), np.float32)}
    contenders = [
        TimedContender("file", tiny_bundle / "graphs/body.onnx", feeds),
        TimedContender("body", OnBackend("onnxruntime", tiny_bundle, "float32"), feeds),
    ]
    first, second = race(contenders, threads=1, rounds=1, seconds=0.01, spinning=False).timings
    assert (first.name, second.name, first.ratio) == ("file", "body", 1.0) and second.median > 0
    with pytest.raises(UserError, match="no body 'int8-tensorrt'"):
        race(
            [TimedContender("gone", OnBackend("onnxruntime", tiny_bundle, "int8-tensorrt"), feeds)], threads=1, rounds=1
        )


def test_ten_times_the_work_is_several_times_slower(tmp_path):
    feeds = {"x": np.ones((32, 256), np.float32)}
    contenders = [TimedContender(f"{n} matmuls", matmuls(tmp_path, n), feeds) for n in (20, 2)]
    result = race(contenders, threads=1, rounds=3, seconds=0.05)
    slow, fast = result.timings
    assert (result.batch, result.threads, result.rounds) == (32, 1, 3)
    assert slow.ratio == 1.0 and fast.ratio > 3
    assert fast.ratio_low <= fast.ratio <= fast.ratio_high
    assert 0 < fast.p10 <= fast.median <= fast.p90 and fast.runs >= 3
    assert fast.load > 0 and fast.peak_mib > 10


def test_a_child_that_dies_is_one_line(tmp_path):
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a graph")
    with pytest.raises(UserError, match="broken failed: ") as failure:
        race([TimedContender("broken", bad, {"x": np.zeros((1, 1), np.float32)})], threads=1)
    assert "\n" not in str(failure.value)


def test_contenders_run_the_same_batch(tmp_path):
    graph = matmuls(tmp_path, 1)
    with pytest.raises(ValueError, match="same batch"):
        race([TimedContender(str(n), graph, {"x": np.zeros((n, 256), np.float32)}) for n in (1, 2)])


def test_the_machine_is_described_without_naming_it():
    machine = this_machine()
    assert machine.processor and machine.cores == usable_cores() >= 1
    assert {"python", "numpy", "onnxruntime"} <= machine.versions.keys()
