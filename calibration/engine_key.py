"""What an engine was built from. It is native code: it may run only where everything here matches."""

import hashlib

import msgspec

SCHEMA = 1


class EngineKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every choice that shapes an engine. Equal keys mean that building again would give the same engine.

    graph: sha256 of the ONNX file; weights: of each file it refers to.
    batches: (least, preferred, greatest) leading axis of all inputs; the graph fixes their other axes.
    flags: settings of the builder that are not its defaults everywhere.
    device: the compute capability it is compiled for, e.g. "sm89".
    """

    graph: str
    weights: tuple[str, ...]
    batches: tuple[int, int, int]
    flags: dict[str, bool]
    backend: str
    backend_version: str
    device: str

    @property
    def digest(self) -> str:
        """sha256 of the key: what a manifest calls `key`."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


class Sidecar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON beside an engine. `convolutions` counts those of the engine by the type of what they multiply."""

    schema: int
    key: str
    built_from: EngineKey
    sha256: str  # of the engine
    convolutions: dict[str, int]
