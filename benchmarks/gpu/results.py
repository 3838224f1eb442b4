"""Results of a run: one JSON object per line, written as soon as it is known, so that an interrupted run keeps it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock

import msgspec

from fewstep.plans.errors import UserError

FILE = "results.jsonl"
REHEARSAL = "no NVIDIA GPU: a rehearsal on the CPU, whose times say nothing"  # in place of a GPU's name


class Record(msgspec.Struct, frozen=True, tag_field="kind", forbid_unknown_fields=True):
    """One line. Its kind is its first field."""


class Machine(Record, frozen=True, tag="machine"):
    """The machine of the lines after this one. versions: by package. date: ISO."""

    gpu: str
    versions: dict[str, str]
    date: str


class PartEnd(Record, frozen=True, tag="part"):
    """The end of a part of the run. reason: why it ended, unless it was done."""

    name: str
    seconds: float
    reason: str = ""


class Timing(msgspec.Struct, frozen=True):
    """Milliseconds of one call with `batch` samples: the median and the 99th percentile."""

    batch: int
    median: float
    percentile_99: float


class DenoiserRow(Record, frozen=True, tag="denoiser"):
    """One engine that runs one denoiser along its plan.

    precision: of the network. mean, least: PSNR to the CPU's float32 samples over seeds, in dB; None if not finite.
    bounds: milliseconds that the network's steps need at least, by batch, where known. reason: why a figure is missing.
    """

    denoiser: str
    engine: str
    precision: str
    mean: float | None = None
    least: float | None = None
    timings: tuple[Timing, ...] = ()
    bounds: tuple[float, ...] = ()
    reason: str = ""


class KernelTime(msgspec.Struct, frozen=True):
    """A kernel or a kind of copy in one call: how often it runs, and the microseconds of all its runs."""

    name: str
    launches: float
    microseconds: float


class DeviceTime(Record, frozen=True, tag="device_time"):
    """The GPU's part of one call of an engine with `batch` samples.

    busy: milliseconds in which a kernel or a copy ran. launches: kernels and copies. kernels: those with the most time.
    reason: why nothing was measured.
    """

    denoiser: str
    engine: str
    precision: str
    batch: int
    busy: float | None = None
    launches: float = 0.0
    kernels: tuple[KernelTime, ...] = ()
    reason: str = ""


class ListedPlans(Record, frozen=True, kw_only=True):
    """Plans that cuDNN lists. engines: the number of plans of each. reason: why there are no plans."""

    engines: dict[str, int]
    reason: str = ""


class PlanCount(ListedPlans, frozen=True, tag="plans"):
    """The number of plans that cuDNN lists for a convolution."""

    convolution: str
    form: str
    count: int


class Agreement(Record, frozen=True, tag="agreement"):
    """A fused convolution compared with its reference.

    different: how many of `values` are not the same bits. largest: the largest difference, as a fraction of the largest
        value; for int8, in steps.
    """

    convolution: str
    form: str
    plan: str
    values: int
    different: int
    largest: float


class PlanTime(Record, frozen=True, tag="plan"):
    """One plan of a convolution: seconds to compile it and microseconds of a call, None if it failed."""

    convolution: str
    form: str
    plan: str
    compile_seconds: float | None = None
    microseconds: float | None = None
    reason: str = ""


class OperatorTime(Record, frozen=True, tag="operator"):
    """An operator in a chain of equal ones. microseconds: of one operator. difference: of the chain's result from the
    CPU's in float32, as a fraction of the largest value. launched: how the chain ran, such as `CUDA graph`."""

    operator: str
    precision: str
    shape: tuple[int, ...]
    launched: str
    microseconds: float | None = None
    difference: float | None = None
    reason: str = ""


class GroupPlans(ListedPlans, frozen=True, tag="group_plans"):
    """cuDNN's plans of one operation of a body, on a described GPU.

    count: how many groups of the body are this operation. macs: of a sample in all of them.
    """

    denoiser: str
    gpu: str
    operation: str
    epilogue: str
    precision: str
    count: int
    macs: int


class GroupTime(Record, frozen=True, tag="group_time"):
    """A group of a body alone, in int8 and in half precision, each by its fastest plan.

    product: the name of its convolution. batch: rows. different: how many results in int8 are not the exact sums times
    a power of two, None if that was not compared. Times are microseconds.
    """

    denoiser: str
    batch: int
    product: str
    operation: str
    epilogue: str
    int8: float | None
    half: float | None
    int8_plan: str = ""
    half_plan: str = ""
    different: int | None = None


class StepTime(Record, frozen=True, tag="step_time"):
    """A whole call of a body as one CUDA graph, in microseconds: the fastest replay and the median.

    engine: who computes its convolutions. mean, least: PSNR in dB over seeds to the CPU's float32 samples. simulated:
    the mean of the PSNR to those of the CPU's simulated int8 body. difference: the mean over seeds of a seed's PSNR to
    float32 minus that of the simulated int8 body for the same seed, in dB. standard_error: of that mean, None for one
    seed. reason: why a figure is missing.
    """

    denoiser: str
    batch: int
    engine: str
    least_time: float | None = None
    median: float | None = None
    mean: float | None = None
    least: float | None = None
    simulated: float | None = None
    difference: float | None = None
    standard_error: float | None = None
    reason: str = ""


AnyRecord = (
    Machine
    | PartEnd
    | DenoiserRow
    | DeviceTime
    | PlanCount
    | Agreement
    | PlanTime
    | OperatorTime
    | GroupPlans
    | GroupTime
    | StepTime
)


class Results:
    """The lines of a file. Threads may add to it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = Lock()
        file.parent.mkdir(parents=True, exist_ok=True)

    def add(self, record: AnyRecord) -> None:
        """Write a line at once."""
        line = msgspec.json.encode(record) + b"\n"
        with self._lock, self.file.open("ab") as file:
            file.write(line)


def read_results(files: Sequence[Path]) -> Iterator[AnyRecord]:
    """The lines of files, one after another. A last line that is cut off is left out.

    Raises UserError for any other line that is none of the records above, for the lines of a rehearsal, which would
    replace those of a GPU, and for a file that cannot be read.
    """
    for file in files:
        try:
            lines = file.read_bytes().split(b"\n")
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror}", f"give the {FILE} of a run") from error
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = msgspec.json.decode(line, type=AnyRecord)
            except msgspec.MsgspecError as error:
                if number == len(lines):  # without a line end: the run was stopped while it wrote
                    return
                raise UserError(f"{file}, line {number}: {error}", "give a file that this script wrote") from error
            if isinstance(record, Machine) and record.gpu == REHEARSAL:
                fix = "leave out the file, or remove this line and those after it, up to the machine of another run"
                raise UserError(f"{file}, line {number}: {REHEARSAL}", fix)
            yield record
