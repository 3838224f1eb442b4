"""The best plan without a fit: every deterministic solver on every grid, at equal evaluations, on trained denoisers.

    python -m benchmarks.best_plans                     # writes lab/measured/nominal.md: an hour of one core
    python -m benchmarks.best_plans fashion_mnist dit_flow --print

Quality is the PSNR of float32 samples to those of the teacher (`fewstep.measure.teacher`), which is checked. Not
every plan gets all seeds: `search` eliminates most of them on few. What was measured is kept in --work, and a second
call goes on from there.
"""

import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf, isfinite
from pathlib import Path

import msgspec
import numpy as np

from benchmarks import options
from benchmarks.judged_plans import Judge, open_member
from benchmarks.markdown import table, with_part
from fewstep.plans import grids
from fewstep.plans.default_grid import default_grid
from fewstep.plans.errors import UserError
from fewstep.plans.listing import solver_listings
from fewstep.plans.names.call_syntax import parameters
from fewstep.plans.plan import Plan
from zoo.members import MEMBERS, SHIPPED

PAGE = Path(__file__).parent.parent / "lab/measured/nominal.md"
SCRIPT = "benchmarks.best_plans"
MODELS = {member.name: member for member in (*SHIPPED, *MEMBERS)}
COUNTS = (4, 5, 6, 8, 10)
NAMED = (
    ("dpmpp_2m", "trailing"),
    ("dpmpp_2m", "arctan"),
    ("unipc_2", "arctan"),
    ("unipc_2", "ays_svd"),
)  # plans with a column of their own, as (solver, grid)
EVALUATIONS = {listing.name: listing.evaluations for listing in solver_listings()}  # in an inner step
SCOUTS = ("ddim", "dpmpp_2m", "unipc_2")  # the solvers that rank the grids
GRIDS_KEPT, PLANS_KEPT, FINALISTS = 4, 12, 3  # who survives, as the page says


class Score(msgspec.Struct, frozen=True):
    """Mean PSNR in dB of a plan, and the standard error of the mean."""

    plan: str
    psnr: float
    error: float


class Finalists(msgspec.Struct, frozen=True):
    """The finalists at one number of evaluations, best first, and the plans of `NAMED`, or None."""

    count: int
    seeds: int
    best: tuple[Score, ...]
    named: tuple[Score | None, ...]


KEPT_APART = ("convnext_v_cosine", "speech_ncsn")  # nothing was chosen on them


def grid_names() -> list[str]:
    """Return the grids that a schedule determines: those whose parameters all have a default."""
    return [
        name
        for name in grids.__all__
        if all(p.default is not p.empty for p in parameters(getattr(grids, name)).values())
    ]


def solver_names() -> list[str]:
    """Return the solvers that follow a denoiser's trajectory: deterministic, with an order, from noise alone,
    without a fit.
    """
    return [
        listing.name
        for listing in solver_listings()
        if listing.order and not (listing.is_stochastic or listing.is_fitted or listing.given)
    ]


def affordable(compiled: Callable[[str], Plan], solver: str, grid: str, evaluations: int) -> str | None:
    """Return the plan with the most steps within this number of evaluations; None if the grid or the solver has
    none.
    """
    inner = EVALUATIONS[solver]
    for steps in range(min(evaluations, evaluations // inner + 2), 0, -1):  # the first and the last may take fewer
        name = f"{solver}:{steps}@{grid}"
        try:
            if len(compiled(name).steps) <= evaluations:
                return name
        except UserError:
            continue
    return None


def search(judge: Judge, count: int, seeds: int) -> Finalists:
    """Return the best plans of `count` evaluations, found by elimination. The finalists run on the final number of
    seeds.
    """
    over = [grid for grid in grid_names() if affordable(judge.compile_plan_of, "ddim", grid, count)]
    by_grid = {
        grid: max(_means(judge, _plans(judge, SCOUTS, [grid], count), 1).values(), default=-inf) for grid in over
    }
    kept = sorted(over, key=by_grid.__getitem__, reverse=True)[:GRIDS_KEPT]
    best = _plans(judge, solver_names(), kept, count)
    for survivors, few in ((PLANS_KEPT, 1), (FINALISTS, 8)):
        means = _means(judge, best, few)
        best = sorted(means, key=means.__getitem__, reverse=True)[:survivors]
    scores = sorted((_score(judge, plan, seeds) for plan in best), key=lambda score: -score.psnr)
    named = [affordable(judge.compile_plan_of, solver, grid, count) for solver, grid in NAMED]
    return Finalists(
        count, seeds, tuple(scores), tuple(None if plan is None else _score(judge, plan, seeds) for plan in named)
    )


def _plans(judge: Judge, solvers: Iterable[str], over: Iterable[str], count: int) -> list[str]:
    """Return the plans of each solver on each grid. Plans that compile to the same numbers occur once."""
    found: dict[bytes, str] = {}
    for grid in over:
        for solver in solvers:
            plan = affordable(judge.compile_plan_of, solver, grid, count)
            if plan is not None:
                found.setdefault(judge.numbers(plan), plan)
    return list(found.values())


def _means(judge: Judge, plans: Sequence[str], seeds: int) -> dict[str, float]:
    """Return mean PSNR by plan, without plans that leave the range of float32."""
    means = {plan: float(judge.psnr(plan, seeds).mean()) for plan in plans}
    return {plan: mean for plan, mean in means.items() if isfinite(mean)}


def _score(judge: Judge, plan: str, seeds: int) -> Score:
    values = judge.psnr(plan, seeds)
    return Score(plan, float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5))


def load_finalists(judge: Judge) -> dict[int, Finalists]:
    """Return the plans that earlier searches found for a denoiser, by the number of evaluations."""
    file = judge.folder / "found.json"
    return msgspec.json.decode(file.read_bytes(), type=dict[int, Finalists]) if file.exists() else {}


def page(text: str, work: Path) -> str:
    """Return the page with the tables of all denoisers so far; its prose stays as it is."""
    judges = [open_member(member, work) for member in MODELS.values() if (work / "bundles" / member.name).exists()]
    found = {judge.name: (judge, load_finalists(judge)) for judge in judges if load_finalists(judge)}
    parts = [_part(judge, [each[count] for count in sorted(each)]) for judge, each in found.values()]
    return with_part(with_part(text, f"{SCRIPT}, the default grid", _rule(found)), SCRIPT, "\n\n".join(parts))


def _rule(found: Mapping[str, tuple[Judge, Mapping[int, Finalists]]]) -> str:
    """Return the gain of the default grid over trailing, by denoiser and number of evaluations, and that of unipc_2
    over dpmpp_2m on it.
    """
    counts = sorted({count for _, each in found.values() for count in each})
    rows = []
    for name, (judge, each) in found.items():
        cells = [_gain(each[count]) if count in each else "" for count in counts]
        rows.append([name, "yes" if name in KEPT_APART else "", f"`{_default(judge)}`", *cells])
    on_arctan = [each for judge, each in found.values() if _default(judge) == "arctan"]
    ahead = []
    for count in counts:
        both = [(each[count].named[1], each[count].named[2]) for each in on_arctan if count in each]
        gains = [unipc.psnr - dpmpp.psnr for dpmpp, unipc in both if dpmpp is not None and unipc is not None]
        ahead.append(f"{np.mean(gains):+.1f}" if gains else "")
    rows.append(["`unipc_2` over `dpmpp_2m`", "", "`arctan`", *ahead])
    return table(["denoiser", "kept apart", "default grid", *map(str, counts)], rows)


def _default(judge: Judge) -> str:
    manifest = judge.sampler.bundle.manifest
    return default_grid(manifest.schedule, manifest.prediction)


def _gain(found: Finalists) -> str:
    trailing, arctan = (
        next(each for each in found.named if each and grid in each.plan) for grid in ("trailing", "arctan")
    )
    return f"{arctan.psnr - trailing.psnr:+.1f}"


def _part(judge: Judge, found: Sequence[Finalists]) -> str:
    """Return the table of one denoiser."""
    facts = judge.sampler.bundle.manifest
    head = ["evaluations", "best", "second", "third", *(f"`{solver}@{grid}`" for solver, grid in NAMED)]
    rows = [
        [
            str(each.count),
            *[_cell(score) for score in each.best],
            *[""] * (FINALISTS - len(each.best)),
            *("" if score is None else f"{score.psnr:.1f}" for score in each.named),
        ]
        for each in found
    ]
    guidance = "no guidance" if judge.guidance is None else f"guidance {judge.guidance:g}"
    seeds = " or ".join(map(str, sorted({each.seeds for each in found})))
    about = (
        f"{facts.prediction.capitalize()} prediction, schedule {facts.schedule.kind}, {guidance}, {seeds} seeds. "
        f"{judge.check}"
    )
    return f"## {judge.name}\n\n{textwrap.fill(about, 100)}\n\n{table(head, rows)}"


def _cell(score: Score) -> str:
    return f"{score.psnr:.1f} \u00b1 {score.error:.1f} `{score.plan}`"


def main() -> int:
    parser = options.parser_of(__doc__)
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(MODELS)} (default: all)")
    parser.add_argument("--evaluations", default=",".join(map(str, COUNTS)))
    parser.add_argument(
        "--seeds", type=int, default=64, help="seeds of the finalists, a multiple of 8 up to 64 (default %(default)s)"
    )
    options.add_work(parser, "nominal")
    parser.add_argument(
        "--print", action="store_true", dest="only_print", help="print the tables instead of writing the page"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - {*MODELS, "none"}:
        parser.error(f"no denoiser {', '.join(sorted(unknown))}")
    for name in [each for each in arguments.names or MODELS if each != "none"]:
        judge = open_member(MODELS[name], arguments.work)
        print(f"{name}: {judge.check}", file=sys.stderr, flush=True)
        for count in map(int, arguments.evaluations.split(",")):
            found = search(judge, count, arguments.seeds)
            (judge.folder / "found.json").write_bytes(msgspec.json.encode({**load_finalists(judge), count: found}))
            print(f"{name}, {count} evaluations: {found.best[0]}", file=sys.stderr, flush=True)
    text = page(PAGE.read_text(), arguments.work)
    print(text)
    if not arguments.only_print:
        PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
