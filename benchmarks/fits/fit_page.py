"""The tables of docs/measured/fitting.md: fitted plans beside the best plans without a fit."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.fits.fit_judgement import Judged, Judgement
from benchmarks.markdown import table, with_part

PAGE = Path(__file__).parents[2] / "docs/measured/fitting.md"
SCRIPT = "benchmarks.fits.fit"
RATIOS = {4: 0.18, 5: 0.27, 6: 0.36, 8: 0.61, 10: 0.79}  # fitted over unfitted FID, published, by evaluations


def page(text: str, known: Iterable[Judgement]) -> str:
    """The page with these tables between its markers; its prose stays as it is."""
    known = list(known)
    for name, made in (
        ("gains", _gains),
        ("distances", _distances),
        ("gates", _gates),
        ("plans", _quality),
    ):
        text = with_part(text, f"{SCRIPT}, {name}", made(known))
    return text


def over(plan: Judged, other: Judged) -> str:
    """The gain of a plan over another, seed by seed, with its standard error."""
    each = np.subtract(plan.psnr, other.psnr)
    return f"{each.mean():+.1f} ± {each.std(ddof=1) / len(each) ** 0.5:.1f}"


def _gains(known: Sequence[Judgement]) -> str:
    rows = []
    for judgement in known:
        for plan in judgement.fitted():
            best, reached = judgement.best(plan.evaluations), judgement.reached(plan)
            rows.append(
                [
                    *_who(judgement, plan),
                    "" if best is None else f"{best.mean:.1f} `{best.plan}`",
                    f"{plan.mean:.1f}",
                    "" if best is None else over(plan, best),
                    _reached(judgement, reached),
                    str(len(plan.psnr)),
                ]
            )
    head = ["denoiser", "body", "evaluations", "best without a fit", "fitted", "gain", "evaluations reached", "seeds"]
    return table(head, rows)


def _reached(judgement: Judgement, count: int | None) -> str:
    tried = " ".join(map(str, judgement.counts))
    return f"{'none' if count is None else count} ({tried})"


def _gates(known: Sequence[Judgement]) -> str:
    rows = []
    for judgement in known:
        for plan in judgement.fitted():
            began = judgement.began(plan)
            if plan.gate is not None and began is not None:
                at_gate = f"{plan.gate.gain:+.1f} ± {plan.gate.error:.1f}"
                seeds = str(plan.gate.seeds)
                rows.append([*_who(judgement, plan), f"`{plan.began}`", over(plan, began), at_gate, seeds])
    head = ["denoiser", "body", "evaluations", "begun at", "gain over the beginning", "gain at the gate"]
    return table([*head, "seeds of the gate"], rows)


def _distances(known: Sequence[Judgement]) -> str:
    rows = []
    for judgement in known:
        for plan in judgement.fitted():
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
                        _reached(judgement, judgement.reached_in_distance(plan)),
                        str(len(plan.psnr)),
                    ]
                )
    head = ["denoiser", "body", "evaluations", "lowest without a fit", "fitted", "difference", "ratio"]
    return table([*head, "published ratio", "evaluations reached", "seeds"], rows)


def _quality(known: Sequence[Judgement]) -> str:
    rows = []
    for judgement in known:
        for plan in judgement.fitted():
            best = judgement.best(plan.evaluations) if plan.body == "float32" else None  # once, before float32's
            for each in (plan,) if best is None else (best, plan):
                rows.append(
                    [
                        *_who(judgement, each),
                        f"`{each.plan}`",
                        f"{np.quantile(each.psnr, 0.05):.1f}",
                        f"{min(each.psnr):.1f}",
                        f"{each.energy:.3f}",
                        f"{each.octave:.3f}",
                        f"{each.noise_gain:.1f}",
                        f"{each.frechet[0]:.2f}" if each.frechet else "",
                    ]
                )
    head = ["denoiser", "body", "evaluations", "plan", "5th percentile", "worst", "energy", "top octave", "noise gain"]
    return table([*head, "FD"], rows)


def _who(judgement: Judgement, plan: Judged) -> list[str]:
    return [f"`{judgement.denoiser}`, {judgement.guidance}", f"`{plan.body}`", str(plan.evaluations)]
