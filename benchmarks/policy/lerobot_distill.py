"""Distill a policy that LeRobot trained into one step, as `distill.py` does: the result is a folder of LeRobot too.

    python -m benchmarks.policy.lerobot_distill distilled --bundle WORK/policy-* --checkpoint run/checkpoints/last \\
        --task fetch-pick-and-place

The U-Net is trained further on pairs of noise and the actions that two int8 steps make of it (Luhman and Luhman 2021,
arXiv 2101.02388), at the time of noise alone; the encoders stay as they are. The observations are those at all ticks of
episodes in two steps, and those that one step samples from. The folder is DISTILLED/policy, for `--distilled` of
`benchmarks.policy.lerobot_success`. The same command continues an interrupted training.

A policy that predicts noise has four steps as its teacher, and its student predicts the sample: at the time of noise
alone, an error of the predicted noise is divided by a signal of almost nothing. One step of such a policy is useless,
so that its observations are of the teacher only.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.options import parser_of, positive, refusing
from benchmarks.policy.closed_loop import watch
from benchmarks.policy.distill import EXECUTED, LATER, NOISE_SEED, pairs_file, write_pairs
from benchmarks.policy.fetch import TASKS
from benchmarks.policy.lerobot_folder import policy_folder, predicts_noise
from benchmarks.policy.lerobot_loop import to_tensor
from benchmarks.policy.lerobot_success import world_of
from benchmarks.policy.rollouts import LIMITS
from benchmarks.policy.verdicts import Contender
from benchmarks.policy.worlds import World
from fewstep.models.training import Loss, Recipe, train
from fewstep.plans.noise import normal_batch
from fewstep.runtime import Sampler, load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime

RECIPE = Recipe(steps=800, batch=32, rate=2e-4, seed=3)
OF_NOISE = dataclasses.replace(RECIPE, steps=1600)  # for a network that has to learn what its output means
TEACHER = Contender("teacher", plan="dpmpp_2m:2", precision="int8", execute=2)  # so that more ticks are observed
STUDENT = Contender("one step", plan="dpmpp_2m:1", precision="int8")  # its requests are states that it gets into
TEACHER_OF_NOISE = Contender("teacher", plan="dpmpp_2m:4", precision="int8", execute=2)
EPISODES, FIRST_SEED = 100, 3_000_000  # of each
BATCH = 64  # of the teacher, and of the encoders
WEIGHTS = "unet.safetensors"

Windows = dict[str, NDArray[np.generic]]  # [N, observations, ...] by the name of the condition


def observe(world: World, sampler: Sampler, watched: Sequence[Contender]) -> Windows:
    """Return the windows from which contenders sample sequences in episodes."""
    jobs = [
        job
        for first, contender in enumerate(watched)
        for job in watch(world, contender, sampler, EPISODES, FIRST_SEED + first * EPISODES)
    ]
    return {name: np.stack([job.request.window[name] for job in jobs]) for name in jobs[0].request.window}


def make_pairs(world: World, sampler: Sampler) -> Windows:
    """Return windows, seeds of noise [N] and the actions that the teacher makes of them, in model range."""
    of_noise = sampler.bundle.manifest.prediction == "epsilon"
    teacher = TEACHER_OF_NOISE if of_noise else TEACHER
    windows = observe(world, sampler, (teacher,) if of_noise else (teacher, STUDENT))
    seeds = NOISE_SEED + np.arange(len(next(iter(windows.values()))))
    plan = sampler.compile(teacher.plan, shaping=LIMITS)
    done = [
        sampler.sample(plan, seeds[some].tolist(), {name: values[some] for name, values in windows.items()})
        for some in (slice(start, start + BATCH) for start in range(0, len(seeds), BATCH))
    ]
    return {**windows, "seeds": seeds, "done": np.concatenate(done)}


def write_pairs_of(file: Path, bundle: Path, task: str) -> None:
    """Write the pairs of a bundle in int8."""
    with load(bundle, precision="int8", backend=OnnxRuntime(threads=1, spinning=False)) as sampler:
        write_pairs(file, make_pairs(world_of(task), sampler))


def encode(folder: Path, windows: Mapping[str, NDArray[np.generic]]) -> tuple[nn.Module, Tensor, int]:
    """Return the U-Net of a folder, what it is told of each window [N, C], and the time of noise."""
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
    from lerobot.policies.factory import make_pre_post_processors

    policy = DiffusionPolicy.from_pretrained(folder).eval()
    before, _ = make_pre_post_processors(policy.config, pretrained_path=str(folder))
    known = list[Tensor]()
    with torch.no_grad():
        for start in range(0, len(next(iter(windows.values()))), BATCH):
            batch = before({name: to_tensor(values[start : start + BATCH]) for name, values in windows.items()})
            if cameras := list(policy.config.image_features):
                batch["observation.images"] = torch.stack([batch[name] for name in cameras], dim=-4)
            known.append(policy.diffusion._prepare_global_conditioning(batch))
    return policy.diffusion.unet, torch.cat(known), policy.config.num_train_timesteps - 1


def distillation_loss(pairs: Windows, known: Tensor, time: int, count: int) -> Loss:
    """Return the mean squared error of the samples that the U-Net predicts from the noise of the teacher's."""
    done = torch.from_numpy(pairs["done"])
    noises = torch.from_numpy(normal_batch(pairs["seeds"].tolist(), 0, done.shape[1:]))
    weights = torch.where(torch.arange(done.shape[1]) < EXECUTED, 1.0, LATER)[:, None]

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(done), (count,), generator=generator)
        made = network(noises[rows], torch.full((count,), time), global_cond=known[rows])
        return ((made.float() - done[rows]).square() * weights).mean()

    return loss


def write_policy(folder: Path, weights: Path, made: Path) -> None:
    """Write the policy of a folder with other weights of its U-Net, which predicts the sample."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, made, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (made / "config.json").write_text(json.dumps({**config, "prediction_type": "sample"}, indent=4))
    unet = {f"diffusion.unet.{name}": tensor.float() for name, tensor in load_file(weights).items()}
    save_file({**load_file(folder / "model.safetensors"), **unet}, made / "model.safetensors", {"format": "pt"})


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("distilled", type=Path)
    parser.add_argument("--bundle", type=Path, required=True, help="of the checkpoint, with int8")
    parser.add_argument("--checkpoint", type=Path, required=True, help="a checkpoint of LeRobot's training")
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--threads", type=positive, default=1, help="of the training (default %(default)s)")
    given = parser.parse_args()
    given.distilled.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(given.threads)
    folder = policy_folder(given.checkpoint)
    recipe = OF_NOISE if predicts_noise(folder) else RECIPE
    with refusing(parser):
        file = pairs_file(given.distilled, folder / "model.safetensors")
    if not file.exists():
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # torch crashed next to a simulator that draws
            pool.submit(write_pairs_of, file, given.bundle, given.task).result()
    with np.load(file) as arrays:
        pairs = dict(arrays)
    windows = {name: values for name, values in pairs.items() if name not in ("seeds", "done")}
    unet, known, time = encode(folder, windows)
    loss = distillation_loss(pairs, known, time, recipe.batch)
    train(unet.train().requires_grad_(True), loss, recipe, given.distilled, WEIGHTS)
    write_policy(folder, given.distilled / WEIGHTS, given.distilled / "policy")


if __name__ == "__main__":
    main()
