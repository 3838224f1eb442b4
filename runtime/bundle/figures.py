"""Measured numbers with their limits, as a manifest stores them: of float32's own samples, and of a user's judge."""

from fewstep.plans.spec import Strict


class Figure(Strict, frozen=True):
    """A measured number with the limit that it must keep.

    is_most: whether the limit is the largest allowed value; otherwise it is the smallest. problem: the clause of a
        verdict if the limit is missed.
    """

    name: str
    value: float
    limit: float
    is_most: bool
    problem: str

    @property
    def is_kept(self) -> bool:
        """Whether the limit is kept; False for NaN."""
        return self.value <= self.limit if self.is_most else self.value >= self.limit


class ReferenceCheck(Strict, frozen=True):
    """Whether float32's own samples are usable, so that bodies can be compared with them.

    figures: the figures of float32's samples. instead: the name of a plan of more steps whose samples keep all limits;
        None if these samples do, or if none was found. tried: the most steps of the plans that were tried; 0 if none.
    """

    figures: tuple[Figure, ...] = ()
    instead: str | None = None
    tried: int = 0

    @property
    def problem(self) -> str | None:
        """What is wrong with float32's samples, such as "float32 itself: all its values are equal"; None if nothing
        is."""
        missed = next((figure for figure in self.figures if not figure.is_kept), None)
        if missed is None:
            return None
        said = f"; more steps, up to {self.tried}, are not usable either" if self.tried else ""
        if self.instead is not None:
            said = f"; the samples of --plan {self.instead} are usable"
        return f"float32 itself: {missed.problem}{said}"


class JudgeScore(Strict, frozen=True):
    """The score of samples by a judge, a user's own measure (`fewstep.measure.judges`).

    score, float32: the mean score of the samples, and of the references in their place, each with its limit.
    sha256: the hash of the files of the judge's code. seeds: the number of samples.
    score_range: the range of the mean score on other seeds (`quality_range`); None if the judge returned one score for
        all samples, and for few seeds.
    """

    score: Figure
    float32: Figure
    sha256: str
    seeds: int
    score_range: tuple[float, float] | None = None

    @property
    def problem(self) -> str | None:
        """The clause of a verdict if the samples miss the limit, such as "scores 0.4 by edges, less than 0.5"; None if
        they keep it. It is about float32 if float32 misses its own limit too."""
        if self.score.is_kept:
            return None
        if self.float32.is_kept:
            return self.score.problem
        return f"{self.score.problem}, but float32 itself {self.float32.problem}"

    @property
    def is_certain(self) -> bool:
        """Whether the score reaches its limit, also at the low end of its range on other seeds."""
        return self.score.is_kept and (self.score_range is None or self.score_range[0] >= self.score.limit)

    @property
    def text(self) -> str:
        """The score as a clause: "scores 0.93 (0.91 to 0.95) by edges, at least its limit 0.9"."""
        if (problem := self.problem) is not None:
            return problem
        ends = "" if self.score_range is None else f" ({self.score_range[0]:.4g} to {self.score_range[1]:.4g})"
        return f"scores {self.score.value:.4g}{ends} by {self.score.name}, at least its limit {self.score.limit:.4g}"


class Together(Strict, frozen=True):
    """The quality of samples that the bodies of all networks of a bundle make together, against float32. The fields are
    those of `Trial`."""

    psnr: float
    p5: float
    seeds: int
    snr: float | None = None
    unrelated: float | None = None


class SizeQuality(Strict, frozen=True):
    """The quality of the samples of one size: the mean PSNR in dB against float32, over `seeds` seeds. It is None if no
    judged sample has this size.

    worst, worst_seed: the lowest PSNR of a sample, and its seed; None in bundles of earlier versions.
    """

    sizes: dict[str, int]
    psnr: float | None
    seeds: int
    worst: float | None = None
    worst_seed: int | None = None
