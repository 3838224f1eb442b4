"""The parts of a run, in the order of their value, each within its seconds."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu.convolution_race import plan_jobs
from benchmarks.gpu.deployed import Preparation, deploy
from benchmarks.gpu.machine import seen, tensorrt_of
from benchmarks.gpu.measuring import measurements
from benchmarks.gpu.operator_times import chain_jobs
from benchmarks.gpu.results import PartEnd, Results
from benchmarks.gpu.torch_sampler import compile_networks
from benchmarks.gpu.workers import GRACE, OVER, Job, lock, reason_of, run_jobs

PARTS = ("convolutions", "denoisers", "operators", "torch")
SECONDS = {"convolutions": 90.0, "operators": 60.0, "denoisers": 190.0, "torch": 480.0}  # at most, of 8 minutes
PREPARING = 60.0  # seconds that denoisers wait for files that are still being made
COMPILERS, PLAN_COMPILERS, PREPARERS = 12, 10, 4  # processes
TORCH_THREADS = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "2"}


@dataclass(frozen=True)
class Run:
    """The measured denoisers, their files, and the time limit.

    names: denoisers. folder: of bundles. results: where lines go. until: the monotonic clock's time, in seconds.
    device: cpu for a rehearsal. scale: by which the seconds of parts are multiplied. has_one_part: the only part may
    take all time, and wait for its files half of it.
    """

    names: tuple[str, ...]
    folder: Path
    results: Results
    until: float
    device: str
    scale: float = 1.0
    has_one_part: bool = False

    def deadline(self, part: str) -> float:
        """Return the time at which a part that begins now ends."""
        return self.until if self.has_one_part else min(self.until, time.monotonic() + self.scale * SECONDS[part])

    @property
    def preparing_seconds(self) -> float:
        """Return how long denoisers wait for files that are still being prepared."""
        return max(0.0, self.until - time.monotonic()) / 2 if self.has_one_part else self.scale * PREPARING


def run_parts(run: Run, parts: Sequence[str]) -> None:
    """Run the parts. torch compiles, and denoisers are prepared, while other parts are measured.

    The order is convolutions, operators, which need no prepared denoiser, denoisers, and torch.
    """
    folder = run.results.file.parent
    with ExitStack() as holding:
        if "denoisers" in parts or "torch" in parts:
            preparing = _thread(lambda: _prepare(run))
        if "torch" in parts:
            holding.enter_context(lock(folder / "torch.turn"))
            compiling = _thread(lambda: _compile(run, folder / "torch.turn", preparing))
        if "convolutions" in parts:
            _part(run, "convolutions", lambda until: _race(run, folder, until))
        if "operators" in parts:
            _part(run, "operators", lambda until: run_jobs(chain_jobs(run.device), run.results.add, until))
        if "denoisers" in parts:
            preparing.join(run.preparing_seconds)
            _part(run, "denoisers", lambda until: _measure(run, until))
    if "torch" in parts:
        _part(run, "torch", lambda until: compiling.join(max(0.0, until + 2 * GRACE - time.monotonic())))


def _thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def _part(run: Run, name: str, work: Callable[[float], None]) -> None:
    """Run one part and return its time, and the reason of a failure."""
    started, reason, until = time.monotonic(), "", run.deadline(name)
    print(f"{name}: at most {until - started:.0f} s", flush=True)
    try:
        work(until)
    except Exception as error:  # the next part goes on
        reason = reason_of(error)
    if not reason and time.monotonic() >= until:
        reason = OVER
    run.results.add(PartEnd(name, time.monotonic() - started, reason))
    print(f"{name}: {time.monotonic() - started:.0f} s {reason}", flush=True)


def _prepare(run: Run) -> None:
    jobs: list[Job] = [Preparation(name, run.folder, tensorrt_of()) for name in run.names]
    run_jobs(jobs, run.results.add, run.until, PREPARERS)


def _compile(run: Run, turn: Path, preparing: threading.Thread) -> None:
    """Return networks that torch compiles. They wait for their turn, and for bundles that do not exist yet."""
    if not all(deploy(name, run.folder).expected_file.exists() for name in run.names):
        preparing.join()
    jobs = [network for network in compile_networks(run.folder, run.device, turn) if network.name in run.names]
    run_jobs(jobs, run.results.add, run.until, COMPILERS, nice=10, environment=TORCH_THREADS)


def _race(run: Run, folder: Path, until: float) -> None:
    if find_spec("cudnn") is None:
        raise ModuleNotFoundError("the package nvidia-cudnn-frontend is not installed")
    run_jobs(plan_jobs(folder / "cudnn.turn"), run.results.add, until, PLAN_COMPILERS)


def _measure(run: Run, until: float) -> None:
    gpu = seen()
    run_jobs(measurements(run.names, run.folder, tensorrt_of(), run.device, gpu), run.results.add, until)
