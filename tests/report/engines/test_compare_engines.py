"""Engines compared with onnxruntime: OpenVINO itself, and a double of TensorRT."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fewstep.cli.main import main
from fewstep.graph.engines import build_engine, temporary_engines
from fewstep.graph.engines.builders import EngineBuilder
from fewstep.graph.engines.engine_costs import EngineCost
from fewstep.graph.graph import Graph, Node, Value
from fewstep.plans.errors import UserError
from fewstep.report.engines import section
from fewstep.report.engines.compare_engines import compare_engines
from fewstep.report.engines.differences import EngineComparison, NotCompared
from fewstep.report.engines.first_difference import _bisect_tensors
from fewstep.report.integrity import VerifyOptions, verify
from fewstep.runtime.backends import LoadedGraph, find_graph, registry
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from tests.runtime.backends.add_engines import add_engine
from tests.runtime.backends.tensorrt_double import engine


def with_another_half(graph: bytes) -> bytes:
    """The tiny body with a first layer that multiplies by 0.6 instead of 0.5."""
    model = onnx.load_from_string(graph)
    (half,) = [initializer for initializer in model.graph.initializer if initializer.name == "half"]
    half.CopyFrom(numpy_helper.from_array(np.float32(0.6), "half"))
    return model.SerializeToString()


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Keep only these backends besides onnxruntime."""
    kept = {name: made for name, made in registry.NAMED.items() if name in ("onnxruntime", *names)}
    monkeypatch.setattr("fewstep.report.engines.compare_engines.NAMED", kept)


@pytest.fixture
def wrong(tiny_bundle: Path, tensorrt: object, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle with an engine whose first layer is wrong, and a builder that makes such engines."""
    only(monkeypatch, "tensorrt")
    graph = with_another_half((tiny_bundle / "graphs/body.onnx").read_bytes())
    add_engine(tiny_bundle, "float32", content=engine(graph, "10.3.0", (1, 2, 8)))

    def build(files: list[str], *_: object) -> None:
        Path(files[1]).write_bytes(engine(with_another_half(Path(files[0]).read_bytes()), "10.3.0", (2, 2, 2)))

    monkeypatch.setattr(temporary_engines, "run_worker", build)
    return tiny_bundle


def test_an_engine_that_agrees_is_said_to(
    tiny_bundle: Path, tensorrt: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only(monkeypatch, "tensorrt")
    add_engine(tiny_bundle, "float32")
    add_engine(tiny_bundle, "prologue")
    found = [*compare_engines(open_bundle(tiny_bundle))]
    assert [(each.graph, each.calls, each.agrees) for each in found if isinstance(each, EngineComparison)] == [
        ("prologue", 2, True),
        ("float32", 2, True),
    ]
    assert main(["verify", str(tiny_bundle), "--engines"]) == 0
    assert "float32 on tensorrt agrees with onnxruntime" in capsys.readouterr().out


def test_a_mismatch_is_narrowed_to_the_first_layer(wrong: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = compare_engines(open_bundle(wrong))
    assert isinstance(found, EngineComparison) and not found.agrees and found.layer is not None
    assert (found.layer.operation, found.layer.tensor, found.layer.alone) == ("Mul", "halved", False)
    assert found.layer.difference == pytest.approx(0.2, rel=1e-3)
    assert main(["verify", str(wrong), "--engines"]) == 1
    said = capsys.readouterr().out
    assert "float32 on tensorrt differs from onnxruntime by" in said and "first in Mul 'halved', by 0.2" in said
    assert f"{wrong}: intact, but results of tensorrt differ from onnxruntime; " in said and "damaged" not in said


def test_one_that_fusions_alone_make_is_found_by_halves(wrong: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder makes correct engines if more than two tensors are outputs."""

    def build(files: list[str], *_: object) -> None:
        graph = Path(files[0]).read_bytes()
        is_fused = len(onnx.load_from_string(graph).graph.output) <= 2
        Path(files[1]).write_bytes(engine(with_another_half(graph) if is_fused else graph, "10.3.0", (2, 2, 2)))

    monkeypatch.setattr(temporary_engines, "run_worker", build)
    (found,) = compare_engines(open_bundle(wrong))
    assert isinstance(found, EngineComparison) and found.layer is not None
    assert (found.layer.tensor, found.layer.alone) == ("halved", True)


def test_a_mismatch_stays_one_where_the_layer_cannot_be_found(wrong: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise UserError("tensorrt cannot build it", "free memory")

    monkeypatch.setattr(temporary_engines, "run_worker", fail)
    found = verify(VerifyOptions(wrong, engines=True))
    (differing,) = found.differing
    assert found.is_whole
    assert "the first differing layer is unknown: tensorrt cannot build it; free memory" in differing.what


def test_what_openvino_computes_wrong_is_the_layer_that_is_known_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    from tests.runtime.backends.test_openvino_agreement import with_resize, write_bundle

    only(monkeypatch, "openvino")
    bundle = open_bundle(write_bundle(tmp_path / "bundle", with_resize()))
    body = next(
        each for each in compare_engines(bundle) if isinstance(each, EngineComparison) and each.graph == "float32"
    )
    assert not body.agrees and body.layer is not None
    assert (body.layer.operation, body.layer.tensor) == ("Resize", "small")


def test_bf16_may_round_to_its_eight_bits(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped model is off by 0.0058 of the largest output, which is rounding; a fifth is not."""
    pytest.importorskip("openvino")
    only(monkeypatch, "openvino-bf16")
    for off, agrees in ((0.0058, True), (0.2, False)):
        monkeypatch.setattr("fewstep.report.engines.compare_engines.relative_difference", lambda *_, off=off: off)
        graphs = [each for each in compare_engines(open_bundle(tiny_bundle)) if isinstance(each, EngineComparison)]
        assert graphs and all(graph.agrees is agrees and graph.limit == 0.1 for graph in graphs)


def test_the_cuda_provider_gives_its_inner_tensors(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU provider in its place."""
    from fewstep.graph.files import io
    from fewstep.report.engines.first_difference import find_first_difference, find_inner_opener

    monkeypatch.setattr(temporary_engines, "PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(temporary_engines, "provider_settings", lambda device: {})
    inner = find_inner_opener(OnnxRuntimeCuda())
    assert inner is not None
    graph = io.load(tiny_bundle / "graphs/body.onnx")
    feeds = {"x": np.ones((2, 1, 4, 4), np.float32), "row": np.ones((2, 1), np.float32)}
    assert find_first_difference(graph, inner, feeds, 1e-6) is None


def test_sessions_of_the_cuda_provider_are_compared(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On the CPU provider: the prologue unchanged, and a body with another first layer."""
    only(monkeypatch, "onnxruntime-cuda")
    another = tmp_path / "another.onnx"
    another.write_bytes(with_another_half((tiny_bundle / "graphs/body.onnx").read_bytes()))

    def load(self: OnnxRuntimeCuda, bundle: Bundle, name: str) -> LoadedGraph:
        return OnnxRuntime().open(another if name == "float32" else bundle.graph(find_graph(bundle, name)))

    monkeypatch.setattr(OnnxRuntimeCuda, "load", load)
    monkeypatch.setattr("fewstep.report.engines.compare_engines.find_inner_opener", lambda backend: None)
    found = [each for each in compare_engines(open_bundle(tiny_bundle)) if isinstance(each, EngineComparison)]
    assert [(each.graph, each.agrees) for each in found] == [("prologue", True), ("float32", False)]


def test_engines_of_a_damaged_bundle_are_left_out_with_a_note(
    tiny_bundle: Path, tensorrt: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only(monkeypatch, "tensorrt")
    add_engine(tiny_bundle, "float32")
    with (tiny_bundle / "graphs/prologue.onnx").open("ab") as stream:
        stream.write(b"more")
    found = verify(VerifyOptions(tiny_bundle, engines=True))
    assert not found.is_whole and found.engines == ()
    assert found.notes == ("engines were not compared, because the bundle is damaged; repair it, then verify it again",)
    assert main(["verify", str(tiny_bundle), "--engines"]) == 1
    assert "engines were not compared" in capsys.readouterr().out


@pytest.mark.parametrize("gpus", [(), ("a GPU",)])
def test_packages_for_gpus_are_advised_where_there_is_one(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, gpus: tuple[str, ...]
) -> None:
    only(monkeypatch, "onnxruntime-cuda")
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr("fewstep.runtime.machine.gpu.these_gpus", lambda: gpus)
    monkeypatch.setattr("fewstep.runtime.machine.gpu.this_jetson", lambda: None)
    (note,) = compare_engines(open_bundle(tiny_bundle))
    assert isinstance(note, NotCompared)
    assert ("fewstep[gpu]" in note.reason) is bool(gpus)
    assert note.reason.endswith("and nvidia-smi lists no GPU") is not bool(gpus)


def test_what_is_missing_is_a_note(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    (note,) = compare_engines(open_bundle(tiny_bundle))
    assert isinstance(note, NotCompared) and ("python3-libnvinfer" in note.reason or "CUDA" in note.reason)
    assert verify(VerifyOptions(tiny_bundle, engines=True)).is_whole


@pytest.mark.parametrize("is_wrong", [False, True])
def test_a_build_on_the_device_ends_with_a_comparison(
    tiny_bundle: Path,
    tensorrt: object,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_wrong: bool,
) -> None:
    def build(files: list[str], *_: object, **__: object) -> None:
        graph = Path(files[0]).read_bytes()
        is_body = any(value.name == "half" for value in onnx.load_from_string(graph).graph.initializer)
        content = with_another_half(graph) if is_wrong and is_body else graph
        Path(files[1]).write_bytes(engine(content, "10.3.0", (1, 4, 16)))

    monkeypatch.setattr(build_engine, "run_worker", build)
    monkeypatch.setattr(temporary_engines, "run_worker", build)
    monkeypatch.setattr(EngineBuilder, "version", lambda self: "10.3.0")
    command = ["build", str(tiny_bundle), "--backend", "tensorrt", "--precision", "float32"]
    assert main(command) == int(is_wrong)
    said = capsys.readouterr().out
    assert "prologue on tensorrt agrees with onnxruntime" in said
    assert f"float32 on tensorrt {'differs from' if is_wrong else 'agrees with'} onnxruntime" in said
    assert "int8" not in said  # its engine was not asked for
    assert main([*command, "--no-verify"]) == 0 and "onnxruntime" not in capsys.readouterr().out


FLOAT = np.dtype(np.float32)


@pytest.mark.parametrize("wrong", ["down_0", "down_3", "middle", "up_3", "up_0", "output"])
def test_it_is_found_next_to_skip_connections(wrong: str) -> None:
    """A path down and up again, in which each step up reads the step down of its level."""
    nodes = [Node("Relu", ("x" if level == 0 else f"down_{level - 1}",), (f"down_{level}",)) for level in range(4)]
    nodes.append(Node("Relu", ("down_3",), ("middle",)))
    for level in (3, 2, 1, 0):
        below = "middle" if level == 3 else f"up_{level + 1}"
        nodes.append(Node("Add", (below, f"down_{level}"), (f"up_{level}",)))
    nodes.append(Node("Relu", ("up_0",), ("output",)))
    x, output = (Value(name, FLOAT, (1, 4)) for name in ("x", "output"))
    graph = Graph("hourglass", (x,), (output,), tuple(nodes), {})
    affected = {wrong}  # what is made of it
    for node in nodes:
        if affected & {*node.inputs}:
            affected.add(node.output)
    asked = []

    def is_wrong(name: str) -> bool:
        asked.append(name)
        return name in affected

    assert _bisect_tensors(graph, [node.output for node in nodes], is_wrong) == wrong
    assert len(asked) <= 5


def test_each_engine_has_its_kernels_and_bound(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_engine(tiny_bundle, "float32")
    bundle = open_bundle(tiny_bundle)
    assert section.describe_engines(bundle) == ()  # a double's engine has no program text
    (engine,) = bundle.manifest.engines
    known = {engine.file: EngineCost(2, 10, 1000, {"float32": 1}, {"RTX < 9": 1e-3})}
    monkeypatch.setattr(section, "read_costs", lambda bundle: known)
    ((name, kernels, bounded),) = shown = section.describe_engines(bundle)
    assert name == f"float32 for {engine.device}" and kernels.startswith("batch 2: 10 kernels, 0.001 MB")
    markup = section.engines_section(shown).markup
    assert f"<summary>{name}</summary>" in markup and kernels in markup
    assert "a bound, not a time: RTX &lt; 9 1 ms" in markup and bounded.endswith("1 ms")
