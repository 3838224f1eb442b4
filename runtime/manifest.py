"""What a bundle's manifest.json holds: the schema, as frozen structs that msgspec validates while reading.

Nothing here touches a file; `bundle.py` reads manifests and `fewstep.graph.commit` writes them.
"""

from typing import Literal

import msgspec

SCHEMA = 1

Role = Literal["x", "time", "condition", "row", "group", "output"]
DType = Literal["float32", "float16", "int64", "int32", "uint8", "int8", "bool"]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every struct of a bundle: immutable, and an unknown field is an error rather than a silent loss."""


class Tensor(Strict, frozen=True):
    """One input or output of a graph. `shape` counts in elements; "batch" stands for the dynamic leading axis."""

    name: str
    role: Role
    shape: tuple[int | str, ...]
    dtype: DType = "float32"


class Graph(Strict, frozen=True):
    """An ONNX file of the bundle (paths are relative to the bundle and use forward slashes)."""

    file: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    data: tuple[str, ...] = ()  # external weight files the graph refers to


class Coverage(Strict, frozen=True):
    """What runs in int8, counted in the optimized graph. MACs are per sample."""

    int8_macs: int
    total_macs: int
    int8_ops: tuple[str, ...]
    float_ops: tuple[str, ...]  # weighted ops left in float


class Body(Strict, frozen=True):
    """One deployable form of the denoiser: what runs N times a sample.

    `groups` are increasing edges of lambda = log(alpha / sigma); a step with lambda in [edge_g-1, edge_g) uses group g,
    so k edges make k + 1 groups. No edges: one group, and the graph has no "group" input.
    """

    graph: Graph
    precision: Literal["float32", "float16", "int8"]
    target: str  # "portable", "cpu-x86", "cpu-arm", "tensorrt", "openvino"
    groups: tuple[float, ...] = ()
    plan: str | None = None  # the plan it was calibrated along
    coverage: Coverage | None = None


class Condition(Strict, frozen=True):
    """A named condition of the denoiser: one value of `shape` per sample.

    `null` fills the unconditional branch (None: the denoiser has no unconditional form). Integers must lie in
    [low, high]; `labels`, if any, name the integers from 0.
    """

    name: str
    input: str  # the graph input it feeds
    shape: tuple[int, ...] = ()
    dtype: DType = "int64"
    null: float | None = None
    low: float | None = None
    high: float | None = None
    labels: tuple[str, ...] = ()


class ScheduleSpec(Strict, frozen=True):
    """Parameters of a noise schedule; `schedule.py` gives them meaning. Betas are used by kind "linear" only."""

    kind: Literal["linear", "cosine", "flow"]
    timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02


Prediction = Literal["epsilon", "sample", "v", "flow"]


class Engine(Strict, frozen=True):
    """A built engine. `key` is everything that must match for it to be loaded; the side-car JSON repeats it."""

    file: str
    sidecar: str
    body: str
    backend: str
    device: str
    key: str


class Provenance(Strict, frozen=True):
    """Where a bundle comes from. No user, host or path: a bundle is meant to be given away."""

    source: str  # a shipped model's name, or FILE:FUNCTION without the folder
    source_sha256: str
    versions: dict[str, str]
    commands: tuple[str, ...]


class Manifest(Strict, frozen=True):
    """The commit record of a bundle: what is not named here does not exist."""

    schema: int
    name: str
    x_shape: tuple[int, ...]  # one sample, without the batch axis, e.g. (1, 28, 28)
    conditions: tuple[Condition, ...]
    prediction: Prediction
    schedule: ScheduleSpec
    prologue: Graph | None
    bodies: dict[str, Body]
    provenance: Provenance
    files: dict[str, str]  # path -> sha256 of every file of the bundle but the manifest
    plans: dict[str, str] = {}  # plan name -> file
    engines: tuple[Engine, ...] = ()
    ranges: str | None = None
    verification: str | None = None  # JSON table: torch against ONNX
    report: str | None = None
    results: str | None = None  # JSON: the report's figures
