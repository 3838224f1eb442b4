"""Policies of vision and language, compared with the actions of LeRobot's own code
(`tests/robots/lerobot/reference.py`).
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

import fewstep.runtime
from fewstep.export.companions.networks import PipelineNetworks
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.load_source import load_source
from fewstep.export.sources.torch_module import TorchSource
from fewstep.graph.files.io import load
from fewstep.graph.files.weights import LARGE
from fewstep.plans import noise
from fewstep.plans.errors import UserError
from fewstep.robots.control import History, PolicyRunner, Rhythm, VirtualClock, sample_actions, with_prompt
from fewstep.robots.lerobot.network import NormalisingPolicy
from fewstep.robots.lerobot.normalisation import RENAMED
from fewstep.robots.lerobot.policy import read_weights
from fewstep.runtime.bundle.manifest import PromptForm
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.text import format_prompt, load_text_encoder
from tests.robots.lerobot.policies import Record, config, step, write

TYPES = ("multi_task_dit", "smolvla", "pi0", "pi05")
SEEN = "seen/"

Bundles = Callable[[str], tuple[Path, Record]]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """Return the bundle of a type, exported for the first test that needs it."""

    @cache
    def bundle_of(kind: str) -> tuple[Path, Record]:
        folder = tmp_path_factory.mktemp(kind)
        record = write(kind, folder / "policy")
        export(ExportOptions(str(folder / "policy"), folder / "bundle", verify="quick"))
        return folder / "bundle", record

    return bundle_of


def observe(record: Record, tick: int) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(SEEN): value[tick] for name, value in record.items() if name.startswith(SEEN)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_actions_are_those_of_lerobot(bundles: Bundles, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, record = bundles(kind)
    monkeypatch.setattr(noise, "normal_batch", lambda *_: record["noise"][None])
    with fewstep.runtime.load(bundle) as sampler:
        history = History(sampler)
        for tick in range(2 if kind == "multi_task_dit" else 1):
            history.add(observe(record, tick))
        window = with_prompt(load_text_encoder(bundle), history.window(), str(record["task"]))
        actions = sample_actions(sampler, "euler:10@trailing", window)
    size = np.abs(record["actions"]).max(axis=0)
    assert actions.shape == record["actions"].shape
    assert (np.abs(actions - record["actions"]) / size).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_a_step_holds_nothing_of_the_prefix(bundles: Bundles, kind: str) -> None:
    """Products with weights in the step graph are those of the expert, once per token of action."""
    bundle, _ = bundles(kind)
    body = load(bundle / open_bundle(bundle).manifest.bodies["float32"].graph.file)
    products = sum(node.op in ("MatMul", "Gemm") and node.inputs[1] in body.constants for node in body.nodes)
    joint, crossing = 7, 5  # products of a layer that reads itself too, and of one that reads the prefix alone
    assert (
        products
        == {
            "multi_task_dit": 2 * 4 + 2,
            "smolvla": 2 * joint + crossing + 4,
            "pi0": 2 * joint + 4,
            "pi05": 2 * joint + 2,
        }[kind]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    ["smolvla", "pi05"],  # whose state, in the prompt, changes with each sequence
)
def test_a_runner_takes_the_task_in_words(bundles: Bundles, kind: str) -> None:
    bundle, record = bundles(kind)
    text, seen = load_text_encoder(bundle), observe(record, 0)
    with fewstep.runtime.load(bundle) as sampler:
        runner = PolicyRunner(sampler, Rhythm(10.0, "euler:2@trailing"), text=text, clock=VirtualClock())
        with pytest.raises(UserError, match="no prompt"):
            runner.reset()
        with pytest.raises(UserError, match=r"text=load_text_encoder"):
            PolicyRunner(sampler, Rhythm(10.0, "euler:2@trailing"), clock=VirtualClock()).reset(prompt="push it")
        runner.reset(seed=3, prompt="push it")
        first = runner.act(seen)
        history = History(sampler)
        history.add(seen)
        alone = sample_actions(
            sampler, "euler:2@trailing", with_prompt(text, history.window(), "push it"), seed=3 << 24
        )
    assert first.value is not None
    np.testing.assert_allclose(first.value, alone[0], rtol=1e-5)


def form_of(kind: str, folder: Path) -> PromptForm | None:
    write(kind, folder)
    source = load_source(str(folder))
    assert (
        isinstance(source, TorchSource) and isinstance(source.companions, PipelineNetworks) and source.companions.text
    )
    return source.companions.text.form


def test_a_prompt_holds_the_state_in_bins(tmp_path: Path) -> None:
    form = form_of("pi05", tmp_path / "pi05")  # quantiles of the first number: -1.4 and 2.4
    assert format_prompt(" push_it\n", form, [-1.4, 88.0, 1.0]) == "Task: push it, State: 0 255 128;\nAction: "
    with pytest.raises(UserError, match="contain 'observation.state'"):
        format_prompt("push it", form)
    assert format_prompt("lift\n", form_of("smolvla", tmp_path / "smolvla")) == "lift\n"


def test_a_bundle_takes_the_names_before_a_step_renames_them(tmp_path: Path) -> None:
    write("smolvla", tmp_path)
    step(RENAMED, rename_map={"front": "observation.images.cam0"})(tmp_path)
    names = [condition.name for condition in load_source(str(tmp_path)).spec.conditions]
    assert names == ["observation.state", "front", "observation.images.cam1", "words", "words_mask"]


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"eps": 0.2}, [1.0, 1 / 20.2, 2.0]),
        ({"eps": 0.0}, [1 / 0.8, 1 / 20, 1 / 0.3]),
        ({"normalize_observation_keys": ["observation.images.cam0"]}, [1.0, 1.0, 1.0]),
    ],
)
def test_a_normaliser_has_its_own_settings(tmp_path: Path, settings: dict[str, Any], scale: list[float]) -> None:
    """Deviations of the state are 0.8, 20 and 0.3; nothing is added to those of actions."""
    write("smolvla", tmp_path)
    step("normalizer_processor", **settings)(tmp_path)
    source = load_source(str(tmp_path))
    assert isinstance(source, TorchSource) and isinstance(source.module, NormalisingPolicy)
    np.testing.assert_allclose(source.module.normalise[0].scale.flatten(), scale, rtol=1e-6)
    assert source.spec.units is not None
    np.testing.assert_allclose(source.spec.units.scale[:2], [6.0, 0.01], rtol=1e-6)


@pytest.mark.parametrize("kind", ["smolvla", "pi0"])
def test_weights_of_converted_and_of_bfloat16_checkpoints_are_read(tmp_path: Path, kind: str) -> None:
    """With the names of `lerobot/pi0_base`, and in the type of SmolVLA's language model."""
    write(kind, tmp_path)
    file = tmp_path / "model.safetensors"
    expected = load_source(str(tmp_path))
    assert isinstance(expected, TorchSource)
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(file).items()}
    save_file({name.removeprefix("model.") if kind == "pi0" else name: each for name, each in tensors.items()}, file)
    source = load_source(str(tmp_path))
    assert (
        isinstance(source, TorchSource) and isinstance(source.companions, PipelineNetworks) and source.companions.text
    )
    own, theirs = source.module.state_dict(), expected.module.state_dict()
    assert own.keys() == theirs.keys() and all(each.dtype == torch.float32 for each in own.values())
    assert all(torch.allclose(own[name], theirs[name], rtol=0.02, atol=0.02) for name in own)
    source.companions.text.companion.load()


def test_statistics_of_a_converted_checkpoint_keep_their_names(tmp_path: Path) -> None:
    kept = ("normalize_inputs.buffer_action.mean", "model.state_proj.weight")
    short = ("paligemma_with_expert.weight", "_orig_mod.action_in_proj.weight")
    save_file({name: torch.zeros(1) for name in (*kept, *short)}, tmp_path / "model.safetensors")
    assert set(read_weights(tmp_path)) == {*kept, "model.paligemma_with_expert.weight", "model.action_in_proj.weight"}


def test_an_empty_camera_is_no_condition(tmp_path: Path) -> None:
    """LeRobot masks it in all layers."""
    write("smolvla", tmp_path)
    features = json.loads((tmp_path / "config.json").read_text())["input_features"]
    empty = {"observation.images.empty_camera_0": {"type": "VISUAL", "shape": [3, 480, 640]}}
    config(input_features={**features, **empty})(tmp_path)
    assert [condition.name for condition in load_source(str(tmp_path)).spec.conditions] == [
        *features,
        "words",
        "words_mask",
    ]


@pytest.mark.parametrize("kind", ["smolvla", "pi0", "pi05"])
def test_a_camera_that_the_config_does_not_name_is_no_condition(tmp_path: Path, kind: str) -> None:
    write(kind, tmp_path)
    features = json.loads((tmp_path / "config.json").read_text())["input_features"]
    cameras = [name for name in features if "images" in name]
    config(input_features={name: feature for name, feature in features.items() if name != cameras[-1]})(tmp_path)
    names = [condition.name for condition in load_source(str(tmp_path)).spec.conditions]
    assert [name for name in names if "images" in name] == cameras[:-1]


def test_no_small_weight_keeps_the_file_in_memory(tmp_path: Path) -> None:
    """A graph copies small weights, since a view of the mapped file would keep all of it."""
    write("smolvla", tmp_path)
    source = load_source(str(tmp_path))
    assert isinstance(source, TorchSource)
    small = [parameter for parameter in source.module.parameters() if parameter.nbytes < LARGE]
    assert small and all(each.untyped_storage().nbytes() == each.nbytes for each in small)
