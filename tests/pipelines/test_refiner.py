"""The refiner of XL reads an aesthetic score after its sizes, with another value in the unconditional branch."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.pipelines.whole_call import compare_whole_call
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.source import record_folder
from tests.tiny_pipelines import attention_unet, autoencoder, clip, randomize, write_clip_tokenizer

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def refiner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a refiner, whose U-Net reads five numbers and a pooled text."""
    home = tmp_path_factory.mktemp("refiner")
    sizes = {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 5 * 8 + 10}
    files = write_clip_tokenizer(home / "vocabulary")
    pipeline: Any = diffusers.StableDiffusionXLImg2ImgPipeline(
        unet=randomize(attention_unet(addition_embed_type="text_time", **sizes)),
        vae=autoencoder(),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=clip(files, projected=True),
        tokenizer_2=transformers.CLIPTokenizer.from_pretrained(files),
        scheduler=diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="leading"),
        requires_aesthetics_score=True,
    )
    pipeline.save_pretrained(home / "model")
    return home / "model"


@pytest.mark.slow
def test_a_bundle_with_the_default_scores_samples_as_the_refiner_does(refiner: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    export(ExportOptions(str(refiner), bundle, verify="quick"))
    whole = compare_whole_call(refiner, bundle, {})
    assert whole.from_text is not None and whole.from_text <= 1e-5


def test_the_scores_are_a_condition_with_a_default_and_a_null_value(refiner: Path) -> None:
    found = record_folder(Folder(refiner), {"aesthetic_score": 7.5}).arguments.conditions
    (score,) = (condition for condition in found if condition.name == "time_ids_4")
    assert (score.default, score.null) == ((7.5,), 2.5)
