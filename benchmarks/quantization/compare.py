"""The worth of int8 by default next to other tools, on every denoiser of the zoo and the shipped ones.

    python -m benchmarks.quantization.compare [--model NAME ...] [--seeds 64] [--first-seed 0] [--python nncf_ptq=PATH]

Exports the denoisers into the work folder, and calibrates each as `fewstep calibrate` does by default. All tools get
the same float graph and trajectories, and are judged on the same seeds along the same plan, on the engine that they
quantize for. TensorRT's 8-bit rounding is simulated. onnxruntime's `quantize_static` is always compared; NNCF and
ModelOpt where `--python` says which Python has them (README.md). The rows go into lab/measured/zoo.json, and from
there into the tables of three pages, as soon as each is there: an interrupted run goes on where it was. Building takes
`--seeds 64`, a verdict `--seeds 256`, and seeds that nothing was chosen on `--first-seed`. `--only` leaves settings
out, and engines that have none left. A tool that fails is a row that says why.

`--bundle DIR` compares a bundle of one's own, as it was calibrated, and none of those: its rows are printed and go into
no page. One that was calibrated with `--conditions FILE` is compared with the same option, and judged on `--held-out`.
"""

import argparse
import dataclasses
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks import options
from benchmarks.quantization import result_rows
from benchmarks.quantization.calibration_commands import seeds_of_calibration
from benchmarks.quantization.contenders import TARGET_OF, Contender, contenders
from benchmarks.quantization.judge_bodies import Judge, Judged, versions
from benchmarks.quantization.result_rows import Measured, make_row
from benchmarks.quantization.run_tools import SCRIPTS, QuantizedFile, add_body, quantize, reason
from benchmarks.quantization.tool_inputs import write_material
from benchmarks.result_store import read_rows, write_rows
from benchmarks.zoo_bundles import CODE, calibration, exported, held_out_rows
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.cli.progress import progress_display
from fewstep.measure.rollouts.conditions_file import ConditionRecords, distribute_records, read_arrays, read_conditions
from fewstep.measure.rollouts.plan_selection import select_plan
from fewstep.plans.errors import UserError
from fewstep.report.drawing.pictures import draw_grid, encode_png
from fewstep.runtime import load
from fewstep.runtime.backends import openvino
from fewstep.runtime.bundle.manifest import Body
from fewstep.runtime.bundle.platforms import body_name
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.machine.code_digest import digest_code
from fewstep.runtime.progress import SILENT, Progress
from zoo.members import HARD, MEMBERS, SHIPPED, Member

ALL = (*MEMBERS, *HARD, SHIPPED[0], dataclasses.replace(SHIPPED[1], guidance=2.0))
THIS = "ort_static"  # the tool that this Python has
STEPS = (8, 4)  # of all but the hard ones, which are for the steps of their plans
TRAJECTORIES = CalibrateOptions.trajectories
COLUMNS, SCALE = 12, 2  # of a picture: the first held-out seeds, of which none is chosen


def digest_own_code() -> str:
    """A digest of the code that exports and calibrates."""
    return digest_code(CODE).hex()


def environments(given: Sequence[str]) -> dict[str, str]:
    """Return the Python of each compared tool, from texts TOOL=PATH. Links stay, since Python finds its packages by
    them.
    """
    if malformed := [each for each in given if not all(each.partition("="))]:
        raise UserError(f"--python {malformed[0]}", "write it as TOOL=PATH")
    named = dict(each.split("=", 1) for each in given)
    return {THIS: sys.executable} | {tool: os.path.abspath(shutil.which(path) or path) for tool, path in named.items()}


def calibrate_member(
    member: Member, steps: int, targets: Sequence[str], work: Path, progress: Progress = SILENT
) -> CalibrateOptions:
    """Return the options that calibrate the member's bundle along its plan for these targets; it is calibrated
    unless its bodies exist.
    """
    plan = member.along(steps)
    bundle = exported(member, work / "bundles", plan, member.guidance)
    asked = calibration(member, bundle, plan, targets, TRAJECTORIES)
    if not {body_name("int8", target) for target in targets} <= open_bundle(bundle).manifest.bodies.keys():
        calibrate(asked, progress)
    return asked


def compare(
    asked: CalibrateOptions,
    lines: Sequence[Contender],
    pythons: Mapping[str, str],
    arguments: argparse.Namespace,
    progress: Progress = SILENT,
    rows: ConditionRecords | None = None,
) -> Iterator[Measured]:
    """Return the row of each engine of one calibrated bundle. Bodies of other tools are in a copy of it.

    rows: held-out conditions that cannot be drawn. Raises UserError without our body, or if bodies have different
    plans.
    """
    seeds, reference = options.seeds_of(arguments), load(asked.bundle, body="float32")
    made = find_own_bodies(reference.bundle.manifest.bodies, lines, asked.bundle)
    plan = select_plan(reference.plans, next(iter(made.values())))
    material = write_material(
        *(reference, plan, range(asked.seed, asked.seed + asked.trajectories), arguments.work),
        {engine: body.graph.coverage.int8_ops for engine, body in made.items() if body.graph.coverage},
        progress,
        None if asked.conditions is None else distribute_records(read_arrays(asked.conditions), asked.trajectories),
    )
    judged: list[Judged] = []
    with TemporaryDirectory() as temporary:
        copy = Path(shutil.copytree(asked.bundle, Path(temporary) / "bundle"))
        judge = Judge(copy, plan, seeds, material, progress, rows)
        for done, line in enumerate(lines, 1):
            judged.append(
                Judged(line, judge(line)) if line.tool is None else judge_tool(judge, line, pythons[line.tool.id])
            )
            progress("contenders", done, len(lines))
        if arguments.picture is not None:
            draw(judge, [each.contender for each in judged if each.quality], arguments.picture)
    for engine in made:
        here = [each for each in judged if each.contender.engine == engine]
        yield make_row(reference.bundle.manifest.name, len(plan.steps), seeds, here, digest_own_code(), versions())


def find_own_bodies(bodies: Mapping[str, Body], lines: Sequence[Contender], bundle: Path) -> dict[str, Body]:
    """Return our bodies of a bundle by engine. Raises UserError unless all exist, calibrated along the same plan."""
    names = {line.engine: line.body for line in lines if line.tool is None}
    again = f"fewstep calibrate {bundle} --target {','.join(TARGET_OF[engine] for engine in names)}"
    if missing := [name for name in names.values() if name not in bodies]:
        raise UserError(f"{bundle} has no {missing[0]}", again)
    made = {engine: bodies[name] for engine, name in names.items()}
    if len({body.plan for body in made.values()}) != 1:
        raise UserError(f"{', '.join(names.values())} were calibrated along different plans", again)
    return made


def judge_tool(judge: Judge, line: Contender, python: str) -> Judged:
    """Return another tool's result: it quantizes, and its graph is judged. Any exception is a result too."""
    made = QuantizedFile(Path(), "")
    try:
        made = quantize(line, judge.material, python)
        add_body(judge.bundle, line, made, judge.material)
        return Judged(line, judge(line), made_by=made.version)
    except Exception as error:  # other people's graphs fail in the reader and in every engine, each in its own way
        environment = Path(python).parent.parent
        here = (judge.material.folder, judge.bundle, SCRIPTS, environment)
        return Judged(line, reason=reason(error, here), made_by=made.version)


def draw(judge: Judge, lines: Sequence[Contender], picture: Path) -> None:
    """Write an image of the first seeds: float32, then a row for each contender."""
    few = dataclasses.replace(judge, seeds=judge.seeds[:COLUMNS])
    shown = [few.reference, *(few.samples(line) for line in lines)]
    picture.write_bytes(encode_png(draw_grid(np.concatenate(shown), len(few.seeds), SCALE)))


def main(given: Sequence[str] | None = None) -> int:
    parser = options.parser_of(__doc__)
    options.add_denoisers(parser, [member.name for member in ALL])
    parser.add_argument(
        "--python", action="append", default=[], metavar="TOOL=PATH", help="Python of the environment with the tool"
    )
    options.add_only(parser, "settings, such as nncf_ptq-tuned (=nncf_ptq-tuned for this one alone),")
    options.add_seeds(parser, 64)
    options.add_work(parser, "quantization")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="also draw the samples of the last row")
    parser.add_argument("--bundle", type=Path, help="compare this calibrated bundle instead of the denoisers")
    parser.add_argument("--conditions", type=Path, help="the file that --bundle was calibrated with")
    parser.add_argument("--held-out", type=Path, help="file of other conditions, for judging")
    arguments = parser.parse_args(given)
    logging.getLogger().setLevel(logging.ERROR)
    with options.refusing(parser):
        options.seeds_of(arguments)
        pythons = environments(arguments.python)
        lines = contenders(pythons, arguments.only)
        if any(line.engine == "openvino" for line in lines):
            openvino.import_openvino()
        if arguments.bundle is not None:
            show(measure_own_bundle(arguments, lines, pythons))
            return 0
        result_rows.put_tables(read_rows(result_rows.KEPT, Measured))  # refused before hours of work
        targets = [TARGET_OF[line.engine] for line in lines if line.tool is None]
        for member in [each for each in ALL if not arguments.model or each.name in arguments.model]:
            for count in arguments.steps or ((member.steps,) if member in HARD else STEPS):
                with progress_display() as progress:
                    asked = calibrate_member(member, count, targets, arguments.work, progress)
                    held_out = held_out_rows(member, options.seeds_of(arguments))
                    new = list(compare(asked, lines, pythons, arguments, progress, held_out))
                known = result_rows.join_rows(read_rows(result_rows.KEPT, Measured), new)
                write_rows(result_rows.KEPT, known)
                result_rows.put_tables(known)
                show(new)
    return 0


def measure_own_bundle(
    arguments: argparse.Namespace, lines: Sequence[Contender], pythons: Mapping[str, str]
) -> list[Measured]:
    """Return the rows of a user's bundle, with its trajectories for all tools. Raises UserError if they are unknown."""
    if arguments.held_out is not None and arguments.conditions is None:
        raise UserError("--held-out without --conditions", "give the file that --bundle was calibrated with too")
    manifest = open_bundle(arguments.bundle).manifest
    targets = tuple(TARGET_OF[line.engine] for line in lines if line.tool is None)
    find_own_bodies(manifest.bodies, lines, arguments.bundle)
    seeds = seeds_of_calibration(manifest, targets, arguments.conditions is not None)
    asked = CalibrateOptions(
        arguments.bundle, target=targets, trajectories=len(seeds), seed=seeds.start, conditions=arguments.conditions
    )
    files = [file for file in (arguments.conditions, arguments.held_out) if file is not None]
    records = [read_conditions(file, manifest) for file in files]  # the first is checked here alone
    with progress_display() as progress:
        return list(compare(asked, lines, pythons, arguments, progress, records[-1] if records else None))


def show(made: Sequence[Measured]) -> None:
    """Print rows as in the tables."""
    print(*(" | ".join(result_rows.cells(each)) for each in made), sep="\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
