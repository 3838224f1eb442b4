"""The targets for which int8 graphs are made. A new target is a module with a `Target` value, both named after the
target.

The `platform` of a `Target` says where its bodies run. It is an entry of `runtime/bundle/platforms.py`, which lists the
targets. The runtime chooses an int8 body by these entries, without calibration. A plugin `target.NAME` adds a target. A
target's module is imported only when the target is requested.
"""

from importlib import import_module

from fewstep.calibration.lowering.scheme import Target
from fewstep.plans.errors import UserError
from fewstep.plans.names.plugins import describe_plugin, find_plugin, load_plugin, plugins
from fewstep.runtime.bundle import platforms
from fewstep.runtime.machine.cpu import this_cpu


def usual_targets() -> tuple[str, ...]:
    """Return the default targets: ONNX Runtime's best one for this CPU, and TensorRT."""
    return platforms.rank_platforms(platforms.ONNXRUNTIME, this_cpu())[0].name, platforms.TENSORRT.name


def target_names() -> tuple[str, ...]:
    """Return the names of the targets, followed by those of plugins. Imports nothing."""
    return tuple(dict.fromkeys((*_core_names(), *plugins("target"))))


def load_target(name: str) -> Target:
    """Return the target of a name. Raises UserError for an unknown or ambiguous name, and for a plugin that is not a
    `Target`."""
    is_core = name in _core_names()
    plugin = find_plugin("target", name, is_core)
    if is_core:
        module = name.replace("-", "_")  # cpu-x86 is CPU_X86 of the module cpu_x86
        target: Target = getattr(import_module(f"{__name__}.{module}"), module.upper())
        return target
    if name in platforms.SUCCESSORS and plugin is None:
        raise UserError(f"target {name!r} is no longer made", f"choose {platforms.SUCCESSORS[name].name}")
    if plugin is None:
        raise UserError(f"unknown target {name!r}", f"choose from {', '.join(target_names())}")
    value = load_plugin(plugin)
    if not isinstance(value, Target) or value.name != name:
        raise UserError(
            f"{describe_plugin(plugin)} is not a Target with that name", f"name a Target as {plugin.value!r}"
        )
    return value


def _core_names() -> list[str]:
    return [platform.name for platform in platforms.PLATFORMS]
