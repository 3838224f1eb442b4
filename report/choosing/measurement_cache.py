"""A cache of measurements made for a choice, in the user's cache folder. The key is a hash of everything that
determines the measurement."""

from contextlib import suppress
from hashlib import sha256
from typing import TypeVar

import msgspec

import fewstep.plans
import fewstep.runtime
from fewstep.runtime.machine import cache
from fewstep.runtime.machine.code_digest import digest_code
from fewstep.runtime.machine.cpu import this_cpu
from fewstep.runtime.machine.gpu import these_gpus
from fewstep.runtime.machine.packages import package_versions

SCHEMA = 15  # version of the stored measurements and of the way they are measured
KIND: cache.Purpose = "choices"
PACKAGES = (fewstep.plans, fewstep.runtime)  # packages whose code invalidates the cache when it changes

Value = TypeVar("Value")


def cache_key(*facts: object) -> str:
    """Return the key of a cached measurement: a hash of `facts`, of the processor, GPUs and engine versions, and of
    fewstep's code."""
    here = (
        SCHEMA,
        this_cpu(),
        [(gpu.name, gpu.driver) for gpu in these_gpus()],
        package_versions(),
        digest_code(PACKAGES),
    )
    return sha256(msgspec.json.encode((here, facts))).hexdigest()[:32]


def machine_facts() -> dict[str, str]:
    """Return the properties of this machine and of the installed code that are part of every cache key, as texts by
    name."""
    gpus = ", ".join(f"{gpu.name} (driver {gpu.driver})" for gpu in these_gpus())
    facts = {"processor": str(this_cpu()), "code of fewstep": f"{SCHEMA} {digest_code(PACKAGES).hex()}", "GPU": gpus}
    return {**facts, **package_versions()}


def read_cached(name: str, kind: type[Value]) -> Value | None:
    """Return the measurement cached under a name; None if there is none, or if another version wrote it."""
    content = cache.read(KIND, name)
    with suppress(msgspec.DecodeError):
        return None if content is None else msgspec.json.decode(content, type=kind)
    return None


def write_cached(name: str, value: object) -> None:
    cache.store(KIND, name, msgspec.json.encode(value))
