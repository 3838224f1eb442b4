"""SmolVLA as LeRobot 0.6 runs it, at its real size with random weights: a rival of benchmarks/policy/call.py.

    PYTHON benchmarks/large/smolvla_torch.py [--threads 1]

PYTHON is that of an environment with lerobot 0.6, and not this one. Each line of stdin is a number of calls; a line of
JSON answers with the seconds of the processor of each. A call is `sample_actions` of pictures, words and a state that
are ready: what LeRobot's processors do is left out, in its favour. Nothing is downloaded.
"""

import argparse
import json
import sys
import time
from types import SimpleNamespace
from unittest import mock

import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.smolvla import smolvlm_with_expert as module
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from transformers import SmolVLMConfig

CAMERAS, WORDS, SIDE = 2, 48, 512
TEXT = {
    "model_type": "llama",
    "hidden_size": 960,
    "intermediate_size": 2560,
    "num_hidden_layers": 32,
    "num_attention_heads": 15,
    "num_key_value_heads": 5,
    "head_dim": 64,
    "vocab_size": 49280,
}
VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": SIDE,
    "patch_size": 16,
}


def policy() -> SmolVLAPolicy:
    """SmolVLM2-500M's sizes, of whose 32 layers LeRobot takes 16."""
    cameras = {f"observation.images.cam{n}": PolicyFeature(FeatureType.VISUAL, (3, 480, 640)) for n in range(CAMERAS)}
    features = {"observation.state": PolicyFeature(FeatureType.STATE, (3,)), **cameras}
    action = {"action": PolicyFeature(FeatureType.ACTION, (2,))}
    config = SmolVLAConfig(input_features=features, output_features=action, device="cpu")
    sizes = SmolVLMConfig(text_config=TEXT, vision_config=VISION, scale_factor=4)
    words = SimpleNamespace(tokenizer=SimpleNamespace(fake_image_token_id=0, global_image_token_id=0))
    with (
        mock.patch.object(module, "AutoConfig", SimpleNamespace(from_pretrained=lambda _: sizes)),
        mock.patch.object(module, "AutoProcessor", SimpleNamespace(from_pretrained=lambda _: words)),
    ):
        return SmolVLAPolicy(config).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    torch.manual_seed(0)
    model = policy().model
    pictures, seen = [torch.rand(1, 3, SIDE, SIDE) * 2 - 1] * CAMERAS, [torch.ones(1, dtype=torch.bool)] * CAMERAS
    words, mask = torch.randint(0, 49280, (1, WORDS)), torch.ones(1, WORDS, dtype=torch.bool)
    state, noise = torch.zeros(1, 32), torch.randn(1, 50, 32)
    for line in sys.stdin:
        taken = []
        for _ in range(int(line)):
            began = time.process_time()
            with torch.inference_mode():
                model.sample_actions(pictures, seen, words, mask, state, noise=noise)
            taken.append(time.process_time() - began)
        print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    main()
