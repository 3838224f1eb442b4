"""Which solver and which grid on a trained denoiser: every deterministic solver on every grid, at equal evaluations.

    python -m benchmarks.solvers_on_model            # the shipped model: a quarter of an hour on two idle cores

Quality is the PSNR to the end of the exact trajectory from the same noise, which a solver of high order with 200 steps
stands for; then, for a few plans, FD(fashion-mnist-cnn) to images that nobody was trained on. Writes its part of
docs/samplers.md and docs/solvers-on-model.svg. Reduce it with --seeds, --evaluations, --solvers, --grids, --samples;
what was measured is kept in --work, and a second call goes on from there.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks import options
from benchmarks.markdown import table, with_part
from fewstep.evaluation.distances import distance
from fewstep.evaluation.distances.features import Extractor, open_extractor
from fewstep.evaluation.drawing.plan_plot import stacked
from fewstep.evaluation.drawing.plots import Series, line_plot
from fewstep.export.export import ExportOptions, export
from fewstep.models.fashion_mnist import data
from fewstep.plans import grids
from fewstep.plans.errors import UserError
from fewstep.plans.listing import solver_listings
from fewstep.plans.name import TRAILING
from fewstep.plans.plan import Plan
from fewstep.rollouts.held_out import held_out_conditions
from fewstep.rollouts.metrics import Floats, psnr
from fewstep.runtime.loading import load
from fewstep.runtime.sampler import Sampler

DOCS = Path(__file__).parent.parent / "docs"
SCRIPT = "benchmarks/solvers_on_model.py"
PAGE, PLOT = DOCS / "samplers.md", DOCS / "solvers-on-model.svg"
MODEL, EXTRACTOR = "fashion_mnist", "fashion-mnist-cnn"
GUIDANCE = 2.0
TEACHER = "dpmpp_3m_exact"
TEACHER_STEPS = 200
BATCH = 16
SHOWN = 6  # curves of the plot, and lines of the table of the best
AT = 8  # evaluations at which distances are measured

EVALUATIONS = {each.name: each.evaluations for each in solver_listings()}  # in an inner step
Key = tuple[str, str, int]  # solver, grid, evaluations


@dataclass(frozen=True)
class Setting:
    """What is measured. `reference` is the end of the exact trajectories, of `seeds`."""

    sampler: Sampler
    seeds: range
    reference: Floats

    def compiled(self, plan: str) -> Plan:
        return self.sampler.compile(plan, GUIDANCE)

    def sample(self, plan: str, seeds: range | None = None) -> Floats:
        """Samples of a plan by its name, with the held-out condition of each seed."""
        return sample(self.sampler, plan, self.seeds if seeds is None else seeds)


def sample(sampler: Sampler, plan: str, seeds: range) -> Floats:
    conditions = sampler.bundle.manifest.conditions
    parts = [seeds[start : start + BATCH] for start in range(0, len(seeds), BATCH)]
    compiled = sampler.compile(plan, GUIDANCE)
    return np.concatenate([sampler.sample(compiled, part, held_out_conditions(conditions, part)) for part in parts])


def solver_names() -> list[str]:
    """Those that follow a denoiser's trajectory: deterministic, with an order, from noise alone, without a fit."""
    return [
        each.name
        for each in solver_listings()
        if each.order and not (each.is_stochastic or each.is_fitted or each.given)
    ]


def affordable(compiled: Callable[[str], Plan], solver: str, grid: str, evaluations: int) -> str | None:
    """The plan with the most steps that so many evaluations pay for; None where the grid or the solver has none."""
    inner = EVALUATIONS[solver]
    for steps in range(min(evaluations, evaluations // inner + 2), 0, -1):  # the first and the last may take fewer
        name = f"{solver}:{steps}@{grid}"
        try:
            if len(compiled(name).steps) <= evaluations:
                return name
        except UserError:
            continue
    return None


def measure(
    setting: Setting, solvers: Sequence[str], over: Sequence[str], counts: Sequence[int], work: Path
) -> dict[Key, float]:
    """Mean PSNR to the exact trajectory, of everything that exists. What `work` holds is not measured again."""
    known: dict[str, float | None] = json.loads(work.read_text()) if work.exists() else {}
    asked = [(solver, grid, count) for solver in solvers for grid in over for count in counts]
    found = {}
    for done, key in enumerate(asked, 1):
        plan = affordable(setting.compiled, *key)
        if plan is not None:
            entry = f"{plan}, {len(setting.seeds)} seeds from {setting.seeds.start}"
            if entry not in known:
                known[entry] = score(setting, plan)
                work.write_text(json.dumps(known, indent=1))
            if (value := known[entry]) is not None:
                found[key] = value
        _progress("plans", done, len(asked))
    return found


def score(setting: Setting, plan: str) -> float | None:
    """Mean PSNR to the exact trajectory; None for a plan that leaves the numbers."""
    try:
        return float(psnr(setting.sample(plan), setting.reference).mean())
    except UserError:
        return None


def plans_of_note(setting: Setting, found: dict[Key, float], most: int) -> list[str]:
    """Plans whose distance to the data is worth minutes: two that everybody knows, and the best."""
    count = min(AT, most)
    keys = [("ddim", TRAILING, count), ("dpmpp_2m", TRAILING, count)]
    keys += [(solver, grid, count) for _, solver, grid in best(found, count)[:1]]
    plans = [affordable(setting.compiled, *key) for key in keys]
    return list(dict.fromkeys(plan for plan in plans if plan is not None))


def distances(setting: Setting, plans: Sequence[str], count: int) -> dict[str, float]:
    """FD of `count` samples of each plan to the test images, and of as many training images: as near as it gets."""
    extractor = open_extractor(EXTRACTOR, setting.sampler.bundle.manifest.x_shape)
    assert extractor is not None
    images = {split: data.read(split=split)[0][:, None].astype(np.float32) / 127.5 - 1 for split in ("t10k", "train")}
    held_out = distance.fit(features(images["t10k"], extractor))
    found = {"training images": distance.frechet(distance.fit(features(images["train"][:count], extractor)), held_out)}
    for done, plan in enumerate(plans, 1):
        samples = setting.sample(plan, range(count))
        found[plan] = distance.frechet(distance.fit(features(samples, extractor)), held_out)
        _progress("distances", done, len(plans))
    return found


def features(images: Floats, extractor: Extractor) -> Floats:
    return np.concatenate([extractor.extract(images[start : start + 256]) for start in range(0, len(images), 256)])


def best(found: dict[Key, float], count: int) -> list[tuple[float, str, str]]:
    """PSNR, solver and grid at so many evaluations, the best first."""
    return sorted(((value, solver, grid) for (solver, grid, n), value in found.items() if n == count), reverse=True)


def by_solver(found: dict[Key, float], counts: Sequence[int]) -> str:
    """A line for each solver: on the default grid, and on its best grid."""
    solvers = list(dict.fromkeys(solver for solver, _, _ in found))
    rows = []
    for solver in solvers:
        cells = []
        for count in counts:
            own = [(value, grid) for value, name, grid in best(found, count) if name == solver]
            default = found.get((solver, TRAILING, count))
            text = "" if default is None else f"{default:.1f}"
            if own and own[0][1] != TRAILING:
                text += f" ({own[0][0]:.1f} {own[0][1]})"
            cells.append(text.strip())
        rows.append([f"`{solver}`", *cells])
    return table(["solver", *map(str, counts)], rows)


def by_grid(found: dict[Key, float], counts: Sequence[int]) -> str:
    """A line for each grid: the median over solvers, and the best of them."""
    rows = []
    for grid in dict.fromkeys(grid for _, grid, _ in found):
        cells = []
        for count in counts:
            values = sorted(((v, s) for (s, g, n), v in found.items() if (g, n) == (grid, count)), reverse=True)
            if values:
                cells.append(f"{np.median([v for v, _ in values]):.1f} ({values[0][0]:.1f} {values[0][1]})")
            else:
                cells.append("")
        rows.append([f"`{grid}`", *cells])
    return table(["grid", *map(str, counts)], rows)


def leaders(found: dict[Key, float], counts: Sequence[int]) -> str:
    """The best plans for each number of evaluations."""
    rows = []
    for place in range(SHOWN):
        ranked = [best(found, count) for count in counts]
        rows.append([f"{r[place][0]:.1f} `{r[place][1]}@{r[place][2]}`" if place < len(r) else "" for r in ranked])
    return table([f"{count} evaluations" for count in counts], rows)


def plot(found: dict[Key, float], counts: Sequence[int]) -> str:
    """PSNR over evaluations on the default grid, of ddim and of the solvers that are best there."""
    default = {key: value for key, value in found.items() if key[1] == TRAILING}
    ranked = dict.fromkeys(["ddim", *(solver for count in counts for _, solver, _ in best(default, count)[:2])])
    curves = []
    for colour, solver in enumerate(list(ranked)[:SHOWN]):
        points = [(n, value) for n in counts if (value := default.get((solver, TRAILING, n))) is not None]
        curves.append(Series(solver, [x for x, _ in points], [y for _, y in points], colour))
    drawn = line_plot(curves, "evaluations of the denoiser", "PSNR (dB)", x_ticks=counts)
    return stacked(f"{MODEL}: PSNR to the exact trajectory, grid {TRAILING}", [drawn])


def part(
    found: dict[Key, float], counts: Sequence[int], seeds: int, exactness: float, fd: dict[str, float], samples: int
) -> str:
    """The measured part of docs/samplers.md."""
    text = f"""`{MODEL}`, guidance {GUIDANCE:g}: PSNR in dB to the end of the exact trajectory from the same
noise, mean over {seeds} held-out seeds. The exact trajectory is `{TEACHER}` with {TEACHER_STEPS} steps,
{exactness:.0f} dB from itself with twice as many. Columns are numbers of evaluations; each plan takes as many
steps as they allow. Grids that start below the noisiest time start another trajectory, and their
figures suffer for it. `python -m benchmarks.solvers_on_model` writes this part.

![PSNR over evaluations](solvers-on-model.svg)

The best plans:

{leaders(found, counts)}

The measured solvers, on the grid `{TRAILING}`, and on their best grid if that is another:

{by_solver(found, counts)}

The grids: the median over these solvers, and the best of them:

{by_grid(found, counts)}
"""
    if fd:
        rows = [[f"`{name}`" if ":" in name else name, f"{value:.2f}"] for name, value in fd.items()]
        text += f"""
PSNR does not show the likeness of samples to the data. FD({EXTRACTOR}) of {samples} samples
to the 10 000 test images does. The images of the training set are the closest possible.

{table(["plan", f"FD({EXTRACTOR})"], rows)}
"""
    return text


def main() -> int:
    parser = options.parser_of(__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", help="of the shipped model; made if it is left out")
    options.add_seeds(parser, 4)
    parser.add_argument("--evaluations", default="3,4,5,6,8,12,20")
    parser.add_argument("--solvers", default="", help="some of them, with commas; all if it is left out")
    parser.add_argument("--grids", default="", help="likewise")
    parser.add_argument("--samples", type=int, default=2_000, help="of a distance; 0 for none")
    options.add_work(parser, "solvers-on-model")
    parser.add_argument("--print", action="store_true", dest="only_print", help="leave the docs as they are")
    arguments = parser.parse_args()
    counts = [int(text) for text in arguments.evaluations.split(",")]
    solvers = arguments.solvers.split(",") if arguments.solvers else solver_names()
    over = arguments.grids.split(",") if arguments.grids else list(grids.__all__)
    arguments.work.mkdir(parents=True, exist_ok=True)
    with options.refusing(parser), TemporaryDirectory() as folder:
        bundle = arguments.bundle or Path(folder) / "bundle"
        if arguments.bundle is None:
            export(ExportOptions(MODEL, bundle))
        seeds, sampler = options.seeds_of(arguments), load(bundle)
        exact, twice = (sample(sampler, f"{TEACHER}:{n * TEACHER_STEPS}", seeds) for n in (1, 2))
        setting = Setting(sampler, seeds, exact)
        found = measure(setting, solvers, over, counts, arguments.work / "psnr.json")
        noted = plans_of_note(setting, found, counts[-1]) if arguments.samples else []
        fd = distances(setting, noted, arguments.samples) if noted else {}
    text = part(found, counts, arguments.seeds, float(psnr(exact, twice).mean()), fd, arguments.samples)
    print(text)
    if not arguments.only_print:
        write(text, plot(found, counts))
    return 0


def write(text: str, drawing: str) -> None:
    """Put the part into its place in the page."""
    PAGE.write_text(with_part(PAGE.read_text(), SCRIPT, text.strip()))
    PLOT.write_text(drawing)


def _progress(stage: str, done: int, total: int) -> None:
    print(f"\r{stage} {done}/{total} ", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
