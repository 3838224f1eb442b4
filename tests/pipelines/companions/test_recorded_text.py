"""Prompts of recorded pipelines: from text to x in a bundle, compared with the pipeline's own call."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewstep.cli.main import main
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.pipelines.companions.recorded_text import RecordedText, find_text_rules
from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.relations.text_rules import BlockGrid
from fewstep.pipelines.source import record_folder
from fewstep.runtime.sampling.loading import load
from tests.recorded_pipelines import CALLS

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("ftfy")  # of Wan's pipeline

PipelineFolder = Callable[[str], Path]


def find(folder: Path, name: str) -> RecordedText:
    read = Folder(folder)
    text = find_text_rules(record_folder(read, CALLS[name]))
    assert text is not None
    return text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("wan", {"encoder_hidden_states"}),
        ("ltx", {"encoder_hidden_states", "encoder_attention_mask"}),
        ("chroma", {"encoder_hidden_states", "attention_mask"}),
        ("flux2_klein", {"encoder_hidden_states"}),
        ("qwen_image", {"encoder_hidden_states", "encoder_hidden_states_mask"}),
    ],
)
def test_conditions_follow_from_texts(name: str, rules: set[str], pipeline_folder: PipelineFolder) -> None:
    text = find(pipeline_folder(name), name)
    assert text.rules.keys() == rules and text.components == ("text_encoder",)


@pytest.mark.slow
def test_the_template_of_a_chat_is_found_and_dropped(pipeline_folder: PipelineFolder) -> None:
    text = find(pipeline_folder("qwen_image"), "qwen_image")
    (tokens,), rule = text.token_inputs(False), text.rules["encoder_hidden_states"]
    assert tokens.before.startswith("<|im_start|>system\nDescribe the image")
    assert tokens.after == "<|im_end|>\n<|im_start|>assistant\n"
    assert isinstance(rule, BlockGrid) and [(block.start, block.mask) for block in rule.blocks] == [((34, 0), 0)]


@pytest.mark.slow
@pytest.mark.parametrize("negative", ["a photo", None])
def test_samples_of_prompts_are_those_of_the_pipeline(
    negative: str | None, pipeline_folder: PipelineFolder, tmp_path: Path
) -> None:
    """Without a negative prompt, the null value is that of the pipeline."""
    folder, prompt = pipeline_folder("wan"), " A cat &amp;\n a  dog"
    call = tuple(f"{key}={value}" for key, value in CALLS["wan"].items())
    export(ExportOptions(str(folder), tmp_path / "bundle", call=call, verify="quick"))
    words = ["run", tmp_path / "bundle", "--prompt", prompt, "--guidance", 4, "--plan", "scheduler:3"]
    words += [] if negative is None else ["--negative", negative]
    assert main([*map(str, (*words, "-o", tmp_path / "x.npy"))]) == 0
    pipeline: Any = diffusers.DiffusionPipeline.from_pretrained(folder, vae=None)
    pipeline.set_progress_bar_config(disable=True)
    noise = load(tmp_path / "bundle").draws([0])(0)
    more = {"negative_prompt": negative, "guidance_scale": 4.0, "num_inference_steps": 3, "output_type": "latent"}
    expected = pipeline(prompt, latents=torch.from_numpy(noise.copy()), **more, **CALLS["wan"]).frames[0].numpy()
    np.testing.assert_allclose(np.load(tmp_path / "x.npy")[0], expected, atol=3e-5 * np.ptp(expected))
