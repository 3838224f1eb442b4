"""`fewstep build`: engines from the real builder if it is installed, and from doubles that misbehave."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.graph.engines.build import Build, EngineRequest, build, list_requests
from fewstep.graph.engines.build_options import BuildOptions
from fewstep.graph.engines.builders import TENSORRT_RTX
from fewstep.graph.engines.engine_costs import EngineCost, cost_lines, read_costs
from fewstep.graph.engines.engine_layers import convolutions
from fewstep.runtime.bundle import engine_files
from fewstep.runtime.bundle import manifest as form
from fewstep.runtime.bundle.engine_key import EngineFacts, EngineKey, Sidecar
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.machine import cache
from tests.bundles import change_bundle
from tests.calibration.test_calibrate import FIRST, denoiser, write_bundle
from tests.conftest import with_earlier
from tests.graph.engines.conftest import COPY
from tests.refusals import refuses
from tests.runtime.test_networks import with_expert

needs_tensorrt_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt-rtx is not installed: pip install 'fewstep[tensorrt-rtx]'",
)


def built_and_kept(made: Build) -> tuple[list[str], list[str]]:
    """Return the built and the kept engines, as "body device"."""
    built, kept = ([f"{each.body} {each.device}" for each in part] for part in (made.built, made.kept))
    return built, kept


def sidecar(bundle: Path, engine: form.EngineEntry) -> Sidecar:
    return msgspec.json.decode(open_bundle(bundle).read(engine.sidecar), type=Sidecar)


LAYERS = json.dumps(
    {"Layers": [{"Name": kind, "LayerType": "Convolution", "Weights": {"Type": kind}} for kind in ("Int8", "Float")]}
)


def content(bundle: Path) -> dict[str, bytes]:
    return {path.relative_to(bundle).as_posix(): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


@needs_tensorrt_rtx
def test_an_int8_and_a_float16_engine_without_a_gpu(bundle: Path) -> None:
    built = build(BuildOptions(bundle, device=("sm89",)))
    assert built_and_kept(built) == (["prologue sm89", "int8-tensorrt sm89"], [])
    prologue, engine = built.manifest.engines
    made = sidecar(bundle, engine)
    assert made.convolutions == {"int8": 3, "float16": 2}  # the first and the last layer; none in float32
    assert made.key == engine.key == made.built_from.digest
    assert made.built_from == EngineKey(
        graph=built.manifest.files[built.manifest.bodies["int8-tensorrt"].graph.file],
        weights=(),
        batches=(1, 4, 16),
        flags={"strongly_typed": True, "tf32": False},
        backend="tensorrt-rtx",
        backend_version=TENSORRT_RTX.version(),
        device="sm89",
    )
    assert built.manifest.files[engine.file] == made.sha256
    assert engine_files.was_built_here(made.sha256) and not engine_files.was_built_here("0" * 64)

    before = content(bundle)
    again = build(BuildOptions(bundle, device=("sm89",)))
    assert built_and_kept(again) == ([], ["prologue sm89", "int8-tensorrt sm89"]) and content(bundle) == before

    half = build(BuildOptions(bundle, device=("sm89",), precision="float16", workspace=64))
    assert half.manifest.bodies["float16"].precision == "float16"
    assert [engine.body for engine in half.manifest.engines] == ["int8-tensorrt", "prologue", "float16"]
    assert sidecar(bundle, half.manifest.engines[-1]).convolutions == {"float16": 5}


@needs_tensorrt_rtx
@pytest.mark.slow
def test_bfloat16_has_its_body_and_engines_from_ampere_on(bundle: Path) -> None:
    """The same kernels as in float16, also around int8."""
    kernels = {}
    for half in ("float16", "bfloat16"):
        made = build(BuildOptions(bundle, device=("sm89",), precision=half)).manifest  # type: ignore[arg-type]
        assert made.bodies[half].precision == half
        (engine,) = (each for each in made.engines if each.body == half)
        assert sidecar(bundle, engine).convolutions == {half: 5}
        kernels[half] = read_costs(open_bundle(bundle))[engine.file].kernels
    assert kernels["float16"] == kernels["bfloat16"]
    with refuses(("sm75", "bfloat16"), "sm80"):
        build(BuildOptions(bundle, device=("sm75",), precision="bfloat16"))


@needs_tensorrt_rtx
@pytest.mark.slow
def test_bfloat16_around_int8_is_refused_where_a_gpu_has_none(tmp_path: Path) -> None:
    wide = write_bundle(tmp_path / "wide", denoiser())
    calibrate(replace(FIRST, bundle=wide, target=("tensorrt",), half="bfloat16"))
    made = build(BuildOptions(wide, device=("sm86",))).manifest
    (engine,) = (each for each in made.engines if each.body == "int8-tensorrt")
    assert set(sidecar(wide, engine).convolutions) <= {"int8", "bfloat16"}
    with refuses(("sm75", "bfloat16"), "Ampere"):
        build(BuildOptions(wide, device=("sm75",)))


@needs_tensorrt_rtx
def test_int8_is_shown_next_to_float16(bundle: Path) -> None:
    """Kernels, bytes and MACs at the preferred batch, and bounds of the GPUs of that generation."""
    for precision in ("int8", "float16"):
        manifest = build(BuildOptions(bundle, device=("sm89",), precision=precision)).manifest  # type: ignore[arg-type]
    known = read_costs(open_bundle(bundle))
    int8, half = (known[engine.file] for engine in manifest.engines if engine.body != "prologue")
    assert int8.batch == half.batch == 4 and set(int8.bounds) == {"RTX 4090"}
    assert half.kernels > 0 and (half.bytes or 0) > 0 and half.int8_share == 0 < int8.int8_share < 1
    assert sum(int8.macs.values()) == sum(half.macs.values())
    lines = cost_lines(manifest.engines, known)
    (shown,) = (lines[engine.file] for engine in manifest.engines if engine.body == "int8-tensorrt")
    assert shown[0].endswith(f"float16: {half.kernels} kernels, {half.traffic_text}")
    assert shown[1] == f"a bound, not a time: RTX 4090 {1e3 * int8.bounds['RTX 4090']:.3g} ms"
    quicker = min((int8, "int8-tensorrt"), (half, "float16"), key=lambda each: each[0].bounds["RTX 4090"])[1]
    assert shown[2] == f"the lower bound has {quicker} on RTX 4090"


def test_the_body_with_the_lower_bound_is_named_for_each_gpu() -> None:
    """int8 that moves more bytes wins where MACs are slow. Without float16's engine the message has its command."""
    int8, half = (
        form.EngineEntry(f"{body}.engine", f"{body}.json", body, "tensorrt-rtx", "sm86", "0")
        for body in ("int8-tensorrt", "float16")
    )
    known = {
        int8.file: EngineCost(2, 10, 1000, {"int8": 9, "float16": 1}, {"RTX 3060": 2e-3, "AGX Orin 64GB": 1e-3}),
        half.file: EngineCost(2, 9, 900, {"float16": 10}, {"RTX 3060": 1e-3, "AGX Orin 64GB": 3e-3}),
    }
    lines = cost_lines((int8, half), known)
    assert lines[int8.file][-1] == "the lower bound has float16 on RTX 3060; int8-tensorrt on AGX Orin 64GB"
    assert len(lines[half.file]) == 2
    alone = cost_lines((int8,), known)[int8.file]
    assert len(alone) == 3 and "build --precision float16 --device sm86" in alone[-1]


@needs_tensorrt_rtx
def test_a_float32_engine_computes_in_float32(bundle: Path) -> None:
    shapes = {"min_batch": "2", "opt_batch": "3", "max_batch": "x:4x3x8x8"}
    built = build(BuildOptions(bundle, device=("sm120",), precision="float32", **shapes))  # type: ignore[arg-type]
    made = sidecar(bundle, built.built[-1])
    assert set(made.convolutions) <= {"float32"} and made.built_from.batches == (2, 3, 4)
    assert sidecar(bundle, built.built[0]).built_from.batches == (1, 3, 4)  # a prologue takes any number of rows


def test_each_network_has_engines_of_its_own(bundle: Path, worker: Path) -> None:
    with_expert(bundle, inputs={})
    options = BuildOptions(bundle, device=("sm89",))
    bodies = ("prologue", "int8-tensorrt")
    expected = [(name, network) for network in ("noisy", "denoiser") for name in bodies]
    assert [(request.body, request.network) for request in list_requests(options)] == expected
    built = build(options)
    assert built_and_kept(built) == ([f"{name} sm89" for name, _ in expected], [])
    manifest = open_bundle(bundle).manifest
    for own in (manifest, manifest.networks["noisy"]):
        assert [engine.body for engine in own.engines] == list(bodies)
    assert len(manifest.provenance.commands) == 2  # of export, and of build
    before = content(bundle)
    assert built_and_kept(build(options)) == ([], [f"{name} sm89" for name, _ in expected])
    assert content(bundle) == before
    half = build(BuildOptions(bundle, backend="onnxruntime-cuda", precision="float16")).manifest
    assert half.bodies["float16"] == half.networks["noisy"].bodies["float16"]


def test_a_changed_choice_builds_again_in_the_place_of_the_old_engine(bundle: Path, worker: Path) -> None:
    first = build(BuildOptions(bundle, device=("sm86", "sm89")))
    second = build(BuildOptions(bundle, device=("sm89", "sm120"), max_batch="8"))
    bodies = ("prologue", "int8-tensorrt")
    assert built_and_kept(second) == ([f"{name} {device}" for device in ("sm89", "sm120") for name in bodies], [])
    keys = {(engine.body, engine.device): engine.key for engine in second.manifest.engines}
    old = {(engine.body, engine.device): engine.key for engine in first.manifest.engines}
    assert {device for _, device in keys} == {"sm86", "sm89", "sm120"} and len(keys) == 6
    for name in bodies:
        assert keys[name, "sm86"] == old[name, "sm86"] and keys[name, "sm89"] != old[name, "sm89"]
    assert set(content(bundle)) - {"manifest.json"} == set(second.manifest.files)  # the old engine is gone
    assert second.manifest.provenance.commands[-1] == (
        "fewstep build BUNDLE --backend tensorrt-rtx --device sm89,sm120 --precision int8 --min-batch 1 --max-batch 8"
    )


def test_all_graphs_of_a_body_get_engines_of_their_own(bundle: Path, worker: Path) -> None:
    bodies = open_bundle(bundle).manifest.bodies
    graph = bodies["float32"].graph
    group = form.TensorEntry("group", "group", (1,), "int64")
    graph = msgspec.structs.replace(graph, inputs=(*graph.inputs, group))
    change_bundle(bundle, bodies={**bodies, "int8-tensorrt": with_earlier(bodies["int8-tensorrt"], graph)})
    made = build(BuildOptions(bundle, device=("sm89",)))
    assert built_and_kept(made)[0] == ["prologue sm89", "int8-tensorrt sm89", "int8-tensorrt/0 sm89"]
    assert made.built[2].file.startswith("engines/int8-tensorrt-0-sm89-")
    assert sidecar(bundle, made.built[2]).built_from.graph == made.manifest.files[graph.file]
    again = engine_files.find(
        open_bundle(bundle), "int8-tensorrt/0", EngineFacts("tensorrt-rtx", "11.0", "sm89", 1), trust=False
    )
    assert again.key == sidecar(bundle, made.built[2]).built_from


def test_turing_gets_no_prologue(bundle: Path, worker: Path) -> None:
    made = build(BuildOptions(bundle, device=("sm75", "sm80")))
    assert built_and_kept(made) == (["int8-tensorrt sm75", "prologue sm80", "int8-tensorrt sm80"], [])
    half = build(BuildOptions(bundle, device=("sm75",), precision="float16"))  # of a body that is made here
    assert built_and_kept(half) == (["float16 sm75"], [])


def test_what_would_be_built_is_printed_without_building(bundle: Path, worker: Path) -> None:
    options = BuildOptions(bundle, device=("sm89",))
    before = content(bundle)
    assert list_requests(options) == (
        EngineRequest("prologue", "sm89", False),
        EngineRequest("int8-tensorrt", "sm89", False),
    )
    assert list_requests(replace(options, precision="float16")) == (EngineRequest("float16", "sm89", False),)
    assert content(bundle) == before
    build(options)
    assert list_requests(options) == (
        EngineRequest("prologue", "sm89", True),
        EngineRequest("int8-tensorrt", "sm89", True),
    )


def test_a_damaged_engine_is_built_again(bundle: Path, worker: Path) -> None:
    options = BuildOptions(bundle, device=("sm89",))
    engine = build(options).manifest.engines[-1]
    (bundle / engine.file).write_bytes(b"cut")
    assert built_and_kept(build(options)) == (["int8-tensorrt sm89"], ["prologue sm89"])
    assert open_bundle(bundle).file(engine.file).read_bytes() != b"cut"


def test_tensorrt_builds_for_the_gpu_that_is_here_and_keeps_its_timings(
    bundle: Path, worker: Path, jetson: None, caplog: pytest.LogCaptureFixture
) -> None:
    worker.write_text(
        COPY + "; import json; request = json.load(open(sys.argv[3])); timing = open(request['timing_cache'], 'ab')"
        "; timing.write(b'measured '); open(request['layers'], 'w').write('" + LAYERS + "')"
    )
    made = build(BuildOptions(bundle, backend="tensorrt", workspace=512, version_compatible=True))
    prologue, body = (sidecar(bundle, engine).built_from for engine in made.built)
    assert (body.device, body.multiprocessors, body.backend_version) == ("sm87", 16, "11.0")
    flags = {"strongly_typed": True, "tf32": False, "workspace": 512, "version_compatible": True}
    assert sidecar(bundle, made.built[1]).convolutions == {"int8": 1, "float32": 1}
    assert caplog.messages == ["the engine of int8-tensorrt computes 1 convolutions in float32"]
    assert prologue.flags == flags and body.flags == flags
    (timings,) = (cache.folder() / "timing").iterdir()
    assert timings.name == "tensorrt-11.0-sm87-16.cache" and timings.read_bytes() == b"measured measured "
    assert made.manifest.provenance.commands[-1] == (
        "fewstep build BUNDLE --backend tensorrt --device sm87 --precision int8 --min-batch 1"
        " --max-batch 16 --workspace 512 --version-compatible"
    )


def test_a_dla_takes_one_batch_in_float16(bundle: Path, worker: Path, jetson: None) -> None:
    """float32 cannot run there, so the prologue runs on the GPU."""
    options = BuildOptions(bundle, backend="tensorrt", precision="float16", dla=0)
    with refuses(("DLA", "batch has a range")):
        build(options)
    made = build(replace(options, min_batch="2", max_batch="2"))
    flags = [sidecar(bundle, engine).built_from.flags for engine in made.built]
    assert [flag.get("dla") for flag in flags] == [None, 0]


@needs_tensorrt_rtx
def test_float32_scales_are_part_of_the_key_and_change_no_type(bundle: Path) -> None:
    """The bundle keeps its graph; the engine multiplies as it does with scales in float16."""
    options = BuildOptions(bundle, device=("sm86",))
    plain, wide = (build(each) for each in (options, replace(options, float32_scales=True)))
    assert wide.manifest.bodies == plain.manifest.bodies and len(wide.manifest.engines) == len(plain.manifest.engines)
    before, after = (each.built[-1] for each in (plain, wide))
    made = sidecar(bundle, after)
    assert made.built_from.flags["float32_scales"] is True and before.key != after.key
    assert made.convolutions == {"int8": 3, "float16": 2}


def test_a_hardware_compatible_engine_is_for_ampere_and_later(bundle: Path, worker: Path, jetson: None) -> None:
    options = BuildOptions(bundle, backend="tensorrt", hardware_compatible=True)
    key = sidecar(bundle, build(options).built[-1]).built_from
    assert (key.device, key.multiprocessors) == ("sm80+", None)


def test_onnxruntime_cuda_gets_its_body_and_nothing_to_compile(bundle: Path) -> None:
    options = BuildOptions(bundle, backend="onnxruntime-cuda", precision="float16")
    made = build(options)
    assert built_and_kept(made) == ([], []) and made.manifest.bodies["float16"].target == "portable"
    (*_, command) = made.manifest.provenance.commands
    assert command == "fewstep build BUNDLE --backend onnxruntime-cuda --precision float16"
    before = content(bundle)
    build(options)
    assert content(bundle) == before
    with refuses(("-cuda", "'int8'"), "--precision float"):
        build(replace(options, precision="int8"))


def layer(name: str, kind: str = "CaskConvolution", **more: Any) -> dict[str, Any]:
    return {"Name": name, "LayerType": kind, **more}


def layer_json(*layers: Any) -> bytes:
    return json.dumps({"Layers": layers, "Bindings": ["x", "output"]}).encode()


def test_weights_tell_the_type_and_inputs_where_there_are_none() -> None:
    def input_of(**fields: str) -> dict[str, Any]:
        return {"Inputs": [{"Name": "x", "Dimensions": [-1, 16, 8, 8], **fields}, {"Name": "skip"}]}

    unknown = input_of(**{"Format/Datatype": "N/A due to dynamic shapes"})
    assert convolutions(
        layer_json(
            layer("a", Weights={"Type": "Int8", "Count": 9}, **unknown),
            layer("b", Weights={"Type": "Half", "Count": 9}, **unknown),
            layer("c", **input_of(**{"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."})),
            layer("d", **input_of(**{"Format/Datatype": "Row major linear FP32"})),
            layer("e", **input_of(DataType="Half", Format="Channel major FP16 format (kHWC8)")),
            layer("f", "gemm", ParameterType="Convolution", Weights={"Type": "Float"}),
            layer("g", **unknown),
            layer("reformat", "Reformat", **input_of(**{"Format/Datatype": "Row major linear FP32"})),
        )
    ) == {"a": "int8", "b": "float16", "c": "int8", "d": "float32", "e": "float16", "f": "float32"}


@pytest.mark.parametrize(
    "said", [b"", b"[]", b"{}", b'{"Layers": ["only a name"]}', b'{"Layers": [{"LayerType": null}]}']
)
def test_what_is_not_understood_says_nothing(said: bytes) -> None:
    assert convolutions(said) == {}
