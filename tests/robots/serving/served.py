"""A served policy on the tiny bundle, whose action j is j / 100 in both joints, and messages of clients."""

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.robots.serving.served_policy import ServedPolicy
from fewstep.runtime.bundle.manifest import Condition, Policy
from tests.robots.control.tiny_policy import EXECUTED, ramp, tiny_policy

STATE = np.array([0.5, -0.5], np.float32)
CAMERA = Condition("observation.images.top", "top", (1, 3, 4, 6), "uint8", low=0, high=255)


def make_policy(
    bundle: Path, observations: int = 1, others: tuple[Condition, ...] = (), **options: Any
) -> ServedPolicy:
    sampler = tiny_policy(bundle, ramp, Policy(observations, 0, EXECUTED), others)
    return ServedPolicy(sampler, sampler.compile("ddim:1"), **options)


class TimedObservation:
    """Pickled as LeRobot's dataclass of this name."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__ |= fields


class RemotePolicyConfig(TimedObservation):
    """Pickled as LeRobot's dataclass of this name."""


HELPERS = "lerobot.async_inference.helpers"


def pickle_object(kind: type, module: str = HELPERS, protocol: int = 4, **fields: Any) -> bytes:
    """Return the pickle of an object of LeRobot, with the name of its module in place of this one's."""
    content = pickle.dumps(kind(**fields), protocol)
    own = kind.__module__
    before = b"\x8c" + bytes([len(own)]) + own.encode()
    after = b"\x8c" + bytes([len(module)]) + module.encode()
    assert before in content
    changed = content.replace(before, after)
    # opcode FRAME has the length of what follows
    assert changed[2:3] == b"\x95"
    (length,) = struct.unpack("<Q", changed[3:11])
    return changed[:3] + struct.pack("<Q", length + len(after) - len(before)) + changed[11:]


def observation(step: int = 0, must_go: bool = False, protocol: int = 4, **values: Any) -> bytes:
    fields = {"timestamp": 100.0 + step, "timestep": step, "observation": values, "must_go": must_go}
    return pickle_object(TimedObservation, protocol=protocol, **fields)


FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (2,), "names": ["a.pos", "b.pos"]},
    "observation.images.top": {"dtype": "image", "shape": (8, 12, 3), "names": ["height", "width", "channels"]},
}


def instructions(actions: Any = 8, features: Any = FEATURES, **renamed: str) -> bytes:
    return pickle_object(
        RemotePolicyConfig,
        policy_type="diffusion",
        pretrained_name_or_path="somewhere",
        lerobot_features=features,
        actions_per_chunk=actions,
        device="cpu",
        rename_map={"observation.state": "state"} | renamed,
    )
