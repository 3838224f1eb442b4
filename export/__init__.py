"""From a denoiser to a verified bundle. What a file that describes one's own denoiser needs:

from fewstep.export import Affine, Condition, Policy, ScheduleSpec, Size, Spec, Spectrogram
"""

from fewstep.export.spec import Spec
from fewstep.runtime.manifest import Affine, Condition, Policy, ScheduleSpec, Size, Spectrogram

__all__ = ["Affine", "Condition", "Policy", "ScheduleSpec", "Size", "Spec", "Spectrogram"]
