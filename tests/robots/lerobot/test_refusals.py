"""Folders of policies that are refused: each in one line that names the file, the field or the step."""

import json
from pathlib import Path
from typing import Any

import pytest

from fewstep.export.load_source import load_source
from fewstep.plans.errors import UserError
from fewstep.robots.lerobot.normalisation import RENAMED, read_robot_names
from tests.refusals import refuses
from tests.robots.lerobot.policies import STATE, Change, config, statistics, step, write, write_policy
from tests.robots.lerobot.test_folder import renaming

NAN, READS = float("nan"), "fewstep reads only diffusion, multi_task_dit, smolvla, pi0, pi05"
NORMALISER, BATCHED, CAMERA = "normalizer_processor", "to_batch_processor", "observation.images.cam0"
FEATURE = {"observation.state": {"type": "STATE", "shape": [STATE]}}
SEEING = {**FEATURE, "observation.image": {"type": "VISUAL", "shape": [3, 40, 48]}}


def more_words(folder: Path) -> None:
    """The tokenizer of another network."""
    file = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"] |= {f"<{number}>": 98 + number for number in range(1, 4)}
    file.write_text(json.dumps(content))


def without(files: str) -> Change:
    def change(folder: Path) -> None:
        for file in folder.glob(files):
            file.rename(folder.parent / file.name)

    return change


def with_weights(content: bytes) -> Change:
    return lambda folder: (folder / "model.safetensors").write_bytes(content) and None


REFUSED: list[tuple[str, Change, str]] = [
    ("diffusion", config(type="act"), r"of type 'act' computes its actions in one call \(ACT\), without a sampler"),
    ("diffusion", config(type="vqbet"), r"of type 'vqbet' chooses its actions from a codebook \(VQ-BeT\)"),
    (
        "diffusion",
        config(vision_backbone="resnet50", input_features=SEEING),
        "'resnet50'; fewstep reads only resnet18, resnet34",
    ),
    ("diffusion", config(noise_scheduler_type="EDM"), "the scheduler 'EDM'"),
    ("diffusion", config(down_dims=[16, 64]), "weight 'diffusion.unet.*' is .*, but config.json requires"),
    ("diffusion", config(down_dims=[16, 32, 64]), "has no weight 'diffusion.unet"),
    ("diffusion", config(output_features={}), "has no action"),
    ("diffusion", config(input_features={"observation.state": {"type": "STATE"}}), "config.json has no 'shape'"),
    ("diffusion", config(n_action_steps=9), "config.json has n_action_steps 9; give a number from 1 to horizon, 8"),
    ("diffusion", config(n_action_steps=0), "config.json has n_action_steps 0; give a number from 1 to horizon, 8"),
    ("diffusion", config(n_obs_steps=9), "config.json has n_obs_steps 9|weight .* config.json requires"),
    ("smolvla", config(n_action_steps=99), "config.json has n_action_steps 99; give a number from 1 to chunk_size"),
    ("diffusion", config(n_groups=0), "does not fit a diffusion policy"),
    (
        "diffusion",
        config(spatial_softmax_num_keypoints=-1, vision_backbone="resnet18", input_features=SEEING),
        "does not fit a diffusion policy",
    ),
    ("diffusion", statistics(max=[1.0, NAN, 1.0]), r"max of observation\.state contains NaN"),
    ("diffusion", without("policy_preprocessor*.safetensors"), "is missing"),
    ("diffusion", without("policy_*"), "its weights contain no statistics of observation.state"),
    ("diffusion", with_weights(b"version https://git-lfs"), "is (no|not a) safetensors file"),
    ("smolvla", config(type="groot"), f"'groot'; {READS}.*; export its action head"),
    ("smolvla", config(type=["pi0"]), r"of type \['pi0'\]; fewstep reads only"),
    ("smolvla", config(adapt_to_pi_aloha=True), "trained with adapt_to_pi_aloha"),
    ("smolvla", config(max_state_dim=7), r"state_proj.weight' is \[128, 5\], but config.json requires \[128, 7\]"),
    ("smolvla", config(max_action_dim=1), "does not fit a smolvla policy"),
    ("smolvla", config(min_period=0.0), r"a smolvla policy \(min_period is 0 and max_period is 4\)"),
    ("smolvla", config(chunk_size=10**9), r"\[1000000000, 6\] is not .* of at most 268435456 elements"),
    ("smolvla", config(resize_imgs_with_padding=[30, 30]), "into patches of 8, 2 by 2 per token"),
    ("smolvla", config(vlm_model_name="HuggingFaceM4/Idefics3-8B"), "has the model 'HuggingFaceM4/Idefics3"),
    ("smolvla", config(input_features=FEATURE), "has no camera"),
    (
        "smolvla",
        step(BATCHED, {"registry_name": "relative_actions_processor", "config": {"enabled": True}}),
        "one of the steps relative_actions_processor and absolute_actions_processor is enabled, and the other is not",
    ),
    ("smolvla", step(BATCHED, {"registry_name": "delta_processor"}), "has a step 'delta_processor'"),
    ("smolvla", step(BATCHED, {"registry_name": None, "class": "mine.Step"}), "has a step 'mine.Step'"),
    (
        "smolvla",
        step(RENAMED, rename_map=dict.fromkeys(("front", "top"), CAMERA)),
        f"renames front and top to {CAMERA}",
    ),
    ("smolvla", step(NORMALISER, eps=NAN), "has an invalid eps: nan"),
    ("smolvla", step(NORMALISER, eps="small"), "a file does not fit a smolvla policy"),
    (
        "smolvla",
        step(NORMALISER, normalize_observation_keys="observation.state"),
        "normalize_observation_keys in .* is not a list",
    ),
    ("smolvla", statistics(mean=[0.0, NAN, 0.0]), r"mean of observation\.state contains NaN"),
    ("smolvla", statistics(std=[1.0, -2.0, 1.0]), r"std of observation\.state contains -2"),
    ("pi0", config(use_relative_actions=True), "config.json has use_relative_actions true, and its processors differ"),
    ("pi0", config(chunk_size=None), "does not fit a pi0 policy"),
    ("pi0", more_words, "has 102 tokens, but the policy's weights have 99"),
    ("pi0", without("tokenizer"), "has no tokenizer; its policy uses that of google/paligemma-3b-pt-224"),
    ("multi_task_dit", config(num_layers=3), "has no weight 'noise_predictor.transformer_blocks.2"),
    ("multi_task_dit", config(image_crop_shape=None), "but the encoder has 4 in all"),
    ("multi_task_dit", config(vision_encoder_name="laion/CLIP-ViT-H-14"), "has the encoder 'laion/CLIP-ViT-H-14'"),
    ("multi_task_dit", config(text_encoder_name="laion/CLIP-ViT-H-14"), "has the encoder 'laion/CLIP-ViT-H-14'"),
]


@pytest.mark.parametrize(("kind", "change", "message"), REFUSED)
def test_another_policy_is_refused(tmp_path: Path, kind: str, change: Change, message: str) -> None:
    folder = tmp_path / "policy"
    if kind == "diffusion":
        write_policy(folder)
    else:
        write(kind, folder)
    change(folder)
    with pytest.raises(UserError, match=message):
        load_source(str(folder))


def test_a_least_value_above_the_greatest_is_refused(tmp_path: Path) -> None:
    write("smolvla", tmp_path)
    step(NORMALISER, norm_map={"STATE": "MIN_MAX"})(tmp_path)
    statistics(min=[0.0, 99.0, 0.0])(tmp_path)
    with refuses(("observation.state", "above its max")):
        load_source(str(tmp_path))


@pytest.mark.parametrize(
    ("maps", "said"),
    [
        ([{"a": ["b"]}], "has a rename_map that does not map names to names"),
        ([["a", "b"]], "has a rename_map that does not map names to names"),
        ([{"a": "d"}], "renames a to d, which is not a feature of the policy .b, c"),
        ([{"a": "b"}, {"b": "d"}], "renames a to d, which is not a feature"),
        ([{"a": "b"}, {"d": "b"}], "renames a and d to b"),
    ],
)
def test_a_name_without_one_place_is_refused(tmp_path: Path, maps: list[Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_robot_names(renaming(tmp_path, *maps), ["b", "c"])
