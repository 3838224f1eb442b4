"""The targets that graphs are lowered for; a new target is a module with a `Target` value, both called by its name.

A `Target` says where its bodies run by its `platform`, a row of `runtime/bundle/platforms.py`, which lists the targets.
The runtime chooses an int8 body by these rows, without calibration. A plugin `target.NAME` is one more. A target's
module is imported when its name is asked for.
"""

from importlib.metadata import EntryPoint

from fewstep.calibration.lowering.scheme import Target
from fewstep.plans.errors import UserError
from fewstep.plans.names.named_code import GROUP, loaded, plugins
from fewstep.runtime.bundle import platforms

USUAL = (platforms.CPU_X86.name, platforms.TENSORRT.name)  # what is lowered for unless others are asked for


def target_names() -> tuple[str, ...]:
    """The names of the targets, with plugins' behind."""
    return tuple(_entry_points())


def named_target(name: str) -> Target:
    """The target of a name. UserError for an unknown name, and for a plugin that is no `Target`."""
    known = _entry_points()
    if name not in known:
        raise UserError(f"unknown target {name!r}", f"choose from {', '.join(known)}")
    target = loaded(known[name])
    if not isinstance(target, Target) or target.name != name:
        fix = f"name a Target as {known[name].value!r}"
        raise UserError(f"plugin target.{name} is no Target of that name", fix)
    return target


def _entry_points() -> dict[str, EntryPoint]:
    """The place of each target, by its name: cpu-x86 is CPU_X86 of the module cpu_x86."""
    modules = {each.name: each.name.replace("-", "_") for each in platforms.PLATFORMS}
    places = {name: f"{__name__}.{module}:{module.upper()}" for name, module in modules.items()}
    return {name: EntryPoint(f"target.{name}", place, GROUP) for name, place in places.items()} | plugins("target")
