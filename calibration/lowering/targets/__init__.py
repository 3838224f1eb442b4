"""What graphs are lowered for. A new target is a module with a Target value, named here."""

from fewstep.calibration.lowering.targets.cpu_arm import CPU_ARM
from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86
from fewstep.calibration.lowering.targets.cpu_x86_7bit import CPU_X86_7BIT
from fewstep.calibration.lowering.targets.openvino import OPENVINO
from fewstep.calibration.lowering.targets.tensorrt import TENSORRT

TARGETS = (CPU_X86, CPU_X86_7BIT, CPU_ARM, TENSORRT, OPENVINO)
