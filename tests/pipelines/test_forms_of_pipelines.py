"""Pipelines whose networks get x in another form, a second time, or texts of any length: loaded and compared."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from fewstep.export.load_source import load_source
from fewstep.export.sources.torch_module import TorchSource
from fewstep.pipelines import source as pipelines_source
from fewstep.pipelines.encode import EncodeOptions, encode
from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.recording.record import record
from fewstep.pipelines.source import record_folder
from fewstep.plans.configs.pipelines import RECORDED
from fewstep.plans.errors import UserError
from tests import recorded_pipelines
from tests.recorded_pipelines import CALLS, TEXT

pytest.importorskip("diffusers")
pytestmark = pytest.mark.slow


def load(name: str, folder: Path, **other: object) -> TorchSource:
    """Load a pipeline; loading compares its samples."""
    path = getattr(recorded_pipelines, name)(folder / name)
    source = load_source(str(path), call=call_of(name, **other))
    assert isinstance(source, TorchSource)
    return source


def call_of(name: str, **other: object) -> tuple[str, ...]:
    """Return the texts of --call for a pipeline."""
    given = {key: value for key, value in {**CALLS[name], **other}.items() if value is not None}
    return tuple(f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in given.items())


def conditions(source: TorchSource) -> dict[str, tuple[int, ...]]:
    return {condition.name: condition.shape for condition in source.spec.conditions}


def test_a_network_with_the_time_at_which_a_step_ends_has_two_times(tmp_path: Path) -> None:
    source = load("anyflow", tmp_path)
    assert source.spec.to is not None and source.scheduler is not None
    steps = source.scheduler[RECORDED]["steps"]["3"]["steps"]
    assert [step["to"] for step in steps] == pytest.approx([*(step["time"] for step in steps[1:]), 0.0])


def test_frames_that_are_stepped_one_by_one_are_one_flat_x(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.pipelines.skyreels_v2 import pipeline_skyreels_v2_diffusion_forcing as code

    monkeypatch.setattr(code, "ftfy", SimpleNamespace(fix_text=str), raising=False)  # cleans texts; not a dependency
    assert load("skyreels_forcing", tmp_path).spec.x_shape == (3 * 8 * 2 * 2,)


def test_a_step_of_several_tensors_has_several_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.pipelines.skyreels_v2 import pipeline_skyreels_v2_diffusion_forcing as code

    monkeypatch.setattr(code, "ftfy", SimpleNamespace(fix_text=str), raising=False)
    folder = Folder(recorded_pipelines.skyreels_forcing(tmp_path / "folder"))
    recorded = record_folder(folder, CALLS["skyreels_forcing"])
    assert record(recorded.built, recorded.settings.of(), 0).step_calls == (3, 3, 3)  # frames


def test_a_first_frame_that_is_not_stepped_is_a_condition(tmp_path: Path) -> None:
    source = load("ltx_image_to_video", tmp_path)
    assert source.spec.x_shape == (4, 2, 8, 8) and conditions(source)["image"] == (3 * 8 * 8, 4)


def test_lists_of_rows_are_one_tensor(tmp_path: Path) -> None:
    source = load("z_image", tmp_path)
    assert source.spec.x_shape == (4, 8, 8) and conditions(source) == {"cap_feats": (64, TEXT)}


def test_branches_of_lists_have_lengths_of_their_own(tmp_path: Path) -> None:
    (size,) = load("z_image", tmp_path).spec.sizes
    assert (size.name, size.axis, size.high, size.of_prompt) == ("tokens", None, 64, False)


def test_a_network_without_a_mask_gets_texts_without_padding(tmp_path: Path) -> None:
    (size,) = load("latte", tmp_path).spec.sizes
    assert (size.high, size.of_prompt) == (120, True)


def test_a_large_network_without_a_mask_gets_texts_without_padding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines_source, "are_comparable", lambda _: False)
    assert [size.name for size in load("latte", tmp_path).spec.sizes] == ["tokens"]


def encode_texts(folder: Path, name: str, *prompts: str, image: tuple[str, ...] = ()) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the encoded conditions."""
    path = getattr(recorded_pipelines, name)(folder / name)
    output = folder / "prompts.npz"
    made = encode(EncodeOptions(str(path), prompt=prompts, image=image, call=call_of(name), output=output))
    return {each: array.shape for each, array in made.items()}


def test_a_text_of_lists_of_rows_is_encoded_without_padding(tmp_path: Path) -> None:
    assert encode_texts(tmp_path, "z_image", "a cat and dogs") == {"cap_feats": (1, 14, TEXT)}


def test_texts_of_two_lengths_need_a_file_each(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the prompts have different numbers of tokens") as refused:
        encode_texts(tmp_path, "z_image", "a", "a cat")
    assert refused.value.fix.startswith("write a file for each prompt")


def test_a_first_frame_of_another_form_is_encoded(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "first.png")
    found = encode_texts(tmp_path, "ltx_image_to_video", "a cat", image=(str(tmp_path / "first.png"),))
    assert found["image"] == (1, 3 * 8 * 8, 4)
