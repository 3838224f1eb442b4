"""Results of plans on one denoiser: figures by seed, and the plan that each is compared with."""

import msgspec
import numpy as np

GATED = 10_000  # the first of the held-out seeds may be those of a gate


class Judged(msgspec.Struct, frozen=True):
    """One plan on one body. psnr: of each held-out seed, in dB. method: of the fit; None for a plan without one.
    frechet: FD, then that of each draw of the seeds; empty without an extractor for the data.
    """

    plan: str
    body: str
    digest: str
    method: str | None
    evaluations: int
    psnr: tuple[float, ...]
    frechet: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.psnr))


class Judgement(msgspec.Struct, frozen=True):
    """The plans of one denoiser, at one guidance, all on the same seeds, against the same teacher."""

    denoiser: str
    guidance: str
    teacher: str
    plans: tuple[Judged, ...]

    def fits(self) -> list[Judged]:
        found = [plan for plan in self.plans if plan.method is not None]
        return sorted(found, key=lambda each: (each.body != "float32", each.body, each.evaluations))

    def best(self, evaluations: int) -> Judged | None:
        """The best plan of a number of evaluations without a fit, in float32."""
        known = [each for each in self._nominal if each.evaluations == evaluations]
        return max(known, key=lambda each: each.mean, default=None)

    def nearest(self, evaluations: int) -> Judged | None:
        """The plan of a number of evaluations without a fit whose FD is lowest, in float32."""
        known = [each for each in self._nominal if each.evaluations == evaluations and each.frechet]
        return min(known, key=lambda each: each.frechet[0], default=None)

    @property
    def counts(self) -> list[int]:
        """The numbers of evaluations at which there is a plan without a fit."""
        return sorted({each.evaluations for each in self._nominal})

    def equivalent_evaluations(self, plan: Judged) -> int | None:
        """The largest number of evaluations at which the plan is no worse than the best without a fit."""
        known = ((count, self.best(count)) for count in self.counts)
        return max((count for count, best in known if best and best.mean <= plan.mean), default=None)

    def equivalent_evaluations_by_distance(self, plan: Judged) -> int | None:
        """The largest number of evaluations at which no plan without a fit has a lower FD."""
        known = ((count, self.nearest(count)) for count in self.counts)
        return max((count for count, best in known if best and best.frechet[0] >= plan.frechet[0]), default=None)

    @property
    def _nominal(self) -> list[Judged]:
        return [plan for plan in self.plans if plan.method is None and plan.body == "float32"]
