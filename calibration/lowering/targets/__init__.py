"""The targets that graphs are lowered for; a new target is a module with a `Target` value, named here.

A `Target` says where its bodies run by its `platform`, a row of `runtime/bundle/platforms.py`. The runtime chooses an
int8 body by these rows, without calibration. No other file lists targets. A plugin `target.NAME` is one more.
"""

from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.lowering.targets.cpu_arm import CPU_ARM
from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86
from fewstep.calibration.lowering.targets.cpu_x86_7bit import CPU_X86_7BIT
from fewstep.calibration.lowering.targets.openvino import OPENVINO
from fewstep.calibration.lowering.targets.openvino_bf16 import OPENVINO_BF16
from fewstep.calibration.lowering.targets.qnn import QNN, QNN_8BIT
from fewstep.calibration.lowering.targets.tensorrt import TENSORRT
from fewstep.plans.errors import UserError
from fewstep.plans.plugins import loaded, plugins

TARGETS = (CPU_X86, CPU_X86_7BIT, CPU_ARM, TENSORRT, OPENVINO, OPENVINO_BF16, QNN, QNN_8BIT)
USUAL = (CPU_X86.name, TENSORRT.name)  # what is lowered for unless others are asked for


def targets_by_name() -> dict[str, Target]:
    """The targets, with plugins' behind. UserError for a plugin that is no `Target`."""
    found = {target.name: target for target in TARGETS}
    for name, plugin in plugins("target").items():
        target = loaded(plugin)
        if not isinstance(target, Target) or target.name != name:
            raise UserError(f"plugin target.{name} is no Target of that name", f"name a Target as {plugin.value!r}")
        found[name] = target
    return found


def target_names() -> tuple[str, ...]:
    return tuple(targets_by_name())
