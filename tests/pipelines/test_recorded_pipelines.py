"""Pipelines of diffusers that are recorded: the relations, the conditions and the rules that recordings show."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from fewstep.export.options.size_option import with_sizes
from fewstep.pipelines import source as source_module
from fewstep.pipelines.comparison import check_updates
from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.files.scheduler import read_scheduler
from fewstep.pipelines.recorded_pipeline import RecordedPipeline
from fewstep.pipelines.relations.adapter import RecordedNetwork
from fewstep.pipelines.relations.pipeline_scheduler import PipelineScheduler
from fewstep.pipelines.source import load_diffusers_folder, record_folder
from fewstep.plans.configs.classes import schedule_from_scheduler_config
from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from fewstep.plans.configs.pipelines import RECORDED
from fewstep.plans.configs.recorded import read_recorded
from fewstep.plans.shaping import MatchNorm
from tests import recorded_pipelines
from tests.recorded_pipelines import CALLS, TEXT, TOKENS
from tests.refusals import refuses

diffusers = pytest.importorskip("diffusers")

PipelineFolder = Callable[[str], Path]
Recordings = Callable[[str], RecordedPipeline]


def record(folder: Path, name: str) -> RecordedPipeline:
    read = Folder(folder)
    return record_folder(read, CALLS[name])


@pytest.fixture(scope="module")
def recordings(pipeline_folder: PipelineFolder) -> Recordings:
    """Records a pipeline once."""

    @cache
    def make(name: str) -> RecordedPipeline:
        return record(pipeline_folder(name), name)

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("wan", (5.0, -4.0)),
        ("ltx", (-2.0, 3.0)),
        ("cogvideox", (-5.0, 6.0)),
        ("chroma", (5.0, -4.0)),
        ("allegro", (-6.5, 7.5)),
    ],
)
def test_the_guidance_of_each_step_is_the_default_of_the_pipeline(
    name: str, weights: tuple[float, float], recordings: Recordings
) -> None:
    assert recordings(name).relations.combination.weights == (weights,) * 3


@pytest.mark.parametrize(("name", "alpha"), [("wan", 1.0), ("cogvideox", 1.0), ("chroma", 0.001)])
def test_the_time_of_the_network_is_a_multiple_of_the_schedulers(
    name: str, alpha: float, recordings: Recordings
) -> None:
    assert recordings(name).relations.times == {"['timestep']": (alpha, 0.0)}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("wan", (8, 2, 2, 2)),
        ("ltx", (8, 4)),
        ("cogvideox", (3, 4, 2, 2)),
        ("chroma", (16, 8)),
        ("allegro", (4, 2, 4, 4)),
    ],
)
def test_x_is_what_the_scheduler_steps(name: str, shape: tuple[int, ...], recordings: Recordings) -> None:
    assert recordings(name).x_shape == shape


@pytest.mark.parametrize(
    ("name", "conditions"),
    [
        ("wan", [("encoder_hidden_states", (TOKENS, TEXT), "float32")]),
        (
            "ltx",
            [("encoder_hidden_states", (TOKENS, TEXT), "float32"), ("encoder_attention_mask", (TOKENS,), "int64")],
        ),
        ("chroma", [("encoder_hidden_states", (TOKENS, TEXT), "float32"), ("attention_mask", (28,), "float32")]),
    ],
)
def test_conditions_are_the_arguments_that_change_with_the_prompt(
    name: str, conditions: list[object], recordings: Recordings
) -> None:
    found = [(condition.name, condition.shape, condition.dtype) for condition in recordings(name).arguments.conditions]
    assert found == conditions


def test_the_conditional_branch_of_a_call_of_two_rows_is_the_second(recordings: Recordings) -> None:
    arguments = recordings("ltx").arguments
    assert (arguments.conditional, arguments.unconditional) == (1, 0)


def test_the_conditional_branch_of_two_calls_is_the_first(recordings: Recordings) -> None:
    arguments = recordings("wan").arguments
    assert (arguments.conditional, arguments.unconditional) == (0, 1)


def test_sizes_are_constants(recordings: Recordings) -> None:
    arguments = recordings("ltx").arguments.arguments
    assert [arguments[f"['{name}']"].value for name in ("num_frames", "height", "width")] == [2, 2, 2]


def test_rotary_positions_as_long_as_the_batch_are_no_rows(recordings: Recordings) -> None:
    positions = [argument for path, argument in recordings("allegro").arguments.arguments.items() if "rotary" in path]
    assert len(positions) == 9 and not any(position.repeats for position in positions)


def test_the_rules_of_the_scheduler_are_even_sigmas_and_a_shift(recordings: Recordings) -> None:
    rules = recordings("ltx").scheduler[RECORDED]
    slope = (1.15 - 0.5) / (4096 - 256)
    assert rules == {"even": True, "mu": (pytest.approx(0.5 + slope * (8 - 256)), 0.0)}


def test_sigmas_that_are_not_even_are_listed_by_the_number_of_steps(recordings: Recordings) -> None:
    rules = read_recorded(recordings("mochi").scheduler)
    assert rules is not None and rules.sigmas_of(3) == (1.0, 0.975, 0.71875)


@pytest.mark.slow
def test_a_text_for_each_frame_is_one_condition(recordings: Recordings) -> None:
    arguments = recordings("text_to_video").arguments
    assert arguments.repeats["['encoder_hidden_states']"] == 4
    assert [condition.shape for condition in arguments.conditions] == [(77, 12)]


@pytest.mark.slow
def test_an_edit_of_a_picture_is_recorded_from_noise(recordings: Recordings) -> None:
    assert recordings("chroma_image_to_image").settings.usual["strength"] == 1.0


def compare_samples(name: str, folder: Path) -> str:
    """Load a pipeline, which compares its samples. Returns its class."""
    read = Folder(folder)
    load_diffusers_folder(folder, CALLS[name])
    return read.pipeline


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "lumina",
        "wan_with_times_of_positions",
        "mochi",
        "chroma_image_to_image",
        "text_to_video",
        "bria",
        "cogview3",
        "cogvideox_image_to_video",
        "chroma",
        "flux2_klein",
        "wan_with_two_networks",
    ],
)
def test_samples_of_other_forms_are_those_of_the_pipeline(
    name: str, pipeline_folder: PipelineFolder, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = compare_samples(name, pipeline_folder(name))
    assert f"samples of {pipeline} agree within" in caplog.text


@pytest.mark.parametrize("name", ["allegro", "cogvideox", "ltx"])
def test_samples_of_small_pipelines_are_those_of_the_pipeline(
    name: str, pipeline_folder: PipelineFolder, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = compare_samples(name, pipeline_folder(name))
    assert f"samples of {pipeline} agree within" in caplog.text


def test_samples_are_those_of_the_pipeline(pipeline_folder: PipelineFolder, caplog: pytest.LogCaptureFixture) -> None:
    compare_samples("wan", pipeline_folder("wan"))
    assert "samples of WanPipeline agree within" in caplog.text
    assert "the default guidance of its pipeline is --guidance 5" in caplog.text


def test_a_network_that_returns_zeros_makes_the_comparison_empty(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = recorded_pipelines.wan(tmp_path / "wan")
    network = diffusers.WanTransformer3DModel.from_pretrained(folder / "transformer")
    torch.nn.init.zeros_(network.proj_out.weight)
    torch.nn.init.zeros_(network.proj_out.bias)
    network.save_pretrained(folder / "transformer")
    load_diffusers_folder(folder, CALLS["wan"])
    assert "the network of WanPipeline returns zeros: the comparison of its samples shows nothing" in caplog.text


@pytest.mark.slow
def test_steps_that_differ_from_the_rules_are_stored(
    pipeline_folder: PipelineFolder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pipeline_folder("wan")
    scheduler = {**read_scheduler(Folder(folder)), "shift": 5.0}
    monkeypatch.setattr(source_module, "read_scheduler", lambda _: scheduler)
    source = load_diffusers_folder(folder, CALLS["wan"])
    reason = r"WanPipeline steps at time 9\d\d\.\d+, and the plan of its scheduler at 9\d\d\.\d+"
    says = f"stores the steps of FlowMatchEulerDiscreteScheduler as recorded, since {reason}. It has scheduler:8 and"
    assert re.search(says, caplog.text)
    assert "samples of WanPipeline agree within" in caplog.text
    assert source.scheduler is not None
    (first, second, third) = source.scheduler[RECORDED]["steps"]["3"]["steps"]
    assert second["time"] == pytest.approx(750, abs=2)  # of the pipeline's own shift of 3
    assert first["outputs"] == pytest.approx([(second["time"] - first["time"]) / 1000], abs=1e-5)


def test_a_network_whose_attention_changes_during_the_call_is_refused(tmp_path: Path) -> None:
    folder = recorded_pipelines.perturbed_attention(tmp_path / "pag")
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1"
    with refuses(("StableDiffusionPAGPipeline", "unet"), f"--call pag_scale=0 and --change pag:{layer}, and run"):
        record(folder, "perturbed_attention")


@pytest.mark.slow
def test_perturbed_attention_is_recorded_without_its_perturbed_branch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = recorded_pipelines.perturbed_attention(tmp_path / "pag")
    load_diffusers_folder(folder, {"pag_scale": 0})
    assert "samples of StableDiffusionPAGPipeline agree within" in caplog.text


@pytest.mark.slow
def test_a_norm_that_guidance_keeps_is_that_of_the_plan(
    pipeline_folder: PipelineFolder, caplog: pytest.LogCaptureFixture
) -> None:
    read = Folder(pipeline_folder("lumina2"))
    source = load_diffusers_folder(read.path, CALLS["lumina2"])
    assert "samples of Lumina2Pipeline agree within" in caplog.text
    assert source.scheduler is not None
    plan = plan_from_scheduler_config(source.scheduler, steps=2, guidance=4.0)
    assert [step.shaping for step in plan.steps] == [MatchNorm(-1)] * 2


@pytest.mark.slow
def test_texts_of_any_length_are_padded_with_a_mask(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read = Folder(recorded_pipelines.qwen_image(tmp_path / "qwen_image"))
    source = load_diffusers_folder(read.path, CALLS["qwen_image"])
    assert [(condition.name, condition.shape, condition.dtype) for condition in source.spec.conditions] == [
        ("encoder_hidden_states", (224, TEXT), "float32"),
        ("encoder_hidden_states_mask", (224,), "int64"),
    ]
    assert "samples of QwenImagePipeline agree within" in caplog.text
    assert "the default guidance of its pipeline is --guidance 4, with the norm of the" in caplog.text


def test_an_argument_that_the_call_does_not_take_is_refused(pipeline_folder: PipelineFolder) -> None:
    read = Folder(pipeline_folder("wan"))
    with refuses(("WanPipeline", "'size'"), "prompt"):
        record_folder(read, {"size": 4})


def test_a_text_encoder_stored_in_bfloat16_is_recorded(tmp_path: Path) -> None:
    folder = recorded_pipelines.ltx(tmp_path / "ltx")
    config = folder / "text_encoder" / "config.json"
    fields = json.loads(config.read_text())
    config.write_text(json.dumps({**fields, "torch_dtype": "bfloat16", "dtype": "bfloat16"}))
    assert record(folder, "ltx").relations.combination.weights[0] == pytest.approx((-2.0, 3.0))


@pytest.mark.parametrize("value", ["480p", 0, 2.5])
def test_a_size_that_is_no_whole_number_is_refused(value: object, pipeline_folder: PipelineFolder) -> None:
    read = Folder(pipeline_folder("wan"))
    with refuses("--call height=", "whole number"):
        record_folder(read, {**CALLS["wan"], "height": value})


def test_free_sizes_of_a_recorded_pipeline_are_those_of_its_own_call(
    pipeline_folder: PipelineFolder, caplog: pytest.LogCaptureFixture
) -> None:
    folder = pipeline_folder("wan")
    source = load_diffusers_folder(folder, CALLS["wan"])
    sized = with_sizes(source, ["height=2:8:2"])
    assert [(size.name, size.axis, size.low, size.high) for size in sized.spec.sizes] == [("height", 2, 2, 8)]
    assert f"{folder}: samples of x [8, 2, 4, 2] agree within" in caplog.text


@pytest.mark.slow
def test_large_encoders_are_recorded_from_their_configs(tmp_path: Path) -> None:
    folder = recorded_pipelines.chroma_image_to_image(tmp_path / "large")
    more = {
        "text_encoder": {"vocab_size": 5_000_000},
        "vae": {
            "block_out_channels": [128, 256, 512, 512],
            "norm_num_groups": 32,
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "layers_per_block": 2,
        },
    }
    for component, fields in more.items():
        config = folder / component / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **fields}))
        for weights in (folder / component).glob("*.safetensors"):
            weights.unlink()
    read = Folder(folder)
    call = {**CALLS["chroma_image_to_image"], "height": 64, "width": 64}
    recorded = record_folder(read, call)
    assert recorded.x_shape == (2, 8, 8)
    assert [condition.name for condition in recorded.arguments.conditions] == [
        "encoder_hidden_states",
        "attention_mask",
    ]


def check_steps(
    found: RecordedPipeline,
    scheduler: Mapping[str, Any],
    count: int,
    change: Callable[[RecordedNetwork], None] = lambda network: None,
) -> None:
    modules = found.wrap({name: torch.nn.Identity() for name in found.parts})
    change(modules.quiet)
    described = schedule_from_scheduler_config(scheduler)
    call = found.settings.of(None, {"num_inference_steps": count})
    check_updates(found.built, modules, call, PipelineScheduler(scheduler, described))


@pytest.mark.parametrize("name", ["wan", "cogvideox", "mochi"])
def test_the_steps_of_a_plan_are_those_of_the_scheduler(name: str, recordings: Recordings) -> None:
    check_steps(recordings(name), recordings(name).scheduler, 8)


def test_steps_at_other_times_are_refused(recordings: Recordings) -> None:
    scheduler = recordings("mochi").scheduler
    sigmas = [*scheduler[RECORDED]["sigmas"]]
    sigmas[7] = [*sigmas[7][:-1], 0.4 * sigmas[7][-1]]
    changed = {**scheduler, RECORDED: {**scheduler[RECORDED], "sigmas": sigmas}}
    check_steps(recordings("mochi"), changed, 3)
    with refuses("MochiPipeline"):
        check_steps(recordings("mochi"), changed, 8)


def double_height(network: RecordedNetwork) -> None:
    path, arguments = "['height']", network.arguments.arguments
    changed = {**arguments, path: replace(arguments[path], value=2 * arguments[path].value)}
    network.arguments = replace(network.arguments, arguments=changed)


def test_a_network_with_another_constant_is_refused_though_no_network_runs(recordings: Recordings) -> None:
    found = recordings("ltx")
    with refuses(("LTXPipeline", "argument ['height']", "step 1 of 3")):
        check_steps(found, found.scheduler, 3, double_height)


def test_steps_with_other_weights_are_refused(recordings: Recordings) -> None:
    found = recordings("cogvideox")
    scheduler = {**found.scheduler, "prediction_type": "sample"}
    with refuses(("CogVideoXPipeline", "step 2 of 8")):
        check_steps(found, scheduler, 8)
