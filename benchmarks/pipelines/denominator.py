"""Write the pipeline classes over which coverage is counted: `python -m benchmarks.pipelines.denominator`.

The rule, which was fixed before the first count: a public class of diffusers that is a DiffusionPipeline and whose own
source calls a scheduler's `step`, unless its name says that it is a ControlNet, an adapter, a prior, a latent upscaler
or an edit by inversion, or that it runs ONNX files.
"""

import inspect
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from fewstep.pipelines.recording.components import is_pipeline

CLASSES = Path(__file__).with_name("classes.txt")
LOOP = ".step("
LEFT_OUT = re.compile(
    r"ControlNet|Controlnet|Adapter|Prior|LatentUps"  # other networks, or none that makes the sample
    r"|LEdits|DiffEdit|CycleDiffusion|Pix2PixZero"  # edits by inversion
    r"|Onnx"
)


def find_classes() -> list[str]:
    """Return the names of the classes in the installed diffusers, in alphabetical order."""
    import diffusers

    named = ((name, getattr(diffusers, name, None)) for name in sorted(set(dir(diffusers))))
    pipelines = ((name, each) for name, each in named if inspect.isclass(each) and _is_pipeline(each))
    return [name for name, each in pipelines if LOOP in inspect.getsource(each) and not LEFT_OUT.search(name)]


def read_classes() -> list[str]:
    """Return the committed names."""
    lines = CLASSES.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def select_classes(parts: Sequence[str]) -> list[str]:
    """Return the committed names that contain one of these texts, or all without any. A class that is not committed,
    such as one with a ControlNet, is selected by its whole name."""
    committed = read_classes()
    named = [name for name in committed if not parts or any(part in name for part in parts)]
    return named + [part for part in parts if part not in committed and is_pipeline(part)]


def _is_pipeline(each: type) -> bool:
    from diffusers import DiffusionPipeline

    return issubclass(each, DiffusionPipeline) and each is not DiffusionPipeline


def main() -> None:
    """Write `classes.txt`: the rule as a comment, then one name a line."""
    rule = [f"# {line}".rstrip() for line in (__doc__ or "").splitlines()[2:]]
    head = [*rule, f"# diffusers {version('diffusers')}"]
    CLASSES.write_text("\n".join([*head, *find_classes()]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
