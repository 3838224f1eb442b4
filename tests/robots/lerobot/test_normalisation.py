"""Statistics for normalisation: those of one data set are chosen by its name, and missing ones are refused."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fewstep.cli.main import main
from fewstep.export.load_source import load_source
from fewstep.plans.errors import UserError
from fewstep.robots.lerobot.folder import load_lerobot_folder
from fewstep.robots.lerobot.normalisation import ENDS
from fewstep.runtime.kinds.units import from_units, to_units
from tests.refusals import refuses
from tests.robots.lerobot.policies import Change, config, write_policy

TWENTY = pytest.approx((20.0, 0.02))  # half of the spans of actions, from -10 to 30 and from 0 to 0.04
PROCESSORS = "*processor.safetensors"


def rename_features(*beginnings: str, features: tuple[str, ...] = ("action", "observation.state")) -> Change:
    """Return the statistics of some features under other names. Those of the second name are ten times as large."""

    def change(folder: Path) -> None:
        for file in folder.glob(PROCESSORS):
            tensors = load_file(file)
            moved = {name: tensor for name, tensor in tensors.items() if name.startswith(features)}
            kept = {name: tensor for name, tensor in tensors.items() if name not in moved}
            for number, beginning in enumerate(beginnings):
                kept |= {f"{beginning}{name}": each * 10**number for name, each in moved.items()}
            save_file(kept, file)

    return change


def processor(file: str, change: Any) -> Change:
    """Replace the list of steps in a processor's file."""

    def change_file(folder: Path) -> None:
        content = json.loads((folder / f"policy_{file}.json").read_text())
        content["steps"] = change(content["steps"])
        (folder / f"policy_{file}.json").write_text(json.dumps(content))

    return change_file


def settings(**changes: Any) -> Any:
    """Replace settings of the step that normalises."""
    return lambda steps: [*steps[:-1], {**steps[-1], "config": {**steps[-1]["config"], **changes}}]


def policy(folder: Path, *changes: Change, **how: Any) -> Path:
    write_policy(folder / "policy", down_dims=[16], **how)
    for change in changes:
        change(folder / "policy")
    return folder / "policy"


def unit(folder: Path, statistics: str | None = None) -> tuple[float, ...]:
    """Return the unit of each number of an action."""
    units = load_lerobot_folder(folder, statistics).spec.units
    assert units is not None
    return units.scale


def test_actions_have_the_units_of_the_data_set_that_is_named(tmp_path: Path) -> None:
    folder = policy(tmp_path, rename_features("so100.buffer.", "so101.buffer."))
    assert unit(folder, "so100") == TWENTY
    assert unit(folder, "so101") == pytest.approx((200.0, 0.2))


def test_the_name_may_be_that_of_the_file(tmp_path: Path) -> None:
    folder = policy(tmp_path, rename_features("so100.buffer."))
    assert unit(folder, "so100.buffer") == TWENTY


def test_a_feature_without_a_data_set_keeps_its_own(tmp_path: Path) -> None:
    folder = policy(tmp_path, rename_features("so100.buffer.", features=("action",)))
    assert unit(folder, "so100") == TWENTY
    assert load_lerobot_folder(folder, "so100").spec.conditions[0].typical == ((-1.5, 20.0, 0.5), (2.5, 90.0, 0.5))


def test_buffers_of_data_sets_among_the_weights_are_read(tmp_path: Path) -> None:
    folder = policy(tmp_path, in_weights=True)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    save_file({name.replace(".buffer_", ".so100-red_buffer_"): tensor for name, tensor in tensors.items()}, file)
    assert unit(folder, "so100-red") == TWENTY
    with refuses("so100-red", "--statistics so100-red"):
        load_lerobot_folder(folder)


REFUSED: list[tuple[Change, str | None, str]] = [
    (
        rename_features("so100.buffer.", "so100-red.buffer."),
        None,
        "no statistics of observation.state, which MIN_MAX needs, except for the data sets so100, so100-red; "
        "choose the data set with your robot and units: --statistics so100$",
    ),
    (
        rename_features("so100.buffer.", features=("action",)),
        None,
        "postprocessor.json has no statistics of action, which MIN_MAX needs, except for the data sets so100",
    ),
    (rename_features("so100.buffer."), "so101", "no statistics for the data set 'so101'; give one of so100"),
    (rename_features(""), "so100", "no statistics for the data set 'so100'; leave --statistics out"),
    (
        rename_features(features=("observation.state",)),
        None,
        "no statistics of observation.state, which MIN_MAX needs; give",
    ),
    (rename_features(features=("action",)), None, "no statistics of action, which MIN_MAX needs; give"),
    (processor("postprocessor", lambda steps: steps[:-1]), None, "no unnormalizer.*config.json normalises action by"),
    (processor("preprocessor", lambda steps: steps[:-1]), None, "has no normalizer.* normalises observation.state by"),
    (processor("postprocessor", lambda steps: steps * 2), None, "has 2 steps unnormalizer_processor"),
    (processor("preprocessor", settings(features={})), None, "normalises STATE by MIN_MAX, but does not list obs"),
    (processor("postprocessor", settings(norm_map={"action": "MIN_MAX"})), None, "unknown type of feature 'action'"),
]


@pytest.mark.parametrize(("change", "statistics", "said"), REFUSED)
def test_statistics_that_normalisation_lacks_are_refused(
    change: Change, statistics: str | None, said: str, tmp_path: Path
) -> None:
    folder = policy(tmp_path, change)
    with pytest.raises(UserError, match=said):
        load_lerobot_folder(folder, statistics)


def test_a_base_model_without_statistics_of_the_state_is_refused(tmp_path: Path) -> None:
    folder = policy(
        tmp_path,
        rename_features(features=("observation.state",)),
        rename_features("so100.buffer.", features=("action",)),
    )
    with refuses("observation.state"):
        load_lerobot_folder(folder, "so100")


def test_pictures_without_statistics_are_refused(tmp_path: Path) -> None:
    folder = policy(tmp_path, rename_features(features=("observation.images",)), cameras=1)
    with refuses(("observation.images.cam0", "MEAN_STD")):
        load_lerobot_folder(folder)


def test_a_config_that_does_not_say_how_to_normalise_is_refused(tmp_path: Path) -> None:
    folder = policy(tmp_path, config(normalization_mapping=None), in_weights=True)
    with refuses("normalization_mapping"):
        load_lerobot_folder(folder)


def test_a_type_of_feature_that_is_not_normalised_needs_no_statistics(tmp_path: Path) -> None:
    """LeRobot trains without normalisation if the map names no type, here that of the environment's state."""
    folder = policy(tmp_path, rename_features(features=("observation.environment_state",)), environment=2)
    module = load_lerobot_folder(folder).module
    assert module.normalise[-1].scale.tolist() == [1.0, 1.0]  # type: ignore[index,union-attr]


@pytest.mark.parametrize("source", ["fashion_mnist", "model.onnx", "FOLDER"])
def test_other_sources_have_no_statistics_to_choose(source: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with refuses("statistics by data set", "--statistics"):
        load_source(source.replace("FOLDER", str(tmp_path)), statistics="so100")


def test_the_command_takes_the_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = policy(tmp_path, rename_features("so100.buffer."))
    assert main(["export", str(folder), "--statistics", "so101", "-o", str(tmp_path / "b"), "--dry-run"]) == 1
    assert "no statistics for the data set 'so101'; give one of so100" in capsys.readouterr().err


def stack_actions(*factors: float) -> Change:
    """Store statistics of actions for each step of a sequence: those of all steps, multiplied by its factor."""

    def change(folder: Path) -> None:
        for file in folder.glob(PROCESSORS):
            tensors = load_file(file)
            stacked = {name: torch.stack([values * factor for factor in factors]) for name, values in tensors.items()}
            save_file({name: stacked[name] if name.startswith("action.") else tensors[name] for name in tensors}, file)

    return change


@pytest.mark.parametrize("factors", [(1.0,), (1.0,) * 8])
def test_equal_statistics_of_all_steps_are_read(tmp_path: Path, factors: tuple[float, ...]) -> None:
    assert unit(policy(tmp_path, stack_actions(*factors))) == TWENTY


@pytest.mark.parametrize("mode", [*ENDS, "MEAN_STD"])
def test_actions_of_each_step_have_their_own_statistics(mode: str, tmp_path: Path) -> None:
    """By LeRobot's formulas: of both ends (x + 1) / 2 * (high - low) + low, and x * std + mean."""
    low, spread = torch.tensor([-10.0, 0.0]), torch.tensor([40.0, 0.04])
    names = ENDS.get(mode, ("mean", "std"))

    def rename(folder: Path) -> None:
        for file in folder.glob(PROCESSORS):
            numbers = load_file(file)
            second = spread if mode == "MEAN_STD" else low + spread
            numbers |= {f"action.{names[0]}": low, f"action.{names[1]}": second}
            save_file(numbers, file)

    changes = processor("postprocessor", settings(norm_map={"ACTION": mode}))
    units = load_lerobot_folder(policy(tmp_path, rename, changes, stack_actions(*range(1, 9)))).spec.units
    x = np.random.default_rng(0).uniform(-1, 1, (3, 8, 2))
    factors = np.arange(1.0, 9.0)[:, None]
    share = x if mode == "MEAN_STD" else (x + 1) / 2
    expected = share * spread.numpy() * factors + low.numpy() * factors
    facts = SimpleNamespace(name="policy", x_shape=(8, 2), units=units)
    np.testing.assert_allclose(to_units(facts, x), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(from_units(facts, expected), x, rtol=1e-5, atol=1e-5)


def test_one_of_two_statistics_may_differ_between_steps(tmp_path: Path) -> None:
    def equal_lows(folder: Path) -> None:
        for file in folder.glob(PROCESSORS):
            numbers = load_file(file)
            save_file(numbers | {"action.min": torch.tensor([-10.0, 0.0])}, file)

    units = load_lerobot_folder(policy(tmp_path, stack_actions(*range(1, 9)), equal_lows)).spec.units
    assert units is not None and units.axis is None
    assert units.scale[:4] == pytest.approx((20.0, 0.02, 35.0, 0.04))


def test_statistics_of_another_number_of_steps_are_refused(tmp_path: Path) -> None:
    says = "min [4, 2] of action differs between the steps of a sequence, and sequences have 8"
    with refuses((says,)):
        load_lerobot_folder(policy(tmp_path, stack_actions(*range(1, 5))))


def test_statistics_of_each_observation_are_refused(tmp_path: Path) -> None:
    def stack_states(folder: Path) -> None:
        for file in folder.glob(PROCESSORS):
            numbers = load_file(file)
            stacked = {
                name: torch.stack([values, 2 * values]) if name.startswith("observation.state.") else values
                for name, values in numbers.items()
            }
            save_file(stacked, file)

    says = "[2, 3] of observation.state differs between the steps of a sequence, which fewstep reads of actions only"
    with refuses((says,)):
        load_lerobot_folder(policy(tmp_path, stack_states))
