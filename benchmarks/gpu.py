"""float16 and int8 on this machine's NVIDIA GPU: agreement with the CPU's samples, and times beside torch's.

    python -m benchmarks.gpu [--model fashion_mnist] [--minutes 9] [--rehearse]

One command: it exports and calibrates shipped models, builds engines of TensorRT, or of TensorRT-RTX where that is what
is installed, samples, compares and times, and writes docs/measured/gpu.md. A machine without an NVIDIA GPU is told so
in one line. What fails is a row that says why, and so is what comes when the minutes are over. Torch takes part where
it sees the GPU. --rehearse goes the same way without a GPU, as far as that goes, and prints the page.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks import options
from benchmarks.markdown import table
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import ExportOptions, export
from fewstep.export.sources.shipped import load_shipped
from fewstep.graph.bake.bake import BakeOptions, bake
from fewstep.graph.engines.batches import BATCH
from fewstep.graph.engines.bound import DEVICES, bound
from fewstep.graph.engines.build import BuildOptions, build
from fewstep.graph.engines.kernels import kernels_of
from fewstep.measure.rollouts.metrics import psnr
from fewstep.plans import noise
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan, Row
from fewstep.runtime.backends import Backend, graph_of
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.onnxruntime_cuda import PROVIDER, OnnxRuntimeCuda
from fewstep.runtime.backends.tensorrt import BODIES, TensorRt
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.loading import load
from fewstep.runtime.machine.gpu import Gpu, gpu_of, these_gpus, this_jetson
from fewstep.runtime.machine.packages import version_of
from fewstep.runtime.sizes import dimension

PAGE = Path(__file__).parents[1] / "docs/measured/gpu.md"
PLAN, GUIDANCE = "dpmpp_2m:8", 2.0
BATCHES = (1, 8)
SEEDS = 64  # that are compared with the CPU's
TRAJECTORIES = 16  # of calibration
SECONDS, LEAST = 3.0, 10  # of timing one contender, and calls at least
PRECISIONS = ("float16", "int8")
TENSORRT = "tensorrt"  # how names of contenders begin whose engines' programs may be read
NO_GPU = "no NVIDIA GPU is seen here (nvidia-smi lists none): nothing was measured"

Sample = Callable[[Sequence[int]], np.ndarray]  # seeds -> samples [B, ...]


@dataclass(frozen=True)
class Contender:
    """A sampler: `open` loads it, which may fail. `precision` is of its network."""

    name: str
    precision: str
    open: Callable[[], Sample]


@dataclass(frozen=True)
class GpuRow:
    """A contender's PSNR to the CPU's float32 samples (mean and least, dB), and milliseconds of a call by batch:
    the median and the 99th percentile. bounds: milliseconds that the network's steps need at least, where known."""

    name: str
    precision: str
    mean: float = float("nan")
    least: float = float("nan")
    milliseconds: tuple[tuple[float, float], ...] = ()
    reason: str = ""
    bounds: tuple[float, ...] = ()


def labels(conditions: Sequence[Condition], seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """A value of each condition for each seed: the classes in turn."""
    return {each.name: np.array([seed % len(each.labels) for seed in seeds]) for each in conditions}


def on_backend(bundle: Path, body: str, backend: Backend) -> Callable[[], Sample]:
    """The bundle as a product runs it."""

    def opened() -> Sample:
        sampler = load(bundle, body=body, backend=backend)
        plan, conditions = sampler.compile(PLAN, GUIDANCE), sampler.bundle.manifest.conditions

        def sample(seeds: Sequence[int]) -> np.ndarray:
            sampler.forget()  # timing repeats its labels
            return np.asarray(sampler.sample(plan, seeds, labels(conditions, seeds)))

        return sample

    return opened


def in_file(bundle: Path, body: str, provider: str) -> Callable[[], Sample]:
    """The baked file, whose Loop keeps the state where the provider computes."""

    def opened() -> Sample:
        baked, (file, *_) = bake(BakeOptions(bundle, PLAN, bundle.parent / "baked.onnx", body=body, guidance=GUIDANCE))
        session = onnxruntime.InferenceSession(file, providers=[provider])
        if provider not in session.get_providers():
            raise UserError(f"onnxruntime has no {provider}", "install onnxruntime-gpu")
        shape = open_bundle(bundle).manifest.x_shape

        def sample(seeds: Sequence[int]) -> np.ndarray:
            return np.asarray(
                session.run(None, {"noise": noise.stacked(seeds, 0, shape), **labels(baked.conditions, seeds)})[0]
            )

        return sample

    return opened


def in_torch(bundle: Path, model: str, device: str, dtype: str, is_compiled: bool) -> Callable[[], Sample]:
    """The network that the bundle was exported from, in torch, along the same plan; its state stays on the device."""

    def opened() -> Sample:
        import torch

        network: Any = load_shipped(model).module.to(device, getattr(torch, dtype)).eval()
        network = torch.compile(network, mode="reduce-overhead") if is_compiled else network
        with load(bundle, body="float32", backend=OnnxRuntime()) as sampler:
            plan = sampler.compile(PLAN, GUIDANCE)
            shape, conditions = sampler.bundle.manifest.x_shape, sampler.bundle.manifest.conditions

        @torch.no_grad()
        def sample(seeds: Sequence[int]) -> np.ndarray:
            drawn = torch.from_numpy(np.stack([noise.normal(seed, 0, shape) for seed in seeds]).astype(np.float32))
            own = labels(conditions, seeds)
            by_branch = {
                "cond": [torch.from_numpy(own[each.name]).to(device) for each in conditions],
                "uncond": [torch.full((len(seeds),), int(each.null or 0), device=device) for each in conditions],
            }
            state = [combined(row, [drawn.to(device)]) for row in plan.start]
            for step in plan.steps:
                u = combined(step.input, state)
                parts = [by_branch[branch] for branch in step.branches]
                given = [torch.cat(column) for column in zip(*parts, strict=True)]
                x = torch.cat([u] * len(parts)).to(getattr(torch, dtype))
                times = torch.full((len(x),), step.time, device=device, dtype=x.dtype)
                outputs = network(x, times, *given).to(torch.float32).clone().chunk(len(parts))
                state = [combined(row, [*state, *outputs]) for row in step.update]
            return np.asarray(combined(plan.output, state).cpu())

        _check_plan(plan)
        return sample

    return opened


def combined(row: Row, tensors: Sequence[Any]) -> Any:
    """sum_j row[j] * tensors[j]."""
    return sum(coefficient * tensor for coefficient, tensor in zip(row, tensors, strict=True) if coefficient)


def _check_plan(plan: Plan) -> None:
    if any(step.draws or step.shaping or step.terms for step in plan.steps) or plan.given:
        raise UserError(f"plan {plan.name!r} is more than multiplications and additions", "time another plan")


def contenders(bundle: Path, model: str, name: str, has_torch: bool, device: str = "cuda") -> Iterator[Contender]:
    """All that may run a bundle here. name: the TensorRT that is installed, or nothing. device: cpu for a rehearsal."""
    for precision in PRECISIONS if name else ():
        body = BODIES[precision][0]
        for said, graph in (("", False), (", CUDA graph", True)):
            backend = TensorRt(name, cuda_graph=graph)  # type: ignore[arg-type]
            yield Contender(f"{name}{said}", precision, on_backend(bundle, body, backend))
    provider = PROVIDER if device == "cuda" else "CPUExecutionProvider"
    for precision in ("float32", "float16"):
        yield Contender("onnxruntime-cuda", precision, on_backend(bundle, precision, OnnxRuntimeCuda()))
        yield Contender("onnxruntime-cuda, baked file", precision, in_file(bundle, precision, provider))
    for dtype in ("float32", "float16") if has_torch else ():
        for said, is_compiled in (("eager", False), ("compiled", True)):
            yield Contender(f"torch, {said}", dtype, in_torch(bundle, model, device, dtype, is_compiled))


def measure(each: Contender, expected: np.ndarray, batches: Sequence[int] = BATCHES, until: float = inf) -> GpuRow:
    """One contender's samples beside the expected ones, of the seeds from 0 on, and its times. `until`: the monotonic
    clock's time, in seconds, at which no contender begins any more."""
    try:
        if time.monotonic() > until:
            raise UserError("the time was over", "give more (--minutes)")
        sample = each.open()
        size, count = max(batches), len(expected)
        made = np.concatenate([sample(range(at, min(at + size, count))) for at in range(0, count, size)])
        times = tuple(_milliseconds(sample, range(batch)) for batch in batches)
    except Exception as error:  # engines and torch share no base class but Exception
        lines = str(error).strip().splitlines()
        return GpuRow(each.name, each.precision, reason=lines[0] if lines else type(error).__name__)
    decibels = psnr(made, expected)
    return GpuRow(each.name, each.precision, float(decibels.mean()), float(decibels.min()), times)


def _milliseconds(sample: Sample, seeds: Sequence[int]) -> tuple[float, float]:
    """The median and the 99th percentile of calls, after three that are not counted."""
    for _ in range(3):
        sample(seeds)
    times: list[float] = []
    until = time.perf_counter() + SECONDS
    while len(times) < LEAST or time.perf_counter() < until:
        started = time.perf_counter()
        sample(seeds)
        times.append(time.perf_counter() - started)
    return 1e3 * float(np.median(times)), 1e3 * float(np.percentile(times, 99))


def prepared(model: str, folder: Path, name: str) -> Path:
    """A bundle of a shipped model with the bodies and engines that are timed. An engine that cannot be built is said,
    and its contender fails later."""
    bundle = folder / model
    export(ExportOptions(model, bundle))
    calibrate(CalibrateOptions(bundle, PLAN, target=("tensorrt",), guidance=GUIDANCE, trajectories=TRAJECTORIES))
    build(BuildOptions(bundle, "onnxruntime-cuda", precision="float16"))
    rows = str(2 * max(BATCHES))
    for precision in PRECISIONS if name else ():
        try:
            build(BuildOptions(bundle, name, precision=precision, opt_batch=rows, max_batch=rows))  # type: ignore[arg-type]
        except UserError as error:
            print(f"{model} in {precision}: {error}", file=sys.stderr)
    return bundle


def bounds(bundle: Path, precision: str, gpu: Gpu | None, batches: Sequence[int] = BATCHES) -> tuple[float, ...]:
    """Milliseconds that a guided sample's steps need at least, by batch: nothing for a GPU whose data sheet is not in
    `DEVICES`, or for an engine without a program text."""
    device = next((each for each in DEVICES if gpu is not None and gpu.name.endswith(each.name)), None)
    opened = open_bundle(bundle)
    engine = next((each for each in opened.manifest.engines if each.body in BODIES.get(precision, ())), None)
    if device is None or engine is None:
        return ()
    with load(bundle, body="float32", backend=OnnxRuntime()) as sampler:
        evaluations = len(sampler.compile(PLAN, GUIDANCE).steps)
    found = []
    for batch in batches:
        inputs = graph_of(opened, engine.body).inputs
        shapes = {each.name: tuple(dimension(size, {BATCH: 2 * batch}) for size in each.shape) for each in inputs}
        kernels = kernels_of(opened.read(engine.file), shapes)
        least = None if kernels is None else bound(kernels, device)
        if least is None:
            return ()
        found.append(1e3 * evaluations * least)
    return tuple(found)


def expected_samples(bundle: Path, seeds: int = SEEDS) -> np.ndarray:
    """The samples of onnxruntime on the CPU, in float32."""
    with load(bundle, body="float32", backend=OnnxRuntime()) as sampler:
        given = labels(sampler.bundle.manifest.conditions, range(seeds))
        return np.asarray(sampler.sample(PLAN, range(seeds), given, GUIDANCE))


def page(machine: Sequence[str], found: dict[str, list[GpuRow]]) -> str:
    """The page of the measurements."""
    head = f"""# On an NVIDIA GPU

`python -m benchmarks.gpu` wrote this page. Samples follow {PLAN} with guidance {GUIDANCE:g}. PSNR is to the
samples of ONNX Runtime on the CPU in float32, over {SEEDS} seeds. Times are milliseconds of one call, with
noise and results on the host: the median, and the 99th percentile behind it. A bound is what the
kernels of the network need at least on this GPU, for batches {" and ".join(map(str, BATCHES))}. It is no time:
a time below it means that the bound is wrong.
"""
    parts = [head, "\n".join(f"- {line}" for line in machine)]
    for model, rows in found.items():
        titles = ("engine", "network", "mean dB", "least dB", *(f"ms, batch {batch}" for batch in BATCHES), "bound, ms")
        parts += [f"\n## {model}\n", table(titles, [_row(each) for each in rows])]
        if failed := [each for each in rows if each.reason]:
            parts += ["", *(f"- {each.name}, {each.precision}: {each.reason}" for each in failed)]
    return "\n".join(parts) + "\n"


def _row(found: GpuRow) -> tuple[str, ...]:
    if found.reason:
        return (found.name, found.precision, "failed", *[""] * (2 + len(BATCHES)))
    times = (f"{half:.2f}, {most:.2f}" for half, most in found.milliseconds)
    least = ", ".join(f"{each:.2f}" for each in found.bounds)
    return (found.name, found.precision, f"{found.mean:.1f}", f"{found.least:.1f}", *times, least)


def seen() -> Gpu | None:
    """The first GPU of this machine."""
    jetson = this_jetson()
    return next(iter(these_gpus()), None) or (gpu_of(jetson) if jetson is not None else None)


def main(given: Sequence[str] | None = None) -> int:
    parser = options.parser_of(__doc__)
    parser.add_argument("--model", action="append", help="a shipped model; by default fashion_mnist")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page to write")
    parser.add_argument("--minutes", type=float, default=9.0, help="after these no contender begins")
    parser.add_argument("--rehearse", action="store_true", help="go on without a GPU, and print the page")
    arguments = parser.parse_args(given)
    gpu, until = seen(), time.monotonic() + 60 * arguments.minutes
    if gpu is None and not arguments.rehearse:
        print(NO_GPU)
        return 0
    device = "cuda" if gpu is not None else "cpu"
    name = next((each for each in ("tensorrt", "tensorrt-rtx") if find_spec(each.replace("-", "_"))), "")
    has_torch = bool(find_spec("torch")) and (gpu is None or _torch_sees_it())
    found: dict[str, list[GpuRow]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.model or ("fashion_mnist",):
            try:
                bundle = prepared(model, Path(folder), name)
                expected = expected_samples(bundle)
            except UserError as error:
                found[model] = [GpuRow("all", "", reason=str(error))]
                continue
            every = contenders(bundle, model, name, has_torch, device)
            rows = [measure(each, expected, until=until) for each in every]
            found[model] = [
                replace(each, bounds=bounds(bundle, each.precision, gpu)) if each.name.startswith(TENSORRT) else each
                for each in rows
            ]
    packages = ("tensorrt", "tensorrt-rtx", "cuda-bindings", "onnxruntime", "onnxruntime-gpu", "torch")
    versions = ", ".join(f"{each} {version}" for each in packages if (version := version_of(each)) is not None)
    machine = (_named(gpu), versions, time.strftime("measured on %Y-%m-%d"))
    if arguments.rehearse:
        print(page(machine, found))
    else:
        arguments.output.write_text(page(machine, found))
        print(f"wrote {arguments.output}")
    return 0


def _named(gpu: Gpu | None) -> str:
    if gpu is None:
        return "no NVIDIA GPU: a rehearsal on the CPU, whose times say nothing"
    memory = "" if gpu.free_mib is None else f", {gpu.free_mib} of {gpu.memory_mib} MiB free at the start"
    return f"{gpu.name} ({gpu.sm}), driver {gpu.driver}{memory}"


def _torch_sees_it() -> bool:
    import torch

    return bool(torch.cuda.is_available())


if __name__ == "__main__":
    sys.exit(main())
