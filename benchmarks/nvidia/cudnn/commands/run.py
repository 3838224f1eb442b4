"""Measures int8 bodies by cuDNN on this machine's GPU, compared with half precision."""

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks import options
from benchmarks.gpu.convolution_race import FIRST, PlanJob
from benchmarks.gpu.machine import NO_GPU, describe_machine, seen
from benchmarks.gpu.results import FILE, AnyRecord, PartEnd, Results
from benchmarks.gpu.workers import OVER, run_jobs
from benchmarks.nvidia.cudnn.programs import RUN
from benchmarks.nvidia.cudnn.whole_steps import StepJob
from fewstep.plans.errors import UserError

BATCHES = (64, 8, 256, 1)  # rows of a call, the most telling first
COMPARED = 64  # rows at which samples are drawn
WORKERS = 13
EXACT, EXACT_PLANS = 40.0, 3  # seconds, and plans of the first convolution
FIX = "give a folder that python -m benchmarks.nvidia.cudnn prepare wrote"
ENVIRONMENT = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "2"}


def main(given: Sequence[str]) -> None:
    """The verb `run`."""
    parser = options.parser_of(__doc__, "run")
    parser.add_argument("--programs", type=Path, required=True, help="folder that `prepare` wrote")
    parser.add_argument("--model", action="append", help="default: all in that folder")
    parser.add_argument("--batch", type=options.positive, action="append", help=f"rows of a call (default {BATCHES})")
    parser.add_argument("--output", type=Path, default=Path("cudnn-results"), help=f"folder of {FILE}")
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit of the run (default %(default)s)")
    parser.add_argument("--workers", type=options.positive, default=WORKERS, help="processes (default %(default)s)")
    parser.add_argument("--rehearse", action="store_true", help="run without a GPU")
    arguments = parser.parse_args(given)
    gpu = seen()
    if gpu is None and not arguments.rehearse:
        parser.error(NO_GPU)
    with options.refusing(parser):
        names = find_prepared(arguments.programs, arguments.model)
    results = Results(arguments.output / FILE)
    started, until = time.monotonic(), time.monotonic() + 60 * arguments.minutes
    results.add(describe_machine(gpu))
    batches = tuple(arguments.batch or BATCHES)
    compared = COMPARED if COMPARED in batches else max(batches)
    device, turn = "cpu" if gpu is None else "cuda", arguments.output / "cudnn.turn"
    jobs = [
        StepJob(name, arguments.programs, batch, turn, batch == compared, device) for batch in batches for name in names
    ]

    def add(record: AnyRecord) -> None:
        results.add(record)
        print(msgspec.json.encode(record).decode(), flush=True)

    if device == "cuda":  # one convolution, bit for bit
        run_jobs([PlanJob(FIRST, "linear", number, 1, turn) for number in range(EXACT_PLANS)], add, started + EXACT)
    run_jobs(jobs, add, until, arguments.workers, environment=ENVIRONMENT)
    results.add(PartEnd("steps", time.monotonic() - started, OVER if time.monotonic() > until else ""))


def find_prepared(folder: Path, asked: Sequence[str] | None) -> list[str]:
    """The denoisers that are asked for, by default all that the folder has. UserError for one that is not in it."""
    found = sorted(file.parent.name for file in folder.glob(f"*/{RUN}") if not file.parent.name.endswith(".partial"))
    missing = [name for name in asked or () if name not in found]
    if missing or not found:
        named = missing[0] if missing else "any denoiser"
        fix = f"choose from {', '.join(found)}, or prepare it too" if found else FIX
        raise UserError(f"{folder} does not have {named} as `prepare` writes it", fix)
    return list(asked or found)
