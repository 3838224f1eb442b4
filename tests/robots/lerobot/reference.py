"""Record actions of LeRobot's own policies for tiny configurations, in LeRobot's environment (0.6, Python 3.12).

    python tests/robots/lerobot/reference.py tests/export/sources/lerobot

writes TYPE.npz: the files that `save_pretrained` wrote, names and shapes of all weights (`weights.py` has their
values), observations, the noise, and the actions of ten steps. Nothing is downloaded: sizes of the encoders and the
tokenizer are defined here.
"""

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from weights import weight

STATE, ACTION, CHUNK, PADDED = 3, 2, 8, 6
TASKS = {"multi_task_dit": "lift it", "smolvla": "Push the cube.", "pi0": "push it", "pi05": " push_the cube\n"}
SIZE = (20, 28)
HEAD = 64  # of SmolLM2 and of CLIP


def tokenizer(begins: bool, ends: bool) -> Any:
    """Each character is a token; the last id ends a text."""
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    characters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {"<pad>": 0, "<s>": 1, **{character: 2 + place for place, character in enumerate(characters)}}
    vocabulary["</s>"] = len(vocabulary)
    fast = Tokenizer(models.BPE(vocabulary, []))
    fast.add_special_tokens(["<pad>", "<s>", "</s>"])
    single = ["<s>"] * begins + ["$A"] + ["</s>"] * ends
    if begins or ends:
        special = [(each, vocabulary[each]) for each in ("<s>", "</s>")]
        fast.post_processor = processors.TemplateProcessing(single=" ".join(single), special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="</s>" if ends else "<pad>")


def features(cameras: int, state: bool = True) -> dict[str, Any]:
    from lerobot.configs import FeatureType, PolicyFeature

    seen = {
        f"observation.images.cam{number}": PolicyFeature(FeatureType.VISUAL, (3, *SIZE)) for number in range(cameras)
    }
    stated = {"observation.state": PolicyFeature(FeatureType.STATE, (STATE,))} if state else {}
    return {
        "input_features": {**stated, **seen},
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (ACTION,))},
        "device": "cpu",
    }


def statistics(cameras: int) -> dict[str, dict[str, Any]]:
    numbers = {
        "observation.state": {
            "min": [-1.5, 20.0, 0.5],
            "max": [2.5, 90.0, 1.5],
            "mean": [0.5, 50.0, 1.0],
            "std": [0.8, 20.0, 0.3],
            "q01": [-1.4, 22.0, 0.6],
            "q99": [2.4, 88.0, 1.4],
        },
        "action": {
            "min": [-10.0, 0.0],
            "max": [30.0, 0.04],
            "mean": [5.0, 0.02],
            "std": [6.0, 0.01],
            "q01": [-9.0, 0.001],
            "q99": [28.0, 0.039],
        },
    }
    for camera in range(cameras):
        colour = {"mean": [[[0.5]], [[0.4]], [[0.3]]], "std": [[[0.2]], [[0.25]], [[0.3]]]}
        numbers[f"observation.images.cam{camera}"] = colour
    return {name: {key: torch.tensor(value) for key, value in number.items()} for name, number in numbers.items()}


def multi_task_dit() -> tuple[Any, Any, Any]:
    from lerobot.policies.multi_task_dit import MultiTaskDiTConfig
    from lerobot.policies.multi_task_dit import modeling_multi_task_dit as module
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

    config = MultiTaskDiTConfig(
        n_obs_steps=2, horizon=CHUNK, n_action_steps=4, objective="flow_matching", num_integration_steps=10,
        hidden_dim=32, num_layers=2, num_heads=4, timestep_embed_dim=16, image_resize_shape=(18, 26),
        image_crop_shape=(16, 16), tokenizer_max_length=16, **features(2),
    )  # fmt: skip
    text = CLIPTextConfig(
        hidden_size=HEAD, intermediate_size=48, num_hidden_layers=2, num_attention_heads=1, vocab_size=99,
        max_position_embeddings=16, eos_token_id=98,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=2 * HEAD,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    with (
        mock.patch.object(module, "CLIPTextModel", SimpleNamespace(from_pretrained=lambda _: CLIPTextModel(text))),
        mock.patch.object(
            module, "CLIPVisionModel", SimpleNamespace(from_pretrained=lambda _: CLIPVisionModel(vision))
        ),
    ):
        policy = module.MultiTaskDiTPolicy(config)
    from lerobot.policies.multi_task_dit import make_multi_task_dit_pre_post_processors as make

    return policy, make, tokenizer(True, True)


def smolvla() -> tuple[Any, Any, Any]:
    from lerobot.policies.smolvla import smolvlm_with_expert as module
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
    from lerobot.policies.smolvla.processor_smolvla import make_smolvla_pre_post_processors
    from transformers import SmolVLMConfig

    config = SmolVLAConfig(
        chunk_size=CHUNK, n_action_steps=4, max_state_dim=5, max_action_dim=PADDED, resize_imgs_with_padding=(32, 32),
        tokenizer_max_length=20, num_vlm_layers=3, **features(2),
    )  # fmt: skip
    vlm = SmolVLMConfig(
        text_config={
            "model_type": "llama", "hidden_size": 2 * HEAD, "intermediate_size": 48, "num_hidden_layers": 4,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": HEAD, "vocab_size": 99,
            "rms_norm_eps": 1e-5,
        },
        vision_config={
            "hidden_size": HEAD, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 1,
            "image_size": 32, "patch_size": 8,
        },
        scale_factor=2,
    )  # fmt: skip
    named = SimpleNamespace(tokenizer=SimpleNamespace(fake_image_token_id=0, global_image_token_id=0))
    with (
        mock.patch.object(module, "AutoConfig", SimpleNamespace(from_pretrained=lambda _: vlm)),
        mock.patch.object(module, "AutoProcessor", SimpleNamespace(from_pretrained=lambda _: named)),
    ):
        policy = SmolVLAPolicy(config)
    return policy, make_smolvla_pre_post_processors, tokenizer(False, False)


def _pi(kind: str) -> tuple[Any, Any, Any]:
    import importlib

    module = importlib.import_module(f"lerobot.policies.{kind}.modeling_{kind}")
    name = kind.upper()
    config = getattr(importlib.import_module(f"lerobot.policies.{kind}.configuration_{kind}"), f"{name}Config")(
        chunk_size=CHUNK, n_action_steps=4, max_state_dim=5, max_action_dim=PADDED, image_resolution=(32, 32),
        tokenizer_max_length=64, **features(2),
    )  # fmt: skip
    sizes = {"gemma_2b": (48, 64), "gemma_300m": (32, 40)}

    def shape(variant: str) -> Any:
        width, hidden = sizes[variant]
        return SimpleNamespace(width=width, depth=2, mlp_dim=hidden, num_heads=2, num_kv_heads=1, head_dim=256)

    def whole(config: Any) -> Any:
        config.text_config.vocab_size = config._vocab_size = 99
        config.image_token_index = 98
        for field, value in (
            ("hidden_size", HEAD), ("intermediate_size", 48), ("num_hidden_layers", 2), ("num_attention_heads", 1),
            ("patch_size", 8), ("projection_dim", 48),
        ):  # fmt: skip
            setattr(config.vision_config, field, value)
        return vision(config)

    def expert(config: Any) -> Any:
        config.vocab_size = 99
        return causal(config)

    vision, causal = module.PaliGemmaForConditionalGenerationWithPiGemma, module.PiGemmaForCausalLM
    with (
        mock.patch.object(module, "get_gemma_config", shape),
        mock.patch.object(module, "PaliGemmaForConditionalGenerationWithPiGemma", whole),
        mock.patch.object(module, "PiGemmaForCausalLM", expert),
    ):
        policy = getattr(module, f"{name}Policy")(config)
    processors = importlib.import_module(f"lerobot.policies.{kind}.processor_{kind}")
    return policy, getattr(processors, f"make_{kind}_pre_post_processors"), tokenizer(True, False)


def pi0() -> tuple[Any, Any, Any]:
    return _pi("pi0")


def pi05() -> tuple[Any, Any, Any]:
    return _pi("pi05")


def fill(policy: Any) -> None:
    """Give all weights their values."""
    with torch.no_grad():
        for name, tensor in policy.named_parameters():
            tensor.copy_(torch.from_numpy(weight(name, tuple(tensor.shape))))


def shapes(file: Path) -> dict[str, list[int]]:
    """Names and shapes of all tensors of a safetensors file."""
    from safetensors import safe_open

    with safe_open(file, "pt") as tensors:
        return {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def files(folder: Path) -> dict[str, np.ndarray]:
    return {
        f"file/{path.relative_to(folder)}": np.frombuffer(path.read_bytes(), np.uint8)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "model.safetensors"
    }


def reference(kind: str) -> dict[str, np.ndarray]:
    """One policy, run once."""
    from lerobot.processor import tokenizer_processor

    torch.manual_seed(0)
    policy, make, words = globals()[kind]()
    policy.eval()
    fill(policy)
    with mock.patch.object(tokenizer_processor, "AutoTokenizer", SimpleNamespace(from_pretrained=lambda *_: words)):
        before, after = make(policy.config, statistics(2))
    rng = np.random.default_rng(5)
    steps = policy.config.n_obs_steps
    seen: dict[str, np.ndarray] = {
        "observation.state": rng.uniform([-1.5, 20.0, 0.5], [2.5, 90.0, 1.5], (steps, STATE)).astype(np.float32)
    }
    for camera in range(2):
        seen[f"observation.images.cam{camera}"] = rng.integers(0, 256, (steps, 3, *SIZE)).astype(np.uint8)
    noise = rng.standard_normal((1, CHUNK, ACTION if kind == "multi_task_dit" else PADDED)).astype(np.float32)
    ticks = []
    for step in range(steps):
        raw: dict[str, Any] = {
            name: torch.from_numpy(value[step].astype(np.float32) / (255 if "images" in name else 1))
            for name, value in seen.items()
        }
        ticks.append(before({**raw, "task": TASKS[kind]}))
    if kind == "multi_task_dit":
        batch = dict(ticks[-1])
        batch["observation.state"] = torch.stack([tick["observation.state"] for tick in ticks], dim=1)
        images = [torch.stack([tick[name] for name in policy.config.image_features], dim=1) for tick in ticks]
        batch["observation.images"] = torch.stack(images, dim=1)
        condition = policy.observation_encoder.encode(batch)
        drawn = lambda size, **_: torch.from_numpy(noise)  # noqa: E731
        with mock.patch.object(torch, "randn", drawn), torch.no_grad():
            actions = policy.objective.conditional_sample(policy.noise_predictor, 1, condition)[:, steps - 1 :]
    else:
        with torch.no_grad():
            actions = policy.predict_action_chunk(ticks[-1], noise=torch.from_numpy(noise))
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        policy.save_pretrained(folder)
        before.save_pretrained(folder)
        after.save_pretrained(folder)
        words.save_pretrained(folder / "tokenizer")
        written, listed = files(folder), json.dumps(shapes(folder / "model.safetensors")).encode()
    return {
        **written,
        **{f"seen/{name}": value for name, value in seen.items()},
        "weights": np.frombuffer(listed, np.uint8),
        "task": np.array(TASKS[kind]),
        "noise": noise[0],
        "actions": after(actions)[0].numpy(),
    }


if __name__ == "__main__":
    for kind in sys.argv[2:] or TASKS:
        np.savez_compressed(Path(sys.argv[1]) / f"{kind}.npz", **reference(kind))
