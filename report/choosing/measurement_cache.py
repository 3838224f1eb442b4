"""Measurements of a choice in the user's cache folder, each under the name of all that it follows from."""

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
from fewstep.runtime.machine.packages import installed_versions

SCHEMA = 11  # of what is kept, and how it is measured
KIND: cache.Purpose = "choices"
PACKAGES = (fewstep.plans, fewstep.runtime)  # whose code a choice follows from

Value = TypeVar("Value")


def cache_key(*facts: object) -> str:
    """The name under which a measurement is kept. It changes with the facts, and with the processor, GPUs, versions of
    engines and fewstep's code."""
    here = (
        SCHEMA,
        this_cpu(),
        [(gpu.name, gpu.driver) for gpu in these_gpus()],
        installed_versions(),
        digest_code(PACKAGES),
    )
    return sha256(msgspec.json.encode((here, facts))).hexdigest()[:32]


def read_cached(name: str, kind: type[Value]) -> Value | None:
    """The measurement under a name; None where none was kept, or none that this version reads."""
    content = cache.read(KIND, name)
    with suppress(msgspec.DecodeError):
        return None if content is None else msgspec.json.decode(content, type=kind)
    return None


def write_cached(name: str, value: object) -> None:
    cache.store(KIND, name, msgspec.json.encode(value))
