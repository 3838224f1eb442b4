"""LoRA slots of a bundle's graphs: the layers that may get a LoRA at run time, and the names of the inputs."""

from typing import Literal

from fewstep.runtime.kinds.kind import DescriptionProtocol, Kind

End = Literal["down", "up"]
ENDS: tuple[End, End] = ("down", "up")


class LoraSlots(Kind, frozen=True):
    """The layers with LoRA slots.

    rank: the largest rank of a layer; the ranks of several files add up.
    layers: each layer with a slot, and the shape [out, in, *kernel] of its weight.
    names: all layers with weights, with which the keys of LoRA files are resolved.
    graphs: for the conditioner, the prologue and the body, the layers whose slots they have.
    """

    rank: int
    layers: dict[str, tuple[int, ...]]
    names: tuple[str, ...]
    graphs: dict[str, tuple[str, ...]]

    def describe(self, of: DescriptionProtocol) -> str:
        return f"LoRA slots of {len(self.layers)} layers, ranks up to {self.rank}"


def slot_port(layer: str, end: End) -> str:
    """Return the name of a slot's optional input: down [r, in, *kernel] or up [out, r, *ones].

    For a linear layer both are transposed.
    """
    return f"lora_{end}.{layer}"


def slot_port_shape(layer: str, end: End, shape: tuple[int, ...]) -> tuple[int | str, ...]:
    """Return the shape of the input that `slot_port` names: the "down" or "up" factor (`end`) of a LoRA for a weight of
    shape `shape`, [out, in, *kernel]. Each layer's rank axis has its own name, since ranks may differ."""
    rank, (out, channels, *kernel) = f"rank.{layer}", shape
    if kernel:
        return (rank, channels, *kernel) if end == "down" else (out, rank, *[1] * len(kernel))
    return (channels, rank) if end == "down" else (rank, out)
