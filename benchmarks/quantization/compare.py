"""The worth of fewstep's int8 next to other tools': the same float graph, trajectories, seeds, engines and machine.

    python -m benchmarks.quantization.compare BUNDLE ... [--python nncf_ptq=PATH] [--python modelopt_ptq=PATH]

BUNDLE is calibrated for cpu-x86, and for openvino and tensorrt where NNCF and ModelOpt are compared. onnxruntime's
`quantize_static` runs in this Python, the two others where --python says; README.md beside this file says how to make
these environments and what each setting is. Every body samples along the plan that ours was calibrated along, on the
engine it was made for; TensorRT's 8-bit rounding is simulated. Bars: ours is 2 dB above the best at equal coverage, and
10 dB above what each tool does by default. What tools made and what was judged stays in the work folder: an interrupted
run goes on where it was. A bundle that was calibrated with `--conditions FILE`, such as a text denoiser's, is compared
with the same option; `--held-out` names other conditions to judge on. Returns 1 if a bar is missed or a tool fails.
"""

import argparse
import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from benchmarks import options
from benchmarks.quantization.contenders import TARGET_OF, Contender, contenders
from benchmarks.quantization.judging import Judge, versions
from benchmarks.quantization.making import SCRIPTS, QuantizedFile, add_body, quantize, reason
from benchmarks.quantization.material import OwnConditions, calibrated_on, write_material
from benchmarks.quantization.outcome import Outcome, Row, bars, described, is_met
from benchmarks.quantization.strip import draw
from fewstep.cli.progress import progress_display
from fewstep.measure.opening import open_body
from fewstep.measure.rollouts.calibrated_plan import judged_plan
from fewstep.measure.rollouts.conditions_file import deal, read_conditions
from fewstep.measure.speed.machine import this_machine
from fewstep.measure.speed.mean_step import feeds_of, middle_feeds
from fewstep.measure.speed.race import OnBackend, TimedContender, TimedGraph, race
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import weight_of
from fewstep.plans.plan import DENOISER, Plan
from fewstep.runtime import load
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampler import Sampler

TIMED = ("onnxruntime", "openvino")  # engines that run on the CPU
THIS = "ort_static"  # the tool that this Python has


def environments(given: Sequence[str]) -> dict[str, str]:
    """The Python of each tool that is compared, from TOOL=PATH each; links stay, for by them it finds its packages."""
    if malformed := [each for each in given if not all(each.partition("="))]:
        raise UserError(f"--python {malformed[0]}", "write it as TOOL=PATH")
    named = dict(each.split("=", 1) for each in given)
    return {THIS: sys.executable} | {tool: os.path.abspath(shutil.which(path) or path) for tool, path in named.items()}


def calibrated_plan(reference: Sampler, lines: Sequence[Contender]) -> Plan:
    """The plan that our bodies were calibrated along. UserError unless all are there, made along the same one."""
    names = [line.body for line in lines if line.tool is None]
    bodies = reference.bundle.manifest.bodies
    targets = ",".join(TARGET_OF[line.engine] for line in lines if line.tool is None)
    again = f"fewstep calibrate {reference.bundle.path} --target {targets}"
    if missing := [name for name in names if name not in bodies]:
        raise UserError(f"{reference.bundle.path} has no {missing[0]}", again)
    if len({bodies[name].plan for name in names}) != 1:
        raise UserError(f"{', '.join(names)} were calibrated along different plans", again)
    return judged_plan(reference, bodies[names[0]])


def own_conditions(bundle: Path, arguments: argparse.Namespace) -> OwnConditions | None:
    """Conditions of the files behind --conditions and --held-out, checked against a bundle. None without files."""
    if arguments.conditions is None:
        if arguments.held_out is not None:
            raise UserError("--held-out without --conditions", "give the file that BUNDLE was calibrated with too")
        return None
    takes = open_bundle(bundle).manifest.conditions
    followed = read_conditions(arguments.conditions, takes)
    return OwnConditions(followed, read_conditions(arguments.held_out, takes) if arguments.held_out else followed)


def in_int8(manifest: Manifest, lines: Sequence[Contender]) -> dict[str, tuple[str, ...]]:
    """The operations that ours runs in int8, by engine."""
    bodies = {line.engine: manifest.bodies[line.body] for line in lines if line.tool is None}
    coverages = {engine: body.graph.coverage for engine, body in bodies.items()}
    return {engine: coverage.int8_ops for engine, coverage in coverages.items() if coverage is not None}


def speeds(
    bundle: Path, plan: Plan, lines: Sequence[Contender], batch: int, progress: Progress
) -> dict[Contender, float]:
    """The speed of each as a multiple of float32, by one race for each engine that runs here."""
    found: dict[Contender, float] = {}
    reference = load(bundle, body="float32")
    for engine in TIMED:
        racing = [line for line in lines if line.engine == engine]
        if not racing:
            continue
        theirs = middle_feeds(reference, plan, batch)[DENOISER]
        ours = middle_feeds(open_body(reference.bundle, Contender(engine).body, threads=0), plan, batch)[DENOISER]
        runners = []
        for body in ("float32", *(line.body for line in racing)):
            graph = reference.bundle.body(body).graph
            runs = OnBackend(engine, bundle, body) if engine == "openvino" else reference.bundle.graph(graph)
            fed = feeds_of(graph, ours if body == Contender(engine).body else theirs)
            runners.append(TimedContender(body, (TimedGraph(runs, fed),)))
        timings = race(runners, progress=progress).timings[1:]
        found.update((line, timing.ratio) for line, timing in zip(racing, timings, strict=True))
    return found


def compare(
    path: Path,
    pythons: Mapping[str, str],
    arguments: argparse.Namespace,
    progress: Progress = SILENT,
    own: OwnConditions | None = None,
) -> Outcome:
    """All contenders on one bundle, which is left as it is. A tool that fails, in any way, is a row that says so. `own`
    are the conditions that the bundle was calibrated with, and that the held-out seeds have, where they are not drawn.
    """
    lines = contenders(pythons, arguments.only)
    reference = load(path, body="float32")
    plan = calibrated_plan(reference, lines)
    manifest = reference.bundle.manifest
    targets = [TARGET_OF[line.engine] for line in lines if line.tool is None]
    seeds = calibrated_on(manifest, targets, has_conditions=own is not None)
    followed, held_out = (None, None) if own is None else (deal(own.followed, len(seeds)), own.held_out)
    ours = in_int8(manifest, lines)
    material = write_material(reference, plan, seeds, arguments.work, ours, progress, followed)
    rows: dict[Contender, Row] = {}
    with TemporaryDirectory() as temporary:
        bundle = Path(shutil.copytree(path, Path(temporary) / "bundle"))
        judge = Judge(bundle, plan, options.seeds_of(arguments), material, progress, held_out)
        for done, line in enumerate(lines, 1):
            rows[line] = (
                Row(line.engine, line.name, quality=judge(line))
                if line.tool is None
                else other(judge, line, pythons[line.tool.id])
            )
            progress("contenders", done, len(lines))
        judged = [line for line in lines if rows[line].quality]
        if arguments.picture is not None:
            draw(judge, judged, arguments.picture)
        ratios = {} if arguments.no_speed else speeds(bundle, plan, judged, arguments.batch, progress)
    return Outcome(
        model=manifest.name,
        plan=plan.name,
        steps=len(plan.steps),
        guidance=weight_of(plan.guidance),
        trajectories=len(seeds),
        seeds=arguments.seeds,
        first=arguments.first_seed,
        batch=arguments.batch,
        processor=this_machine().processor,
        versions=versions(),
        rows=tuple(msgspec.structs.replace(row, speed=ratios.get(line)) for line, row in rows.items()),
    )


def other(judge: Judge, line: Contender, python: str) -> Row:
    """Another tool's row: it quantizes, and what it made is judged. What fails is its result, whatever was raised."""
    made = QuantizedFile(Path(), "")
    try:
        made = quantize(line, judge.material, python)
        add_body(judge.bundle, line, made, judge.material)
        return Row(line.engine, line.name, line.setting, judge(line), made_by=made.version)
    except Exception as error:  # other people's graphs fail in the reader and in every engine, each in its own way
        environment = Path(python).parent.parent
        here = (judge.material.folder, judge.bundle, SCRIPTS, environment)
        return Row(line.engine, line.name, line.setting, reason=reason(error, here), made_by=made.version)


def main(given: Sequence[str] | None = None) -> int:
    parser = options.parser_of(__doc__)
    parser.add_argument("bundle", type=Path, nargs="+", help="one for each model and plan")
    parser.add_argument("--python", action="append", default=[], metavar="TOOL=PATH", help="the Python that has a tool")
    parser.add_argument(
        "--only", action="append", default=[], help="settings with this in their name, or =NAME, as =nncf_ptq-defaults"
    )
    options.add_seeds(parser, 256)
    parser.add_argument("--batch", type=options.positive, default=8, help="samples of a timed call")
    parser.add_argument("--conditions", type=Path, metavar="FILE", help="that BUNDLE was calibrated with")
    parser.add_argument("--held-out", type=Path, metavar="FILE", help="conditions that judge (default: --conditions)")
    options.add_work(parser, "quantization")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="also draw what each samples, of one BUNDLE")
    parser.add_argument("--no-speed", action="store_true", help="judge only")
    options.add_json(parser)
    arguments = parser.parse_args(given)
    logging.getLogger().setLevel(logging.ERROR)
    with options.refusing(parser):
        options.seeds_of(arguments)
        if arguments.picture is not None and len(arguments.bundle) > 1:
            raise UserError(f"--picture is of one bundle, not of {len(arguments.bundle)}", "name one bundle")
        pythons = environments(arguments.python)
        outcomes = []
        conditions = [own_conditions(path, arguments) for path in arguments.bundle]
        with progress_display() as progress:
            for path, own in zip(arguments.bundle, conditions, strict=True):
                outcomes.append(compare(path, pythons, arguments, progress, own))
    if arguments.json:
        found = [
            {**msgspec.to_builtins(each), "bars": [asdict(bar) | {"met": bar.met} for bar in bars(each.rows)]}
            for each in outcomes
        ]
        print(json.dumps({"outcomes": found}))
    else:
        print("\n\n".join(map(described, outcomes)))
    return 0 if all(map(is_met, outcomes)) else 1


if __name__ == "__main__":
    sys.exit(main())
