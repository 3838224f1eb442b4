"""Write actions of GR00T's action heads in LeRobot, for a tiny configuration: those of test_groot.py.

python -m tests.robots.networks.groot_reference   # in an environment with diffusers, and LeRobot 0.6 or 0.4

LeRobot 0.6 has N1.7, whose class without self-attention of the features is the head of N1.6. LeRobot 0.4 has N1.5.
"""

import sys
from importlib.metadata import version
from typing import Any
from unittest import mock

import numpy as np
import torch

from tests.robots.lerobot.weights import weight

STATE, ACTION, HORIZON, TOKENS, FEATURES, EMBODIMENT, STEPS = 5, 6, 4, 7, 32, 1, 4
FUTURE = 3  # learned tokens of N1.5
CONFIG = {
    "max_state_dim": STATE, "max_action_dim": ACTION, "action_horizon": HORIZON, "hidden_size": 24,
    "input_embedding_dim": 16, "backbone_embedding_dim": FEATURES, "max_num_embodiments": 3, "max_seq_len": 8,
    "num_inference_timesteps": STEPS,
    "diffusion_model_cfg": {
        "positional_embeddings": None, "num_layers": 6, "num_attention_heads": 2, "attention_head_dim": 8,
        "norm_type": "ada_norm", "final_dropout": True, "output_dim": 24, "interleave_self_attention": True,
    },
    "vl_self_attention_cfg": {
        "positional_embeddings": None, "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16,
        "final_dropout": True,
    },
}  # fmt: skip


def inputs() -> dict[str, np.ndarray]:
    """The noise, and what the head is conditioned on. The last token is padding, which LeRobot does not have for one
    robot."""
    rng = np.random.default_rng(7)
    return {
        "noise": rng.standard_normal((1, HORIZON, ACTION)).astype(np.float32),
        "state": rng.uniform(-1, 1, (1, STATE)).astype(np.float32),
        "features": rng.standard_normal((1, TOKENS, FEATURES)).astype(np.float32),
        "seen": np.array([[1, 1, 1, 1, 1, 1, 0]]),
        "pictures": np.array([[0, 1, 1, 1, 0, 0, 0]]),
    }


def head_weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a weight of the head. Those of all embodiments [embodiments, inputs, outputs] keep the scale too."""
    return torch.from_numpy(weight(name, shape)) * (shape[2] ** 0.5 if len(shape) == 3 else 1)


def head_of_n17(**changes: Any) -> torch.nn.Module:
    from lerobot.policies.groot.groot_n1_7 import GR00TN17ActionHead, GR00TN17Config

    return GR00TN17ActionHead(GR00TN17Config(**{**CONFIG, **changes})).eval()


def head_of_n15() -> torch.nn.Module:
    from lerobot.policies.groot.action_head.flow_matching_action_head import (
        FlowmatchingActionHead,
        FlowmatchingActionHeadConfig,
    )

    blocks = {**CONFIG["diffusion_model_cfg"], "cross_attention_dim": FEATURES}
    changes = {"diffusion_model_cfg": blocks, "action_dim": ACTION, "num_target_vision_tokens": FUTURE}
    return FlowmatchingActionHead(FlowmatchingActionHeadConfig(**{**CONFIG, **changes})).eval()


def actions(head: Any) -> np.ndarray:
    with torch.no_grad():
        for name, tensor in head.named_parameters():
            tensor.copy_(head_weight(name, tuple(tensor.shape)))
    fed = {name: torch.from_numpy(value) for name, value in inputs().items()}

    class Batch(dict[str, Any]):
        __getattr__ = dict.__getitem__

    is_seen = fed["seen"][0].bool()
    tokens = Batch(
        backbone_features=fed["features"][:, is_seen],
        backbone_attention_mask=fed["seen"][:, is_seen].bool(),
        image_mask=fed["pictures"][:, is_seen].bool(),
    )
    robot = Batch(state=fed["state"][:, None], embodiment_id=torch.tensor([EMBODIMENT]))
    with mock.patch.object(torch, "randn", lambda size, **_: fed["noise"].clone()):
        return head.get_action(tokens, robot)["action_pred"][0].numpy()


if __name__ == "__main__":
    if version("lerobot").startswith("0.4."):
        heads = {"N1.5": head_of_n15()}
    else:
        heads = {
            "N1.7": head_of_n17(use_alternate_vl_dit=True),
            "N1.7, all blocks read all features": head_of_n17(use_alternate_vl_dit=False),
            "N1.6": head_of_n17(use_alternate_vl_dit=True, vl_self_attention_cfg=None),
        }
    for name, head in heads.items():
        sys.stdout.write(f"{name}\n{np.array2string(actions(head), separator=', ', precision=7)}\n")
