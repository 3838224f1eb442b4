"""Published systems that are composed from runs: what each claims, and what it is worth on the shipped models.

    python benchmarks/claims.py                          # both shipped models, in float32
    python benchmarks/claims.py --model fashion_mnist --seeds 16 --only SVDD

A line has the system's figure beside the plain way at equal evaluations of the network, and at equal milliseconds: the
plain way gets as many evaluations as take as long. A system that is not better at both does not pay, and the line says
so. Systems whose claim needs a checkpoint that is not here have a line with the reason. The machine should do nothing
else. Nothing here was tuned on the seeds it is judged on.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from claim_ways import (
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
    seams,
    searched,
    still,
    story,
    streamed,
    value,
    wide,
)

from fewstep.evaluation.distances.features import NAMED, open_extractor
from fewstep.export.export import ExportOptions, export
from fewstep.runs import Similar
from fewstep.runtime import UserError, load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime

FIRST_SEED = 10_000
MOST = 8  # times the evaluations, at equal time

Made = Any  # what a way makes: samples, or a number


@dataclass(frozen=True)
class Claim:
    """A system and the plain way, at so many evaluations per sample. `score` is the figure of what they make, and the
    larger is better. Making is timed, scoring is not."""

    system: str
    claim: str
    figure: str
    evaluations: int
    ours: Callable[[Setting], Made]
    plain: Callable[[Setting, int], Made]
    score: Callable[[Setting, Made], float]


@dataclass(frozen=True)
class Line:
    """What was found. Milliseconds are of all seeds together."""

    model: str
    system: str
    claim: str
    figure: str
    evaluations: int
    ours: float
    plain: float
    ours_ms: float
    plain_ms: float
    at_equal_ms: float

    @property
    def pays(self) -> bool:
        return self.ours > self.plain and self.ours > self.at_equal_ms

    def __str__(self) -> str:
        verdict = "pays" if self.pays else "does not pay"
        return (
            f"{self.model:<14}{self.system:<23}{self.figure}: {self.ours:.3f}, plain {self.plain:.3f} at "
            f"{self.evaluations} evaluations, {self.at_equal_ms:.3f} at equal time ({self.ours_ms:.0f} and "
            f"{self.plain_ms:.0f} ms): {verdict}. Claim: {self.claim}"
        )


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
          lambda s: streamed(s, "batch"), lambda s, n: streamed(s, "sequence"), value),
    Claim("StreamDiffusion filter", "a still scene costs little", "frames per call", 4,
          lambda s: still(s, Similar()), lambda s, n: still(s, None), value),
    Claim("FK steering", "more reward than the best of N", LOG_P, SEARCH, populated, best_of, best_reward),
    Claim("SVDD", "more reward than the best of N", LOG_P, SEARCH,
          lambda s: populated(s, choice="one"), best_of, best_reward),
    Claim("RBF", "more reward than the best of N", LOG_P, SEARCH,
          lambda s: populated(s, choice="best"), best_of, best_reward),
    Claim("noise search", "more reward than more steps", LOG_P, SEARCH, searched, plain, reward),
    Claim("FIND", "a start that is rewarded, for all seeds", LOG_P, SEARCH, found, plain, reward),
    Claim("hallucination filter", "fewer samples off the data, 90 % kept", LOG_P, 20,
          filtered, lambda s, n: reward(s, plain(s, n)), value),
    Claim("Direct Inversion", "the source comes back", "PSNR of the source", 20,
          lambda s: inverted(s, 10, True), lambda s, n: inverted(s, max(n // 2, 2), False), returned),
    Claim("COW, RePaint", "inpainting that fits its surroundings", LOG_P, 28,
          repainted, lambda s, n: inpainted(s, f"ddpm:{max(n, 1)}"), reward),
    Claim("NeuralRemaster", "the layout of a picture, at no cost", "correlation", 10, from_phases, plain, layout),
    Claim("illustration sequences", "pictures alike, in fewer evaluations", "correlation", 6, story, one_noise, alike),
    Claim("Denoising MCMC", "good samples in fewer evaluations", LOG_P, 14, chain, plain, reward),
    Claim("Any-Size-Diffusion", "no seams without overlap", "minus step at borders", 30,
          lambda s: wide(s, "ddim:10", True), lambda s, n: wide(s, f"ddim:{max(n // 2, 1)}", False), seams),
]  # fmt: skip


def measure(model: str, setting: Setting, claim: Claim) -> Line:
    """Each way is timed in its second run; the first one warms up."""
    ours, ours_ms = timed(lambda: claim.ours(setting))
    way, plain_ms = timed(lambda: claim.plain(setting, claim.evaluations))
    equal = min(round(claim.evaluations * ours_ms / plain_ms), MOST * claim.evaluations)
    longer = way if equal == claim.evaluations else claim.plain(setting, equal)
    of_ours, of_plain, at_equal = (claim.score(setting, made) for made in (ours, way, longer))
    about = (model, claim.system, claim.claim, claim.figure, claim.evaluations)
    return Line(*about, of_ours, of_plain, ours_ms, plain_ms, at_equal)


def timed(run: Callable[[], Made]) -> tuple[Made, float]:
    run()
    begun = time.perf_counter()
    return run(), 1000 * (time.perf_counter() - begun)


def opened(model: str, folder: Path, seeds: range, threads: int) -> Setting:
    export(ExportOptions(model, folder / model))
    sampler = load(folder / model, backend=OnnxRuntime(threads=threads))
    named = next(each.name for each in NAMED if each.source == model)
    judge = open_extractor(named, sampler.bundle.manifest.x_shape, threads)
    assert judge is not None
    (condition,) = sampler.bundle.manifest.conditions
    return Setting(sampler, judge, condition.name, seeds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=[each.source for each in NAMED], help="default: both")
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument("--only", help="systems whose name has this in it")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    wanted = [claim for claim in CLAIMS if (options.only or "").lower() in claim.system.lower()]
    lines = []
    with TemporaryDirectory() as folder:
        for model in options.model or [each.source for each in NAMED]:
            seeds = range(FIRST_SEED, FIRST_SEED + options.seeds)
            setting = opened(model, Path(folder), seeds, options.threads)
            for claim in wanted:
                lines.append(measure(model, setting, claim))
                print(lines[-1], file=sys.stderr if options.json else sys.stdout, flush=True)
    if options.json:
        print(
            json.dumps({"lines": [asdict(line) | {"pays": line.pays} for line in lines], "reasons": REASONS}, indent=1)
        )
    elif not options.only:
        print(*(f"{system}: not measured, {reason}" for system, reason in REASONS.items()), sep="\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"claims: {error}")
