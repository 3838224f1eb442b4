"""For any content of its files, a bundle runs or is refused in one line: no crash, no hang, no read outside it.

In the suite each test tries some dozens of inputs, the same ones every time. `FEWSTEP_FUZZ=100000 pytest tests/fuzz`
tries that many in all, different ones each time, in little memory.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from fewstep.calibration.ranges.read_table import load as load_ranges
from fewstep.calibration.ranges.table import Range, Ranges, RangesTable
from fewstep.graph.files import io
from fewstep.plans import file
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.shaping import Clip
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.report.integrity import VerifyOptions, verify
from fewstep.runtime import load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle import engine_files
from fewstep.runtime.bundle.engine_key import EngineFacts, EngineKey, Sidecar
from fewstep.runtime.bundle.reading import open_bundle
from tests.fuzz.guard import guard
from tests.fuzz.mutations import changes, cuts, damage_bytes, damage_graph, damage_json, messages

IN_SUITE = 25  # examples of each test
KINDS = 9  # tests in this file
MEMORY = 6 * 2**30  # bytes of address space of a long run: a graph may ask for any amount
ASKED = int(os.environ.get("FEWSTEP_FUZZ", 0))
ENGINE = OnnxRuntime(threads=1)
PLANS = ("ddim:2", "dpmpp_2m:3", "heun:2")


fuzzed = settings(  # every test here
    max_examples=max(1, ASKED // KINDS) if ASKED else IN_SUITE,
    deadline=None,
    derandomize=not ASKED,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module", autouse=True)
def little_memory() -> Iterator[None]:
    if not ASKED or sys.platform != "linux":
        yield
        return
    import resource

    former = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, former[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, former)


def use(bundle: Path, precision: str, plan: str | Path = "ddim:2") -> None:
    with load(bundle, precision, backend=ENGINE) as sampler:
        sampler.sample(plan, seeds=[0, 1], condition={"class": [0, 1]}, guidance=2.0)


def record(bundle: Path, manifest: str, name: str, content: bytes) -> None:
    """Put content into a file of a bundle together with its hash, as an author of bundles can."""
    document = json.loads(manifest)
    document["files"][name] = hashlib.sha256(content).hexdigest()
    (bundle / name).write_bytes(content)
    (bundle / "manifest.json").write_text(json.dumps(document))


@pytest.fixture
def manifest(tiny_bundle: Path) -> str:
    text = (tiny_bundle / "manifest.json").read_text()
    for precision in ("float32", "int8"):  # whatever Python imports and opens once
        use(tiny_bundle, precision)
    verify(VerifyOptions(tiny_bundle))
    io.load(tiny_bundle / "graphs/body.onnx")
    return text


@fuzzed
@given(changes)
def test_the_structure_of_manifests(tiny_bundle: Path, manifest: str, drawn: list[Any]) -> None:
    (tiny_bundle / "manifest.json").write_bytes(damage_json(manifest, drawn))
    with guard(tiny_bundle, ""):
        use(tiny_bundle, "float32" if drawn[0][1] % 2 else "int8")
    with guard(tiny_bundle, str(tiny_bundle)):
        verify(VerifyOptions(tiny_bundle, graphs=False))


@fuzzed
@given(cuts)
def test_the_bytes_of_manifests(tiny_bundle: Path, manifest: str, drawn: list[Any]) -> None:
    (tiny_bundle / "manifest.json").write_bytes(damage_bytes(manifest.encode(), drawn))
    with guard(tiny_bundle, str(tiny_bundle)):
        open_bundle(tiny_bundle)
    with guard(tiny_bundle, ""):
        use(tiny_bundle, "int8")


@pytest.fixture
def plans() -> list[str]:
    denoising = DenoiserFacts(ScheduleSpec("cosine", timesteps=100), "v", guided=True)
    made = [compile_plan(name, denoising, 2.0, shaping=Clip(-1, 1)) for name in PLANS]
    return [file.encode(plan).decode() for plan in made]


@fuzzed
@given(changes)
def test_the_structure_of_plans(tiny_bundle: Path, manifest: str, plans: list[str], drawn: list[Any]) -> None:
    file = tiny_bundle / "plan.json"
    file.write_bytes(damage_json(plans[drawn[0][1] % len(plans)], drawn))
    with guard(tiny_bundle, ""), load(tiny_bundle, backend=ENGINE) as sampler:
        sampler.sample(file, seeds=[0], condition={"class": [0]})


@fuzzed
@given(cuts)
def test_the_bytes_of_plans(tiny_bundle: Path, manifest: str, plans: list[str], drawn: list[Any]) -> None:
    file = tiny_bundle / "plan.json"
    file.write_bytes(damage_bytes(plans[drawn[0][1] % len(plans)].encode(), drawn))
    with guard(tiny_bundle, ""), load(tiny_bundle, backend=ENGINE) as sampler:
        sampler.sample(file, seeds=[0], condition={"class": [0]})


@pytest.fixture
def ranges() -> bytes:
    one = Range(-1.0, 2.0)
    tensors = {name: Ranges(one, (one, one), 2.0, (2.0, 2.0)) for name in ("a", "b", "silu_2")}
    return RangesTable("0" * 64, "ddim:2", (0.0,), "mse", tensors).encode()


@fuzzed
@given(cuts)
def test_the_bytes_of_ranges(tmp_path: Path, ranges: bytes, drawn: list[Any]) -> None:
    (tmp_path / "r.safetensors").write_bytes(damage_bytes(ranges, drawn))
    with guard(tmp_path, "r.safetensors"):
        load_ranges(tmp_path / "r.safetensors")


@fuzzed
@given(changes)
def test_the_header_of_ranges(tmp_path: Path, ranges: bytes, drawn: list[Any]) -> None:
    """Offsets that overlap, overflow or leave the file; shapes, types and metadata of any kind."""
    size = int.from_bytes(ranges[:8], "little")
    header = damage_json(ranges[8 : 8 + size].decode(), drawn)
    (tmp_path / "r.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + ranges[8 + size :])
    with guard(tmp_path, "r.safetensors"):
        load_ranges(tmp_path / "r.safetensors")


@fuzzed
@given(changes, cuts)
def test_engine_sidecars(tiny_bundle: Path, manifest: str, drawn: list[Any], bytewise: list[Any]) -> None:
    document = json.loads(manifest)
    engine = b"not a program"
    sha256 = hashlib.sha256(engine).hexdigest()
    graph = document["bodies"]["float32"]["graphs"][0]["file"]
    key = EngineKey(document["files"][graph], (), (1, 2, 4), {}, "tensorrt", "10.3", "sm87")
    sidecar = msgspec.json.encode(Sidecar(1, key.digest, key, sha256, {"int8": 1}))
    made = damage_bytes(sidecar, bytewise) if drawn[0][1] % 4 == 0 else damage_json(sidecar.decode(), drawn)
    document["engines"] = [
        {"file": "e.engine", "sidecar": "e.json", "body": "float32", "backend": "tensorrt", "device": "sm87"}
        | {"key": key.digest}
    ]
    document["files"]["e.engine"] = sha256
    (tiny_bundle / "e.engine").write_bytes(engine)
    record(tiny_bundle, json.dumps(document), "e.json", made)
    with guard(tiny_bundle, str(tiny_bundle)):
        engine_files.find(open_bundle(tiny_bundle), "float32", EngineFacts("tensorrt", "10.3", "sm87", 8), trust=True)
    with guard(tiny_bundle, str(tiny_bundle)):
        verify(VerifyOptions(tiny_bundle, graphs=False))


@fuzzed
@given(messages)
def test_the_structure_of_graphs(tiny_bundle: Path, manifest: str, drawn: list[Any]) -> None:
    _graph(tiny_bundle, manifest, drawn[0][1], lambda content: damage_graph(content, drawn))


@fuzzed
@given(cuts)
def test_the_bytes_of_graphs(tiny_bundle: Path, manifest: str, drawn: list[Any]) -> None:
    _graph(tiny_bundle, manifest, drawn[0][1], lambda content: damage_bytes(content, drawn))


WHOLE: dict[str, bytes] = {}


def _graph(bundle: Path, manifest: str, which: int, damage: Callable[[bytes], bytes]) -> None:
    names = ("graphs/body.onnx", "graphs/int8.onnx", "graphs/prologue.onnx")
    name = names[which % len(names)]
    for each in names:
        (bundle / each).write_bytes(WHOLE.setdefault(each, (bundle / each).read_bytes()))
    record(bundle, manifest, name, damage(WHOLE[name]))
    with guard(bundle, ""):
        use(bundle, "int8" if "int8" in name else "float32")
    with guard(bundle, Path(name).name):
        io.load(bundle / name, root=bundle)


def test_the_guard_sees_what_is_opened_outside(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="hostname"), guard(tmp_path, ""):
        Path("/etc/hostname").exists() and Path("/etc/hostname").read_bytes()
        (tmp_path / "../hostname").resolve().write_bytes(b"")
    with pytest.raises(AssertionError, match="is not named"), guard(tmp_path, "the thing"):
        raise UserError("something is wrong", "do something else")
    with guard(tmp_path, "the thing"):
        np.save(tmp_path / "a.npy", np.zeros(3))
        raise UserError("the thing is wrong", "do something else")
