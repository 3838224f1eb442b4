"""Arguments that --call gives to a pipeline: arrays, and prompts that are JSON objects, whose keys are kept. The side
of the random pictures of a recording."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("diffusers")
from fewstep.pipelines.recording.label_arguments import LABELS
from fewstep.pipelines.recording.pictures import find_side, make_pictures
from fewstep.pipelines.recording.prompt_forms import put_text, read_prompt
from fewstep.pipelines.recording.settings import (
    LENGTH,
    LONGEST,
    PROMPT,
    SHORTNESS,
    CallSettings,
    Forms,
    choose_settings,
)
from tests.refusals import refuses


class Pipe:
    def __call__(self, image_embeds: Any, num_inference_steps: int = 3) -> None: ...


def choose(array: np.ndarray[Any, Any]) -> CallSettings:
    return choose_settings(Pipe(), {"image_embeds": array})


def test_an_array_is_changed_in_a_recording_and_has_two_rows_for_two_samples() -> None:
    settings = choose(np.float32([[0.5, 2.0, -1.0]]))
    usual, other = settings.of()["image_embeds"], settings.of("image")["image_embeds"]
    assert usual.tolist() == [[0.5, 2.0, -1.0]]
    assert other.shape == (1, 3) and bool((other != usual).all())
    assert torch.equal(settings.batches[0]["image_embeds"], torch.cat([usual, other]))


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.bool_])
def test_a_mask_is_inverted(kind: type) -> None:
    assert choose(np.array([[0, 1, 1]], kind)).of("image")["image_embeds"].tolist() == [[1, 0, 0]]


def test_integers_are_changed_within_their_range() -> None:
    assert choose(np.array([[3, 7, 4]])).of("image")["image_embeds"].tolist() == [[7, 3, 6]]


def test_equal_integers_are_refused_by_name() -> None:
    with refuses("image_embeds"):
        choose(np.array([[3, 3]]))


class PipeOfPictures:
    def __call__(self, image: Any, image_embeds: Any, num_inference_steps: int = 3) -> None: ...


def test_pictures_and_arrays_are_changed_in_one_recording() -> None:
    settings = choose_settings(PipeOfPictures(), {"image_embeds": np.float32([[0.5, 2.0]])})
    assert set(settings.variants["image"]) == {"image", "image_embeds"}


class PipeOfTwoArrays:
    def __call__(self, image_embeds: Any, negative_image_embeds: Any, num_inference_steps: int = 3) -> None: ...


def test_each_of_two_arrays_is_also_changed_alone() -> None:
    arrays = {"image_embeds": np.float32([[0.5]]), "negative_image_embeds": np.float32([[2.0]])}
    settings = choose_settings(PipeOfTwoArrays(), arrays)
    both = settings.variants["image"]
    assert [settings.variants[f"argument {name}"] for name in arrays] == [{name: both[name]} for name in arrays]


class PipeOfLabels:
    def __init__(self) -> None:
        self.net = Net()

    def __call__(
        self, labels: list[int], words: list[int] | None = None, timesteps: list[int] | None = None
    ) -> None: ...


class Net(nn.Module):
    def forward(self, x: torch.Tensor, words: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return x


def test_labels_are_made_where_a_call_needs_them_or_its_network_takes_them() -> None:
    settings = choose_settings(PipeOfLabels(), {})
    assert settings.usual == {"labels": [0], "words": [0]}


def test_times_of_a_call_are_no_labels_though_its_network_takes_them() -> None:
    assert "timesteps" not in choose_settings(PipeOfLabels(), {}).usual


def test_other_labels_are_those_of_a_variant() -> None:
    assert choose_settings(PipeOfLabels(), {"words": [7]}).variants[LABELS] == {"labels": [1], "words": [0]}


def test_two_samples_have_a_label_each() -> None:
    assert choose_settings(PipeOfLabels(), {"words": 7}).batches == ({"labels": [0, 1], "words": [7, 0]},)


class PipeOfTexts:
    def __call__(self, prompt: Any = None, prompt_embeds: Any = None) -> None: ...


def test_an_array_in_place_of_a_text_is_changed_alone() -> None:
    settings = choose_settings(PipeOfTexts(), {"prompt": None, "prompt_embeds": np.zeros((1, 4, 2), np.float32)})
    assert settings.usual.keys() == {"prompt_embeds"} and PROMPT not in settings.variants


class PipeOfSizes:
    def __call__(self, original_size: tuple[int, int] | None = None, sigmas: list[float] | None = None) -> None: ...


def test_a_list_is_a_tuple_where_a_call_takes_tuples() -> None:
    usual = choose_settings(PipeOfSizes(), {"original_size": [64, 32], "sigmas": [1.0, 0.5]}).usual
    assert usual == {"original_size": (64, 32), "sigmas": [1.0, 0.5]}


def test_an_argument_that_is_needed_is_named_with_the_option_that_gives_it() -> None:
    with refuses("image_embeds", "--call image_embeds=@FILE"):
        choose_settings(Pipe(), {})


class PipeOfOneSize:
    unet = SimpleNamespace(config=SimpleNamespace(sample_size=8))
    vae_scale_factor = 4

    def __call__(self, image: Any) -> None: ...


def test_a_picture_has_the_size_of_the_network_if_the_call_takes_none() -> None:
    assert choose_settings(PipeOfOneSize(), {}).of()["image"].size == (32, 32)


EDIT = {"edit_instruction": "make it red", "count": 2, "scene": {"text": "a cat"}}


class EditPipe:
    def __call__(self, prompt: Any, negative_prompt: Any = None) -> None: ...


def test_a_text_replaces_each_text_of_an_object() -> None:
    assert put_text(EDIT, "a") == {"edit_instruction": "a", "count": 2, "scene": {"text": "a"}}


def test_a_text_replaces_a_text() -> None:
    assert put_text("a red cat", "a") == "a"


def test_other_prompts_of_a_recording_have_the_form_of_the_given_one() -> None:
    settings = choose_settings(EditPipe(), {PROMPT: EDIT})
    prompts = [settings.of(name)[PROMPT] for name in (PROMPT, LENGTH, SHORTNESS)]
    assert all(set(each) == set(EDIT) for each in prompts)


def test_texts_of_free_length_are_recorded_up_to_the_limit() -> None:
    settings = choose_settings(EditPipe(), {}, Forms(has_free_length=True))
    assert settings.of(LENGTH)[PROMPT] == LONGEST


def test_a_prompt_to_encode_is_read_as_an_object_if_the_recorded_one_is() -> None:
    assert read_prompt('{"text": "a dog"}', {"text": "a cat"}) == {"text": "a dog"}


def test_a_prompt_to_encode_stays_a_text_if_the_recorded_one_is() -> None:
    assert read_prompt('{"text": "a dog"}', "a cat") == '{"text": "a dog"}'


def test_a_prompt_to_encode_with_other_keys_is_refused() -> None:
    with refuses("no JSON object with the keys", '{"text": "a cat"}'):
        read_prompt("a dog", {"text": "a cat"})


def pipeline(processor: int | None = None, unet: Any = None, **others: Any) -> Any:
    config = SimpleNamespace() if processor is None else SimpleNamespace(vae_scale_factor=processor)
    network = None if unet is None else SimpleNamespace(config=SimpleNamespace(**unet))
    return SimpleNamespace(image_processor=SimpleNamespace(config=config), unet=network, **others)


@pytest.mark.parametrize(
    ("made", "side"),
    [
        (pipeline(8, {"sample_size": 32}, vae_scale_factor=4), 128),
        (pipeline(2, {}), 128),  # Kandinsky 3, with the small autoencoder of a test
        (pipeline(8, {}), 512),
        (pipeline(2), 512),  # no U-Net
        (pipeline(2, {"sample_size": None}), 512),
    ],
)
def test_pictures_have_the_size_of_a_unet(made: Any, side: int) -> None:
    assert find_side(made) == side


def test_a_control_mask_is_a_picture_of_zeros_and_ones() -> None:
    made = make_pictures({"control_image": None, "control_mask": None}, {}, 0)
    assert set(np.unique(made["control_mask"])) == {0, 255} and len(np.unique(made["control_image"])) == 256


class PipeWithGuidance:
    def __call__(self, guidance_scale: float = 4.0, num_inference_steps: int = 3) -> None: ...


@pytest.mark.parametrize(("weight", "changed"), [(3.0, 3.5), (1.0, 0.5)])
def test_a_guidance_that_is_switched_off_stays_off_in_its_variant(weight: float, changed: float) -> None:
    settings = choose_settings(PipeWithGuidance(), {"guidance_scale": weight})
    assert settings.variants["guidance_scale"] == {"guidance_scale": changed}
