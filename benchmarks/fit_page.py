"""docs/measured/fitting.md, written from judgements: fitted plans beside the best plans without a fit."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from fit_judgement import Judged, Judgement
from solvers_on_model import table

PAGE = Path(__file__).parent.parent / "docs/measured/fitting.md"
OTHERS = ("rows", "told", "olss", "times")  # methods that are not the default
TUNED_ON = ("dit_flow",)  # the settings of the fit were chosen on it

RATIOS = {4: 0.18, 5: 0.27, 6: 0.36, 8: 0.61, 10: 0.79}  # fitted over unfitted FID, published, by evaluations

INTRODUCTION = """# Fitted plans

[Fitted plans](../fitting.md) beside the best plans without a fit ([nominal.md](nominal.md)). Quality is
the mean PSNR in dB of samples to those of the float32 [teacher](../design.md#words). No number and no
choice of a fit has seen the seeds of these figures. No gate has seen them either, except where the number
of seeds is marked. Errors are standard errors. Those of gains are smaller, since seeds are compared one by
one. `python benchmarks/fit.py` writes this page.

The settings of the fit were tuned on `dit_flow`, so that its rows are no test of the method. On the other
denoisers nothing was chosen but the default grid and the list of plans that a fit may begin as. Both
follow from the tables of nominal.md. The float32 plans of 4 and 5 evaluations of `fashion_mnist` are of an
older fit, on fewer seeds. It did not yet try to begin at `unipc_2@arctan(power=1.5)`, which is the best
plan without a fit there. A fit of 4 evaluations that begins there has 29.5 dB, but an FD of 41.8, and is
not shipped. The plan of `cifar10` is of 32 seeds. The fits to int8 went on from older float32 plans. Only
the plan of `cifar10` and that of 4 evaluations have the teacher's energy by the last stage of the fit.
"""

GAINS = """## Gains

The best plan without a fit is that of float32, for all bodies. It is the best on the seeds of this page,
of the plan that nominal.md found and of those that fits begin at. The last but one column is the largest
number of evaluations at which the fitted plan is no worse than the best plan without a fit. The numbers
that were tried are in brackets. Plans of 7 evaluations are of a search like that of
nominal.md on 16 seeds, and of where a fit may begin.

{table}
"""

GATES = """## The gates

A fitted plan is kept by its gain over the plan that it began as, on 64 or fewer seeds of a gate. That gain
is a little optimistic. Beside it stands the gain on the seeds of this page.

{table}
"""

DISTANCES = """## Distances between sets

FD is taken between the samples of a plan and those of the teacher from the same seeds, in the features of
the [extractor](../evaluation.md) of the data. The plan without a fit is the one with the lowest FD at so
many evaluations. Errors are by {resamples} draws of the seeds. The published ratio is of FID: a plan that
was fitted by gradients over the best one without a fit, on CIFAR-10 (arXiv 2510.17699, table 2, and S4S at
5). Published figures compare with the data, ours with the teacher.

{table}
"""

CLASSES = """## Classes that a fit has not seen

Rows alone were fitted, with `--method rows`, to all classes and to all but one. These fits are short: 16
seeds, and one measurement of the columns. The figures are of samples of that one class.

{table}
"""

PUBLISHED = """## Published searches

The methods of [fitting.md](../fitting.md#published-searches), on the same seeds of the fit.

{table}
"""

QUALITY = """## The plans themselves

Energy is the mean square of samples relative to the teacher's, and the top octave is that of the finest
details alone. The noise gain is the sum of the coefficients that a sample has over all predictions,
without their signs.

{table}
"""

TOLD = """## The times that the network is told

Each time is of the plan in the column *begun at*, with the difference of the fitted plan. A fit to int8 may go
on from the plan that was fitted to float32.

{table}
"""


def page(known: Iterable[Judgement]) -> str:
    """The whole page in Markdown."""
    known = list(known)
    resamples = max((len(plan.frechet) - 1 for each in known for plan in each.plans), default=0)
    parts = [
        INTRODUCTION,
        GAINS.format(table=_gains(known)),
        DISTANCES.format(table=_distances(known), resamples=resamples) if resamples > 0 else "",
        GATES.format(table=_gates(known)) if any(each.is_apart for each in known) else "",
        CLASSES.format(table=_classes(known)) if any(each.left_out for each in known) else "",
        PUBLISHED.format(table=_published(known)) if any(e.fitted(m) for e in known for m in OTHERS) else "",
        QUALITY.format(table=_quality(known)),
        TOLD.format(table=_told(known)),
    ]
    return "\n".join(part for part in parts if part)


def _published(known: Sequence[Judgement]) -> str:
    """The methods side by side, wherever one that is not the default was measured."""
    rows = []
    for judgement in known:
        asked = {(each.body, each.evaluations) for method in OTHERS for each in judgement.fitted(method)}
        for body, evaluations in sorted(asked):
            for method in ("end", *OTHERS):
                for plan in judgement.fitted(method):
                    if (plan.body, plan.evaluations) == (body, evaluations):
                        best, began = judgement.best(evaluations), judgement.began(plan)
                        rows.append(
                            [
                                *_who(judgement, plan),
                                f"`{method}`",
                                "" if began is None else f"{began.mean:.1f} `{began.plan}`",
                                f"{plan.mean:.1f}",
                                "" if began is None else over(plan, began),
                                "" if best is None else over(plan, best),
                            ]
                        )
    head = ["denoiser", "body", "evaluations", "`--method`", "begun at", "fitted", "gain over the beginning"]
    return table([*head, "gain over the best"], rows)


def over(plan: Judged, other: Judged) -> str:
    """The gain of a plan over another, seed by seed, with its standard error."""
    return gain(plan.psnr, other.psnr)


def gain(psnr: Sequence[float], other: Sequence[float]) -> str:
    """The mean difference of figures of the same seeds, with its standard error."""
    each = np.subtract(psnr, other)
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
                    f"{len(plan.psnr)}{'' if judgement.is_apart else ', of the gate'}",
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
            if plan.gate is not None and began is not None and judgement.is_apart:
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


def _classes(known: Sequence[Judgement]) -> str:
    rows = []
    for judgement in known:
        for each in judgement.left_out:
            rows.append(
                [
                    f"`{judgement.denoiser}`, {judgement.guidance}",
                    str(each.evaluations),
                    each.value,
                    f"{np.mean(each.nominal):.1f}",
                    gain(each.of_all, each.nominal),
                    gain(each.without, each.nominal),
                    gain(each.without, each.of_all),
                    str(len(each.nominal)),
                ]
            )
    head = ["denoiser", "evaluations", "class", "without a fit", "gain fitted to all", "gain fitted without it"]
    return table([*head, "difference", "seeds"], rows)


def _quality(known: Sequence[Judgement]) -> str:
    rows = []
    for judgement in known:
        for plan in judgement.fitted():
            best = judgement.best(plan.evaluations)
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


def _told(known: Sequence[Judgement]) -> str:
    rows = []
    for judgement in known:
        for plan in judgement.fitted():
            pairs = zip(plan.told_before, plan.told, strict=True)
            rows.append([*_who(judgement, plan), ", ".join(f"{was:.4g} {now - was:+.3g}" for was, now in pairs)])
    return table(["denoiser", "body", "evaluations", "told times"], rows)


def _who(judgement: Judgement, plan: Judged) -> list[str]:
    tuned = " (tuned on)" if judgement.denoiser in TUNED_ON else ""
    return [f"`{judgement.denoiser}`{tuned}, {judgement.guidance}", f"`{plan.body}`", str(plan.evaluations)]
