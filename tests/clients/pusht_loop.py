"""LeRobot's own diffusion policy and its bundle, each in PushT, from equal noise.

`python -m tests.clients.pusht_loop`, in an environment with LeRobot, gym-pusht and fewstep[cpu,export]. The policy has
states, random weights, and 20 million of them. Ten steps of DDIM make a sequence, of which eight actions are executed.
Prints one line of JSON: the largest difference of the actions of 100 ticks, relative to the largest action, and the
milliseconds of a sequence.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import gym_pusht  # noqa: F401  registers the environment
import gymnasium
import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors

import fewstep.runtime
from benchmarks.policy.lerobot_loop import Act, Array, BundleLoop, LeRobotLoop, compare
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.runtime.backends.onnxruntime import OnnxRuntime

TICKS, EXECUTED, HORIZON, STEPS = 100, 8, 16, 10
SIZES = {"observation.state": 2, "observation.environment_state": 16}


def make_policy() -> tuple[DiffusionPolicy, Any, Any]:
    """Return a policy with random weights, and its processors."""
    torch.manual_seed(0)
    kinds = {"observation.state": FeatureType.STATE, "observation.environment_state": FeatureType.ENV}
    config = DiffusionConfig(
        input_features={name: PolicyFeature(kind, (SIZES[name],)) for name, kind in kinds.items()},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
        n_obs_steps=2,
        horizon=HORIZON,
        n_action_steps=EXECUTED,
        down_dims=(144, 288, 576),
        noise_scheduler_type="DDIM",
        num_inference_steps=STEPS,
        device="cpu",
    )
    sizes = {**SIZES, "action": 2}
    limits = {
        name: {"min": torch.zeros(size), "max": torch.full((size,), 512.0)} for name, size in sizes.items()
    }  # pixels of the table
    return DiffusionPolicy(config).eval(), *make_diffusion_pre_post_processors(config, limits)


def drive(act: Act) -> Array:
    """Return the actions of a loop [TICKS, 2], in pixels."""
    world = gymnasium.make("gym_pusht/PushT-v0", obs_type="environment_state_agent_pos")
    seen, _ = world.reset(seed=0)
    sent = list[Array]()
    while len(sent) < TICKS:
        names = {"observation.state": "agent_pos", "observation.environment_state": "environment_state"}
        sent.append(act({name: np.float32(seen[key]) for name, key in names.items()}, len(sent)))
        seen, _, ended, _, _ = world.step(sent[-1])
        assert not ended, "random weights do not solve PushT"
    return np.stack(sent)


def main(folder: Path) -> dict[str, float]:
    for part in make_policy():
        part.save_pretrained(folder / "policy")
    export(ExportOptions(str(folder / "policy"), folder / "bundle", verify="quick"))
    with fewstep.runtime.load(folder / "bundle", backend=OnnxRuntime(threads=1)) as sampler:
        return compare(LeRobotLoop(folder / "policy"), BundleLoop(sampler, STEPS, EXECUTED), drive)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        found = main(Path(name))
    print(json.dumps(found))
    assert found["difference"] < 1e-4, "the actions differ from LeRobot's"
