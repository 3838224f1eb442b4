"""A picture from a prompt, in int8 on the CPU, and what each part costs: `python -m benchmarks.large.picture`.

    python -m benchmarks.large.picture [--channels N] [--latent 64] [--plan ddim:4] [--guidance 7.5] [--work FOLDER]

A pipeline folder with random weights, of the sizes of Stable Diffusion 1.5 (networks.py, companions.py), is exported,
calibrated with a file of prompts, and run: latents of 64 x 64 are a picture of 512 x 512. Each row has minutes, minutes
of the processor, and the most memory that was resident. The rows below `run` are its parts, each in a process of its
own that has loaded nothing else. The autoencoder decodes the picture whole. The picture shows nothing, since the
weights are random. --work keeps everything, and what is there is not done again; a calibration only for the same plan
and guidance. Linux only.
"""

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from time import perf_counter, process_time
from urllib.parse import quote

import numpy as np

from benchmarks.command_cost import Cost, Unfinished, measure
from benchmarks.large.chain import CLI, line, work_folder
from benchmarks.large.companions import WIDTH, write_companions
from benchmarks.large.networks import NETWORKS
from benchmarks.large.pipeline import write_pipeline
from benchmarks.options import add_work, parser_of
from fewstep.evaluation.drawing.pictures import grid, png
from fewstep.lowering.bodies import open_body
from fewstep.machine.memory import peak
from fewstep.runtime.autoencoder import load_autoencoder
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.text import load_text_encoder

PROMPT = "a lighthouse in a storm, an oil painting"
PROMPTS = ("a cat on a windowsill", "a street market", "mountains behind a lake", "a bowl of fruit, a pencil drawing")
INT8 = "int8-cpu-x86"


def encode(folder: Path) -> None:
    """The prompt. The bundle has what guidance leads away from."""
    found = load_text_encoder(folder / "bundle").encode([PROMPT])
    np.savez(folder / "texts.npz", **found)  # type: ignore[arg-type]


def sample(folder: Path, plan: str, guidance: float) -> None:
    """Latents by the int8 body."""
    with np.load(folder / "texts.npz") as texts:
        condition = {name: texts[name] for name in texts.files}
    with open_body(open_bundle(folder / "bundle"), INT8, 0) as sampler:
        x = sampler.sample(plan, seeds=[0], condition=condition, guidance=guidance)
    np.save(folder / "latents.npy", x)


def decode(folder: Path) -> None:
    """The picture, which is written as a PNG."""
    images = load_autoencoder(folder / "bundle", encoder=False).decode(np.load(folder / "latents.npy"))
    (folder / "parts.png").write_bytes(png(grid(images, 1)))


def parts(folder: Path, plan: str, guidance: float) -> Iterator[tuple[str, Cost]]:
    """The cost of each, in a process that ends with it."""
    for name, call in {
        "  text encoder": (encode, folder),
        "  denoiser": (sample, folder, plan, guidance),
        "  autoencoder": (decode, folder),
    }.items():
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            yield name, process.submit(cost_of, *call).result()


def cost_of(part: Callable[..., None], *given: object) -> Cost:
    """What a part took of this process."""
    start, before = perf_counter(), process_time()
    part(*given)
    return Cost(perf_counter() - start, process_time() - before, peak() or 0)


def commands(folder: Path, plan: str, guidance: float) -> dict[str, tuple[Sequence[str], Path]]:
    """The verbs, by name, and what each leaves."""
    bundle, led = folder / "bundle", ("--plan", plan, "--guidance", str(guidance))
    calibrated = ("--target", "cpu-x86", "--trajectories", "4", "--prompts", str(folder / "prompts.txt"))
    picture = folder / "picture.png"
    drawn = ("--precision", "int8", "-p", PROMPT, "--scale", "1", "-o", str(picture))
    return {
        "export": (("export", str(folder / "pipeline"), "-o", str(bundle), "--verify", "quick"), bundle),
        "calibrate": (("calibrate", str(bundle), *led, *calibrated), calibration_mark(folder, plan, guidance)),
        "run": (("run", str(bundle), *led, *drawn), picture),
    }


def calibration_mark(folder: Path, plan: str, guidance: float) -> Path:
    """A file that says for which plan and guidance the bundle is calibrated."""
    return folder / f"calibrated-{quote(plan, safe='')}-{guidance:g}"


def main(arguments: Sequence[str]) -> int:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--channels", type=int, help="of the U-Net's first block, a multiple of 32; all follows from it"
    )
    parser.add_argument("--latent", type=int, default=64, help="height and width of x")
    parser.add_argument("--plan", default="ddim:4")
    parser.add_argument("--guidance", type=float, default=7.5)
    add_work(parser)
    given = parser.parse_args(arguments)
    with work_folder(given.work) as folder:
        pipeline = folder / "pipeline"
        if not (pipeline / "model_index.json").is_file():
            write_pipeline(pipeline, NETWORKS["sd15"], given.channels, given.latent)
        if not (pipeline / "vae").is_dir():
            write_companions(pipeline, given.latent, given.channels or WIDTH)
        (folder / "prompts.txt").write_text("\n".join(PROMPTS))
        print(f"{'':<16} {'minutes':>8} {'processor':>10} {'peak GB':>9}", flush=True)
        for name, (command, made) in commands(folder, given.plan, given.guidance).items():
            if made.exists() and name != "run":
                continue
            try:
                print(line(name, measure((*CLI, *command))), flush=True)
            except Unfinished as error:
                print(line(name, str(error)), flush=True)
                return 1
            if name == "calibrate":
                for former in folder.glob("calibrated-*"):
                    former.unlink()
                made.touch()
        for name, cost in parts(folder, given.plan, given.guidance):
            print(line(name, cost), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
