"""ONNX Runtime under the backend protocol."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.graph.files.io import save
from fewstep.graph.graph import Graph, Node, Value
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.machine.cpu import this_cpu
from fewstep.runtime.machine.memory import peak_bytes
from tests.described_cpu import NO_VNNI, VNNI, describe_cpu
from tests.runtime.backends.add_engines import feeds


@pytest.mark.parametrize(
    "backend", [OnnxRuntime(), OnnxRuntime(threads=1, spinning=False), OnnxRuntime(fuse_qdq=False)]
)
def test_a_graph_runs_with_every_setting(tiny_bundle: Path, backend: OnnxRuntime) -> None:
    network = backend.open(tiny_bundle / "graphs/body.onnx")
    np.testing.assert_array_equal(network(feeds(4.0))["v"], np.full((2, 1, 4, 4), 3.0, np.float32))


SPIN = """
import sys
from pathlib import Path
from time import process_time, sleep
import numpy as np
from fewstep.runtime.backends.onnxruntime import OnnxRuntime

network = OnnxRuntime(threads=2).open(Path(sys.argv[1]))
network({"x": np.ones((512, 512), np.float32)})
began = process_time()
sleep(0.1)
print(process_time() - began)
"""


@pytest.mark.skipif(this_cpu().cores < 2, reason="no second thread")
def test_no_thread_spins_after_a_call(tmp_path: Path) -> None:
    """The next graph of a sample has other threads, which need the cores."""
    shape, f32 = ("batch", 512), np.dtype(np.float32)
    product, weight = Node("MatMul", ("x", "w"), ("y",)), np.ones((512, 512), np.float32)
    save(Graph("g", (Value("x", f32, shape),), (Value("y", f32, shape),), (product,), {"w": weight}), tmp_path / "g")
    command = [sys.executable, "-c", SPIN, str(tmp_path / "g")]  # a process of its own: tests have no spinning threads
    assert float(subprocess.run(command, capture_output=True, check=True, text=True).stdout) < 0.01


def test_a_graph_that_does_not_load_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(UserError, match=r"cannot load broken\.onnx"):
        OnnxRuntime().open(tmp_path / "broken.onnx")


@pytest.mark.parametrize(
    ("threads", "named"),
    [(-1, "-1 threads on"), (100_000, "100000 threads on"), ("2", "threads '2' is not a whole number")],
)
def test_threads_that_cannot_be_are_refused(threads: Any, named: str) -> None:
    with pytest.raises(UserError, match=named):
        OnnxRuntime(threads=threads)


@pytest.mark.parametrize(
    ("machine", "instructions", "bodies"),
    [
        ("x86_64", VNNI, ["cpu-x86", "cpu-x86-no-vnni", "cpu-x86-7bit", "cpu-arm"]),
        ("x86_64", NO_VNNI, ["cpu-x86-no-vnni", "cpu-x86-7bit", "cpu-x86", "cpu-arm"]),
        ("aarch64", ("asimddp",), ["cpu-arm", "cpu-x86", "cpu-x86-no-vnni", "cpu-x86-7bit"]),
    ],
)
def test_int8_means_the_body_for_this_cpu_and_any_other_before_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: str, instructions: tuple[str, ...], bodies: list[str]
) -> None:
    describe_cpu(monkeypatch, tmp_path, instructions, machine)
    assert list(OnnxRuntime().bodies["int8"]) == [f"int8-{name}" for name in bodies]


SECOND = """
import sys
from pathlib import Path
import numpy as np
from fewstep.runtime.machine.memory import peak_bytes
from fewstep.runtime.backends.onnxruntime import OnnxRuntime

network = OnnxRuntime(threads=1).open(Path(sys.argv[1]))
feeds, peaks = {"x": np.ones((1, 2000, 4), np.float32)}, []
for _ in range(2):
    network(feeds)
    peaks.append(peak_bytes())
print(peaks[1] - peaks[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(peak_bytes() is None, reason="the system does not say the peak of a process")
def test_activations_are_allocated_once(tmp_path: Path) -> None:
    """With onnxruntime's memory pattern, the second call would allocate one block for all activations beside the
    arena.
    """
    nodes, before = [], "x"
    for number in range(3):
        nodes += [
            Node("Transpose", (before,), (f"t{number}",), {"perm": [0, 2, 1]}),
            Node("MatMul", (before, f"t{number}"), (f"scores{number}",)),
            Node("Sin", (f"scores{number}",), (f"sin{number}",)),
            Node("Mul", (f"scores{number}", f"sin{number}"), (f"weights{number}",)),
            Node("MatMul", (f"weights{number}", before), (f"y{number}",)),
        ]
        before = f"y{number}"
    shape, f32 = ("batch", 2000, 4), np.dtype(np.float32)
    save(Graph("attention", (Value("x", f32, shape),), (Value(before, f32, shape),), tuple(nodes), {}), tmp_path / "a")

    command = [sys.executable, "-c", SECOND, str(tmp_path / "a")]
    more = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert more < 0.1 * 4 * 2000**2  # of the scores of one layer


def test_memory_that_is_not_kept_is_one_block_of_each_call(tiny_bundle: Path) -> None:
    graph = tiny_bundle / "graphs/body.onnx"
    opened = [OnnxRuntime(keeps_memory=keeps).open(graph) for keeps in (True, False)]
    chosen = [each.session.get_session_options() for each in opened]
    assert [(each.enable_cpu_mem_arena, each.enable_mem_pattern) for each in chosen] == [(True, False), (False, True)]
    one, other = (each(feeds(4.0))["v"] for each in opened)
    np.testing.assert_array_equal(one, other)
