"""Write the sources that `.ci/check_moved.py` exports with two versions of the code: `moved_sources.py FOLDER`.

They are tiny pipelines of diffusers with random weights, and networks that use what few denoisers have: a ControlNet, a
conditioner, free sizes, a light network. cases.json in the folder says what is made from each.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `tests`

from tests import recorded_pipelines  # noqa: E402
from tests.bundle_with_light_network import SKIPPING  # noqa: E402
from tests.families import sd3  # noqa: E402
from tests.families.diffusers_networks import controlnet, flux, pixart, sdxl  # noqa: E402
from tests.families.policies import flow_policy  # noqa: E402
from tests.families.sources import unet_free_sizes  # noqa: E402
from tests.tiny_pipelines import UNCONDITIONAL_UNET, randomize, stable_diffusion  # noqa: E402

GUIDED = ("--guidance", "2")


class Case(msgspec.Struct, frozen=True):
    """A source and the arguments of what is made from it: its export, runs by a name for their samples, `encode` for a
    prompt, and `bake`; None leaves out a verb.
    """

    name: str
    source: str
    export: tuple[str, ...] = ()
    runs: dict[str, tuple[str, ...]] = {}
    encodes: tuple[str, ...] | None = None
    bakes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Pipeline:
    """A folder of diffusers, or fields of an export's options, and the arguments of its run."""

    name: str
    write: Callable[[Path], str | dict[str, Any]]
    run: tuple[str, ...] = GUIDED


def write_ddpm(folder: Path) -> str:
    import diffusers

    torch.manual_seed(0)
    network = randomize(diffusers.UNet2DModel(**UNCONDITIONAL_UNET))
    diffusers.DDPMPipeline(unet=network, scheduler=diffusers.DDPMScheduler()).save_pretrained(folder / "model")
    return str(folder / "model")


def write_stable_diffusion(folder: Path) -> str:
    stable_diffusion(folder / "model")
    return str(folder / "model")


def write_recorded(name: str) -> Callable[[Path], str]:
    return lambda folder: str(getattr(recorded_pipelines, name)(folder / "model"))


PIPELINES = (
    Pipeline("ddpm", write_ddpm, ()),
    Pipeline("stable_diffusion", write_stable_diffusion),
    Pipeline("sdxl", sdxl.make),
    Pipeline("sd3", sd3.make),
    Pipeline("flux", flux.make, ()),
    Pipeline("pixart", pixart.make),
    Pipeline("controlnet", controlnet.make),
)
RECORDED = ("wan", "wan_with_two_networks", "qwen_image", "z_image", "stable_video")
WITH_PROMPTS = ("wan", "qwen_image", "z_image")


def pipeline_cases(folder: Path) -> list[Case]:
    """Write the folders of pipelines."""
    cases = []
    for pipeline in PIPELINES:
        options = pipeline.write(_made(folder / pipeline.name))
        options = {"source": options} if isinstance(options, str) else options
        call = tuple(part for value in options.get("call", ()) for part in ("--call", value))
        runs = {"scheduler:3": ("--plan", "scheduler:3", *pipeline.run)}
        cases.append(Case(pipeline.name, options["source"], call, runs))
    for name in RECORDED:
        source, settings = write_recorded(name)(_made(folder / name)), recorded_pipelines.CALLS[name]
        call = tuple(part for key, value in settings.items() for part in ("--call", f"{key}={value}"))
        runs = {"scheduler:3": ("--plan", "scheduler:3", *GUIDED)}
        prompt = ("-p", str(settings.get("prompt", "a cat")))
        cases.append(Case(name, source, call, runs, (*prompt, *call) if name in WITH_PROMPTS else None))
    return cases


def network_cases(folder: Path) -> list[Case]:
    """Sources that are Python files."""
    light = _made(folder / "light") / "skipping.py"
    light.write_text(SKIPPING)
    picture, ddim = folder / "picture.npy", ("--plan", "ddim:2@trailing")
    np.save(picture, np.linspace(-1, 1, 16 * 8, dtype=np.float32).reshape(1, 16, 8))
    return [
        Case("conditioner", f"{flow_policy.__file__}:make", runs={"ddim:2": ddim}),
        Case(
            "free_sizes",
            f"{unet_free_sizes.__file__}:make",
            runs={
                "ddim:2": ddim,
                "ddim:2 at 16 x 8": (*ddim, "--size", "height=16", "--size", "width=8", "-c", f"picture=@{picture}"),
            },
        ),
        Case(
            "light_network",
            f"{light}:make",
            ("--cache", "depth1"),
            {"light": ("--plan", "dpmpp_2m:4+light(at=[1, 3])")},
            bakes=("--plan", "dpmpp_2m:4"),
        ),
    ]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    cases = [*pipeline_cases(folder), *network_cases(folder)]
    (folder / "cases.json").write_bytes(msgspec.json.encode(cases))


if __name__ == "__main__":
    main()
