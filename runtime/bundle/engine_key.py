"""The key of an engine: every choice that it was built from. All of them must match the machine that runs it."""

import hashlib
import re

import msgspec

SCHEMA = 1
AMPERE = 80  # the oldest compute capability of hardware-compatible engines
AMPERE_ON = "sm80+"  # the device of an engine that runs on Ampere and on all later GPUs
ANY_DEVICE = "any"  # the device of a form, which its backend compiles when it loads it


class EngineKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Every choice that determines an engine. Engines built from equal keys are interchangeable.

    graph: sha256 of the ONNX file.
    weights: sha256 of each file that the graph refers to.
    batches: (smallest, preferred, largest) size of the inputs' leading axis.
    flags: settings of the builder that differ from its defaults.
    device: the compute capability it is compiled for, e.g. "sm89", or "sm80+" if it is hardware-compatible.
    multiprocessors: the number of multiprocessors of the GPU on which it was tuned. None if it was built without a GPU,
        for all GPUs of that capability.
    sizes: (smallest, preferred, largest) value of each free size of its inputs, such as "height".
    """

    graph: str
    weights: tuple[str, ...]
    batches: tuple[int, int, int]
    flags: dict[str, bool | int]
    backend: str
    backend_version: str
    device: str
    multiprocessors: int | None = None
    sizes: dict[str, tuple[int, int, int]] = {}

    @property
    def digest(self) -> str:
        """The sha256 of the key, which is `key` in a manifest."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


class Sidecar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON file of an engine. `convolutions` counts the engine's convolutions by the type they compute in."""

    schema: int
    key: str
    built_from: EngineKey
    sha256: str  # sha256 of the engine
    convolutions: dict[str, int]


class EngineFacts(msgspec.Struct, frozen=True):
    """The properties of this machine that an engine must match: the backend and the GPU.

    `device` is "sm" followed by the compute capability, such as "sm87".
    """

    backend: str
    backend_version: str
    device: str
    multiprocessors: int


def key_difference(built: EngineKey, graph: str, weights: tuple[str, ...], here: EngineFacts) -> str | None:
    """Return the first property in which an engine does not match the graph or this machine, with both values, as text.
    None if it matches.

    A version-compatible engine runs with its own and later versions of its backend, and a hardware-compatible one on
    Ampere and later GPUs. An engine that was tuned on a GPU runs only on that model, which is recognised by its number
    of multiprocessors.
    """
    if built.graph != graph or built.weights != weights:
        return f"graph: built from {built.graph[:12]}, but the bundle has {graph[:12]}"
    if built.backend != here.backend:
        return f"backend: built with {built.backend}, but this is {here.backend}"
    same = built.backend_version == here.backend_version
    later = _numbers(built.backend_version) <= _numbers(here.backend_version)
    if not (same or built.flags.get("version_compatible") and later):
        return f"backend_version: built with {built.backend_version}, but this is {here.backend_version}"
    if built.device == AMPERE_ON:
        return (
            None if capability(here.device) >= AMPERE else f"device: built for {AMPERE_ON}, but this is {here.device}"
        )
    if built.device != here.device:
        return f"device: built for {built.device}, but this is {here.device}"
    if built.multiprocessors not in (None, here.multiprocessors):
        return f"multiprocessors: built on {built.multiprocessors}, but this {here.device} has {here.multiprocessors}"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d{1,9}", version))


def capability(device: str) -> int:
    """Return the compute capability of a device: 89 for "sm89", 0 for anything else."""
    match = re.fullmatch(r"sm(\d{1,9})", device)
    return int(match[1]) if match else 0
