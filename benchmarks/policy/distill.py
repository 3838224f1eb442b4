"""Distill the policy into one step: `simulator/bin/python -m benchmarks.policy.distill WORK --weights FILE`.

A flow that starts from pure noise predicts the mean of all possible actions, whatever the noise. Where the policy has
two ways to go on, one step takes neither. The network is therefore trained further on pairs of noise and the actions
that three int8 steps make of it (Luhman and Luhman 2021, arXiv 2101.02388), at the time of noise alone and without
decided actions: its other times are no longer those of a flow. The observations are those of episodes in three steps
and in one. The weights are WORK/distilled.safetensors, for `benchmarks.policy.success_rates`. The same command
continues an interrupted training.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.options import parser_of, positive, refusing
from benchmarks.policy.closed_loop import watch
from benchmarks.policy.experts import METAWORLD, one_hot
from benchmarks.policy.rollouts import LIMITS, episodes_of, run_courses
from benchmarks.policy.simulator import TASKS
from benchmarks.policy.success_rates import fit_plans, hash_of, prepare
from benchmarks.policy.verdicts import Contender
from fewstep.models.training import Loss, Recipe, train, write_atomically
from fewstep.models.weights import load_weights
from fewstep.plans.errors import UserError
from fewstep.plans.noise import normal_batch
from fewstep.runtime import Sampler, load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime

RECIPE = Recipe(steps=3_200, batch=32, rate=4e-4, seed=3)
TEACHER = Contender("teacher", plan="dpmpp_2m:3", precision="int8")
STUDENTS = (  # their requests are states that one step gets into
    Contender("one step", plan="dpmpp_2m:1", precision="int8"),
    Contender("one fitted step", plan="fitted:1", precision="int8", clipped=False),
)
EPISODES, FIRST_SEED = 50, 3_000_000  # of each task in three steps
WATCHED, FIRST_WATCHED = 24, 4_000_000  # of each task in one step
OBSERVATIONS = 6_000  # of episodes in three steps; of each student up to half as many
NOISE_SEED = 7_000_000_000
EXECUTED, LATER = 10, 0.3  # the first actions have a weight of 1 in the loss, and later ones this
BATCH = 64  # of the teacher

Arrays = dict[str, NDArray[np.generic]]


def observe_teacher(sampler: Sampler) -> Arrays:
    """Return the observations at all ticks of the teacher's successes, and their tasks."""
    seen, tasks = list[NDArray[np.float32]](), list[int]()
    for course, solved in run_courses(METAWORLD, TEACHER, sampler, episodes_of(EPISODES, TASKS, FIRST_SEED)):
        if solved:
            seen.append(np.asarray([each["observation"] for each in course.seen], np.float32))
            tasks += [TASKS.index(course.episode[0])] * len(course.seen)
    return {"seen": np.concatenate(seen), "task": np.array(tasks)}


def observe_student(student: Contender, sampler: Sampler) -> Arrays:
    """Return the observations from which a student samples sequences, and their tasks."""
    windows = [job.request.window for job in watch(METAWORLD, student, sampler, WATCHED, FIRST_WATCHED)]
    seen = np.stack([np.asarray(window["observation"], np.float32).ravel() for window in windows])
    return {"seen": seen, "task": np.array([int(np.argmax(window["task"])) for window in windows])}


def make_pairs(sampler: Sampler) -> Arrays:
    """Return observations [N, 39], tasks [N], seeds of noise [N] and the teacher's actions [N, 32, 4]."""
    generator = np.random.default_rng(0)
    parts = [(observe_teacher(sampler), OBSERVATIONS)]
    parts += [(observe_student(student, sampler), OBSERVATIONS // 2) for student in STUDENTS]
    rows = [generator.permutation(len(part["seen"]))[:count] for part, count in parts]
    seen, task = (
        np.concatenate([part[name][row] for (part, _), row in zip(parts, rows, strict=True)])
        for name in ("seen", "task")
    )
    seeds, hot = NOISE_SEED + np.arange(len(seen)), np.stack([one_hot(name) for name in TASKS])
    plan = sampler.compile("dpmpp_2m:3", shaping=LIMITS)
    done = [
        sampler.sample(plan, seeds[some].tolist(), {"observation": seen[some, None], "task": hot[task[some]]})
        for some in (slice(start, start + BATCH) for start in range(0, len(seen), BATCH))
    ]
    return {"seen": seen, "task": task, "seeds": seeds, "done": np.concatenate(done)}


def policy_module() -> ModuleType:
    """Import network.py, which imports modules of its folder, as `fewstep export` does."""
    sys.path.append(str(Path(__file__).parent))
    return importlib.import_module("network")


def distillation_loss(policy: ModuleType, pairs: Arrays, count: int) -> Loss:
    """Return the mean squared error of the actions that one step makes of the noise of the teacher's."""
    seen, done = torch.from_numpy(pairs["seen"]), torch.from_numpy(pairs["done"])
    tasks = nn.functional.one_hot(torch.from_numpy(pairs["task"]), len(TASKS)).float()
    noises = torch.from_numpy(normal_batch(pairs["seeds"].tolist(), 0, done.shape[1:]))
    weights = torch.where(torch.arange(done.shape[1]) < EXECUTED, 1.0, LATER)[:, None]

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        assert isinstance(network, policy.Network)
        rows = torch.randint(len(seen), (count,), generator=generator)
        noise, none = noises[rows], torch.zeros(count, 1)
        with torch.autocast("cpu", enabled=False):  # millimetres in metres need more than bfloat16
            known = network.encode(seen[rows][:, None], tasks[rows])
        velocity = network.predict(noise, torch.full((count,), 100.0), known, torch.zeros_like(noise), none)
        return ((noise - velocity.float() - done[rows]).square() * weights).mean()

    return loss


def pairs_file(work: Path, weights: Path) -> Path:
    """Return the file of the pairs of these weights. Raises UserError if the folder has those of others, since its
    checkpoint is of them too."""
    file = work / f"pairs-{hash_of(weights)}.npz"
    if others := [path.name for path in sorted(work.glob("pairs-*.npz")) if path != file]:
        raise UserError(f"{work} has the pairs of other weights, {others[0]}", "give another folder for WORK")
    return file


def write_pairs(file: Path, pairs: Arrays) -> None:
    """Write the pairs, whole or not at all."""

    def write(path: Path) -> None:
        with path.open("wb") as opened:
            np.savez(opened, **pairs)  # type: ignore[arg-type]

    write_atomically(file, write)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--threads", type=positive, default=1, help="of the training (default %(default)s)")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(given.threads)
    with refusing(parser):
        file = pairs_file(given.work, given.weights)
    if not file.exists():
        bundle = prepare(given.work, given.weights)
        fit_plans(bundle, STUDENTS)
        backend = OnnxRuntime(threads=1, spinning=False)
        with load(bundle, precision="int8", backend=backend) as sampler:
            write_pairs(file, make_pairs(sampler))
    policy = policy_module()
    with np.load(file) as arrays:
        loss = distillation_loss(policy, dict(arrays), RECIPE.batch)
    network = load_weights(policy.Network(), given.weights).train().requires_grad_(True)
    train(network, loss, RECIPE, given.work, "distilled.safetensors")


if __name__ == "__main__":
    main()
