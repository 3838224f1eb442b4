"""Export a denoiser to a verified bundle. A file that describes your own denoiser imports:

from fewstep.export import Affine, Carried, Condition, NamedOutput, Policy, ScheduleSpec, Size, Spec, Spectrogram
from fewstep.export import Positions, Vocabulary

The verb has its own modules: from fewstep.export.export import export
                              from fewstep.export.export_options import ExportOptions
"""

from fewstep.export.spec import Spec
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import (
    Affine,
    Carried,
    Condition,
    NamedOutput,
    Policy,
    Positions,
    Size,
    Spectrogram,
    Vocabulary,
)

__all__ = [
    "Affine",
    "Carried",
    "Condition",
    "NamedOutput",
    "Policy",
    "Positions",
    "ScheduleSpec",
    "Size",
    "Spec",
    "Spectrogram",
    "Vocabulary",
]
