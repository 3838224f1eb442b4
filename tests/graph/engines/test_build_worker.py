"""The builder's process: its calls of TensorRT 10.3 and 11, on a double, and of TensorRT-RTX itself."""

import importlib.util
import json
import subprocess
import sys
from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from fewstep.graph.engines import build_worker
from fewstep.graph.engines.build_engine import request
from fewstep.graph.engines.builders import TENSORRT, TENSORRT_RTX

FLAGS = {"strongly_typed": True, "tf32": False}
SHAPES = {"x": [[1, 3], [4, 3], [16, 3]]}


class TensorRtDouble(ModuleType):
    """A test double of TensorRT's builder. It has only what `version` has: other attributes raise an error.

    asked: lists the calls.
    """

    def __init__(self, version: str, dla_cores: int = 0) -> None:
        super().__init__("tensorrt")
        self.asked: list[Any] = []
        self.parses, self.builds, self.stale = True, True, False
        flags = {"TF32": 0, "VERSION_COMPATIBLE": 1, "GPU_FALLBACK": 2}
        if version.startswith("10"):  # 11 removed the flags of weakly typed networks
            flags |= {"FP16": 3, "INT8": 4}
        self.BuilderFlag = IntEnum("BuilderFlag", flags)
        self.NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
        self.MemoryPoolType = IntEnum("MemoryPoolType", {"WORKSPACE": 0})
        self.HardwareCompatibilityLevel = IntEnum("HardwareCompatibilityLevel", {"NONE": 0, "AMPERE_PLUS": 1})
        self.ProfilingVerbosity = IntEnum("ProfilingVerbosity", {"LAYER_NAMES_ONLY": 0, "NONE": 1, "DETAILED": 2})
        self.LayerInformationFormat = IntEnum("LayerInformationFormat", {"ONELINE": 0, "JSON": 1})
        self.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=self.load)
        self.DeviceType = IntEnum("DeviceType", {"GPU": 0, "DLA": 1})
        self.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
        config, profile = Config(self), SimpleNamespace(set_shape=lambda *a: self.asked.append(("set_shape", *a)))
        self.config = config
        self.Builder = lambda logger: SimpleNamespace(
            num_DLA_cores=dla_cores,
            create_network=lambda flags: self.asked.append(("create_network", flags)),
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: profile,
            build_serialized_network=lambda network, config: b"engine" if self.builds else None,
        )
        self.OnnxParser = lambda network, logger: SimpleNamespace(
            parse_from_file=lambda path: self.parses,
            num_errors=1,
            get_error=lambda index: SimpleNamespace(
                desc=lambda: "no importer for op", node_name=lambda: "node_7", node_operator=lambda: "Unheard"
            ),
        )

    def load(self, content: bytes) -> Any:
        assert content == b"engine"
        stated = {self.LayerInformationFormat.JSON: '{"Layers": []} of engine'}
        return SimpleNamespace(
            create_engine_inspector=lambda: SimpleNamespace(get_engine_information=stated.__getitem__)
        )


class Config:
    def __init__(self, module: TensorRtDouble) -> None:
        self._module = module
        self._cache = b""

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            self._module.asked.append((name, value))
        super().__setattr__(name, value)

    def clear_flag(self, flag: Any) -> None:
        self._module.asked.append(("clear_flag", flag.name))

    def set_flag(self, flag: Any) -> None:
        self._module.asked.append(("set_flag", flag.name))

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self._module.asked.append(("set_memory_pool_limit", pool.name, size))

    def add_optimization_profile(self, profile: Any) -> int:
        return 0

    def create_timing_cache(self, content: bytes) -> bytes:
        self._cache = content
        return content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch  # what another GPU measured would pick slow kernels here
        self._module.asked.append(("set_timing_cache", cache))
        return not (self._module.stale and cache)

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self._cache + b"+measured")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the worker on a double and return its calls."""

    def run(double: TensorRtDouble, timing: bytes | None = None, **flags: Any) -> list[Any]:
        monkeypatch.setitem(sys.modules, "tensorrt", double)
        cache = tmp_path / "timing"
        if timing is not None:
            cache.write_bytes(timing)
        others = {"timing_cache": str(cache), "layers": str(tmp_path / "layers")}
        (tmp_path / "request.json").write_text(json.dumps(request(TENSORRT, "sm87", SHAPES, FLAGS | flags, **others)))
        build_worker.main("graph.onnx", str(tmp_path / "engine"), str(tmp_path / "request.json"))
        assert (tmp_path / "engine").read_bytes() == b"engine"
        return double.asked

    run.folder = tmp_path  # type: ignore[attr-defined]
    return run


@pytest.mark.parametrize("version", ["10.3.0", "11.4.1"])
def test_a_network_is_strongly_typed_without_tf32_and_has_one_profile(work: Any, version: str) -> None:
    assert work(TensorRtDouble(version)) == [
        ("create_network", 2),
        ("clear_flag", "TF32"),
        ("set_shape", "x", [1, 3], [4, 3], [16, 3]),
        ("set_timing_cache", b""),
        ("profiling_verbosity", 2),
    ]
    assert (work.folder / "layers").read_text() == '{"Layers": []} of engine'


def test_settings_reach_the_builder(work: Any) -> None:
    asked = work(
        TensorRtDouble("10.3.0", dla_cores=2), workspace=512, version_compatible=True, hardware_compatible=True, dla=1
    )
    assert asked[2:9] == [
        ("set_memory_pool_limit", "WORKSPACE", 512 * 2**20),
        ("set_flag", "VERSION_COMPATIBLE"),
        ("hardware_compatibility_level", 1),
        ("default_device_type", 1),
        ("DLA_core", 1),
        ("set_flag", "GPU_FALLBACK"),
        ("set_shape", "x", [1, 3], [4, 3], [16, 3]),
    ]


def test_timings_are_kept_and_those_of_another_gpu_are_measured_again(work: Any) -> None:
    work(TensorRtDouble("10.3.0"), timing=b"old")
    assert (work.folder / "timing").read_bytes() == b"old+measured"
    double = TensorRtDouble("10.3.0")
    double.stale = True
    assert work(double)[-3:-1] == [("set_timing_cache", b"old+measured"), ("set_timing_cache", b"")]
    assert (work.folder / "timing").read_bytes() == b"+measured"


@pytest.mark.parametrize(
    "change, flags, message",
    [
        ({"parses": False}, {}, r"^\[E\] Unheard 'node_7': no importer for op$"),
        ({"builds": False}, {}, "^1$"),
        ({}, {"dla": 0}, "there is no DLA core 0: this device, with this TensorRT, has 0"),
    ],
)
def test_failures_are_marked_for_the_parent(
    work: Any, change: dict[str, bool], flags: dict[str, int], message: str
) -> None:
    double = TensorRtDouble("10.3.0")
    for name, value in change.items():
        setattr(double, name, value)
    with pytest.raises(SystemExit, match=message):
        work(double, **flags)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
def test_tensorrt_rtx_says_what_it_cannot_parse(tmp_path: Path) -> None:
    node = helper.make_node("Unheard", ["x"], ["y"], "node_7", domain="elsewhere")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy"]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("elsewhere", 1)]
    model = helper.make_model(helper.make_graph([node], "odd", value[:1], value[1:]), opset_imports=opsets)
    onnx.save(model, tmp_path / "odd.onnx")
    content = request(TENSORRT_RTX, "sm89", SHAPES, FLAGS)
    (tmp_path / "request.json").write_text(json.dumps(content))
    arguments = [str(tmp_path / name) for name in ("odd.onnx", "engine", "request.json")]
    done = subprocess.run([sys.executable, build_worker.__file__, *arguments], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("[E] Unheard 'node_7': ")
    assert not (tmp_path / "engine").exists()
