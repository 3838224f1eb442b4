"""Tracing a solver: run its arithmetic once on symbolic states and write down every buffer it makes.

The rule that keeps plans short: what `start`, `noise`, `store` and `denoise` return is a buffer; any other expression
is a `Lin` over buffers and is folded into the next buffer. `rows.py` turns the record into a table.
"""

from dataclasses import dataclass, field

from fewstep.runtime import prediction
from fewstep.runtime.lin import Lin
from fewstep.runtime.manifest import Prediction
from fewstep.runtime.schedule import NoiseSchedule, Time


@dataclass(frozen=True)
class Draw:
    """Noise number `draw`, standard normal, made anew wherever it is read."""

    draw: int


@dataclass(frozen=True)
class Stored:
    """A state row written after `ready` evaluations (0: at the start); `value` is over earlier buffers."""

    ready: int
    value: Lin


@dataclass(frozen=True)
class Output:
    """Raw network output of one evaluation and one branch; gone after that evaluation's update."""

    evaluation: int
    branch: str


@dataclass(frozen=True)
class Shaped:
    """The x0 prediction of an evaluation after clipping."""

    evaluation: int


@dataclass(frozen=True)
class Predicted:
    """The x0 prediction of an evaluation: `value` over its input row and outputs (or its shaped prediction)."""

    evaluation: int
    value: Lin


Buffer = Draw | Stored | Output | Shaped | Predicted


@dataclass(frozen=True)
class Evaluation:
    """One call of the network: its input buffer, its output buffers in branch order, the shaped prediction's buffer
    if there is one, and x0 before shaping as a `Lin` over input and outputs."""

    time: Time
    input: int
    outputs: tuple[int, ...]
    shaped: int | None
    x0: Lin


@dataclass
class Tracer:
    """What a solver talks to. `branches` maps each branch to its weight in the guided output (weights sum to 1);
    `schedule` is for solvers that evaluate between the times they are given."""

    prediction: Prediction
    branches: dict[str, float]
    first: Time
    schedule: NoiseSchedule
    clipped: bool = False
    buffers: list[Buffer] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    draws: int = 0

    def _add(self, buffer: Buffer) -> Lin:
        self.buffers.append(buffer)
        return Lin({len(self.buffers) - 1: 1.0})

    def start(self) -> Lin:
        """x at the first time: sigma times the first draw."""
        return self.store(self.first.sigma * self.noise())

    def noise(self) -> Lin:
        """A fresh standard normal draw. One draw may be used several times."""
        self.draws += 1
        return self._add(Draw(self.draws - 1))

    def store(self, value: Lin) -> Lin:
        """Keep a combination as one row, where later arithmetic would otherwise keep all of its terms."""
        return self._add(Stored(len(self.evaluations), value))

    def denoise(self, x: Lin, time: Time) -> tuple[Lin, Lin]:
        """Evaluate the denoiser at (x, time): x as stored, and x0 after guidance and clipping."""
        prediction.check(self.prediction, time)
        evaluation = len(self.evaluations)
        x = self._as_row(x, evaluation)
        (row,) = x.terms
        a, b = prediction.x0_coefficients(self.prediction, time)
        outputs = [self._add(Output(evaluation, branch)) for branch in self.branches]
        x0 = a * x
        for output, weight in zip(outputs, self.branches.values(), strict=True):
            x0 = x0 + (b * weight) * output
        value = self._add(Shaped(evaluation)) if self.clipped else x0
        shaped = next(iter(value.terms)) if self.clipped else None
        ids = tuple(buffer for output in outputs for buffer in output.terms)
        self.evaluations.append(Evaluation(time, row, ids, shaped, x0))
        return x, self._add(Predicted(evaluation, value))

    def _as_row(self, x: Lin, evaluation: int) -> Lin:
        """x itself if it is a row written for this evaluation already (as `start` and `store` do), else a new row."""
        if list(x.terms.values()) == [1.0]:
            (only,) = x.terms
            buffer = self.buffers[only]
            if isinstance(buffer, Stored) and buffer.ready == evaluation:
                return x
        return self.store(x)


def guidance_branches(guidance: float | None) -> dict[str, float]:
    """Classifier-free guidance (Ho & Salimans 2022) o = o_uncond + w (o_cond - o_uncond), as weights of the branches.

    None or 1 evaluates the conditional branch alone, 0 the unconditional one.
    """
    weights = {"cond": 1.0} if guidance is None else {"cond": float(guidance), "uncond": 1.0 - float(guidance)}
    return {branch: weight for branch, weight in weights.items() if weight != 0.0}
