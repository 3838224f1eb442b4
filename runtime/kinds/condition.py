"""The manifest entry that describes a condition."""

from fewstep.plans.spec import Strict
from fewstep.runtime.kinds.graph_entry import DType


class Condition(Strict, frozen=True):
    """A named condition of the denoiser: one value of `shape` per sample.

    null, null_file: the value in the unconditional branch of guidance, as one number for each element or as an array.
    shared: whether all branches use the sample's value, as for a size or an image besides x. A denoiser has no
        unconditional form if one of its conditions has none of `null`, `null_file` and `shared`.
    default: the value of a sample for which none is given, flattened; a single number is broadcast.
    low, high: the limits of accepted values, both included.
    typical: the range of random values, which verification draws, and calibration if no data is given. None means the
        range from `low` to `high`.
    labels: names of the integers from 0.
    """

    name: str
    input: str  # the graph input it feeds
    shape: tuple[int, ...] = ()
    dtype: DType = "int64"
    null: float | None = None
    low: float | None = None
    high: float | None = None
    labels: tuple[str, ...] = ()
    typical: tuple[float | tuple[float, ...], float | tuple[float, ...]] | None = None
    null_file: str | None = None  # .npy of `shape`, for values such as the encoded empty prompt
    shared: bool = False
    default: tuple[float, ...] | None = None
    follows: dict[int, str] = {}  # axes of `shape` that follow x's free sizes: {1: "height", 2: "width*8"}
