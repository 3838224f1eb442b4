"""`fewstep encode`: conditions of a recorded bundle, computed by the pipeline's own code."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.cli.main import main
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.pipelines.encode import EncodeOptions, encode
from fewstep.plans.errors import UserError
from fewstep.runtime.sampling.loading import load
from tests import recorded_pipelines
from tests.recorded_pipelines import CALLS, TEXT, TOKENS
from tests.refusals import refuses

diffusers = pytest.importorskip("diffusers")


def call_options(name: str) -> tuple[str, ...]:
    return tuple(f"{key}={value}" for key, value in CALLS[name].items())


def open_pipeline(folder: Path, **absent: None) -> Any:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, **absent)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded_pipelines.wan(tmp_path_factory.mktemp("encode") / "wan")


def wan_options(folder: Path, output: Path, **more: Any) -> EncodeOptions:
    return EncodeOptions(
        str(folder), output=output, **{"call": call_options("wan"), "prompt": ("a cat", "a dog"), **more}
    )


def test_prompts_are_encoded_as_the_pipeline_encodes_them(wan: Path, tmp_path: Path) -> None:
    made = encode(wan_options(wan, tmp_path / "p.npz"))
    expected, _ = open_pipeline(wan, vae=None).encode_prompt(["a cat", "a dog"], max_sequence_length=TOKENS)
    assert made.keys() == {"encoder_hidden_states"}
    np.testing.assert_allclose(made["encoder_hidden_states"], expected[:2].detach().numpy(), atol=1e-6)


def test_a_negative_prompt_is_of_the_unconditional_branch(wan: Path, tmp_path: Path) -> None:
    made = encode(wan_options(wan, tmp_path / "p.npz", negative="a photo"))
    _, expected = open_pipeline(wan, vae=None).encode_prompt(
        "a cat", negative_prompt="a photo", max_sequence_length=TOKENS
    )
    stored = np.load(tmp_path / "p.npz")["uncond.encoder_hidden_states"]
    assert stored.shape == (2, TOKENS, TEXT) and np.array_equal(stored, made["uncond.encoder_hidden_states"])
    np.testing.assert_allclose(stored[1], expected[0].detach().numpy(), atol=1e-6)


@pytest.mark.slow
def test_a_picture_is_encoded_with_the_prompt(tmp_path: Path) -> None:
    name = "cogvideox_image_to_video"
    folder, pixels = getattr(recorded_pipelines, name)(tmp_path / name), np.zeros((16, 16, 3), "uint8")
    pixels[:8] = 200
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    image = (str(tmp_path / "picture.png"),)
    options = EncodeOptions(str(folder), ("a cat",), image=image, call=call_options(name), output=tmp_path / "p.npz")
    made = encode(options)
    assert made.keys() == {"image", "encoder_hidden_states"}
    vae = open_pipeline(folder).vae
    frame = torch.from_numpy(pixels / 127.5 - 1).float().permute(2, 0, 1)[None, :, None]
    with torch.no_grad():
        latents = vae.encode(frame).latent_dist
    distance = np.abs(made["image"][0, 0] / 0.7 - latents.mean[0, :, 0].numpy()).max()
    assert made["image"].shape == (1, 3, 4, 2, 2) and distance < 5 * float(latents.std.max())
    assert not made["image"][0, 1:].any()
    alone = encode(replace(options, prompt=()))
    assert alone.keys() == {"image"} and np.array_equal(alone["image"], made["image"])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"prompt": ()}, 'the call of WanPipeline takes a prompt; give one: --prompt "..."'),
        ({"image": ("cat.png",)}, "WanPipeline was recorded without 'image'; leave --image out"),
        ({"call": ("size=4",)}, "the call of WanPipeline takes no 'size'"),
        ({"call": (*call_options("wan"), "guidance_scale=1.0"), "negative": "a"}, "uses no guidance by default"),
    ],
)
def test_what_the_call_does_not_take_is_refused(more: dict[str, Any], says: str, wan: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        encode(wan_options(wan, tmp_path / "p.npz", **more))
    assert not (tmp_path / "p.npz").exists()


def test_a_folder_may_be_named_like_a_file_of_python(tmp_path: Path) -> None:
    (tmp_path / "own.py" / "unet").mkdir(parents=True)
    index = {"_class_name": "LDMTextToImagePipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (tmp_path / "own.py" / "model_index.json").write_text(json.dumps(index))
    with refuses("own.py has no scheduler/scheduler_config.json"):
        encode(EncodeOptions(str(tmp_path / "own.py"), prompt=("a",), output=tmp_path / "p.npz"))


def test_an_output_of_another_type_is_refused() -> None:
    with refuses("p.npy", ".npz file"):
        EncodeOptions("folder", output=Path("p.npy"))


@pytest.mark.slow
def test_samples_of_encoded_prompts_are_those_of_the_pipeline(wan: Path, tmp_path: Path) -> None:
    options = wan_options(wan, tmp_path / "prompts.npz", negative="a photo")
    encode(options)
    export(ExportOptions(str(wan), tmp_path / "bundle", call=options.call, verify="quick"))
    words = ["--conditions", tmp_path / "prompts.npz", "--guidance", "4", "--plan", "scheduler:3"]
    assert main([*map(str, ("run", tmp_path / "bundle", *words, "-o", tmp_path / "x.npy"))]) == 0
    x = np.load(tmp_path / "x.npy")
    noise = load(tmp_path / "bundle").draws([0, 1])(0)
    pipeline = open_pipeline(wan, vae=None)
    for row, prompt in enumerate(("a cat", "a dog")):
        expected = pipeline(
            prompt,
            negative_prompt="a photo",
            guidance_scale=4.0,
            num_inference_steps=3,
            latents=torch.from_numpy(noise[row : row + 1].copy()),
            output_type="latent",
            **CALLS["wan"],
        ).frames[0]
        np.testing.assert_allclose(x[row], expected.numpy(), atol=1e-4 * np.ptp(expected.numpy()))


@pytest.mark.slow
def test_an_encoded_text_is_a_null_value(wan: Path, tmp_path: Path) -> None:
    options = wan_options(wan, tmp_path / "empty.npz", prompt=("",))
    empty = encode(options)["encoder_hidden_states"][0]
    null = (f"encoder_hidden_states=@{options.output}",)
    export(ExportOptions(str(wan), tmp_path / "bundle", call=options.call, verify="quick", null=null))
    bundle = load(tmp_path / "bundle").bundle
    np.testing.assert_array_equal(bundle.null(bundle.manifest.conditions[0]), empty)


@pytest.mark.slow
@pytest.mark.parametrize(("prompt", "length"), [("a cat", 184), ("a cat " * 60, 224)], ids=["short", "long"])
def test_a_text_of_any_length_is_padded_with_a_mask(prompt: str, length: int, tmp_path: Path) -> None:
    folder = recorded_pipelines.qwen_image(tmp_path / "qwen_image")
    options = {"call": call_options("qwen_image"), "prompt": (prompt,)}
    made = encode(EncodeOptions(str(folder), output=tmp_path / "p.npz", **options))
    expected, _ = open_pipeline(folder, vae=None).encode_prompt(prompt, max_sequence_length=224)
    mask = made["encoder_hidden_states_mask"]
    assert (expected.shape[1], mask.tolist()) == (length, [[1] * length + [0] * (224 - length)])
    np.testing.assert_allclose(made["encoder_hidden_states"][:, :length], expected.detach().numpy(), atol=1e-6)
