"""`fewstep build`: engines ahead of time, by the real builder where it is installed, by doubles where it misbehaves."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from small_body import body, prologue, table

from fewstep.calibration import build as verb
from fewstep.calibration.build import DEVICES, BuildOptions, build
from fewstep.calibration.engine_key import EngineKey, Sidecar
from fewstep.calibration.lowering.quantize import lower
from fewstep.calibration.lowering.targets.tensorrt import TENSORRT
from fewstep.graph import io
from fewstep.graph.commit import open_for_update
from fewstep.graph.graph import Graph
from fewstep.runtime import manifest as form
from fewstep.runtime.bundle import open_bundle
from fewstep.runtime.errors import UserError

needs_tensorrt_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None or importlib.util.find_spec("polygraphy") is None,
    reason="tensorrt-rtx is not installed: pip install 'fewstep[tensorrt-rtx]'",
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of the small body, calibrated for tensorrt."""
    path = tmp_path / "bundle"
    prepared = body()
    lowered = lower(prepared, table(prepared), TENSORRT)
    with open_for_update(path, must_exist=False) as writer:

        def stored(graph: Graph, name: str, *roles: form.Role) -> form.Graph:
            """`roles` are those of its inputs and then of its output."""
            file, data = io.store(writer, graph, name)
            values = (*graph.inputs, *graph.outputs)
            tensors = [form.Tensor(value.name, role, value.shape) for value, role in zip(values, roles, strict=True)]
            return form.Graph(file, tuple(tensors[:-1]), tuple(tensors[-1:]), data)

        writer.commit(
            form.Manifest(
                schema=form.SCHEMA,
                name="small",
                x_shape=tuple(int(size) for size in prepared.inputs[0].shape[1:]),
                conditions=(),
                prediction="v",
                schedule=form.ScheduleSpec("cosine"),
                prologue=stored(prologue(), "prologue", "time", "row"),
                bodies={
                    "float32": form.Body(stored(prepared, "body", "x", "row", "output"), "float32", "portable"),
                    "int8-tensorrt": form.Body(
                        stored(lowered.graph, "int8-tensorrt", "x", "row", "output"), "int8", "tensorrt"
                    ),
                },
                provenance=form.Provenance("small", "0" * 64, {}, ()),
                files={},
            )
        )
    return path


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A double of the builder's process, to be written by the test."""
    script = tmp_path / "worker.py"
    monkeypatch.setattr(verb, "WORKER", script)
    monkeypatch.setattr(verb, "_backend_version", lambda options: "1.0")
    return script


COPY = "import sys, shutil; shutil.copy(sys.argv[3], sys.argv[2])"  # an "engine" that is what was asked for


def content(bundle: Path) -> dict[str, bytes]:
    return {path.relative_to(bundle).as_posix(): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


@needs_tensorrt_rtx
def test_an_int8_and_a_float16_engine_without_a_gpu(bundle: Path) -> None:
    built = build(BuildOptions(bundle, device=("sm89",)))
    assert built.built == ("sm89",) and built.kept == ()
    (engine,) = built.manifest.engines
    sidecar = msgspec.json.decode(open_bundle(bundle).read(engine.sidecar), type=Sidecar)
    assert sidecar.convolutions == {"int8": 3, "float16": 2}  # the first and the last layer; none in float32
    assert sidecar.key == engine.key == sidecar.built_from.digest
    assert sidecar.built_from == EngineKey(
        graph=built.manifest.files[built.manifest.bodies["int8-tensorrt"].graph.file],
        weights=(),
        batches=(1, 4, 16),
        flags={"strongly_typed": True, "tf32": False},
        backend="tensorrt-rtx",
        backend_version=sidecar.built_from.backend_version,
        device="sm89",
    )
    assert built.manifest.files[engine.file] == sidecar.sha256

    before = content(bundle)
    again = build(BuildOptions(bundle, device=("sm89",)))
    assert again.built == () and again.kept == ("sm89",) and content(bundle) == before

    half = build(BuildOptions(bundle, device=("sm89",), precision="float16"))
    assert half.built == ("sm89",) and half.manifest.bodies["float16-tensorrt"].precision == "float16"
    assert [engine.body for engine in half.manifest.engines] == ["int8-tensorrt", "float16-tensorrt"]
    sidecar = msgspec.json.decode(open_bundle(bundle).read(half.manifest.engines[1].sidecar), type=Sidecar)
    assert sidecar.convolutions == {"float16": 5}


def test_a_changed_choice_builds_again_in_the_place_of_the_old_engine(bundle: Path, worker: Path) -> None:
    worker.write_text(COPY)
    first = build(BuildOptions(bundle, device=("sm86", "sm89")))
    second = build(BuildOptions(bundle, device=("sm89", "sm120"), max_batch=8))
    assert second.built == ("sm89", "sm120") and second.kept == ()
    keys = {engine.device: engine.key for engine in second.manifest.engines}
    old = {engine.device: engine.key for engine in first.manifest.engines}
    assert set(keys) == {"sm86", "sm89", "sm120"} and keys["sm86"] == old["sm86"] and keys["sm89"] != old["sm89"]
    assert set(content(bundle)) - {"manifest.json"} == set(second.manifest.files)  # the old engine is gone
    assert second.manifest.provenance.commands[-1] == (
        "fewstep build BUNDLE --backend tensorrt-rtx --device sm89,sm120 --precision int8"
        " --min-batch 1 --opt-batch 4 --max-batch 8"
    )


def test_a_damaged_engine_is_built_again(bundle: Path, worker: Path) -> None:
    worker.write_text(COPY)
    options = BuildOptions(bundle, device=("sm89",))
    (engine,) = build(options).manifest.engines
    (bundle / engine.file).write_bytes(b"cut")
    assert build(options).built == ("sm89",)
    assert open_bundle(bundle).file(engine.file).read_bytes() != b"cut"


@pytest.mark.parametrize(
    "script, message",
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", r"died \(SIGKILL\) building body 'int8-tensorrt'"),
        ("import time; time.sleep(60)", "took more than 0.5 s to build body 'int8-tensorrt' for sm89"),
        (
            "import sys; print('[W] odd\\n[E] no kernel for op\\nmore', file=sys.stderr); sys.exit(1)",
            "no kernel for op",
        ),
        ("import sys; sys.exit('ValueError: bad')", "cannot build body 'int8-tensorrt' for sm89: ValueError: bad"),
        ("import sys; sys.exit(3)", "it says nothing"),
        (
            "import sys; open(sys.argv[2], 'w').write('"
            'tensor={ name="x" type=float }\\\\n corrltn={ name="c" output={"y" } input={"x" "w" } }\')',
            "computes convolution 'c' in float32",
        ),
    ],
    ids=["killed", "hangs", "refuses", "raises", "silent", "float32"],
)
def test_a_builder_that_fails_costs_one_line_and_nothing_of_the_bundle(
    bundle: Path, worker: Path, script: str, message: str
) -> None:
    worker.write_text(script)
    before = content(bundle)
    with pytest.raises(UserError, match=message) as caught:
        build(BuildOptions(bundle, device=("sm89",), timeout=30.0 if "sleep" not in script else 0.5))
    assert "\n" not in str(caught.value)
    assert content(bundle) == before


@pytest.mark.parametrize(
    "change, message",
    [
        ({"device": ("sm90",)}, f"unknown device 'sm90'; choose from {', '.join(DEVICES)}"),
        ({"device": ()}, "no device to build for"),
        ({"backend": "tensorflow"}, "unknown backend 'tensorflow'"),
        ({"precision": "int4"}, "no engines of precision 'int4'"),
        ({"min_batch": 0}, "batches 0, 4, 16 are not"),
        ({"opt_batch": 32}, "batches 1, 32, 16 are not"),
    ],
)
def test_impossible_choices_are_refused(bundle: Path, worker: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(replace(BuildOptions(bundle), **change))  # type: ignore[arg-type]


def test_a_bundle_that_was_not_calibrated_is_refused(bundle: Path, worker: Path) -> None:
    with open_for_update(bundle, must_exist=True) as writer:
        assert writer.manifest is not None
        bodies = {"float32": writer.manifest.bodies["float32"]}
        writer.commit(msgspec.structs.replace(writer.manifest, bodies=bodies))
    with pytest.raises(UserError, match="has no body 'int8-tensorrt' to build; fewstep calibrate"):
        build(BuildOptions(bundle))


def test_a_missing_builder_is_named_with_its_command(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"tensorrt_rtx is not installed; pip install 'fewstep\[tensorrt-rtx\]'"):
        build(BuildOptions(bundle))
