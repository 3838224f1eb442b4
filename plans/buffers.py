"""What a solver's arithmetic combines while it is traced: noise, given tensors, rows, and results of the network."""

import msgspec

from fewstep.plans.symbol import Lin


class Draw(msgspec.Struct, frozen=True):
    """Standard normal noise with the number `draw`. It is generated again whenever it is read, with the same values.

    log_scale: the logarithm of a factor of the noise, a combination of outputs of one evaluation, or None. Such noise
        can be used only in the update of that evaluation's step.
    """

    draw: int
    log_scale: Lin | None = None


class Given(msgspec.Struct, frozen=True):
    """A tensor that the caller passes, of the shape of x. It can be read only at the start, and is stored in a state
    row if it is needed later."""

    name: str


class Ones(msgspec.Struct, frozen=True):
    """All ones. A tensor that is added without a state multiplies this buffer."""


class Stored(msgspec.Struct, frozen=True):
    """A state row written after `ready` evaluations (0: at the start). `value` is a linear combination of earlier
    buffers."""

    ready: int
    value: Lin


class Output(msgspec.Struct, frozen=True):
    """The raw network output of one evaluation, branch and head. It can be used only in the update of that evaluation's
    step."""

    evaluation: int
    branch: str
    head: int


class Shaped(msgspec.Struct, frozen=True):
    """The prediction of evaluation number `evaluation` after its shaping, as a buffer."""

    evaluation: int


class Predicted(msgspec.Struct, frozen=True):
    """A result of an evaluation, such as its x0 prediction. `value` gives it as a combination of earlier rows and the
    evaluation's outputs."""

    evaluation: int
    value: Lin


Buffer = Draw | Given | Ones | Stored | Output | Shaped | Predicted
