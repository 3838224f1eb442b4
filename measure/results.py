"""The measurements of a bundle: frozen structs, stored as JSON in the bundle, for programs that compare figures.

Every figure names its reference, and references are never mixed: the float32 body along the same plan (what
quantization costs), the float32 teacher of many steps (what the few steps cost, and what both cost together), and data.
"""

import msgspec

from fewstep.measure.rollouts.data_distance import TeacherDistance
from fewstep.measure.rollouts.end_quality import EndQuality
from fewstep.measure.speed.machine import Machine
from fewstep.measure.speed.race import Race
from fewstep.measure.teacher import TeacherCheck
from fewstep.plans.plan import DENOISER
from fewstep.plans.spec import Strict
from fewstep.runtime.bundle.figures import JudgeScore, ReferenceCheck, SizeQuality
from fewstep.runtime.bundle.manifest import CallTime, Coverage, Difference

SCHEMA = 1


class StepQuality(Strict, frozen=True):
    """One step of the plan: signal-to-noise ratios of int8 against float32 in dB, over all samples.

    forced: the ratio of the guided network output, with both networks on the float trajectory (the error of this step
        only). None if no seed has forced steps.
    guidance, condition: the ratios of cond - uncond, and of the output's change under a different condition, also on
        the float trajectory. None if there is no such difference, and in results of earlier versions.
    x0, x: the ratios of the predicted clean sample and of the state after the step, with each network on its own
        trajectory. They include the errors of earlier steps, which `forced` does not.
    """

    index: int
    time: float
    lam: float | None  # None: pure noise
    group: int
    forced: float | None
    x0: float
    x: float
    guidance: Difference | None = None
    condition: Difference | None = None
    network: str = DENOISER


class TokenStepQuality(Strict, frozen=True):
    """One step of a token plan, at the states of float32's run: the fraction of masked positions whose most likely
    token differs, and the mean KL divergence from float32's probabilities in nats."""

    index: int
    lam: float | None  # None: all positions are masked
    group: int
    disagreement: float
    divergence: float
    network: str = DENOISER


class TokenQuality(Strict, frozen=True):
    """The agreement of a body's tokens with float32's. `disagreement` is over all steps; `same` is the fraction of
    equal tokens at the end of separate runs."""

    disagreement: float
    same: float
    steps: tuple[TokenStepQuality, ...]


class JointError(Strict, frozen=True):
    """The errors of one joint of a policy's actions against float32's, in the robot's units.

    `spread` is the standard deviation of float32's actions. `levels` is the number of values that the joint can take, 0
    for a continuous joint. `moved` is the fraction of actions that are rounded to another of these values.
    """

    place: int  # index of the joint in an action
    rms: float
    p99: float
    largest: float
    spread: float
    levels: int = 0
    moved: float = 0.0

    @property
    def share(self) -> float:
        """The RMS error as a fraction of the spread. If the joint does not move (spread 0): 0 without error, else 1."""
        return self.rms / self.spread if self.spread else float(self.rms > 0)


class Distance(Strict, frozen=True):
    """The distances of one body's samples and of float32's samples from a reference set, as distributions.

    The body's and float32's samples come from the same seeds. `noise_floor` is the distance between two disjoint sets
    of float32 samples, i.e. the distance due to chance.
    """

    reference: str  # as text: "float32, dpmpp_2m:8, other seeds", or the name of the data
    samples: int  # number of samples in the body's set
    references: int  # number of samples in the reference set
    frechet: float
    frechet_float: float  # the distance of the float32 body's samples
    difference: float  # frechet - frechet_float
    low: float  # 95 % bootstrap interval of the difference
    high: float
    noise_floor: float = msgspec.field(name="floor")
    detectable: bool  # whether the difference is larger than chance explains


class ExtractorFacts(Strict, frozen=True):
    """The extractor used for distances. Distances by different extractors cannot be compared."""

    name: str
    sha256: str
    size: int  # number of features of a sample
    bias: float  # the expected noise floor for a Gaussian with the covariance of the features


class Quality(Strict, frozen=True):
    """The quality of one int8 body: how it was run, and its distance from float32, by sample and as a set.

    `joints` are for policies. Tokens have no teacher and no `steps`: their steps are in `tokens`. `distances` need a
    feature extractor. `graphs` are the files that were measured. If the body of that name now has other files, these
    results are out of date.
    """

    body: str
    target: str
    computed_by: str = msgspec.field(name="engine")  # an inference engine, or `body_backends.SIMULATION`
    against_float: EndQuality
    against_teacher: EndQuality | None
    steps: tuple[StepQuality, ...]
    forced_seeds: int  # number of seeds with forced steps, on the float trajectory
    joints: tuple[JointError, ...] = ()
    tokens: TokenQuality | None = None
    distances: tuple[Distance, ...] = ()
    graphs: tuple[str, ...] = ()
    reference: ReferenceCheck | None = None  # of float32's samples; None for tokens, and in earlier versions
    judged: JudgeScore | None = None  # the score by the user's judge; None without one
    by_size: tuple[SizeQuality, ...] = ()  # the quality against float32 at each size, if samples have several


class Operation(Strict, frozen=True):
    """A multiplying operation of a body: the work that it does, and its precision with the reason for it."""

    name: str
    kind: str
    channels: tuple[int, int] | None  # (in, out); None if no factor is a weight
    macs: int  # per sample
    precision: str  # int8, float, or the name of the float type
    reason: str  # reason for float; empty for int8


class BodyCoverage(Strict, frozen=True):
    """The coverage by int8 of one body in one network, in total and by operation.

    If the body has several graphs, `coverage` and `operations` are those of the main graph, which runs the last steps.
    `share` is over all steps of the plan that the network runs.
    """

    body: str
    coverage: Coverage
    operations: tuple[Operation, ...]
    share: float  # share of multiply-accumulates in int8
    network: str = DENOISER
    work: int = 1  # multiply-accumulates of the network's steps of the plan


class CallFigures(Strict, frozen=True):
    """The figures of a whole call with a body, along the judged plan: text encoder, conditioner, prologue, all steps
    and decoder.

    share_of_macs, share_of_bytes: the shares that are int8; None if they are unknown.
    time: the time of a call, as calibration measured it on the machine that it names; None if it did not.
    picture_psnr: PSNR in dB of each of the first pictures against float32's; empty if a call returns the samples.
    in_float32: sentences on the graphs that stay in float32, with the reason.
    networks: sentences on the quality of each network alone; empty for a single one.
    """

    body: str
    share_of_macs: float | None
    share_of_bytes: float | None
    time: CallTime | None = None
    picture_psnr: tuple[float, ...] = ()
    in_float32: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()

    @property
    def mean_picture_psnr(self) -> float | None:
        """The mean over the pictures; None without any."""
        return sum(self.picture_psnr) / len(self.picture_psnr) if self.picture_psnr else None


class Results(Strict, frozen=True):
    """All figures of one measurement or report. Figures that were not requested or do not apply are empty or None."""

    schema: int
    bundle: str
    plan: str  # name of the plan along which bodies and float32 are compared
    guidance: str | None  # the guidance: its weight, or the form with its numbers
    teacher: str | None  # name of the teacher's plan; None for tokens, and for a distilled denoiser
    batch: int  # number of seeds sampled at once
    float_against_teacher: EndQuality | None  # float32 against the teacher: the cost of few steps
    qualities: tuple[Quality, ...]  # one for each int8 body
    covered: tuple[BodyCoverage, ...]  # in a report, one for each int8 body in each network
    races: tuple[Race, ...]  # one for each batch size
    sizes: dict[str, int]  # body -> bytes of its graph and weights
    machine: Machine
    command: str
    seconds: float  # duration of the measurement
    notes: tuple[str, ...] = ()
    made: tuple[str, ...] = ()  # the commands that made the bundle
    teacher_check: TeacherCheck | None = None  # None in results of earlier versions
    teacher_distance: TeacherDistance | None = None  # from the data, if its statistics are stored
    unlike: tuple[str, ...] = ()  # sentences on bodies that were calibrated along another plan or with other options
    features: ExtractorFacts | None = None  # the extractor of distances; None without distances
    shaping: str | None = None  # the shaping of the plan's predictions, as text: "clipped to [-1, 1]"
    random_conditions: tuple[str, ...] = ()  # conditions of the judged samples whose values were drawn, not given
    fixed_conditions: tuple[str, ...] = ()  # conditions that had one value in all judged samples
    spinning: bool = True  # whether waiting threads spin while bodies are timed
    calls: tuple[CallFigures, ...] = ()  # in a report, one for each int8 body

    def call_of(self, body: str) -> CallFigures | None:
        """Return the figures of a whole call with a body; None outside a report."""
        return next((call for call in self.calls if call.body == body), None)

    def mean_picture_psnr(self, body: str) -> float | None:
        """Return the mean PSNR of a body's pictures against float32's, in dB; None if none were compared."""
        call = self.call_of(body)
        return None if call is None else call.mean_picture_psnr

    @property
    def further_teacher(self) -> str | None:
        """A sentence, without its end, if the teacher is further from the data than the judged plan; else None."""
        distance = self.teacher_distance
        if distance is None or self.teacher is None or not distance.is_further:
            return None
        return distance.describe(self.plan, self.teacher)

    def worst_ratio(self, body: str) -> float | None:
        """Return the lowest speedup of a body over the first timed body, over all batch sizes. None if the body was not
        timed."""
        return min(
            (timing.ratio for race in self.races for timing in race.timings if timing.name == body), default=None
        )

    def int8_share(self, body: str) -> float | None:
        """Return the fraction of a run's multiply-accumulates that a body computes in int8, over all its networks. None
        if it is unknown."""
        parts = [coverage for coverage in self.covered if coverage.body == body]
        return sum(part.share * part.work for part in parts) / sum(part.work for part in parts) if parts else None


def encode(results: Results) -> bytes:
    """Encode results as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(results), indent=1)


def decode(data: bytes) -> Results:
    """Decode results from JSON. Raises msgspec.DecodeError for anything else."""
    return msgspec.json.decode(data, type=Results)
