"""Published systems that are composed from runs: what each claims, and what it is worth on the shipped models.

    python -m benchmarks.claims.claims --page                   # all of it, into docs/measured/claims.md
    python -m benchmarks.claims.claims --model fashion_mnist --seeds 16 --only SVDD

A line has the system's figure beside the plain way at equal evaluations of the network, and at equal milliseconds: the
plain way gets as many evaluations as take as long. A system pays if it is better at both, by twice the deviation of the
mean. Where the plain way has one number of evaluations, those decide. Systems whose claim needs a checkpoint that is
not here have a line with the reason. Nothing here was tuned on the seeds that it is judged on.

Both ways are timed in turns, on eight of the seeds, and medians of the rounds are compared. One call of the network is
timed before and after. If it changed by more than a tenth, the timing is repeated, three times at most; a line that is
still unsteady says so. All times come before the figures; until then the machine should do nothing else.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.claims import stream_cost
from benchmarks.claims.claim_lines import Line, Longer, gain, written
from benchmarks.claims.claim_ways import (
    SEARCH,
    Setting,
    alike,
    best_of,
    best_reward,
    cfg,
    chain,
    filtered,
    found,
    from_phases,
    inpainted,
    inverted,
    layout,
    one_noise,
    plain,
    populated,
    rcfg,
    repainted,
    returned,
    reward,
    rolled,
    seams,
    searched,
    still,
    story,
    streamed,
    value,
    wide,
)
from benchmarks.options import add_json, add_seeds, parser_of, seeds_of
from fewstep.evaluation.distances.features import NAMED, open_extractor
from fewstep.export.export import ExportOptions, export
from fewstep.rollouts.metrics import Floats
from fewstep.runs import Similar
from fewstep.runtime import UserError, load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime

PAGE = Path(__file__).parents[2] / "docs/measured/claims.md"
FIRST_SEED = 10_000
MOST = 8  # times the evaluations, at equal time
TIMED = 8  # seeds
ROUNDS, ATTEMPTS, STEADY = 3, 3, 1.1

Way = Callable[[Setting], Floats]


@dataclass(frozen=True)
class Claim:
    """A system and the plain way, at so many evaluations per sample. `score` is the figures of what they make, one for
    each seed or as many as there are; the larger is better. Making is timed, scoring is not.

    of_time: what is made is itself a figure of time, one for each round.
    unit: of which there is a figure each: the deviation of the mean is over these.
    has_longer: whether the plain way can take other numbers of evaluations. It stands at equal time if so.
    """

    system: str
    claim: str
    figure: str
    evaluations: int
    ours: Way
    plain: Callable[[Setting, int], Floats]
    score: Callable[[Setting, Floats], Floats]
    of_time: bool = False
    unit: str = "seed"
    has_longer: bool = True


REASONS: Mapping[str, str] = {
    "RTI-DP's start": "its claim is of success in a control loop: benchmarks/policy",
    "Trajectory Diffuser": "no planner and no drafting network ship; a draft is from_draft of docs/compose.md",
    "CoNo": "video networks are refused; windows that share states are tested in tests/runs/test_compose.py",
    "DiSA": "no autoregressive model ships; its inner plans are tested in tests/runs/test_compose.py",
    "StoRM": "no trained speech network ships",
    "Resfusion": "no trained restorer ships; its step is tested in tests/plans/solvers/test_restoration.py",
    "EMDM": "no network with a random input ships; conditions for each step are tested in tests/runs/test_compose.py",
    "FK correctors": "the judge knows no mass of p^w q^(1-w); the law is tested in tests/runs/test_population.py",
}


LOG_P = "log p(class)"
CLAIMS = [
    Claim("StreamDiffusion RCFG", "guidance at half the evaluations", LOG_P, 8, rcfg, cfg, reward),
    Claim("StreamDiffusion batch", "1.5x the frames of a sequence", "frames/s", 4,
          lambda s: streamed(s, "batch"), lambda s, n: streamed(s, "sequence"), value, of_time=True,
          unit="round", has_longer=False),
    Claim("StreamDiffusion filter", "a still scene costs little", "frames per call", 4,
          lambda s: still(s, Similar()), lambda s, n: still(s, None), value, unit="run", has_longer=False),
    Claim("FK steering", "more reward than the best of N", LOG_P, SEARCH, populated, best_of, best_reward),
    Claim("SVDD", "more reward than the best of N", LOG_P, SEARCH,
          lambda s: populated(s, choice="one"), best_of, best_reward),
    Claim("RBF", "more reward than the best of N", LOG_P, SEARCH, rolled, best_of, best_reward),
    Claim("noise search", "more reward than more steps", LOG_P, SEARCH, searched, plain, reward),
    Claim("FIND", "a start that is rewarded, for all seeds", LOG_P, SEARCH, found, plain, reward),
    Claim("hallucination filter", "fewer samples off the data, 90 % kept", LOG_P, 20,
          filtered, lambda s, n: reward(s, plain(s, n)), value),
    Claim("Direct Inversion", "the source comes back", "PSNR of the source", 20,
          lambda s: inverted(s, 10, True), lambda s, n: inverted(s, max(n // 2, 2), False), returned),
    Claim("COW, RePaint", "inpainting that fits its surroundings", LOG_P, 28,
          repainted, lambda s, n: inpainted(s, f"ddpm:{max(n, 1)}"), reward),
    Claim("NeuralRemaster", "the layout of a picture, at no cost", "correlation", 10, from_phases, plain, layout),
    Claim("illustration sequences", "pictures alike, in fewer evaluations", "correlation", 6, story, one_noise, alike,
          unit="picture, each compared with all"),
    Claim("Denoising MCMC", "good samples in fewer evaluations", LOG_P, 14, chain, plain, reward),
    Claim("Any-Size-Diffusion", "no seams without overlap", "minus step at borders", 30,
          lambda s: wide(s, "ddim:10", True), lambda s, n: wide(s, f"ddim:{max(n // 2, 1)}", False), seams),
]  # fmt: skip


@dataclass(frozen=True)
class Timing:
    """Medians in milliseconds of the timed seeds: ours, the plain way, and the plain way at `longer` evaluations."""

    ours_ms: float
    plain_ms: float
    longer: int
    longer_ms: float
    is_steady: bool


def judged(model: str, setting: Setting, claim: Claim, timing: Timing, made: Sequence[Sequence[Floats]]) -> Line:
    """The figures of all seeds, with the times of some. Of a figure of time, the rounds that were timed."""
    if claim.of_time:
        few = replace(setting, seeds=setting.seeds[:TIMED])
        figures = tuple(claim.score(few, np.concatenate(each)) for each in made)
    else:
        longer = timing.longer
        made_by_plain = {n: claim.plain(setting, n) for n in {claim.evaluations, longer}}
        every = (claim.ours(setting), made_by_plain[claim.evaluations], made_by_plain[longer])
        figures = tuple(claim.score(setting, each) for each in every)
    ours, plainly, at_equal = figures
    return Line(
        *(model, claim.system, claim.claim, claim.figure, claim.evaluations),
        ours=float(ours.mean()),
        plain=float(plainly.mean()),
        gain=gain(ours, plainly),
        unit=claim.unit,
        ours_ms=timing.ours_ms,
        plain_ms=timing.plain_ms,
        at_equal_time=Longer(timing.longer, timing.longer_ms, float(at_equal.mean()), gain(ours, at_equal))
        if claim.has_longer
        else None,
        is_steady=timing.is_steady,
    )


def timed(setting: Setting, claim: Claim, rounds: int = ROUNDS) -> tuple[Timing, list[list[Floats]]]:
    """The time of the ways on a few seeds, in turns, and what they made. The plain way's evaluations at equal time
    follow from the ratio at equal evaluations, and are set right once by their own time."""
    s = replace(setting, seeds=setting.seeds[:TIMED])

    def plainly(evaluations: int) -> Way:
        return lambda s: claim.plain(s, evaluations)

    for attempt in range(ATTEMPTS):
        before = probe(s)
        in_turns(s, 1, claim.ours, plainly(claim.evaluations))  # warms up
        (ours, plain_ms), _ = in_turns(s, 1, claim.ours, plainly(claim.evaluations))
        longer = _evaluations(claim, claim.evaluations * ours / plain_ms)
        for _ in range(2):
            times, made = in_turns(s, rounds, claim.ours, plainly(claim.evaluations), plainly(longer))
            found = Timing(times[0], times[1], longer, times[2], 1 / STEADY < probe(s) / before < STEADY)
            wanted = _evaluations(claim, longer * found.ours_ms / found.longer_ms)
            if abs(wanted - longer) <= max(0.1 * longer, 1):
                break
            longer = wanted
        if found.is_steady or attempt == ATTEMPTS - 1:
            break
    return found, made


def _evaluations(claim: Claim, wanted: float) -> int:
    return min(max(round(wanted), 1), MOST * claim.evaluations)


def in_turns(s: Setting, rounds: int, *ways: Way) -> tuple[list[float], list[list[Floats]]]:
    """For each way the median milliseconds, and what it made in each round."""
    times: list[list[float]] = [[] for _ in ways]
    made: list[list[Floats]] = [[] for _ in ways]
    for _ in range(rounds):
        for number, way in enumerate(ways):
            begun = time.perf_counter()
            made[number].append(way(s))
            times[number].append(1000 * (time.perf_counter() - begun))
    return [median(each) for each in times], made


def probe(s: Setting) -> float:
    """Milliseconds of one call of the network, the median of nine."""
    plan, who = s.sampler.compile("ddim:1"), {s.condition: [0] * 8}
    network, u = s.sampler.network(plan, 8, who), s.sampler.draws(range(8))(0)
    network(0, plan.steps[0], u)
    (milliseconds,), _ = in_turns(s, 9, lambda _: np.asarray(network(0, plan.steps[0], u)[0]))
    return milliseconds


def opened(model: str, folder: Path, seeds: range, threads: int) -> Setting:
    export(ExportOptions(model, folder / model))
    sampler = load(folder / model, backend=OnnxRuntime(threads=threads))
    named = next(each.name for each in NAMED if each.source == model)
    judge = open_extractor(named, sampler.bundle.manifest.x_shape, threads)
    assert judge is not None
    (condition,) = sampler.bundle.manifest.conditions
    return Setting(sampler, judge, condition.name, seeds)


def main() -> int:
    models = [each.source for each in NAMED]
    parser = parser_of(__doc__)
    parser.add_argument("--model", action="append", choices=models, help="default: all")
    add_seeds(parser, 64, FIRST_SEED)
    parser.add_argument("--only", default="", help="systems whose name has this in it")
    parser.add_argument("--threads", type=int, default=0)
    add_json(parser)
    parser.add_argument("--page", action="store_true", help="write docs/measured/claims.md")
    options = parser.parse_args()
    if options.page and (options.model or options.only):
        parser.error("--page has all models and all systems: leave --model and --only out")
    wanted = [claim for claim in CLAIMS if options.only.lower() in claim.system.lower()]
    seeds = seeds_of(options)
    log = sys.stderr if options.json else sys.stdout
    with TemporaryDirectory() as folder:
        settings = {model: opened(model, Path(folder), seeds, options.threads) for model in options.model or models}
        timings = []
        for model, setting in settings.items():
            for claim in wanted:
                print(f"{model}: the time of {claim.system}", file=sys.stderr, flush=True)
                timings.append((model, setting, claim, *timed(setting, claim)))
        streams = stream_cost.measure(load(Path(folder) / models[0], "float32")) if options.page else []
        print("All times are taken. The machine may do other things beside the figures.", file=log, flush=True)
        lines = []
        for each in timings:
            lines.append(judged(*each))
            print(lines[-1], file=log, flush=True)
    if options.page:
        PAGE.write_text(written(lines, REASONS, options.seeds, streams))
    if options.json:
        found = [asdict(line) | {"pays": line.pays} for line in lines]
        print(json.dumps({"lines": found, "reasons": REASONS}, indent=1))
    elif not options.only:
        print(*(f"{system}: not measured, {reason}" for system, reason in REASONS.items()), sep="\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"claims: {error}")
