"""float16 and int8 on this machine's NVIDIA GPU: agreement with the CPU's samples, and times beside torch's.

    python -m benchmarks.gpu [--model fashion_mnist] [--torch fashion_mnist] [--minutes 9] [--rehearse]

One command: it exports denoisers, builds engines of TensorRT, or of TensorRT-RTX where that is what is installed, in
float16 and int8, samples, compares and times, and writes docs/measured/gpu.md. A machine without an NVIDIA GPU is told
so in one line. What fails is a row that says why, and so is what comes when the minutes are over. --torch also times
the network in torch, eager and compiled. --rehearse goes the same way without a GPU, as far as that goes, and prints
the page.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks import options
from benchmarks.markdown import table
from benchmarks.nvidia.forms import BLOCK, FEW, KNOWN
from benchmarks.zoo.bundles import calibration
from benchmarks.zoo.members import HELD_OUT, Member
from fewstep.calibration.calibrate import calibrate
from fewstep.export.export import ExportOptions, export, load_source
from fewstep.export.sources.torch_module import TorchSource
from fewstep.graph.bake.bake import BakeOptions, bake
from fewstep.graph.engines.batches import BATCH
from fewstep.graph.engines.bound import DEVICES, bound
from fewstep.graph.engines.build import BuildOptions, build
from fewstep.graph.engines.kernels import kernels_of
from fewstep.measure.rollouts.metrics import psnr
from fewstep.measure.rollouts.seeds import held_out_conditions
from fewstep.plans import noise
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan, Row
from fewstep.runtime.backends import Backend, graph_of
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.onnxruntime_cuda import PROVIDER, OnnxRuntimeCuda, open_session, provider_settings
from fewstep.runtime.backends.tensorrt import BODIES, TensorRt
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.feeds import branch_values
from fewstep.runtime.loading import load
from fewstep.runtime.machine.gpu import Gpu, gpu_of, these_gpus, this_jetson
from fewstep.runtime.machine.packages import version_of
from fewstep.runtime.sizes import dimension

PAGE = Path(__file__).parents[1] / "docs/measured/gpu.md"
BATCHES = (1, 8)
SEEDS = 64  # that are compared with the CPU's
TRAJECTORIES = 16  # of calibration
SECONDS, LEAST = 1.5, 10  # of timing one contender, and calls at least
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


@dataclass(frozen=True)
class Deployed:
    """A denoiser's bundle, and how its samples are drawn."""

    member: Member
    bundle: Path

    @cached_property
    def conditions(self) -> Callable[[Sequence[int]], dict[str, np.ndarray]]:
        """Seeds -> each condition [seeds, *shape]."""
        takes = open_bundle(self.bundle).manifest
        return partial(held_out_conditions, takes, records=self.member.rows(SEEDS, HELD_OUT))


def on_backend(of: Deployed, body: str, backend: Backend) -> Callable[[], Sample]:
    """The bundle as a product runs it."""

    def opened() -> Sample:
        sampler = load(of.bundle, body=body, backend=backend)
        plan = sampler.compile(of.member.plan, of.member.guidance)

        def sample(seeds: Sequence[int]) -> np.ndarray:
            sampler.forget()  # timing repeats its conditions
            return np.asarray(sampler.sample(plan, seeds, of.conditions(seeds)))

        return sample

    return opened


def in_file(of: Deployed, body: str, device: str) -> Callable[[], Sample]:
    """The baked file, whose Loop keeps the state where the provider computes."""

    def opened() -> Sample:
        output = of.bundle.with_name(f"{of.bundle.name}-{body}.onnx")
        _, (file, *_) = bake(BakeOptions(of.bundle, of.member.plan, output, body=body, guidance=of.member.guidance))
        on_gpu, on_cpu = (PROVIDER, provider_settings(0)), ("CPUExecutionProvider", dict[str, str]())
        session = open_session(onnxruntime, Path(file), on_gpu if device == "cuda" else on_cpu)
        shape = open_bundle(of.bundle).manifest.x_shape

        def sample(seeds: Sequence[int]) -> np.ndarray:
            drawn = {"noise": noise.stacked(seeds, 0, shape), **of.conditions(seeds)}
            return np.asarray(session.run(None, drawn)[0])

        return sample

    return opened


def in_torch(of: Deployed, device: str, dtype: str, is_compiled: bool) -> Callable[[], Sample]:
    """The network that the bundle was exported from, in torch, along the same plan; its state stays on the device.
    float16 is by autocast: networks make features of the time in float32."""

    def opened() -> Sample:
        import torch

        network: Any = network_of(of.member).to(device).eval()
        network = torch.compile(network, mode="reduce-overhead") if is_compiled else network
        with load(of.bundle, body="float32", backend=OnnxRuntime()) as sampler:
            plan = sampler.compile(of.member.plan, of.member.guidance)
            manifest, nulls = sampler.bundle.manifest, sampler.network().nulls

        def there(values: np.ndarray) -> Any:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device)

        def sample(seeds: Sequence[int]) -> np.ndarray:
            with torch.no_grad(), torch.autocast(device, torch.float16, enabled=dtype == "float16"):
                return sampled(seeds)

        def sampled(seeds: Sequence[int]) -> np.ndarray:
            drawn = torch.from_numpy(noise.stacked(seeds, 0, manifest.x_shape)).to(device)
            values = branch_values(manifest.conditions, of.conditions(seeds), None, len(seeds), nulls)
            branches = {branch for step in plan.steps for branch in step.branches}
            parts = {branch: [there(each) for each in values(branch).values()] for branch in branches}
            state = [combined(row, [drawn]) for row in plan.start]
            for step in plan.steps:
                u = combined(step.input, state)
                given = [torch.cat(column) for column in zip(*(parts[each] for each in step.branches), strict=True)]
                x = torch.cat([u] * len(step.branches))
                times = torch.full((len(x),), step.time, device=device)
                outputs = network(x, times, *given).to(torch.float32).clone().chunk(len(step.branches))
                state = [combined(row, [*state, *outputs]) for row in step.update]
            return np.asarray(combined(plan.output, state).cpu())

        _check_plan(plan)
        return sample

    return opened


def network_of(member: Member) -> Any:
    """The member's network in torch."""
    source = load_source(member.source)
    assert isinstance(source, TorchSource)
    return source.module


def combined(row: Row, tensors: Sequence[Any]) -> Any:
    """sum_j row[j] * tensors[j]."""
    return sum(coefficient * tensor for coefficient, tensor in zip(row, tensors, strict=True) if coefficient)


def _check_plan(plan: Plan) -> None:
    if any(step.draws or step.shaping or step.terms for step in plan.steps) or plan.given:
        raise UserError(f"plan {plan.name!r} is more than multiplications and additions", "time another plan")


def contenders(of: Deployed, name: str, has_torch: bool, device: str = "cuda") -> Iterator[Contender]:
    """All that may run a bundle here. name: the TensorRT that is installed, or nothing. device: cpu for a rehearsal."""
    for precision in PRECISIONS if name else ():
        body = BODIES[precision][0]
        for said, graph in (("", False), (", CUDA graph", True)):
            backend = TensorRt(name, cuda_graph=graph)  # type: ignore[arg-type]
            yield Contender(f"{name}{said}", precision, on_backend(of, body, backend))
    for precision in ("float32", "float16"):
        yield Contender("onnxruntime-cuda", precision, on_backend(of, precision, OnnxRuntimeCuda()))
        yield Contender("onnxruntime-cuda, baked file", precision, in_file(of, precision, device))
    for dtype in ("float32", "float16") if has_torch else ():
        for said, is_compiled in (("eager", False), ("compiled", True)):
            yield Contender(f"torch, {said}", dtype, in_torch(of, device, dtype, is_compiled))


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


def prepared(member: Member, folder: Path, name: str) -> Deployed:
    """The bundle of a denoiser with the bodies and engines that are timed. An engine that cannot be built is said, and
    its contender fails later."""
    of = Deployed(member, folder / member.name)
    export(ExportOptions(member.source, of.bundle))
    build(BuildOptions(of.bundle, "onnxruntime-cuda", precision="float16"))
    if name:
        count = FEW if member is BLOCK else TRAJECTORIES
        asked = calibration(member, of.bundle, member.plan, ("tensorrt",), count)
        calibrate(replace(asked, guidance=of.member.guidance))
    rows = str(2 * max(BATCHES))
    for precision in PRECISIONS if name else ():
        try:
            build(BuildOptions(of.bundle, name, precision=precision, opt_batch=rows, max_batch=rows))  # type: ignore[arg-type]
        except UserError as error:
            print(f"{member.name} in {precision}: {error}", file=sys.stderr)
    return of


def bounds(of: Deployed, precision: str, gpu: Gpu | None, batches: Sequence[int] = BATCHES) -> tuple[float, ...]:
    """Milliseconds that a guided sample's steps need at least, by batch: nothing for a GPU whose data sheet is not in
    `DEVICES`, or for an engine without a program text."""
    device = next((each for each in DEVICES if gpu is not None and gpu.name.endswith(each.name)), None)
    opened = open_bundle(of.bundle)
    engine = next((each for each in opened.manifest.engines if each.body in BODIES.get(precision, ())), None)
    if device is None or engine is None:
        return ()
    with load(of.bundle, body="float32", backend=OnnxRuntime()) as sampler:
        evaluations = len(sampler.compile(of.member.plan, of.member.guidance).steps)
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


def expected_samples(of: Deployed, seeds: int = SEEDS) -> np.ndarray:
    """The samples of onnxruntime on the CPU, in float32."""
    sample = on_backend(of, "float32", OnnxRuntime())()
    size = max(BATCHES)
    return np.concatenate([sample(range(at, min(at + size, seeds))) for at in range(0, seeds, size)])


def page(machine: Sequence[str], found: dict[str, list[GpuRow]]) -> str:
    """The page of the measurements."""
    head = f"""# On an NVIDIA GPU

`python -m benchmarks.gpu` wrote this page. PSNR is to the samples of ONNX Runtime on the CPU in
float32, over {SEEDS} seeds, and {FEW} of {BLOCK.name}. Times are milliseconds of one call, with noise and
results on the host: the median, and the 99th percentile behind it. A bound is what the kernels of
the network need at least here, for batches {" and ".join(map(str, BATCHES))}: a time below it says that it is wrong.
"""
    titles = (
        "denoiser",
        "engine",
        "network",
        "dB, mean / least",
        *(f"ms, batch {batch}" for batch in BATCHES),
        "bound",
    )
    shown = [_row(along(model), each) for model, rows in found.items() for each in rows]
    return "\n".join((head, *(f"- {line}" for line in machine), "", table(titles, shown))) + "\n"


def along(model: str) -> str:
    """A denoiser with its plan and guidance."""
    member = KNOWN[model]
    return ", ".join((model, member.plan, *([] if member.guidance is None else [f"guidance {member.guidance:g}"])))


def _row(denoiser: str, found: GpuRow) -> tuple[str, ...]:
    if found.reason:
        return (denoiser, found.name, found.precision, found.reason, *[""] * (1 + len(BATCHES)))
    times = (f"{half:.2f}, {most:.2f}" for half, most in found.milliseconds)
    least = ", ".join(f"{each:.2f}" for each in found.bounds)
    return (denoiser, found.name, found.precision, f"{found.mean:.1f} / {found.least:.1f}", *times, least)


def rows_of(member: Member, folder: Path, name: str, has_torch: bool, gpu: Gpu | None, until: float) -> list[GpuRow]:
    """The rows of a denoiser, which is exported and built into the folder."""
    try:
        of = prepared(member, folder, name)
        expected = expected_samples(of, FEW if member is BLOCK else SEEDS)
    except UserError as error:
        return [GpuRow("all", "", reason=str(error))]
    every = contenders(of, name, has_torch, "cpu" if gpu is None else "cuda")
    rows = [measure(each, expected, until=until) for each in every]
    return [
        replace(each, bounds=bounds(of, each.precision, gpu)) if each.name.startswith(TENSORRT) else each
        for each in rows
    ]


def seen() -> Gpu | None:
    """The first GPU of this machine."""
    jetson = this_jetson()
    return next(iter(these_gpus()), None) or (gpu_of(jetson) if jetson is not None else None)


def main(given: Sequence[str] | None = None) -> int:
    parser = options.parser_of(__doc__)
    parser.add_argument("--model", action="append", choices=tuple(KNOWN), help="a denoiser (default: fashion_mnist)")
    parser.add_argument("--torch", action="append", default=[], choices=tuple(KNOWN), help="one that torch runs too")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page to write")
    parser.add_argument("--minutes", type=float, default=9.0, help="after these no contender begins")
    parser.add_argument("--rehearse", action="store_true", help="go on without a GPU, and print the page")
    arguments = parser.parse_args(given)
    gpu, until = seen(), time.monotonic() + 60 * arguments.minutes
    if gpu is None and not arguments.rehearse:
        print(NO_GPU)
        return 0
    name = next((each for each in ("tensorrt", "tensorrt-rtx") if find_spec(each.replace("-", "_"))), "")
    has_torch = bool(find_spec("torch")) and (gpu is None or _torch_sees_it())
    packages = ("tensorrt", "tensorrt-rtx", "cuda-bindings", "onnxruntime", "onnxruntime-gpu", "torch")
    versions = ", ".join(f"{each} {version}" for each in packages if (version := version_of(each)) is not None)
    machine = (_named(gpu), versions, time.strftime("measured on %Y-%m-%d"))
    found: dict[str, list[GpuRow]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.model or ("fashion_mnist",):
            has_network = has_torch and model in arguments.torch
            found[model] = rows_of(KNOWN[model], Path(folder), name, has_network, gpu, until)
            if not arguments.rehearse:  # after each, so that a run that is stopped leaves what it found
                arguments.output.write_text(page(machine, found))
    print(page(machine, found) if arguments.rehearse else f"wrote {arguments.output}")
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
