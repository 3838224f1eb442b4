"""The targets that graphs are lowered for; a new target is a module with a `Target` value, named here.

A `Target` says where its bodies run by its `platform`, a row of `runtime/bundle/platforms.py`. The runtime chooses an
int8 body by these rows, without calibration. No other file lists targets.
"""

from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.lowering.targets.cpu_arm import CPU_ARM
from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86
from fewstep.calibration.lowering.targets.cpu_x86_7bit import CPU_X86_7BIT
from fewstep.calibration.lowering.targets.openvino import OPENVINO
from fewstep.calibration.lowering.targets.openvino_bf16 import OPENVINO_BF16
from fewstep.calibration.lowering.targets.qnn import QNN, QNN_8BIT
from fewstep.calibration.lowering.targets.tensorrt import TENSORRT

TARGETS = (CPU_X86, CPU_X86_7BIT, CPU_ARM, TENSORRT, OPENVINO, OPENVINO_BF16, QNN, QNN_8BIT)
USUAL = (CPU_X86.name, TENSORRT.name)  # what is lowered for unless others are asked for


def targets_by_name() -> dict[str, Target]:
    return {target.name: target for target in TARGETS}


def target_names() -> tuple[str, ...]:
    return tuple(targets_by_name())
