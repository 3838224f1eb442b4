"""From a folder of Stable Diffusion (tiny, random weights) to pictures, without torch."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from fewstep.cli.main import main
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.files.pack import PackOptions, pack
from fewstep.plans import noise
from fewstep.plans.errors import UserError
from fewstep.report.integrity import VerifyOptions, verify
from fewstep.runtime import load
from fewstep.runtime.autoencoder import load_autoencoder
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.text import load_text_encoder
from tests.families.chain import Exported
from tests.tiny_pipelines import stable_diffusion

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("stable_diffusion")]  # whose export they share

PROMPTS = ["a photo of a cat", "A dog, don't!"]
GUIDANCE = 7.5
BLOCKED = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "diffusers", "onnx", "onnxscript"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Nothing())
from fewstep.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Made:
    """The pipeline, its folder, and the bundle."""

    pipeline: Any
    folder: Path
    bundle: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, family_bundle: Callable[[str], Exported]) -> Made:
    folder = tmp_path_factory.mktemp("text-to-image")
    return Made(stable_diffusion(folder), folder, family_bundle("stable_diffusion").bundle)


def theirs(made: Made, output: str, negative: list[str] | None = None, **given: Any) -> np.ndarray:
    """Return the result of diffusers for the same noise: latents, or images [N, H, W, C] in [0, 1]."""
    latents = np.stack([noise.normal(seed, 0, (4, 8, 8)) for seed in (0, 1)])
    found = made.pipeline(
        PROMPTS,
        negative_prompt=negative,
        num_inference_steps=5,
        guidance_scale=GUIDANCE,
        latents=torch.from_numpy(latents),
        output_type=output,
        **given,
    ).images
    return np.asarray(found)


@pytest.mark.parametrize("negative", [None, ["a dog", "photo, a a a"]])
def test_it_samples_as_the_pipeline_does(made: Made, negative: list[str] | None) -> None:
    """The same prompts from the same noise: latents within a thousandth, and so the images."""
    text, autoencoder = load_text_encoder(made.bundle), load_autoencoder(made.bundle)
    branches = None if negative is None else {"uncond": text.encode(negative)}
    with load(made.bundle) as sampler:
        x = sampler.sample("scheduler:5", [0, 1], text.encode(PROMPTS), GUIDANCE, branches=branches)
    expected = theirs(made, "latent", negative)
    np.testing.assert_allclose(x, expected, atol=1e-3 * np.abs(expected).max())
    images = np.clip(autoencoder.decode(x) / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(images, theirs(made, "np", negative), atol=1e-3)


def test_prompt_to_picture_where_torch_cannot_be_imported(made: Made, tmp_path: Path) -> None:
    asked = ["--plan", "scheduler:5", "--guidance", "7.5", *(f"--prompt={prompt}" for prompt in PROMPTS)]
    for file, scale in (("cats.png", ["--scale=1"]), ("latents.npy", [])):
        command = [sys.executable, "-c", BLOCKED, "run", str(made.bundle), *asked, "-o", str(tmp_path / file)]
        done = subprocess.run([*command, *scale], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    from PIL import Image

    expected = np.rint(255 * theirs(made, "np"))
    with Image.open(tmp_path / "cats.png") as picture:
        pixels = np.asarray(picture, np.float64)
    assert pixels.shape == (16, 33, 3)  # side by side, with a line between them
    assert np.abs(pixels[:, :16] - expected[0]).max() <= 1 and np.abs(pixels[:, 17:] - expected[1]).max() <= 1
    assert np.load(tmp_path / "latents.npy").shape == (2, 4, 8, 8)


def test_a_prompt_without_a_weight_runs_the_scheduler_with_a_warning(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(made.bundle), "-p", "a cat", "-o", str(tmp_path / "x.npy")]) == 0
    said = capsys.readouterr()
    assert "no --guidance given: that of its pipeline is 7.5" in said.err
    assert "1 sample of scheduler:20" in said.out


def test_encoding_an_image_gives_the_latents_that_the_pipeline_starts_from(made: Made) -> None:
    image = np.random.default_rng(0).uniform(-1, 1, (2, 3, 16, 16)).astype(np.float32)
    vae = made.pipeline.vae
    with torch.no_grad():
        expected = vae.encode(torch.from_numpy(image)).latent_dist.mode() * vae.config.scaling_factor
    found = load_autoencoder(made.bundle).encode(image)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4 * float(expected.abs().max()))


def test_image_to_image_keeps_less_of_the_picture_the_stronger_it_is(made: Made, tmp_path: Path) -> None:
    start = tmp_path / "start.png"
    assert main(["run", str(made.bundle), "-p", "a cat", "--scale=1", "-o", str(start), "--quiet"]) == 0
    given = load_autoencoder(made.bundle).encode(read(start))
    distances = []
    for strength in ("0.2", "0.9"):
        asked = ["-p", "a dog", "--image", str(start), "--strength", strength, "--plan", "ddim:10"]
        assert main(["run", str(made.bundle), *asked, "-o", str(tmp_path / "x.npy"), "--quiet"]) == 0
        distances.append(float(np.abs(np.load(tmp_path / "x.npy") - given).mean()))
    assert distances[0] < distances[1]


def read(path: Path) -> np.ndarray:
    from fewstep.report.drawing import pictures

    return pictures.read_picture(path, (3, 16, 16))[None]


def test_the_unconditional_branch_is_the_encoded_empty_prompt(made: Made) -> None:
    bundle = open_bundle(made.bundle)
    (condition,) = bundle.manifest.conditions
    expected = load_text_encoder(bundle).encode([""])[condition.name][0]
    np.testing.assert_allclose(bundle.null(condition), expected, atol=1e-5)


def test_a_packed_bundle_runs_prompts_and_is_whole(made: Made, tmp_path: Path) -> None:
    pack(PackOptions(made.bundle, tmp_path / "device", body=("float32",)))
    assert verify(VerifyOptions(tmp_path / "device")).is_whole
    rows, expected = (load_text_encoder(path).encode(["a cat"]) for path in (tmp_path / "device", made.bundle))
    np.testing.assert_array_equal(rows["encoder_hidden_states"], expected["encoder_hidden_states"])
    assert load_autoencoder(tmp_path / "device").image_shape == (3, 16, 16)


@pytest.mark.parametrize("damage", ["text-encoder-", "tokenizer-", "null-", "decoder-"])
def test_a_damaged_file_is_named(made: Made, tmp_path: Path, damage: str) -> None:
    shutil.copytree(made.bundle, tmp_path / "bundle")
    (file,) = (tmp_path / "bundle").glob(f"graphs/{damage}*")
    file.write_bytes(file.read_bytes()[:-40])
    assert any(file.name in found.what for found in verify(VerifyOptions(tmp_path / "bundle", graphs=False)).damages)
    with pytest.raises(UserError, match=file.name):
        load_text_encoder(tmp_path / "bundle")
        load_autoencoder(tmp_path / "bundle")
        load(tmp_path / "bundle")


def test_calibration_follows_prompts(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.bundle, tmp_path / "bundle")
    (tmp_path / "prompts.txt").write_text("a cat\n\na photo of a dog, a cat\n")
    asked = ["--prompts", str(tmp_path / "prompts.txt"), "--trajectories", "4", "--target", "cpu-x86"]
    plan = ["--plan", "ddim:2", "--guidance", "7.5", "--quiet"]
    assert main(["calibrate", str(tmp_path / "bundle"), *plan, *asked]) == 0
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert "--prompts FILE" in manifest.provenance.commands[-1] and str(tmp_path) not in str(manifest)
    text = load_text_encoder(tmp_path / "bundle").encode(PROMPTS)
    pair = [
        load(tmp_path / "bundle", precision).sample("ddim:2", [0, 1], text, 7.5) for precision in ("float32", "int8")
    ]
    assert 0 < np.abs(pair[0] - pair[1]).max() < 0.5 * np.abs(pair[0]).max()
    assert main(["inspect", str(tmp_path / "bundle"), "--quiet"]) == 0


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ([], 'needs a prompt; give one: --prompt "..."'),
        (["--negative", "a dog", "--guidance", "2"], 'needs a prompt; give one: --prompt "..."'),
        (["--plan", "dpmp_2m:8"], "unknown solver 'dpmp_2m'"),
        (["--precision", "int4"], "unknown precision 'int4'"),
        (["-p", "a cat", "--negative", "a dog"], "--negative without guidance has no effect"),
        (["-p", "a cat", "--strength", "0.5"], "--strength needs a second option; add --image FILE"),
        (["-p", "a cat", "--image", "nowhere.png", "--strength", "0.5"], "nowhere.png cannot be read"),
    ],
)
def test_what_is_asked_for_by_half_is_one_line(
    made: Made, asked: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(made.bundle), *asked, "-o", str(tmp_path / "x.png")]) == 1
    assert says in capsys.readouterr().err


def test_a_baked_file_goes_from_token_ids_to_a_picture(made: Made, tmp_path: Path) -> None:
    """Text encoder, denoiser and decoder in one file; with --latents the denoiser alone, bitwise."""
    text = load_text_encoder(made.bundle)
    condition = text.encode(PROMPTS[:1])
    with load(made.bundle) as sampler:
        latents = sampler.sample("dpmpp_2m:3", [0], condition, GUIDANCE)
    noises = noise.normal(0, 0, latents.shape[1:])[None]

    def run(file: Path, **given: np.ndarray) -> np.ndarray:
        return onnxruntime.InferenceSession(file).run(None, {"noise": noises, **given})[0]

    inner, whole = tmp_path / "latents.onnx", tmp_path / "pictures.onnx"
    bake(BakeOptions(made.bundle, "dpmpp_2m:3", inner, guidance=GUIDANCE, latents=True, batch=1))
    np.testing.assert_array_equal(run(inner, **condition), latents)
    bake(BakeOptions(made.bundle, "dpmpp_2m:3", whole, guidance=GUIDANCE, batch=1))
    expected = load_autoencoder(made.bundle).decode(latents)
    np.testing.assert_allclose(run(whole, **text.ids(PROMPTS[:1])), expected, rtol=0, atol=1e-5)
