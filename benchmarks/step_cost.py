"""What a form of the int8 body costs of a step: bodies with it and without, timed in turns on this CPU.

    python benchmarks/step_cost.py BUNDLE [--plan dpmpp_2m:8] [--trajectories 64] [--samples 1,8] [--json]

The bundle is copied and calibrated three times: as by default, with `--ranges mse`, and with `--groups pooled`. A step
is one call of the body, fed as `fewstep bench` feeds it. The printed share of a step is the median over rounds, with
the lowest and the highest round behind it. The machine should do nothing else: a busy one moves figures by several
percent. Lines of openvino need it installed. Takes some minutes for the shipped denoiser.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from choices.rows import ALL_CHANNELS

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.cli.outcome import Outcome, tell
from fewstep.cli.output_flags import Manner
from fewstep.cli.progress import ProgressDisplay
from fewstep.evaluation.speed.benchmark_feeds import feeds
from fewstep.evaluation.speed.race import Contender, OnBackend, race
from fewstep.evaluation.speed.staged import taken
from fewstep.graph import io
from fewstep.lowering.bodies import judged_plan, open_body
from fewstep.lowering.quantize import lower_graph
from fewstep.machine.packages import version_of
from fewstep.plans.errors import UserError
from fewstep.ranges.table import load
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.progress import Progress

CPU, OPENVINO = "int8-cpu-x86", "int8-openvino"
CALIBRATIONS = {"as by default": {}, "ranges mse": {"ranges": "mse"}, "groups pooled": {"groups": "pooled"}}


@dataclass(frozen=True)
class Cost:
    """The share of a step that a form takes, in percent of a step without it: negative where it is faster."""

    form: str
    samples: int
    percent: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        spread = f"({self.lowest:+.1f} to {self.highest:+.1f})"
        return f"{self.form:<58}{self.samples:>4} samples {self.percent:+6.1f} % {spread}"


def costs(bundles: dict[str, Bundle], samples: int, folder: Path, options: argparse.Namespace) -> Iterator[Cost]:
    """Each form against the body that lacks it."""
    usual, mse, pooled = (bundles[name] for name in CALIBRATIONS)
    on_cpu = _contender(mse, CPU, samples, options.threads)
    channels = _contender(usual, CPU, samples, options.threads)
    every = replace(channels, graph=_every_channel(usual, folder / "every.onnx"))
    yield from _raced(
        on_cpu,
        {"cpu-x86: scales of channels where they win": channels, "cpu-x86: scales of channels everywhere": every},
        samples,
        options,
    )
    if OPENVINO in usual.manifest.bodies:
        without, factors, plain = (
            _contender(each, OPENVINO, samples, options.threads) for each in (pooled, usual, mse)
        )
        yield from _raced(without, {"openvino: ranges per step": factors}, samples, options)
        yield from _raced(plain, {"openvino: scales of channels": factors}, samples, options)


def _raced(
    without: Contender, forms: dict[str, Contender], samples: int, options: argparse.Namespace
) -> Iterator[Cost]:
    found = race([without, *forms.values()], options.threads, options.rounds, options.turn_seconds, options.progress)
    for form, timing in zip(forms, found.timings[1:], strict=True):
        percent, lowest, highest = (
            100 * (1 / ratio - 1) for ratio in (timing.ratio, timing.ratio_high, timing.ratio_low)
        )
        yield Cost(form, samples, percent, lowest, highest)


def _contender(bundle: Bundle, name: str, samples: int, threads: int) -> Contender:
    """A body as it is deployed, fed what it meets in the middle of its plan."""
    sampler = open_body(bundle, name, threads)
    body = bundle.body(name)
    fed = taken(body.graph, feeds(sampler, judged_plan(sampler, body), samples))
    graph = OnBackend("openvino", bundle.path, name) if name == OPENVINO else bundle.graph(body.graph)
    return Contender(f"{name} in {bundle.path.name}", graph, fed)


def _every_channel(bundle: Bundle, path: Path) -> Path:
    """The graph for this CPU with scales of channels around every activation, not only where they win enough."""
    prepared = io.load(bundle.graph(bundle.body("float32").graph), root=bundle.path)
    assert bundle.manifest.ranges is not None
    graph, _, _ = lower_graph(prepared, load(bundle.file(bundle.manifest.ranges)), ALL_CHANNELS)
    io.save(graph, path)
    return path


def calibrated(given: Path, folder: Path, options: argparse.Namespace) -> dict[str, Bundle]:
    """Copies of a bundle, each with a calibration of its own."""
    targets = ("cpu-x86", "openvino") if version_of("openvino") else ("cpu-x86",)
    bundles = {}
    for name, changes in CALIBRATIONS.items():
        copy = folder / name.replace(" ", "-")
        shutil.copytree(given, copy)
        chosen = CalibrateOptions(copy, options.plan, targets, options.trajectories)
        calibrate(replace(chosen, **changes), _under(name, options.progress))
        bundles[name] = open_bundle(copy)
    return bundles


def _under(name: str, progress: Progress) -> Progress:
    return lambda stage, done, total: progress(f"{name}: {stage}", done, total)


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--plan", default="dpmpp_2m:8")
    parser.add_argument("--trajectories", type=int, default=64)
    parser.add_argument("--samples", default="1,8", help="of one call, several with commas; a guided one is two rows")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--turn-seconds", type=float, default=0.5)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(given)
    try:
        open_bundle(options.bundle)
        with TemporaryDirectory() as folder, ProgressDisplay() as options.progress:
            bundles = calibrated(options.bundle, Path(folder), options)
            sizes = [int(size) for size in options.samples.split(",")]
            found = [cost for size in sizes for cost in costs(bundles, size, Path(folder), options)]
    except (UserError, ValueError) as error:
        parser.error(str(error))
    tell(Outcome(found, tuple(map(str, found))), Manner(json=options.json))
    return 0


if __name__ == "__main__":
    sys.exit(main())
