"""docs/measured/fitting.md, written from judgements: fitted plans beside the best plans without a fit."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from solvers_on_model import table

PAGE = Path(__file__).parent.parent / "docs/measured/fitting.md"
OTHERS = ("rows", "told", "olss", "times")  # methods that are not the default
TUNED_ON = ("dit_flow",)  # the settings of the fit were chosen on it

INTRODUCTION = """# Fitted plans

[Fitted plans](../fitting.md) beside the best plans without a fit ([nominal.md](nominal.md)). Quality is
the mean PSNR in dB of samples to those of the float32 [teacher](../design.md#words), on seeds that no
number and no choice of a fit has seen. The gate that keeps a fitted plan has seen the first 64 of them.
Errors are standard errors. Those of gains are smaller, since seeds are compared one by one.
`python benchmarks/fit.py` writes this page.

The settings of the fit were tuned on `dit_flow`, so that its rows are no test of the method. On the other
denoisers nothing was chosen but the default grid and the list of plans that a fit may begin as. Both
follow from the tables of nominal.md. The plans of 4 and 5 evaluations of `fashion_mnist` are of an older
fit, on fewer seeds. That of `cifar10` is of 32 seeds of the fit.
"""

GAINS = """## Gains

The best plan without a fit is that of float32, for all bodies: of those in nominal.md, and of those that
fits begin at. The last but one column is the largest number of evaluations at which the fitted plan is
no worse than the best plan without a fit.

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

Each time is of the plan that the fit began as, with what the fit added.

{table}
"""


class Judged(msgspec.Struct, frozen=True):
    """One plan on one body. psnr: of each held-out seed, in dB. began: the plan that a fitted one began as; None for
    one without a fit. method: of the fit. told, told_before: the times that the network is told by both."""

    plan: str
    body: str
    digest: str
    began: str | None
    method: str | None
    evaluations: int
    psnr: tuple[float, ...]
    energy: float
    octave: float
    noise_gain: float
    frechet: float | None
    told: tuple[float, ...]
    told_before: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.psnr))


class Judgement(msgspec.Struct, frozen=True):
    """The plans of one denoiser, at one guidance, all on the same seeds against the same teacher."""

    denoiser: str
    guidance: str
    teacher: str
    plans: tuple[Judged, ...]

    def fitted(self, method: str = "end") -> list[Judged]:
        found = [each for each in self.plans if each.method == method]
        return sorted(found, key=lambda each: (each.body != "float32", each.body, each.evaluations))

    def best(self, evaluations: int) -> Judged | None:
        """The best plan of so many evaluations without a fit, in float32."""
        known = [each for each in self._nominal if each.evaluations == evaluations]
        return max(known, key=lambda each: each.mean, default=None)

    def began(self, plan: Judged) -> Judged | None:
        return next((each for each in self.plans if each.body == plan.body and each.plan == plan.began), None)

    def reached(self, plan: Judged) -> int | None:
        """The largest number of evaluations at which the plan is no worse than the best without a fit."""
        counts = sorted({each.evaluations for each in self._nominal})
        return max((count for count in counts if (best := self.best(count)) and best.mean <= plan.mean), default=None)

    @property
    def _nominal(self) -> list[Judged]:
        return [each for each in self.plans if each.began is None and each.body == "float32"]


def page(known: Iterable[Judgement]) -> str:
    """The whole page in Markdown."""
    known = list(known)
    return "\n".join(
        [
            INTRODUCTION,
            GAINS.format(table=_gains(known)),
            PUBLISHED.format(table=_published(known)),
            QUALITY.format(table=_quality(known)),
            TOLD.format(table=_told(known)),
        ]
    )


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
    gain = np.subtract(plan.psnr, other.psnr)
    return f"{gain.mean():+.1f} ± {gain.std(ddof=1) / len(gain) ** 0.5:.1f}"


def _gains(known: Sequence[Judgement]) -> str:
    rows = []
    for judgement in known:
        for plan in judgement.fitted():
            best, began = judgement.best(plan.evaluations), judgement.began(plan)
            reached = judgement.reached(plan)
            rows.append(
                [
                    *_who(judgement, plan),
                    "" if best is None else f"{best.mean:.1f} `{best.plan}`",
                    "" if began is None else f"{began.mean:.1f} `{began.plan}`",
                    f"{plan.mean:.1f}",
                    "" if best is None else over(plan, best),
                    "" if began is None else over(plan, began),
                    "" if reached is None else str(reached),
                    str(len(plan.psnr)),
                ]
            )
    head = ["denoiser", "body", "evaluations", "best without a fit", "begun at", "fitted", "gain over the best"]
    return table([*head, "gain over the beginning", "evaluations reached", "seeds"], rows)


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
                        "" if each.frechet is None else f"{each.frechet:.2f}",
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
