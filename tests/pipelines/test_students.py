"""Signs of a student of few steps: in the folder's name, its card's tags and its scheduler's config."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from fewstep.export.sources.card import read_tags
from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.students import warn_of_student
from fewstep.plans.configs.student_signs import find_signs, find_words, unread_fields

UNIPC = {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True, "flow_shift": 8.0, "solver_p": None}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
TIMES = {"dmd_denoising_steps": [1000, 757, 522]}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("FastWan2.1-T2V-3step-distilled", ["3step", "distilled"]),
        ("sdxl-turbo", ["turbo"]),
        ("SDXLTurbo", ["turbo"]),
        ("Qwen-Image-Lightning-8steps", ["lightning", "8steps"]),
        ("SDXL-Lightning-4-Step", ["lightning", "4-step"]),
        ("WanDMDPipeline", ["dmd"]),
        ("Hyper-SD", ["hyper"]),
        ("Wan2.1-T2V-14B-StepDistill-CfgDistill", ["distill", "distill"]),
        ("FLUX.1-schnell", ["schnell"]),
        ("FLUX.2-klein-4B", ["klein"]),
        ("Flux2KleinPipeline", []),  # the class of the student and of klein-base
        ("FLUX.2-klein-base-4B", []),
        ("DreamshaperLCM", ["lcm"]),
        ("stable-diffusion-v1-5", []),
        ("hyperrealistic-turbocharged", []),
        ("ddpm-1000-steps", []),
        ("distilbert-unet", []),
    ],
)
def test_words_of_names(name: str, words: list[str]) -> None:
    assert find_words([name]) == words


@pytest.mark.parametrize(
    ("front", "tags"),
    [
        ("tags: [distillation, dmd, 3-step]\nlicense: mit", ["distillation", "dmd", "3-step"]),
        ("license: mit\ntags:\n- text-to-image\n  - 'turbo'\nbase_model: a/lcm", ["text-to-image", "turbo"]),
        ("license: mit\nbase_model: a/lcm", []),
    ],
)
def test_tags_of_a_card(tmp_path: Path, front: str, tags: list[str]) -> None:
    assert read_tags(tmp_path) == []
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\n- dmd is not a tag here\n")
    assert read_tags(tmp_path) == tags


def test_fields_that_another_class_reads_are_no_sign() -> None:
    assert unread_fields({**UNIPC, **TIMES, "clip_sample": True, "_diffusers_version": "0.1"}) == TIMES
    assert unread_fields({"_class_name": "MyScheduler", **TIMES}) == {}


@pytest.mark.parametrize(
    ("texts", "scheduler", "options"),
    [
        (["model"], {**UNIPC, **TIMES}, '--plan "renoise:3@custom(times=[1000, 757, 522])" --guidance 1'),
        (["wan-3step"], UNIPC, "--plan scheduler:3 --guidance 1"),
        (["model-lcm"], UNIPC, "--plan lcm:4 --guidance 1"),
        (["wan-3step", "dmd"], UNIPC, "--plan renoise:3 --guidance 1"),
        (["model-turbo"], {**UNIPC, "sampling_steps": [1, 2]}, "--plan scheduler:4 --guidance 1"),
        (["model"], UNIPC, None),
        (["model-lcm"], {"_class_name": "LCMScheduler"}, None),  # its own scheduler says so
    ],
)
def test_options_of_a_student(texts: list[str], scheduler: dict[str, Any], options: str | None) -> None:
    signs = find_signs(texts, scheduler)
    assert (None if signs is None else signs.options) == options


def written(folder: Path, tags: str = "") -> Folder:
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    (folder / "README.md").write_text(f"---\ntags: [{tags}]\n---\n")
    return Folder(folder)


def test_a_student_is_one_line_and_unread_fields_another(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "fewstep")
    warn_of_student(written(tmp_path / "wan", "video, dmd"), UNIPC)
    (line,) = caplog.messages
    assert "says dmd: if its weights are a student" in line and line.endswith("--plan renoise:4 --guidance 1")
    caplog.clear()
    warn_of_student(written(tmp_path / "teacher"), {**UNIPC, "speed": 3})
    assert caplog.messages == [f"{tmp_path}/teacher: its scheduler does not read the fields speed of its config"]
    caplog.clear()
    warn_of_student(written(tmp_path / "plain"), UNIPC)
    assert caplog.messages == []


def test_a_folder_that_says_that_it_is_no_student_is_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "fewstep")
    for says, lines in ((False, 0), (True, 1)):
        warn_of_student(klein(tmp_path / "klein", is_distilled=says), FLOW)
        assert len(caplog.messages) == lines
    assert "says klein, distilled" in caplog.text


def klein(folder: Path, **fields: bool) -> Folder:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "Flux2KleinPipeline", **fields}))
    return Folder(folder)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("FLUX.2-klein-base-4B", 0),
        ("mine", 0),  # the class is not distilled by default
        ("FLUX.2-klein-4B", 1),
        ("models--org--FLUX.2-klein-4B/snapshots/0123", 1),
        ("models--lightning--FLUX.2-klein-base-4B/snapshots/0123", 0),
    ],
)
def test_klein_base_is_no_student(name: str, lines: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    warn_of_student(klein(tmp_path / name), FLOW)
    assert len(caplog.messages) == lines
