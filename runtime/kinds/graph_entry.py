"""A graph of a bundle: its files and its ports."""

from typing import Literal

from fewstep.plans.spec import Strict

# Prefixes of ports: a carried tensor "kv" is taken as "carried_kv" and returned as "next_kv". Named outputs have NAMED.
CARRIED, NEXT, NAMED = "carried_", "next_", "named_"
Role = Literal[
    "x", "time", "to", "condition", "row", "group", "carried", "output", "named", "ids", "mask", "latent", "image"
]
DType = Literal["float32", "float16", "int64", "int32", "uint8", "int8", "bool"]


class TensorEntry(Strict, frozen=True):
    """One input or output of a graph. `shape` counts in elements. "batch" stands for the dynamic leading axis, the name
    of a size, or a term of it ("height/8"), for a free one."""

    name: str
    role: Role
    shape: tuple[int | str, ...]
    dtype: DType = "float32"


class GraphEntry(Strict, frozen=True):
    """An ONNX file of the bundle (paths are relative to the bundle and use forward slashes)."""

    file: str
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    data: tuple[str, ...] = ()  # external weight files the graph refers to
