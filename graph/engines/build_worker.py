"""Build one engine, as the child process of build_engine.py. A graph that crashes the builder kills only this process.

    python build_worker.py GRAPH ENGINE REQUEST.json

The script imports TensorRT, but nothing of fewstep. Exit code 0 means that ENGINE was written. Otherwise stderr
contains the reason, marked [E]. One builder API serves TensorRT 10.3 to 11 and TensorRT-RTX, with these differences:

- 11 has only strongly typed networks, and ignores the flag that requests one from 10;
- only TensorRT-RTX compiles for GPUs that are not present; only TensorRT has timing caches, DLA cores and an inspector
  that uses the GPU.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

MEBIBYTE = 2**20


def main(graph: str, engine: str, request_path: str) -> None:
    request: dict[str, Any] = json.loads(Path(request_path).read_text())
    trt = importlib.import_module(request["module"])
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(graph):  # parsed by path, since large weights are in the same folder
        errors = (parser.get_error(index) for index in range(parser.num_errors))
        _fail(*(f"{error.node_operator()} {error.node_name()!r}: {error.desc()}" for error in errors))
    config = builder.create_builder_config()
    _set_flags(trt, builder, config, request["flags"])
    if request["compute_capability"] is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, request["compute_capability"]), 0)
    profile = builder.create_optimization_profile()
    for name, (least, preferred, greatest) in request["shapes"].items():
        profile.set_shape(name, least, preferred, greatest)
    if config.add_optimization_profile(profile) < 0:
        _fail(f"the shapes {request['shapes']} do not suit the graph")
    timing_cache, layers = (request[name] and Path(request[name]) for name in ("timing_cache", "layers"))
    if timing_cache is not None:
        _use_timing_cache(config, timing_cache)
    if layers is not None:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    program = builder.build_serialized_network(network, config)
    if program is None:
        _fail()  # the builder has logged the reason
    Path(engine).write_bytes(program)
    if timing_cache is not None:
        timing_cache.write_bytes(config.get_timing_cache().serialize())
    if layers is not None:
        del builder, network, parser, config, profile, program  # on a Jetson they share memory with the inspector
        _inspect(trt, logger, Path(engine), layers)


def _set_flags(trt: Any, builder: Any, config: Any, flags: dict[str, bool | int]) -> None:
    if not flags["tf32"]:  # TF32 is on by default
        config.clear_flag(trt.BuilderFlag.TF32)
    if "workspace" in flags:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, flags["workspace"] * MEBIBYTE)
    if flags.get("version_compatible"):
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if flags.get("hardware_compatible"):
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if "dla" in flags:
        if flags["dla"] >= builder.num_DLA_cores:
            _fail(f"there is no DLA core {flags['dla']}: this device, with this TensorRT, has {builder.num_DLA_cores}")
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = flags["dla"]
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)  # layers that a DLA cannot run go to the GPU


def _use_timing_cache(config: Any, path: Path) -> None:
    """Give the builder the kernel timings of earlier builds, stored at `path`. The builder rejects timings of another
    GPU or TensorRT version; it then starts with an empty cache."""
    for content in (path.read_bytes(), b"") if path.exists() else (b"",):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return


def _inspect(trt: Any, logger: Any, engine: Path, layers: Path) -> None:
    """Write the inspector's description of each layer. The inspector needs the GPU that the engine was built on."""
    runtime = trt.Runtime(logger)
    runtime.engine_host_code_allowed = True  # safe: this process just built the engine
    loaded = runtime.deserialize_cuda_engine(engine.read_bytes())
    if loaded is not None:
        layers.write_text(loaded.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def _fail(*reasons: str) -> None:
    sys.exit("\n".join(f"[E] {reason}" for reason in reasons) or 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
