"""The targets that graphs are lowered for; a new target is a module with a `Target` value, both called by its name.

A `Target` says where its bodies run by its `platform`, a row of `runtime/bundle/platforms.py`, which lists the targets.
The runtime chooses an int8 body by these rows, without calibration. A plugin `target.NAME` is one more. A target's
module is imported when its name is asked for.
"""

from importlib import import_module

from fewstep.calibration.lowering.scheme import Target
from fewstep.plans.errors import UserError
from fewstep.plans.names.plugins import describe_plugin, find_plugin, load_plugin, plugins
from fewstep.runtime.bundle import platforms

USUAL = (platforms.CPU_X86.name, platforms.TENSORRT.name)  # what is lowered for unless others are asked for


def target_names() -> tuple[str, ...]:
    """The names of the targets, with plugins' behind. Nothing is imported."""
    return tuple(dict.fromkeys((*_core_names(), *plugins("target"))))


def load_target(name: str) -> Target:
    """The target of a name. UserError for an unknown name, one of several meanings, and a plugin that is no
    `Target`."""
    is_core = name in _core_names()
    plugin = find_plugin("target", name, is_core)
    if is_core:
        module = name.replace("-", "_")  # cpu-x86 is CPU_X86 of the module cpu_x86
        target: Target = getattr(import_module(f"{__name__}.{module}"), module.upper())
        return target
    if plugin is None:
        raise UserError(f"unknown target {name!r}", f"choose from {', '.join(target_names())}")
    value = load_plugin(plugin)
    if not isinstance(value, Target) or value.name != name:
        raise UserError(f"{describe_plugin(plugin)} is no Target of that name", f"name a Target as {plugin.value!r}")
    return value


def _core_names() -> list[str]:
    return [each.name for each in platforms.PLATFORMS]
