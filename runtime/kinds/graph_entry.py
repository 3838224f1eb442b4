"""Manifest entries of a graph: its files, inputs and outputs."""

from typing import Literal

from fewstep.plans.spec import Strict

# Prefixes of ports: a graph takes a carried tensor "kv" as "carried_kv" and returns it as "next_kv". NAMED is the
# prefix of named outputs.
CARRIED, NEXT, NAMED = "carried_", "next_", "named_"
Role = Literal[
    "x",
    "time",
    "to",
    "condition",
    "row",
    "group",
    "carried",
    "output",
    "named",
    "ids",
    "mask",
    "latent",
    "image",
    "video",
    "sound",
]
DType = Literal["float32", "float16", "int64", "int32", "uint8", "int8", "bool"]


class TensorEntry(Strict, frozen=True):
    """An input or output of a graph. Its `shape` is in elements.

    In the shape, "batch" is the dynamic leading axis. A free axis is given as the name of a size, or as a term of it
    ("height/8").
    """

    name: str
    role: Role
    shape: tuple[int | str, ...]
    dtype: DType = "float32"


class GraphEntry(Strict, frozen=True):
    """An ONNX file of the bundle. Paths are relative to the bundle and use forward slashes.

    `probe` are numbers of its outputs when it was exported (`runtime/backends/probe.py`), by which other machines check
    their engines; () if there is none.
    """

    file: str
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    data: tuple[str, ...] = ()  # external weight files the graph refers to
    probe: tuple[tuple[float, ...], ...] = ()
