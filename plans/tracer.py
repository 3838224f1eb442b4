"""The tracer runs a solver's arithmetic once on symbolic states and records every buffer.

One rule keeps plans short: `start`, `given`, `noise`, `store`, `denoise` and `outputs` return buffers. Any other
expression is a `Lin` over buffers and is folded into the next buffer. `state_rows.py` converts the buffers to tables.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from fewstep.plans import guidance as guide
from fewstep.plans import prediction
from fewstep.plans.buffers import Buffer, Draw, Given, Ones, Output, Predicted, Shaped, Stored
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import COND, UNCOND, Guidance
from fewstep.plans.plan import DENOISER, IMAGE
from fewstep.plans.schedule import NoiseSchedule, Time
from fewstep.plans.shaping import GuidedShaping, Project, Shaping
from fewstep.plans.spec import DenoiserFacts, NetworkFacts, Prediction
from fewstep.plans.symbol import Lin, weighted_sum


class Evaluation(msgspec.Struct, frozen=True):
    """One call of the network on `input`, a linear combination of buffers.

    outputs: the buffers of the outputs, all heads of the first branch, then those of the second, and so on.
    shaping_of: the values that the shaping reads; empty without shaping.
    shaped: the buffer of the shaping's result, or None.
    x0: the predicted x0, a linear combination of buffers.
    estimate: the x0 of the previous evaluation, which a self-conditioned network receives; None for other networks.
    """

    network: str
    time: Time
    to: Time | None
    input: Lin
    branches: tuple[str, ...]
    outputs: tuple[int, ...]
    shaping_of: tuple[Lin, ...]
    shaped: int | None
    x0: Lin
    estimate: Lin | None = None


@dataclass
class Tracer:
    """The trace of a solver's run. Solvers that evaluate between the given times read `schedule`."""

    denoiser: DenoiserFacts
    first: Time
    schedule: NoiseSchedule
    guidance: Guidance | None = None
    shaping: Shaping | None = None
    from_image: bool = False  # start from the given image, noised, rather than from noise
    renoise: float = 1.0  # share of that noise: 1 noises the image to the first time, 0 leaves it unchanged
    buffers: list[Buffer] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    draws: int = 0
    _reverts_to: Lin | None = None  # the row of y
    _reference: Lin = field(default_factory=lambda: Lin({}))  # for Residual guidance: x0 of the unconditional branch
    _average: Lin = field(default_factory=lambda: Lin({}))  # for projected guidance: the average of the differences
    _estimate: Lin = field(default_factory=lambda: Lin({}))  # for self-conditioning: x0 of the last evaluation, first 0

    def _add(self, buffer: Buffer) -> Lin:
        self.buffers.append(buffer)
        return Lin({len(self.buffers) - 1: 1.0})

    @property
    def prediction(self) -> Prediction:
        """The denoiser's prediction type. `network` returns that of the network that runs at a time."""
        return self.denoiser.prediction

    @property
    def heads(self) -> int:
        """The number of outputs of the denoiser per branch."""
        return self.denoiser.heads

    @property
    def towards(self) -> str | None:
        """The name of the given tensor y to which the noising process reverts (see `start`); None if it ends in pure
        noise."""
        return self.denoiser.towards

    def network(self, time: Time) -> NetworkFacts:
        """Return the network that is evaluated at a time."""
        main = NetworkFacts(DENOISER, math.inf, self.prediction, self.heads, self.denoiser.steers)
        return next((network for network in self.denoiser.networks if time.lam < network.until), main)

    def start(self) -> Lin:
        """Return x at the first time: sigma times the first draw, plus alpha times the image if there is one.

        With a `renoise` r below 1 the factors are r sigma and sqrt(1 - r^2 + r^2 alpha^2). At 0 the image is unchanged
        (RTI-DP: Duan et al. 2025, arXiv 2508.05396). At 1 it is noised to the first time (SDEdit: Meng et al. 2022,
        arXiv 2108.01073).

        In restoration, noising reverts to a tensor y: x_t = alpha x0 + (1 - alpha) y + sigma eps, which starts at
        y + sigma eps. Solvers then see x - (1 - alpha) y, for which all their formulas hold, and the network sees x.
        An interpolant replaces 1 - alpha by its share.
        """
        noise = self.first.sigma * self.noise()
        if self.towards is not None:
            self._reverts_to = self.given(self.towards)
            return self.store(self.first.alpha * self._reverts_to + noise)
        if not self.from_image:
            return self.store(noise)
        if isinstance(self.guidance, guide.Residual) and self.guidance.kind == "self":
            self._reference = self.given(IMAGE)
        r = self.renoise
        kept = self.first.alpha if r == 1 else math.sqrt(1 - r**2 + (r * self.first.alpha) ** 2)
        image = kept * self._add_given(IMAGE)
        return self.store(image + r * noise if r else image)

    def reverts_to(self) -> Lin:
        """Return the tensor y to which the noising process reverts, as a state row. Raises UserError if the denoiser
        names no such tensor."""
        if self._reverts_to is None:
            raise UserError(
                "this solver restores a degraded sample, and the denoiser does not name that tensor",
                'export it with towards="y", the name of that tensor',
            )
        return self._reverts_to

    def add_share(self, x: Lin, time: Time) -> Lin:
        """Return the network's x for a solver's x at a time: the fraction of y is added if noising reverts to y."""
        return x if self._reverts_to is None else x + self.schedule.share(time) * self._reverts_to

    def given(self, name: str) -> Lin:
        """Return a tensor [B, *x_shape] that the caller passes, as a row. Call this before the first evaluation."""
        return self.store(self._add_given(name))

    def _add_given(self, name: str) -> Lin:
        if self.evaluations:
            raise TypeError(
                f"a solver reads {name!r} after its first evaluation: given tensors exist at the start only"
            )
        for number, buffer in enumerate(self.buffers):
            if isinstance(buffer, Given) and buffer.name == name:
                return Lin({number: 1.0})
        return self._add(Given(name))

    def ones(self) -> Lin:
        """Return all ones; `bias * trace.ones()` adds a tensor."""
        return self._add(Ones())

    def noise(self) -> Lin:
        """Return a new draw of standard normal noise. It may be used several times."""
        self.draws += 1
        return self._add(Draw(self.draws - 1))

    def noise_of_learned_variance(self, least: float, most: float) -> Lin:
        """Return new noise with the variance that the network predicted at the last evaluation, in its second output v:
        log variance = (1 + v) / 2 log(most) + (1 - v) / 2 log(least) (Nichol & Dhariwal 2021, arXiv 2102.09672,
        equation 15). It is that of the conditional branch."""
        last = self.evaluations[-1]
        heads, branch = len(last.outputs) // len(last.branches), COND if COND in last.branches else last.branches[0]
        if heads < 2:
            raise UserError(
                "this solver needs a learned variance, and the denoiser has one output",
                "export it with heads=2 and the variance as its second output, or use a solver of a fixed variance",
            )
        v = Lin({last.outputs[last.branches.index(branch) * heads + 1]: 1.0})
        self.draws += 1
        noise = self._add(Draw(self.draws - 1, (math.log(most) - math.log(least)) / 4 * v))
        return math.sqrt(math.sqrt(most * least)) * noise

    def store(self, value: Lin) -> Lin:
        """Store a combination as one row. Otherwise later arithmetic keeps all of its terms."""
        return self._add(Stored(len(self.evaluations), value))

    def denoise(self, x: Lin, time: Time, to: Time | None = None, *, keep_noise: bool = False) -> tuple[Lin, Lin]:
        """Evaluate the denoiser at (x, time). Return x as stored, and x0 after guidance and shaping.

        `to` is the time at which the step ends, which some networks take too (consistency trajectory models). With
        CFG++ the returned x is shifted so that (x, x0) imply the unconditional noise, which any solver then adds back.
        `keep_noise` shifts x so that (x, x0) imply the noise that the network predicted, even if shaping changed x0.
        """
        if self._reverts_to is not None and self.network(time).prediction == "velocity":
            raise UserError(
                "this solver needs x0, but the velocity of a path from a sample y to the data does not determine it",
                "use the solver interpolant",
            )
        x, outputs, x0 = self._evaluate(x, time, to)
        evaluation = len(self.evaluations) - 1
        if isinstance(self.guidance, guide.CfgPlusPlus):
            unguided = self._x0(x, outputs[UNCOND][0], time)
            moved = self._add(Predicted(evaluation, x + time.alpha * (x0 - unguided)))
            return moved, self._as_row(x0, evaluation)
        if keep_noise and self.shaping is not None and not isinstance(self.shaping, GuidedShaping):
            (unshaped,) = self.evaluations[-1].shaping_of
            x = self._add(Predicted(evaluation, x + time.alpha * (x0 - unshaped)))
        return x, self._as_row(x0, evaluation)

    def outputs(self, x: Lin, time: Time, to: Time | None = None) -> tuple[Lin, tuple[Lin, ...]]:
        """Evaluate the denoiser at (x, time). Return the stored x, and the denoiser's outputs after guidance, one per
        head."""
        if self.shaping is not None or isinstance(self.guidance, guide.CfgPlusPlus | guide.Steer):
            form = "steering" if isinstance(self.guidance, guide.Steer) else "CFG++"
            option = form if self.shaping is None else f"shaping {self.shaping}"
            fix = "leave it out; --clip inf leaves out a clip of the calibration, in Python shaping=UNCLIPPED"
            what = f"{option} acts on x0, but this solver reads the network's outputs"
            raise UserError(what, "leave it out" if self.shaping is None else fix)
        self._check_same_outputs("a solver that reads the network's outputs")
        x, outputs, _ = self._evaluate(x, time, to)
        evaluation = len(self.evaluations) - 1
        weights = guide.branch_weights(self.guidance, evaluation, time.lam)
        heads = [self._apply_guidance(outputs, weights, head) for head in range(self.heads)]
        return x, tuple(self._add(Predicted(evaluation, head)) for head in heads)

    def _evaluate(self, x: Lin, time: Time, to: Time | None) -> tuple[Lin, dict[str, list[Lin]], Lin]:
        """Record an evaluation. Return x as stored in a state row, the network's outputs by branch, and x0. With
        shaping, x0 is computed from the result of the shaping."""
        network = self.network(time)
        prediction.check_prediction(network.prediction, time, self.schedule.spec)
        evaluation = len(self.evaluations)
        x = self._store_input(x, evaluation)
        if self.towards is not None and self._reverts_to is None:
            raise UserError(
                f"this solver starts from a given tensor, but the denoiser restores {self.towards!r}",
                "use a solver that starts from noise",
            )
        seen = self.add_share(x, time)
        # which branches are evaluated
        weights = guide.branch_weights(self.guidance, evaluation, time.lam)
        estimated = guide.is_estimated(self.guidance, evaluation)
        branches = tuple(branch for branch in weights if not (estimated and branch == UNCOND))
        outputs = {
            branch: [self._add(Output(evaluation, branch, head)) for head in range(network.heads)]
            for branch in branches
        }
        ids = tuple(buffer for heads in outputs.values() for output in heads for buffer in output.terms)
        # combine their outputs
        if isinstance(self.guidance, guide.Residual):
            outputs = self._replace_uncond(x, outputs, evaluation, time)
        guided = self._apply_guidance(outputs, weights, 0)
        shaping_of: tuple[Lin, ...] = ()
        shaped: int | None = None
        if isinstance(self.shaping, GuidedShaping) and len(weights) > 1:  # shape the combined output, before x0
            form = self.shaping if isinstance(self.shaping, Project) else None
            value = guided if form is None else self._average_difference(form, outputs, evaluation)
            if form is None or evaluation >= form.start:
                shaping_of = (value, self._conditional(outputs))
                result = self._add(Shaped(evaluation))
                (shaped,) = result.terms
                guided = result if form is None else _project(form, result, outputs, weights[COND])
        # convert it to x0, and shape that
        x0 = self._x0(x, guided, time)
        if network.steers and (factor := guide.gradient_factor(self.guidance, evaluation, time.alpha, time.sigma)):
            x0 = x0 + factor * outputs[COND][1]
        if self.shaping is not None and not isinstance(self.shaping, GuidedShaping):
            shaping_of = (x0,)
            x0 = self._add(Shaped(evaluation))
            (shaped,) = x0.terms
        scale = prediction.input_scale(network.prediction, time, self.schedule.spec)
        estimate = self._estimate if self.denoiser.self_condition else None
        self.evaluations.append(
            Evaluation(network.name, time, to, scale * seen, branches, ids, shaping_of, shaped, x0, estimate)
        )
        if self.denoiser.self_condition:
            x0 = self._estimate = self._add(Predicted(evaluation, x0))
        return x, outputs, x0

    def _conditional(self, outputs: dict[str, list[Lin]]) -> Lin:
        """Return the output of the conditional branch, which the shaping needs. Raises UserError if the guidance has no
        such branch."""
        if COND not in outputs:
            name = type(self.shaping).__name__
            raise UserError(
                f"{name} needs the branch {COND!r}, and the guidance has {', '.join(map(repr, outputs))}",
                f"name one branch {COND!r}, or leave {name} out",
            )
        return outputs[COND][0]

    def _average_difference(self, form: Project, outputs: dict[str, list[Lin]], evaluation: int) -> Lin:
        """Return the average of the differences of the outputs up to an evaluation."""
        if set(outputs) != {COND, UNCOND}:
            named = ", ".join(map(repr, outputs))
            raise UserError(
                f"projected guidance needs the branches {COND!r} and {UNCOND!r}, and the guidance has {named}",
                "give a guidance weight, or leave Project out",
            )
        difference = outputs[COND][0] - outputs[UNCOND][0]
        if form.momentum:
            difference = difference + form.momentum * self._average
            self._average = self._add(Predicted(evaluation, difference))
        return difference

    def _x0(self, x: Lin, output: Lin, time: Time) -> Lin:
        predicts = self.network(time).prediction
        if predicts == "velocity" and self._reverts_to is not None:  # not x0 or eps: the end of a straight line
            return self.add_share(x, time) - time.network / self.schedule.path.last * output
        a, b = prediction.x0_coefficients(predicts, time, self.schedule.spec)
        x0 = a * x + b * output
        return x0 + self.reverts_to() if predicts == "residual" else x0

    def _check_same_outputs(self, asks: str) -> None:
        """Raise UserError if the networks of a plan differ in prediction or heads: a solver could not combine their
        outputs."""
        for network in self.denoiser.networks:
            if (network.prediction, network.heads) != (self.prediction, self.heads):
                same = network.prediction == self.prediction
                own = f"predict {network.prediction} and {self.prediction}"
                raise UserError(
                    f"{asks}, for networks that {f'return {network.heads} and {self.heads} outputs' if same else own}",
                    "use another form, or networks with the same prediction and number of outputs",
                )

    def _apply_guidance(self, outputs: dict[str, list[Lin]], weights: dict[str, float], head: int) -> Lin:
        return weighted_sum(weights.values(), (outputs[branch][head] for branch in weights))

    def _replace_uncond(
        self, x: Lin, outputs: dict[str, list[Lin]], evaluation: int, time: Time
    ) -> dict[str, list[Lin]]:
        """Replace the unconditional output by the output that corresponds to the noise between x and the reference
        (residual guidance)."""
        assert isinstance(self.guidance, guide.Residual)
        reference = self._reference
        if UNCOND in outputs:  # the first step of "onetime", before the reference is a row
            reference = self._x0(x, outputs[UNCOND][0], time)
            self._reference = self._add(Predicted(evaluation, reference))
        delta = self.guidance.delta
        implied = delta * reference
        if delta != 1:
            if time.alpha == 0:
                raise UserError(
                    "Residual guidance with delta below 1 does not work from pure noise",
                    "leave delta at 1, or start from an image",
                )
            implied = implied + (1 - delta) / time.alpha * x
        a, b = prediction.x0_coefficients(self.network(time).prediction, time, self.schedule.spec)
        return {COND: outputs[COND], UNCOND: [(implied - a * x) / b]}

    def _as_row(self, x0: Lin, evaluation: int) -> Lin:
        """Return an evaluation's x0 as a row. If the network is self-conditioned, it already is a row."""
        return x0 if self.denoiser.self_condition else self._add(Predicted(evaluation, x0))

    def _store_input(self, x: Lin, evaluation: int) -> Lin:
        """Return x as a state row: x itself if it was already written for this evaluation (by `start` or `store`),
        otherwise a new row."""
        if len(x.terms) == 1:
            ((only, coefficient),) = x.terms.items()
            buffer = self.buffers[only]
            if isinstance(buffer, Stored) and buffer.ready == evaluation and np.all(coefficient == 1):
                return x
        return self.store(x)


Solver = Callable[[Tracer, Sequence[Time]], Lin]


def _project(form: Project, projected: Lin, outputs: dict[str, list[Lin]], weight: float) -> Lin:
    """Return the guided output from the projected difference and the weight of guidance."""
    if form.from_uncond:
        return outputs[UNCOND][0] + weight * projected
    return outputs[COND][0] + (weight - 1) * projected
