"""From a denoiser to a verified bundle. What a file that describes one's own denoiser needs:

from fewstep.export import Condition, ScheduleSpec, Spec
"""

from fewstep.export.spec import Spec
from fewstep.runtime.manifest import Condition, ScheduleSpec

__all__ = ["Condition", "ScheduleSpec", "Spec"]
