"""The options of every verb that samples a denoiser of conditions."""

from dataclasses import dataclass
from pathlib import Path

from fewstep.runtime.options import Options


@dataclass(frozen=True, kw_only=True)
class ConditionOptions(Options):
    """Conditions of samples.

    conditions: A file of your own values of the conditions, .npz or .safetensors, with one array [N, *shape] for each
        by name. Judge on others than you calibrate on. Default: random values.
    prompts: A text file of your own prompts, one a line, for a bundle with a text encoder. Judge on others than you
        calibrate on. Default: prompts that come with fewstep.
    """

    conditions: Path | None = None
    prompts: Path | None = None
