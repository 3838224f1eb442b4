"""The interface of a diffusers network from its config: the shape of x, and the conditions with the network's argument
names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from fewstep.export.sources.model_files import Config
from fewstep.pipelines.files.folder import Folder
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Condition

IMAGE = "image"  # argument of a condition that is concatenated to x along the channels
ADDED = "added."  # prefix of arguments that diffusers takes in a separate dict
TIME_IDS = f"{ADDED}time_ids"
SCORED = "requires_aesthetics_score"  # field of model_index.json
AESTHETIC_SCORE = "aesthetic_score"  # argument of a condition that is appended to the time ids
WRITE_IT = "write a function that returns (module, Spec): docs/export/diffusers.md, A class that is not in the table"
SAMPLE, HIDDEN_STATES = "sample", "hidden_states"  # the network's names for x

NamedCondition = tuple[Condition, str]  # a condition, and the network's argument name for it


@dataclass(frozen=True)
class Interface:
    """The interface of a network.

    arguments: the network's argument names for the conditions, in order; see `IMAGE` and `ADDED`.
    x: the network's argument name for x.
    time_scale: the factor by which the schedule's time is multiplied for the network.
    picture_first: whether the channels of an image come before those of x, not after them.
    heads: the number of its outputs; with 2, the second is the variance that the scheduler reads.
    """

    x_shape: tuple[int, ...]
    conditions: tuple[Condition, ...] = ()
    arguments: tuple[str, ...] = ()
    x: str = SAMPLE
    time_scale: float = 1.0
    picture_first: bool = False
    heads: int = 1


Reader = Callable[[Config, Folder], Interface]  # a function with the name of the network's class


def make_interface(
    config: Config,
    x_shape: tuple[int, ...],
    taken: Sequence[NamedCondition],
    *,
    x: str = SAMPLE,
    time_scale: float = 1.0,
    picture_first: bool = False,
) -> Interface:
    """Return the interface of a network. If the network has more input channels than x, the others are a condition that
    is an image."""
    more = int(config["in_channels"]) - x_shape[0]
    if more > 0:
        taken = [*taken, picture_condition(IMAGE, IMAGE, more, *x_shape[1:])]
    conditions, arguments = zip(*taken, strict=True) if taken else ((), ())
    return Interface(x_shape, tuple(conditions), tuple(arguments), x, time_scale, picture_first)


def read_x_shape(config: Config, dimensions: int = 2) -> tuple[int, ...]:
    """Return the shape [channels, *sizes] of x from a config. The number of input channels exceeds that of x if the
    network takes an image besides x; the number of output channels is twice that of x if the network predicts a
    variance."""
    channels_in, channels_out = int(config["in_channels"]), int(config.get("out_channels") or config["in_channels"])
    return (
        channels_in if channels_out == 2 * channels_in else channels_out,
        *read_sizes(config.get("sample_size"), dimensions),
    )


def read_sizes(size: object, dimensions: int) -> tuple[int, ...]:
    """Return the size of a sample along each axis from a config that has one number per axis, or one number for all.
    Raises UserError for anything else."""
    each = (size,) * dimensions if isinstance(size, int) else tuple(size) if isinstance(size, list | tuple) else ()
    lengths = tuple(length for length in each if isinstance(length, int) and length > 0)
    if len(lengths) != dimensions or len(each) != dimensions:
        raise UserError(
            f"sample_size {size!r} in config.json is not a size", "set it to the size that the network was trained on"
        )
    return lengths


def vector_condition(name: str, argument: str, *shape: int) -> NamedCondition:
    """Return a condition of floats. `argument` is its name in the network."""
    return Condition(name, argument.removeprefix(ADDED), shape, "float32"), argument


def setting_condition(
    name: str, argument: str, default: Sequence[float], typical: tuple[float, float]
) -> NamedCondition:
    """Return a condition that is a vector of floats and describes settings, not content. All branches of guidance use
    the same value."""
    taken, _ = vector_condition(name, argument, len(default))
    return replace(taken, default=tuple(map(float, default)), typical=typical, shared=True), argument


def number_condition(name: str, argument: str, default: float | None, typical: tuple[float, float]) -> NamedCondition:
    """Return a scalar condition, and `argument`, the network argument that takes it."""
    usual = None if default is None else (default,)
    return Condition(name, argument, (), "float32", default=usual, typical=typical, shared=True), argument


def picture_condition(
    name: str, argument: str, *shape: int, typical: tuple[float, float] | None = None
) -> NamedCondition:
    """Return a condition that is an image [*shape], with the same value in all branches of guidance, and the network
    argument that takes it.

    typical: mean and standard deviation of its values.
    """
    return replace(vector_condition(name, argument, *shape)[0], typical=typical, shared=True), argument


def refuse_unless(config: Config, network: str, **known: tuple[object, ...]) -> None:
    """Raise UserError if a field of the config has an unknown value."""
    for field, values in known.items():
        if config.get(field) not in values:
            raise UserError(f"fewstep does not read a {network} with {field} {config[field]!r}", WRITE_IT)
