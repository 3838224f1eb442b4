"""What each choice of calibration wins or loses on every denoiser of the zoo, in one table.

    python -m benchmarks.on_zoo.zoo_choices [--model NAME ...] [--only ROW ...] [--steps 8 ...] [--seeds 64] [--work W]

Exports the members into the work folder, and measures the rows of `ablation.py` on each: one calibration, PSNR against
float32 along the same plan, on held-out seeds. Each result is a file of the work folder, and one that is there is not
measured again, unless the code of calibration has changed: an interrupted run goes on where it was. With all members
it writes a table for each number of steps into docs/measured/zoo.md. Some rows take minutes for a member: `--only`
leaves the others out, in the table too.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import options
from benchmarks.ablation import BASE, Results, Scope, chosen, measure, page
from benchmarks.zoo.bundles import exported
from benchmarks.zoo.members import BY_NAME, MEMBERS, Member
from fewstep.calibration.options import CalibrateOptions
from fewstep.cli.progress import ProgressDisplay
from fewstep.lowering.targets.cpu_x86 import CPU_X86
from fewstep.runtime.progress import Progress

PAGE = Path(__file__).parents[2] / "docs/measured/zoo.md"
SURE = 2.0  # standard errors of the difference: what is further away is a win or a loss
STEPS = (8, 4)
CALIBRATION, HELD_OUT = 0, 1  # seeds of a member's own conditions


def plan_of(member: Member, steps: int, grid: str | None) -> str:
    """The member's plan with so many steps, on this grid if it names none."""
    plan = re.sub(r":\d+", f":{steps}", member.plan, count=1)
    return plan if grid is None or "@" in plan else f"{plan}@{grid}"


def measured(
    member: Member, names: Sequence[str], plan: str, trajectories: int, scope: Scope, show: Progress
) -> Results:
    """The rows of one member along a plan."""
    bundle = exported(member, scope.work)
    settings = CalibrateOptions(bundle, plan, (CPU_X86.name,), trajectories, member.guidance)
    rows = member.rows(trajectories, CALIBRATION)
    if rows is None:
        return measure(settings, names, scope, show)
    conditions = scope.work / f"{member.name}.npz"
    np.savez(conditions, **rows)  # type: ignore[arg-type]
    given = member.rows(len(scope.seeds), HELD_OUT + scope.seeds.start)
    return measure(replace(settings, conditions=conditions), names, scope, show, given)


def table(found: Mapping[str, Results]) -> str:
    """Markdown: a line a choice, a column a member. The first has its own figures; the others the difference to it,
    in bold where it is sure."""
    head = ["choice", *found]
    default = [BASE, *(_figures(rows[BASE][0]) for rows in found.values())]
    others = [name for name in next(iter(found.values())) if name != BASE]
    lines = [head, ["---"] * len(head), default]
    lines += [[name, *(_difference(rows[name][0], rows[BASE][0]) for rows in found.values())] for name in others]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _figures(result: Mapping[str, float]) -> str:
    return f"{result['mean']:.1f} / {result['p5']:.1f} ({100 * result['image']:.0f} %)"


def _difference(result: Mapping[str, Sequence[float]], base: Mapping[str, Sequence[float]]) -> str:
    """The difference of the means over the same seeds, then of the 5th percentiles."""
    gains = np.array(result["psnr"]) - np.array(base["psnr"])
    tail = float(np.quantile(result["psnr"], 0.05) - np.quantile(base["psnr"], 0.05))
    error = gains.std(ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else np.inf
    text = f"{gains.mean():+.1f}"
    return f"{f'**{text}**' if abs(gains.mean()) > SURE * error else text} / {tail:+.1f}"


def main(given: Sequence[str] | None = None) -> int:
    parser = options.parser_of(__doc__)
    options.add_denoisers(parser, BY_NAME)
    parser.add_argument("--grid", help="of plans that name none; default: that of the exported bundle")
    options.add_seeds(parser, 64)
    parser.add_argument("--trajectories", type=options.positive, default=CalibrateOptions.trajectories)
    options.add_work(parser, "zoo")
    options.add_only(parser, "rows")
    arguments = parser.parse_args(given)
    members = [member for member in MEMBERS if not arguments.model or member.name in arguments.model]
    with options.refusing(parser):
        names, scope = chosen(arguments.only), Scope(options.seeds_of(arguments), 1, arguments.work)
        scope.work.mkdir(parents=True, exist_ok=True)
        tables = {}
        with ProgressDisplay() as progress:
            for steps in arguments.steps or STEPS:
                found = {
                    member.name: measured(
                        member, names, plan_of(member, steps, arguments.grid), arguments.trajectories, scope, progress
                    )
                    for member in members
                }
                grid = f" on the grid {arguments.grid}" if arguments.grid else ""
                seeds = f"{arguments.seeds} held-out seeds from {arguments.first_seed}."
                tables[f"{steps} steps{grid}"] = (
                    f"`{steps} steps{grid}`: {arguments.trajectories} trajectories, {seeds}\n\n{table(found)}"
                )
        if len(members) == len(MEMBERS):
            PAGE.write_text(page(PAGE.read_text(), tables))
    print("\n\n".join(tables.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
