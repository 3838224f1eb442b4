"""The tables of lab/measured/fitting.md: fitted plans next to the best plans without a fit."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.fits.fit_judgement import Judged, Judgement
from benchmarks.markdown import table, with_part

PAGE = Path(__file__).parents[2] / "lab/measured/fitting.md"
SCRIPT = "benchmarks.fits.fit"
RATIOS = {4: 0.18, 5: 0.27, 6: 0.36, 8: 0.61, 10: 0.79}  # fitted over unfitted FID, published, by evaluations


def page(text: str, known: Iterable[Judgement]) -> str:
    """The page with these tables between its markers; its prose stays as it is."""
    known = list(known)
    for name, made in (("gains", _gains), ("distances", _distances)):
        text = with_part(text, f"{SCRIPT}, {name}", made(known))
    return text


def over(plan: Judged, other: Judged) -> str:
    """Return the gain of a plan over another, by seed, with its standard error."""
    each = np.subtract(plan.psnr, other.psnr)
    return f"{each.mean():+.1f} ± {each.std(ddof=1) / len(each) ** 0.5:.1f}"


def _gains(known: Sequence[Judgement]) -> str:
    rows = []
    for judgement in known:
        for plan in judgement.fits():
            best, reached = judgement.best(plan.evaluations), judgement.equivalent_evaluations(plan)
            rows.append(
                [
                    *_who(judgement, plan),
                    "" if best is None else f"{best.mean:.1f} `{best.plan}`",
                    f"{plan.mean:.1f}",
                    "" if best is None else over(plan, best),
                    "" if best is None else f"{_low(best):.1f}, {_low(plan):.1f}",
                    _describe_count(judgement, reached),
                    str(len(plan.psnr)),
                ]
            )
    head = ["denoiser", "body", "evaluations", "best without a fit", "fitted", "gain", "5th percentiles"]
    return table([*head, "evaluations reached", "seeds"], rows)


def _low(plan: Judged) -> float:
    return float(np.quantile(plan.psnr, 0.05))


def _describe_count(judgement: Judgement, count: int | None) -> str:
    tried = " ".join(map(str, judgement.counts))
    return f"{'none' if count is None else count} ({tried})"


def _distances(known: Sequence[Judgement]) -> str:
    rows = []
    for judgement in known:
        for plan in judgement.fits():
            nearest = judgement.nearest(plan.evaluations)
            if plan.frechet and nearest is not None:
                less = np.subtract(plan.frechet, nearest.frechet)
                rows.append(
                    [
                        *_who(judgement, plan),
                        f"{nearest.frechet[0]:.2f} `{nearest.plan}`",
                        f"{plan.frechet[0]:.2f}",
                        f"{less[0]:+.2f} ± {less[1:].std(ddof=1):.2f}",
                        f"{plan.frechet[0] / nearest.frechet[0]:.2f}",
                        f"{RATIOS[plan.evaluations]:.2f}" if plan.evaluations in RATIOS else "",
                        _describe_count(judgement, judgement.equivalent_evaluations_by_distance(plan)),
                        str(len(plan.psnr)),
                    ]
                )
    head = ["denoiser", "body", "evaluations", "lowest without a fit", "fitted", "difference", "ratio"]
    return table([*head, "published ratio", "evaluations reached", "seeds"], rows)


def _who(judgement: Judgement, plan: Judged) -> list[str]:
    return [f"`{judgement.denoiser}`, {judgement.guidance}", f"`{plan.body}`", str(plan.evaluations)]
