"""The code that the results of workers, counts and measurements follow from."""

from importlib import import_module

from fewstep.machine.code_digest import code_of

# By name: a digest reads the sources of rooms above this one, and runs nothing of them.
ROOMS = ("calibration", "graph", "lowering", "machine", "plans", "ranges", "rollouts", "runtime", "workers")
PACKAGES = tuple(import_module(f"fewstep.{room}") for room in ROOMS)


def code() -> bytes:
    """A digest of fewstep's version and of all Python sources of PACKAGES."""
    return code_of(PACKAGES)
