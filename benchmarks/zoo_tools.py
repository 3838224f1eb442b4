"""What int8 by default is worth beside other tools on every denoiser of the zoo and the shipped ones, in one table.

    python benchmarks/zoo_tools.py [--model NAME ...] [--seeds 64] [--first-seed 0] [--python nncf_ptq=PATH] ...

Exports the members into the work folder, calibrates each as `fewstep calibrate` does by default, and compares it as
`quantization/compare.py` does: the same float graph, trajectories, seeds and engines. onnxruntime's `quantize_static`
is always compared; NNCF and ModelOpt where `--python` says which Python has them. All outcomes of the work folder go
into docs/measured/zoo.md, as soon as each is there: an interrupted run goes on where it was. Ours with `--ranges
channels`, which tries nothing, stands beside. Building takes `--seeds 64`, a verdict `--seeds 256`, and seeds that
nothing was chosen on `--first-seed`.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

from msgspec.structs import replace

sys.path.append(str(Path(__file__).parent / "quantization"))

from ablation import positive
from compare import calibrated_plan, compare, environments, seeds_of
from contenders import OURS, TARGET_OF, TOOLS, Contender
from judging import Judge
from material import Material
from outcome import EQUAL_BAR, Outcome, Quality, save, saved
from zoo.bundles import CODE, exported
from zoo.members import MEMBERS, Member
from zoo_choices import plan_of

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import AnyMethod, CalibrateOptions
from fewstep.cli.progress import ProgressDisplay
from fewstep.graph import io
from fewstep.machine.code_digest import code_of
from fewstep.plans.errors import UserError
from fewstep.runtime import load
from fewstep.runtime.bundle.platforms import body_name
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.progress import SILENT, Progress


@dataclass(frozen=True)
class Shipped(Member):
    """A denoiser that comes with fewstep, which `fewstep export` knows by name."""

    @property
    def source(self) -> str:
        return self.name

    @property
    def weights(self) -> Path:
        return Path(__file__).parent.parent / "models" / self.name / f"{self.name}.safetensors"

    def rows(self, count: int, seed: int) -> None:
        return None


ALL = (*MEMBERS, Shipped("fashion_mnist", "dpmpp_2m:8", 2.0), Shipped("cifar10", "dpmpp_2m:8", 2.0))
BY_NAME = {member.name: member for member in ALL}
PAGE = Path(__file__).parent.parent / "docs/measured/zoo.md"
MARKERS = ("<!-- made by benchmarks/zoo_tools.py -->", "<!-- end of what benchmarks/zoo_tools.py makes -->")
STEPS = (8, 4)
PLAIN: AnyMethod = "channels"  # ranges that need no trial
HEADER = (
    "| denoiser | steps | seeds | engine | fewstep | kept | without trials | MACs in int8 | image"
    " | best other of the same | difference | bar |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|",
)


def own_code() -> str:
    """A digest of the code that exports and calibrates."""
    return code_of(CODE).hex()


def calibrated(
    member: Member,
    steps: int,
    targets: Sequence[str],
    work: Path,
    progress: Progress = SILENT,
    ranges: AnyMethod = CalibrateOptions.ranges,
) -> Path:
    """The member's bundle, calibrated along its plan for these targets; kept if it is there."""
    plan = plan_of(member, steps, None)
    bundle = exported(member, work / "bundles", plan, member.guidance, ranges)
    if not {body_name("int8", target) for target in targets} <= open_bundle(bundle).manifest.bodies.keys():
        calibrate(CalibrateOptions(bundle, plan, tuple(targets), guidance=member.guidance, ranges=ranges), progress)
    return bundle


def plain(
    member: Member, steps: int, engines: Sequence[str], arguments: argparse.Namespace, progress: Progress
) -> dict[str, Quality]:
    """Ours without any trial, by engine."""
    targets = [TARGET_OF[engine] for engine in engines]
    bundle = calibrated(member, steps, targets, arguments.work, progress, ranges=PLAIN)
    reference, lines = load(bundle, body="float32"), [Contender(engine) for engine in engines]
    kept = arguments.work / PLAIN
    kept.mkdir(exist_ok=True)
    material = Material(kept, io.load(reference.bundle.graph(reference.body.graph), root=bundle))
    judge = Judge(bundle, calibrated_plan(reference, lines), seeds_of(arguments), material, progress)
    return {line.engine: judge(line) for line in lines}


def best_other(outcome: Outcome, engine: str) -> tuple[str, Quality] | None:
    """Of all settings on an engine that run the very operations in int8 that ours does, the one with the best mean."""
    here = {row.name: row.quality for row in outcome.rows if row.engine == engine and row.quality is not None}
    ours = set(here[OURS].int8_ops)
    equal = {name: quality for name, quality in here.items() if name != OURS and set(quality.int8_ops) == ours}
    return max(equal.items(), key=lambda item: item[1].mean, default=None)


def lines(outcome: Outcome) -> Iterator[str]:
    """A line of the table for each engine."""
    for row in outcome.rows:
        if row.name == OURS and row.quality is not None:
            ours, best = row.quality, best_other(outcome, row.engine)
            image = "" if ours.image is None else f"{100 * ours.image:.1f} %"
            share = f"{100 * ours.coverage:.1f} %"
            before = "" if row.plain is None else _figures(row.plain)
            seeds = f"{outcome.seeds} from {outcome.first}"
            judged = [outcome.model, str(outcome.steps), seeds, row.engine]
            cells = [*judged, _figures(ours), row.chosen, before, share, image]
            if best is None:
                yield _line([*cells, "none", "", ""])
                continue
            name, other = best
            gains = (ours.mean - other.mean, ours.p5 - other.p5)
            verdict = "met" if min(gains) >= EQUAL_BAR else "missed"
            yield _line([*cells, f"{_figures(other)} ({name})", f"{gains[0]:+.1f} / {gains[1]:+.1f}", verdict])


def _figures(quality: Quality) -> str:
    return f"{quality.mean:.1f} / {quality.p5:.1f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def described(outcomes: Sequence[Outcome]) -> str:
    """Markdown: the table of what this code was judged on, and below it the versions behind it."""
    code = own_code()
    known = [each for each in outcomes if each.model in BY_NAME and each.code == code]
    table = [*HEADER, *(line for outcome in known for line in lines(outcome))]
    made_by = {row.made_by for each in known for row in each.rows if row.made_by}
    versions = ", ".join(sorted({*made_by, *(version for each in known for version in each.versions)}))
    return "\n".join([*table, "", f"Made with {versions}."])


def page(text: str, made: str) -> str:
    """A page with what stands between the markers replaced. UserError if it has none."""
    start, end = MARKERS
    if start not in text or end not in text:
        raise UserError(f"{PAGE.name} has no markers for the table", f"put {start} and {end} into it")
    return text[: text.index(start) + len(start)] + f"\n\n{made}\n\n" + text[text.index(end) :]


def run(
    members: Sequence[Member], steps: Sequence[int], pythons: Mapping[str, str], arguments: argparse.Namespace
) -> Iterator[Outcome]:
    """Each member along each plan, kept as soon as it is judged. One whose trajectories other tools cannot follow is
    left out, with a line that says so."""
    targets = [TARGET_OF[tool.engine] for name, tool in TOOLS.items() if name in pythons]
    with ProgressDisplay() as progress:
        for member in members:
            if member.rows(1, 0) is not None:
                print(f"{member.name} needs conditions of its own, which other tools are not given", file=sys.stderr)
                continue
            for count in steps:
                bundle = calibrated(member, count, targets, arguments.work, progress)
                outcome = compare(bundle, pythons, arguments, progress)
                engines = [row.engine for row in outcome.rows if row.name == OURS]
                found = plain(member, count, engines, arguments, progress)
                ours = (replace(row, plain=found[row.engine]) if row.name == OURS else row for row in outcome.rows)
                outcome = replace(outcome, rows=tuple(ours), code=own_code())
                save(outcome, arguments.work)
                yield outcome


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", action="append", choices=list(BY_NAME), help="a denoiser; default: all")
    parser.add_argument("--steps", action="append", type=positive, help="of the plan; several times for several")
    parser.add_argument("--python", action="append", default=[], metavar="TOOL=PATH", help="the Python that has a tool")
    parser.add_argument("--only", action="append", default=[], help="settings with this in their name")
    parser.add_argument("--seeds", type=positive, default=64, help="held-out seeds")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them")
    parser.add_argument("--work", type=Path, default=Path(gettempdir()) / "fewstep-zoo-tools", help="what is kept")
    arguments = parser.parse_args(given)
    arguments.no_speed, arguments.batch = True, 8
    members = [member for member in ALL if not arguments.model or member.name in arguments.model]
    try:
        seeds_of(arguments)
        pythons = environments(arguments.python)
        for _ in run(members, arguments.steps or STEPS, pythons, arguments):
            PAGE.write_text(page(PAGE.read_text(), described(saved(arguments.work))))
        print(described(saved(arguments.work)))
    except UserError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
