"""The common parts of LeRobot's policy folders: features, their statistics, and weights under LeRobot's names."""

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.export.weight_names import strip_wrapper_prefixes
from fewstep.graph.files.weights import LARGE
from fewstep.plans.errors import UserError
from fewstep.robots.lerobot.adapter import WEIGHTS, has_adapter, merge_adapter
from fewstep.robots.lerobot.feature_statistics import FeatureStatistics
from fewstep.robots.lerobot.normalisation import (
    AFTER,
    BEFORE,
    BUFFER,
    RETRAINED,
    WRITE_IT,
    Normaliser,
    check_chosen,
    check_steps,
    read_normaliser,
    read_relative_elements,
    read_robot_names,
    read_tensors,
)
from fewstep.runtime.bundle.manifest import Affine, Condition, Policy
from fewstep.runtime.bundle.reading import file_sha256

if TYPE_CHECKING:
    from torch import Tensor, nn

LOG = logging.getLogger("fewstep")
CONFIG = "config.json"
CHECKPOINT = "pretrained_model"  # the policy's folder inside a training checkpoint
STATE, ACTION = "observation.state", "action"
EMPTY = "empty_camera"  # part of the names of cameras that LeRobot replaces by black pictures and masks
MODEL, CONVERTED = "model.", "paligemma_with_expert."
FLOATS = "save the weights in float32, float16 or bfloat16"
STATISTICS = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")

Config = Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]  # by feature


@dataclass(frozen=True)
class PolicyFolder:
    """The contents of a policy's files: its config, its weights without statistics, and its normalisers.

    robot_names: the robot's names for the observations that the preprocessor renames, by the policy's names.
    """

    home: Path
    config: Config
    name: str
    weights: Mapping[str, "Tensor"]
    before: Normaliser
    after: Normaliser
    robot_names: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """One hash of all files of the policy."""
        digest = hashlib.sha256()
        for file in sorted((*self.home.glob("*.json"), *self.home.glob("*.safetensors"))):
            digest.update(bytes.fromhex(file_sha256(file)))
        return digest.hexdigest()

    @property
    def state(self) -> int:
        """The number of elements of the state."""
        return self._numbers("input_features", "STATE", STATE)

    @property
    def action(self) -> int:
        """The number of elements of an action."""
        return self._numbers("output_features", "ACTION", ACTION)

    @property
    def pictures(self) -> Shapes:
        """The shape [3, H, W] of each camera's images, by feature name."""
        pictures = {name: shape for name, shape in self.shapes("VISUAL").items() if EMPTY not in name}
        if any(len(picture) != 3 or picture[0] != 3 for picture in pictures.values()):
            raise UserError(
                f"the shapes of the policy's cameras are {[list(picture) for picture in pictures.values()]}",
                "give a policy with images [3, H, W]",
            )
        return pictures

    def shapes(self, kind: str, features: str = "input_features") -> Shapes:
        """Return the shapes of the features of a type, such as "VISUAL", by name and in the order of the config."""
        listed = dict(self.config[features])
        return {name: tuple(map(int, each["shape"])) for name, each in listed.items() if each["type"] == kind}

    def _numbers(self, features: str, kind: str, name: str) -> int:
        shape = self.shapes(kind, features).get(name)
        if shape is None:
            raise UserError(f"{self.home / CONFIG} has no {name}", RETRAINED)
        return vector_length(name, shape)

    def robot_name(self, name: str) -> str:
        """Return the robot's name for an observation, before the preprocessor renames it."""
        return self.robot_names.get(name, name)

    def observation_statistics(self, name: str, kind: str, shape: tuple[int, ...]) -> FeatureStatistics:
        """Return the statistics of an observation."""
        return self.before.feature_statistics(name, kind, shape[0] if kind == "VISUAL" else vector_length(name, shape))

    def conditions(
        self, count: int, kinds: Mapping[str, Shapes]
    ) -> tuple[tuple[Condition, ...], tuple[FeatureStatistics, ...]]:
        """Return the conditions of some features, with `count` observations each, and their statistics, in the order of
        `kinds`, which lists features by type."""
        listed = [(name, kind, shape) for kind, shapes in kinds.items() for name, shape in shapes.items()]
        statistics = tuple(self.observation_statistics(*feature) for feature in listed)
        conditions = (
            make_condition(self.robot_name(name), (count, *shape), each)
            for (name, _, shape), each in zip(listed, statistics, strict=True)
        )
        return tuple(conditions), statistics

    def rhythm(self, length: str, observations: int, width: int | None = None) -> Policy:
        """Return the timing of a policy. The field `length` of its config is the number of actions of a sequence.

        With n observations, LeRobot executes actions n - 1 to n - 2 + n_action_steps, as far as they exist. Raises
        UserError that names the config field with an invalid number.
        """
        horizon, actions = int(self.config[length]), int(self.config["n_action_steps"])
        file, available = self.home / CONFIG, horizon - observations + 1
        for field, number, most in (("n_obs_steps", observations, horizon), ("n_action_steps", actions, horizon)):
            if not 1 <= number <= most:
                raise UserError(f"{file} has {field} {number}", f"give a number from 1 to {length}, {horizon}")
        if actions > available:
            message = "%s: n_action_steps is %d; as in LeRobot, only the %d actions from the last observation on exist"
            LOG.warning(message, file, actions, available)
        relative = self._relative_elements()
        return Policy(
            observations,
            observations - 1,
            min(actions, available),
            width=width,
            relative_to=self.robot_name(STATE) if relative else None,
            relative=relative,
        )

    def _relative_elements(self) -> tuple[int, ...]:
        """Return the elements of an action that are relative to the same elements of the state."""
        relative, says = read_relative_elements(self.home, self.action), self.config.get("use_relative_actions")
        if says is not None and says != (relative is not None):
            what = f"{self.home / CONFIG} has use_relative_actions {str(says).lower()}, and its processors differ"
            raise UserError(what, RETRAINED)
        if relative and relative[-1] >= self.state:
            what = f"element {relative[-1]} of an action is relative to the state, which has {self.state} elements"
            raise UserError(f"{self.home}: {what}", RETRAINED)
        return relative or ()

    def action_units(self, length: str, width: int | None = None) -> Affine:
        """Return the map from normalised actions to the robot's units, for each action if statistics differ. The field
        `length` of the config is the number of actions of a sequence. Padding up to `width` elements is unchanged.
        """
        statistics = self.after.feature_statistics(ACTION, "ACTION", self.action, int(self.config[length]))
        return statistics.inverse(self.action, (width or self.action) - self.action)


def vector_length(name: str, shape: tuple[int, ...]) -> int:
    """Return the length of a feature. Raises UserError if it is not a vector."""
    if len(shape) != 1:
        raise UserError(f"feature {name} has the shape {list(shape)}, and is not a vector", WRITE_IT)
    return shape[0]


def find_home(folder: Path) -> Path:
    """Return the folder of the policy itself: this folder, or the policy's folder inside a checkpoint."""
    return folder if (folder / CONFIG).is_file() else folder / CHECKPOINT


def read_policy(home: Path, config: Config, name: str, statistics: str | None = None) -> PolicyFolder:
    """Read the files of a policy. Raises UserError if one is missing or damaged.

    `statistics` selects a data set by name, if the folder has the statistics of several.
    """
    check_steps(home)
    adapts = has_adapter(home, bool(config.get("use_peft")))
    tensors, chosen = read_weights(home), None if statistics is None else statistics.removesuffix(BUFFER)
    tensors = merge_adapter(home, tensors) if adapts else tensors
    before, after = (read_normaliser(home, place, config, tensors, chosen) for place in (BEFORE, AFTER))
    if chosen is not None:
        check_chosen(home, chosen, (before, after))
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(STATISTICS)}
    return PolicyFolder(home, config, name, weights, before, after, read_robot_names(home, config["input_features"]))


def leave_out(folder: PolicyFolder, cameras: Sequence[str]) -> PolicyFolder:
    """Return a folder without some of its cameras, which are given by the policy's names or the robot's.

    LeRobot masks the pictures of a missing camera. A mask has the same effect: no token attends to them, and positions
    do not count them. Raises UserError for an unknown camera, and if none is left.
    """
    own = {folder.robot_name(name): name for name in folder.pictures} | {name: name for name in folder.pictures}
    for name in cameras:
        if name not in own:
            raise UserError(f"{folder.home} has no camera {name!r}", f"leave out one of {', '.join(folder.pictures)}")
    dropped = {own[name] for name in cameras}
    if dropped and dropped == {*folder.pictures}:
        raise UserError("no camera is left, and the policy needs one", "leave fewer out")
    inputs = {name: feature for name, feature in folder.config["input_features"].items() if name not in dropped}
    return replace(folder, config={**folder.config, "input_features": inputs})


def read_weights(home: Path) -> dict[str, "Tensor"]:
    """Return the weights of a policy, by the names that LeRobot gives them in training.

    In checkpoints that were converted from openpi, a prefix of the names is missing; LeRobot adds it, and so does this
    function.
    """
    stored = read_tensors(home / WEIGHTS)
    tensors = {short: stored[name] for name, short in strip_wrapper_prefixes(stored).items()}
    if not any(name.startswith(CONVERTED) for name in tensors):
        return tensors
    beginnings = (MODEL, *STATISTICS)
    return {name if name.startswith(beginnings) else MODEL + name: tensor for name, tensor in tensors.items()}


def make_condition(name: str, shape: tuple[int, ...], statistics: FeatureStatistics) -> Condition:
    """Return the condition for a raw observation: an image in uint8, or a vector in the robot's units."""
    tensor = re.sub(r"\W", "_", name)
    if len(shape) > 2:
        return Condition(name, tensor, shape, "uint8", low=0, high=255)
    return Condition(name, tensor, shape, "float32", typical=statistics.typical)


@dataclass(frozen=True)
class NamedWeights:
    """The weights of a folder under the names of a network. `pairs`: LeRobot's and the network's name prefixes."""

    folder: PolicyFolder
    pairs: Sequence[tuple[str, str]]
    tensors: dict[str, "Tensor"]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a weight. Raises UserError if it is missing."""
        if name not in self.tensors:
            raise UserError(f"{self.folder.home / WEIGHTS} has no weight {self._lerobot_name(name)!r}", RETRAINED)
        return tuple(self.tensors[name].shape)

    def count_layers(self, start: str) -> int:
        """Return the number of layers whose weights have names of the form START.NUMBER.REST."""
        return count_layers(self.tensors, start)

    def load_network(self, make: Callable[[], "nn.Module"]) -> "nn.Module":
        """Return the network of `make` with these weights, which are in memory only once.

        Raises UserError for a missing, unused, or quantized weight, and for a wrong shape.
        """
        import torch

        from fewstep.export.tracing.weights.mapped_weights import release_after_use

        path, weights = self.folder.home / WEIGHTS, self.tensors
        with torch.device("meta"):
            network = make()
        wanted = network.state_dict()
        for name in (*wanted, *weights):
            theirs = self._lerobot_name(name)
            if name not in weights:
                raise UserError(f"{path} has no weight {theirs!r}, which {CONFIG} requires", RETRAINED)
            if name not in wanted:
                raise UserError(f"{path} has a weight {theirs!r} that does not belong to {CONFIG}", RETRAINED)
            if weights[name].shape != wanted[name].shape:
                has, asks = list(weights[name].shape), list(wanted[name].shape)
                raise UserError(f"{path}: weight {theirs!r} is {has}, but {CONFIG} requires {asks}", RETRAINED)
            if wanted[name].is_floating_point() and not weights[name].is_floating_point():
                kind = str(weights[name].dtype).removeprefix("torch.")
                raise UserError(
                    f"{path}: weight {theirs!r} is stored as {kind}; fewstep does not read quantized weights", FLOATS
                )
        # Small weights are copied, since a view of one would keep the whole file mapped while the graph exists.
        # LeRobot stores SmolVLA's language model and bfloat16 training in bfloat16; graphs compute in float32.
        placed = {
            name: weight.float().clone() if weight.nbytes < LARGE else weight.float()
            for name, weight in weights.items()
        }
        network.load_state_dict(placed, assign=True)
        release_after_use(network)
        return network

    def _lerobot_name(self, name: str) -> str:
        """Return LeRobot's name of a weight."""
        pair = next((pair for pair in self.pairs if name.startswith(pair[1])), ("", ""))
        return pair[0] + name.removeprefix(pair[1])


def rename_weights(
    folder: PolicyFolder, pairs: Sequence[tuple[str, str]], unused: tuple[str, ...] = ()
) -> NamedWeights:
    """Return the weights under the network's names.

    unused: name prefixes of weights that no action depends on, or that other networks of the bundle use.
    Raises UserError that names an unknown weight.
    """
    renamed = {}
    for name, tensor in folder.weights.items():
        if name.startswith(unused):
            continue
        pair = next((pair for pair in pairs if name.startswith(pair[0])), None)
        if pair is None:
            raise UserError(
                f"{folder.home / WEIGHTS} has a weight {name!r} that does not belong to {CONFIG}", RETRAINED
            )
        renamed[pair[1] + name.removeprefix(pair[0])] = tensor
    return NamedWeights(folder, pairs, renamed)


def count_layers(weights: Iterable[str], start: str) -> int:
    """Return the number of layers of weights with names START.NUMBER.REST."""
    numbers = [name.removeprefix(start).partition(".")[0] for name in weights if name.startswith(start)]
    return 1 + max((int(digits) for digits in numbers if digits.isdecimal()), default=-1)
