"""Print how many pipeline classes of diffusers export: `python -m benchmarks.pipelines --components CHECKOUT`.

Folders are made from the components of diffusers' own tests, with random weights. Each is exported in float32, and the
final x of scheduler:3 and scheduler:8 is compared with the pipeline's own.
"""

import json
import logging
import re
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from benchmarks.options import add_only, parser_of, positive
from benchmarks.pipelines.denominator import select_classes
from benchmarks.pipelines.dummy_components import DummyPipeline, find_pipelines
from benchmarks.pipelines.public_configs import find_config, read_configs
from benchmarks.pipelines.variants import Variant, find_sides, read_fields, write_call
from benchmarks.pipelines.whole_call import WholeCall, compare_whole_call
from benchmarks.pipelines.whole_int8 import INT8, STORED, WholeInt8, run_whole_int8
from fewstep.export.companions.companion import COMPANION
from fewstep.export.companions.networks import NO_PROMPTS, NOT_TRACED
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.load_source import load_source
from fewstep.pipelines.companions.decoding import NO_OUTPUT
from fewstep.pipelines.recording.failed_call import PERTURBATION
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import open_bundle

RECORDED = "samples of %s agree within"  # of the line that export prints for a recorded pipeline
PLAN = re.compile(r"scheduler:(\d+)")
AS_TESTED = Variant()
Compared = tuple[float | None, tuple[int, ...]]  # a difference of x, and the numbers of steps of the compared plans
AGREES = 3e-5  # of the final x and of outputs
NOT_COMPARED: Compared = (None, ())
ABSENT, UNMADE, REFUSED, LOADED, EXPORTED = "no components", "components not made", "refused", "loaded", "exported"


@dataclass(frozen=True)
class Outcome:
    """The result of a pipeline. `difference`: the largest one of the final x, relative to its range, over the plans
    scheduler:N of `steps`; None if it was not compared. `outputs`: what the bundle's decoder returns, such as "video",
    and `decoded`, its largest difference from the pipeline's own output, relative to that; "" and None for a bundle
    that returns x. `encoded`: the largest difference of the bundle's text encoder from torch; None for a bundle that
    takes no prompts. `from_text` and `from_x`: how far a recorded bundle is from its pipeline's own call, from texts to
    x and from x to what the call returns, as `WholeCall` describes. `int8` and `int8_psnr`: as `WholeInt8` has them;
    empty and None without --int8, for a bundle without prompts, and if the run failed, which `reason` says."""

    name: str
    result: str
    difference: float | None = None
    reason: str = ""
    steps: tuple[int, ...] = ()
    outputs: str = ""
    decoded: float | None = None
    encoded: float | None = None
    from_text: float | None = None
    from_x: float | None = None
    int8: Mapping[str, str] = field(default_factory=dict)
    int8_psnr: float | None = None

    def __str__(self) -> str:
        difference = "" if self.difference is None else f"{self.difference:.1g}"
        steps = " ".join(map(str, self.steps))
        outputs = "" if self.from_x is None else f"{self.outputs} {self.from_x:.1g}"
        prompts = "" if self.from_text is None else f"prompts {self.from_text:.1g}"
        int8 = "; ".join(f"{name}: {precision}" for name, precision in self.int8.items())
        end = f"{self.reason} {int8}".strip()
        return f"{self.name:48} {self.result:20} {difference:8} {steps:8} {outputs:20} {prompts:13} {end}"


class _OutOfTime(BaseException):
    """No subclass of Exception: code that an export runs catches these."""


class _Differences(logging.Handler):
    """Keeps the differences that exports print."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Compared] = []
        self.decoded: float | None = None
        self.encoded: float | None = None
        self.remarks: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == COMPANION and isinstance(record.args, tuple) and record.args[0] == "decoder":
            self.decoded = float(str(record.args[1]))
        if record.msg == COMPANION and isinstance(record.args, tuple) and record.args[0] == "text encoder":
            self.encoded = float(str(record.args[1]))
        if NO_PROMPTS in str(record.msg) and isinstance(record.args, tuple):
            self.remarks.append(f"no prompts: {record.args[-1]}")
        if record.msg in (NO_OUTPUT, NOT_TRACED) and isinstance(record.args, tuple):
            self.remarks.append(f"no output: {record.args[-1]}")
        if RECORDED in str(record.msg) and isinstance(record.args, tuple):
            steps = tuple(map(int, PLAN.findall(str(record.args[3]))))
            self.found.append((float(str(record.args[2])), steps))


def try_pipeline(
    pipeline: DummyPipeline,
    work: Path,
    seconds: int,
    loads_only: bool,
    variant: Variant = AS_TESTED,
    in_int8: bool = False,
) -> Outcome:
    """Make the folder of a pipeline, and export it, or only load it, which records and compares. `in_int8`: run its
    bundle in int8 instead of comparing it with the pipeline's call."""
    folder, bundle = work / pipeline.name, None if loads_only else work / f"{pipeline.name}.bundle"
    for each in (folder, bundle):
        if each is not None:
            shutil.rmtree(each, ignore_errors=True)
    try:
        settings = variant.apply(folder, pipeline.write(folder))
    except Exception as error:
        return Outcome(pipeline.name, UNMADE, reason=_line(error))
    listened, logger, outputs = _Differences(), logging.getLogger("fewstep"), ""
    level = logger.level
    logger.addHandler(listened)
    logger.setLevel(logging.INFO)
    remarks = ["one size"] if variant.scale != 1 and not find_sides(settings) else []
    remarks += [f"{PERTURBATION}=0"] if PERTURBATION in settings else []
    whole, int8 = WholeCall(None, None), WholeInt8({})
    try:
        with _limit(seconds):
            export_pipeline(folder, bundle, settings)
            remarks += listened.remarks[-2:]
            outputs = "" if bundle is None else _output_roles(bundle)
            more = list[str]()
            if in_int8:
                int8, more = (WholeInt8({}), []) if bundle is None else _run_int8(bundle)
            elif bundle is not None:
                whole, more = _compare_whole(folder, bundle, settings)
    except UserError as error:
        return Outcome(pipeline.name, REFUSED, reason=error.what)
    except _OutOfTime:
        return Outcome(pipeline.name, REFUSED, reason=f"more than {seconds} s of CPU time")
    except Exception as error:
        return Outcome(pipeline.name, REFUSED, reason=f"crash: {_line(error)}")
    finally:
        logger.removeHandler(listened)
        logger.setLevel(level)
        if bundle is not None:
            shutil.rmtree(bundle, ignore_errors=True)
    difference, steps = next(iter(listened.found), NOT_COMPARED)
    result, reason = LOADED if loads_only else EXPORTED, "; ".join(remarks + more)
    measured = listened.decoded, listened.encoded, whole.from_text, whole.from_x, int8.networks, int8.psnr
    return Outcome(pipeline.name, result, difference, reason, steps, outputs, *measured)


def _run_int8(bundle: Path) -> tuple[WholeInt8, list[str]]:
    """Return how a bundle that takes prompts runs in int8, with remarks."""
    if open_bundle(bundle).manifest.text is None:
        return WholeInt8({}), []
    try:
        return run_whole_int8(bundle), []
    except Exception as error:
        what = error.what if isinstance(error, UserError) else _line(error)
        return WholeInt8({}), [f"int8: {what}"]


def _compare_whole(folder: Path, bundle: Path, settings: Mapping[str, Any]) -> tuple[WholeCall, list[str]]:
    """Return how far a recorded bundle is from its pipeline's own call, with remarks."""
    try:
        return compare_whole_call(folder, bundle, settings), []
    except Exception as error:
        what = error.what if isinstance(error, UserError) else _line(error)
        return WholeCall(None, None), [f"not compared as a whole: {what}"]


def _output_roles(bundle: Path) -> str:
    """Return what the decoder of a bundle returns, "" for a bundle without one."""
    described = open_bundle(bundle).manifest.autoencoder
    return "" if described is None else " and ".join(output.role for output in described.decoder.outputs)


def export_pipeline(folder: Path, bundle: Path | None, settings: dict[str, Any]) -> None:
    """Export a folder, or load it if there is no bundle."""
    if bundle is None:
        load_source(str(folder), call=write_call(settings))
    else:
        export(ExportOptions(str(folder), bundle, call=write_call(settings), verify="quick"))


@contextmanager
def _limit(seconds: int) -> Iterator[None]:
    """Raise _OutOfTime after some seconds of CPU time, which a busy machine does not change."""

    def stop(*_: object) -> None:
        raise _OutOfTime

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def summarize(outcomes: Sequence[Outcome], count: int) -> str:
    """Return one line: how many classes exported, and what became of the others."""
    by_result = {
        result: sum(outcome.result == result for outcome in outcomes) for result in (EXPORTED, LOADED, REFUSED, UNMADE)
    }
    differences = [outcome.difference for outcome in outcomes if outcome.difference is not None]
    worst = f"; largest difference of x {max(differences):.1g}, over {len(differences)}" if differences else ""
    worst += _count([outcome.from_text for outcome in outcomes], "{} go from a prompt to the pipeline's own x")
    worst += _count([outcome.from_x for outcome in outcomes], "{} end with the pipeline's own output")
    worst += _count_int8(outcomes)
    listed = ", ".join(f"{number} {result}" for result, number in by_result.items())
    return f"{count} classes: {listed}, {count - sum(by_result.values())} {ABSENT}{worst}"


def _count(differences: Sequence[float | None], what: str) -> str:
    """Return a part of the last line: how many classes agree within `AGREES`, and the largest difference of those."""
    near = [number for number in differences if number is not None and number <= AGREES]
    far = sum(number is not None for number in differences) - len(near)
    counted = f"; {what.format(len(near))} within {max(near):.1g}" if near else ""
    return counted + (f", {far} differ by more than {AGREES:g}" if far else "")


def _count_int8(outcomes: Sequence[Outcome]) -> str:
    """Return a part of the last line: how many bundles run in int8 from a prompt to their output."""
    tried = [outcome.int8 for outcome in outcomes if outcome.int8 or "int8: " in outcome.reason]
    whole = sum(bool(int8) and {*int8.values()} <= {INT8, STORED} for int8 in tried)
    partly = sum(outcome.int8_psnr is not None for outcome in outcomes) - whole
    refused = sum(bool(outcome.int8) and outcome.int8_psnr is None for outcome in outcomes)
    failed = len(tried) - whole - partly - refused
    if not tried:
        return ""
    return (
        f"; of {len(tried)} with prompts, {whole} run with all networks in int8, {partly} with some in float32, "
        f"{refused} have no int8 denoiser, {failed} fail"
    )


def read_outcomes(file: Path, names: Sequence[str]) -> list[Outcome]:
    """Return what an earlier run with --json printed for these names."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    found = {each.name: each for each in (Outcome(**json.loads(line)) for line in lines)}
    return [found[name] for name in names if name in found and found[name].result != ABSENT]


def main() -> None:
    """Print a line for each pipeline class, and one for all."""
    parser = parser_of(__doc__)
    parser.add_argument("--components", type=Path, required=True, help="a checkout of diffusers, with its tests")
    parser.add_argument(
        "--work", type=Path, default=Path(gettempdir()) / "fewstep-pipelines", help="folder of pipelines"
    )
    parser.add_argument(
        "--seconds", type=positive, default=180, help="seconds of CPU time of one export (default %(default)s)"
    )
    parser.add_argument("--load-only", action="store_true", help="record and compare without an export")
    parser.add_argument("--json", action="store_true", help="print one object for each pipeline")
    parser.add_argument(
        "--resume", type=Path, help="output of an earlier --json run, whose pipelines are not run again"
    )
    parser.add_argument(
        "--scheduler",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="field of the scheduler's config, such as shift=3",
    )
    parser.add_argument("--scale", type=positive, default=1, help="factor of height and width (default %(default)s)")
    parser.add_argument("--public-configs", action="store_true", help="with the scheduler of public weights")
    parser.add_argument("--int8", action="store_true", help="calibrate bundles with prompts, and run them in int8")
    add_only(parser, "pipelines")
    given = parser.parse_args()
    variant = Variant(read_fields(given.scheduler), given.scale)
    configs = read_configs() if given.public_configs else []
    names = select_classes(given.only)
    outcomes = [] if given.resume is None else read_outcomes(given.resume, names)
    done = {outcome.name for outcome in outcomes}
    for pipeline in find_pipelines(given.components, [name for name in names if name not in done]):
        own = replace(variant, public=find_config(configs, pipeline.name))
        outcomes.append(try_pipeline(pipeline, given.work, given.seconds, given.load_only, own, given.int8))
        print(json.dumps(asdict(outcomes[-1])) if given.json else outcomes[-1], flush=True)
    found = {outcome.name for outcome in outcomes}
    for name in names:
        if name not in found:
            print(json.dumps(asdict(Outcome(name, ABSENT))) if given.json else Outcome(name, ABSENT))
    print(summarize(outcomes, len(names)))


if __name__ == "__main__":
    main()
