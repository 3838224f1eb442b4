"""Sample spaces: what x is. A denoiser's samples are continuous, or they are ids of a vocabulary.

`Description.space` is the space of a denoiser. Code that serves both spaces calls its methods, and does not test which
space it is. How samples of a space are run is in `fewstep.runtime.sampling.execution`.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError, quote_path
from fewstep.plans.tokens.plan import USUAL
from fewstep.runtime.kinds.kind import DescriptionProtocol, Kind

LARGEST = 1.001  # largest magnitude of stored samples in [-1, 1], including rounding errors of other programs


class SampleSpace(Protocol):
    """What the rest of the package needs to know about the space of samples, continuous or tokens."""

    @property
    def dtype(self) -> Literal["float32", "int64"]:
        """The dtype of x in memory and in the inputs of a graph."""

    @property
    def logits(self) -> tuple[int, ...]:
        """The sizes of the axes that a prediction has after those of x: the vocabulary for tokens, none otherwise."""

    @property
    def fill(self) -> int:
        """A valid value for all elements of x."""

    @property
    def default_plan(self) -> str:
        """The name of the plan that is used if neither the caller nor the bundle names one."""

    @property
    def needs_time(self) -> bool:
        """Whether every network must take a time."""

    @property
    def fixes_shape(self) -> bool:
        """Whether a plan is for samples of one shape."""

    @property
    def has_squared_error(self) -> bool:
        """Whether samples are compared by squared errors, as PSNR does. Bounds of quality apply only to such spaces."""

    @property
    def ranges(self) -> tuple[str, ...]:
        """The allowed values of x, as text for messages; empty unless they are integers."""

    @property
    def file_content(self) -> str:
        """The content of a file of samples, for messages."""

    def random_x(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
        """Return a random x [B, ...], like that of a run's early steps."""

    def file_problem(self, array: NDArray[Any], head: int) -> str | None:
        """Return what is wrong with the values of stored samples, or None. Of float samples only the first `head` are
        read."""

    def from_file(self, array: NDArray[Any]) -> NDArray[Any]:
        """Convert samples as stored in a file to samples as used in a run."""

    def check_continuous(self, path: Path, verb: str) -> None:
        """Raise UserError if a verb that supports only continuous samples cannot take the bundle at `path`."""


class ContinuousSpace:
    """Samples are float32 in the model range [-1, 1]."""

    dtype: ClassVar[Literal["float32"]] = "float32"
    logits: ClassVar[tuple[int, ...]] = ()
    fill: ClassVar[int] = 0
    default_plan: ClassVar[str] = "dpmpp_2m:8"
    needs_time: ClassVar[bool] = True
    fixes_shape: ClassVar[bool] = False
    has_squared_error: ClassVar[bool] = True
    ranges: ClassVar[tuple[str, ...]] = ()
    file_content: ClassVar[str] = "uint8, or of floats in [-1, 1]"

    def random_x(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
        return rng.standard_normal(shape, np.float32)

    def file_problem(self, array: NDArray[Any], head: int) -> str | None:
        if array.dtype == np.uint8:
            return None
        if not np.issubdtype(array.dtype, np.floating):
            return f"holds {array.dtype}"
        return "holds values outside [-1, 1]" if float(np.abs(array[:head]).max()) > LARGEST else None

    def from_file(self, array: NDArray[Any]) -> NDArray[Any]:
        return array.astype(np.float32) / 127.5 - 1 if array.dtype == np.uint8 else array.astype(np.float32)

    def check_continuous(self, path: Path, verb: str) -> None:
        pass


CONTINUOUS = ContinuousSpace()


class Vocabulary(Kind, frozen=True):
    """The token ids of a token denoiser, 0 to size - 1. The network returns one logit per id.

    At masked positions the network receives the id `mask`, which may be one of the ids or a larger number.
    """

    FIX: ClassVar = "give Vocabulary(size, mask) and prediction='logits', or neither"
    NOUN: ClassVar = "a vocabulary"
    EXPERTS: ClassVar = "none"
    SECOND_TIME: ClassVar = False

    dtype: ClassVar[Literal["int64"]] = "int64"
    default_plan: ClassVar[str] = USUAL
    needs_time: ClassVar[bool] = False
    fixes_shape: ClassVar[bool] = True
    has_squared_error: ClassVar[bool] = False

    size: int
    mask: int

    @property
    def logits(self) -> tuple[int, ...]:
        return (self.size,)

    @property
    def fill(self) -> int:
        return self.mask

    @property
    def ranges(self) -> tuple[str, ...]:
        return (f"ids to {self.size - 1}, the mask {self.mask}",)

    @property
    def file_content(self) -> str:
        return f"ids from 0 to {self.size - 1}"

    def random_x(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
        """Return random token ids of this shape. In each sample, a random fraction of the positions is masked."""
        ids = rng.integers(0, self.size, shape)
        return np.where(rng.random(shape) < rng.random((shape[0], *(1 for _ in shape[1:]))), self.mask, ids)

    def file_problem(self, array: NDArray[Any], head: int) -> str | None:
        is_of_ids = array.dtype.kind in "iu" and array.min() >= 0 and array.max() < self.size
        return None if is_of_ids else "has numbers that are not ids"

    def from_file(self, array: NDArray[Any]) -> NDArray[Any]:
        return array.astype(np.int64)

    def check_continuous(self, path: Path, verb: str) -> None:
        what = f"{path} is a token denoiser, and {verb} supports only continuous samples"
        fix = f"compare bodies with fewstep report {quote_path(path)}, and plans with fewstep measure, --plan and -o"
        raise UserError(what, fix)

    def problem(self, of: DescriptionProtocol) -> str | None:
        if of.prediction != "logits":
            return f"a denoiser that predicts {of.prediction} has a vocabulary"
        if self.size < 2 or self.mask < 0 or of.heads > 1:
            return f"a vocabulary of {self.size} ids, mask {self.mask}, in {of.heads} heads"
        others = {"carried tensors": of.carried, "named outputs": of.outputs}
        return next((f"a token denoiser cannot have {what}" for what, has in others.items() if has), None)

    def describe(self, of: DescriptionProtocol) -> str:
        return f"tokens of {self.size} ids, {self.mask} at masked positions"
