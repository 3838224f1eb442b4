"""What each choice of calibration wins or loses on every denoiser of the zoo, in one table.

    python -m benchmarks.on_zoo.zoo_choices [--model NAME ...] [--only ROW ...] [--steps 8 ...] [--seeds 64] [--work W]

Exports the members into the work folder, and measures the rows of `ablation.py` on each: one calibration, PSNR against
float32 along the same plan, on held-out seeds. Each result is a file of the work folder, and one that is there is not
measured again, unless the code of calibration has changed: an interrupted run goes on where it was. With all members
it writes a table for each number of steps into docs/measured/zoo.md. Some rows take minutes for a member: `--only`
leaves the others out, in the table too.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir

import numpy as np

from benchmarks.ablation import BASE, Asked, Found, chosen, measure, page
from benchmarks.counts import positive
from benchmarks.zoo.bundles import exported
from benchmarks.zoo.members import BY_NAME, MEMBERS, Member
from fewstep.calibration.options import CalibrateOptions
from fewstep.cli.progress import ProgressDisplay
from fewstep.lowering.targets.cpu_x86 import CPU_X86
from fewstep.plans.errors import UserError
from fewstep.runtime.progress import Progress

PAGE = Path(__file__).parents[2] / "docs/measured/zoo.md"
SURE = 2.0  # standard errors of the difference: what is further away is a win or a loss
STEPS = (8, 4)
CALIBRATION, HELD_OUT = 0, 1  # seeds of a member's own conditions


def plan_of(member: Member, steps: int, grid: str | None) -> str:
    """The member's plan with so many steps, on this grid if it names none."""
    plan = re.sub(r":\d+", f":{steps}", member.plan, count=1)
    return plan if grid is None or "@" in plan else f"{plan}@{grid}"


def measured(member: Member, names: Sequence[str], plan: str, trajectories: int, asked: Asked, show: Progress) -> Found:
    """The rows of one member along a plan."""
    bundle = exported(member, asked.work)
    options = CalibrateOptions(bundle, plan, (CPU_X86.name,), trajectories, member.guidance)
    rows = member.rows(trajectories, CALIBRATION)
    if rows is None:
        return measure(options, names, asked, show)
    conditions = asked.work / f"{member.name}.npz"
    np.savez(conditions, **rows)  # type: ignore[arg-type]
    given = member.rows(asked.seeds, HELD_OUT)
    return measure(replace(options, conditions=conditions), names, asked, show, given)


def table(found: Mapping[str, Found]) -> str:
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
    """Of the means, over the same seeds; then of the 5th percentiles."""
    gains = np.array(result["psnr"]) - np.array(base["psnr"])
    tail = float(np.quantile(result["psnr"], 0.05) - np.quantile(base["psnr"], 0.05))
    error = gains.std(ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else np.inf
    text = f"{gains.mean():+.1f}"
    return f"{f'**{text}**' if abs(gains.mean()) > SURE * error else text} / {tail:+.1f}"


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", action="append", choices=list(BY_NAME), help="a member of the zoo; default: all")
    parser.add_argument("--steps", action="append", type=positive, help="of the plan; several times for several")
    parser.add_argument("--grid", help="of plans that name none; default: that of the exported bundle")
    parser.add_argument("--seeds", type=positive, default=64, help="held-out seeds, 0 and up")
    parser.add_argument("--trajectories", type=positive, default=CalibrateOptions.trajectories)
    parser.add_argument("--work", type=Path, default=Path(gettempdir()) / "fewstep-zoo", help="bundles and results")
    parser.add_argument("--only", action="append", default=[], help="rows with this in their name, beside the default")
    arguments = parser.parse_args(given)
    members = [member for member in MEMBERS if not arguments.model or member.name in arguments.model]
    try:
        names, asked = chosen(arguments.only), Asked(arguments.seeds, 1, arguments.work)
        asked.work.mkdir(parents=True, exist_ok=True)
        tables = {}
        with ProgressDisplay() as progress:
            for steps in arguments.steps or STEPS:
                found = {
                    member.name: measured(
                        member, names, plan_of(member, steps, arguments.grid), arguments.trajectories, asked, progress
                    )
                    for member in members
                }
                grid = f" on the grid {arguments.grid}" if arguments.grid else ""
                said = f"{arguments.trajectories} trajectories, {arguments.seeds} held-out seeds."
                tables[f"{steps} steps{grid}"] = f"`{steps} steps{grid}`: {said}\n\n{table(found)}"
        if len(members) == len(MEMBERS):
            PAGE.write_text(page(PAGE.read_text(), tables))
    except UserError as error:
        parser.error(str(error))
    print("\n\n".join(tables.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
