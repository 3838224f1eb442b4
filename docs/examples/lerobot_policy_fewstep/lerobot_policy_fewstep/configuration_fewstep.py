"""The config of a policy of type `fewstep`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, PolicyFeature

from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.kinds.policies import action_shape, policy_of, state_words


@PreTrainedConfig.register_subclass("fewstep")
@dataclass
class FewstepConfig(PreTrainedConfig):
    """A bundle of fewstep, which runs on the CPU, or on the engine of `backend`.

    plan, precision, backend, threads: as in `fewstep run`. n_action_steps: the actions that are executed of each
    sequence, from 1 to all that follow its observation; None means the bundle's number. seed: of the first sequence of
    an episode.
    """

    plan: str | None = None
    precision: str = "float32"
    backend: str = "onnxruntime"
    threads: int = 1
    seed: int = 0
    n_action_steps: int | None = None
    device: str | None = "cpu"
    rtc_config: Any = field(default=None, repr=False)  # LeRobot's real-time chunking sets it

    @property
    def observation_delta_indices(self) -> list[int] | None:
        return None

    @property
    def action_delta_indices(self) -> list[int] | None:
        return None

    @property
    def reward_delta_indices(self) -> list[int] | None:
        return None

    def get_optimizer_preset(self) -> Any:
        raise NotImplementedError("a bundle cannot be trained")

    def get_scheduler_preset(self) -> Any:
        return None

    def validate_features(self) -> None:
        """The bundle checks the observations of each call."""


def make_config(bundle: Path) -> FewstepConfig:
    """Return the config of a bundle: its observations and actions as features of LeRobot."""
    manifest = open_bundle(bundle).manifest
    policy = policy_of(manifest)
    shapes = {
        condition.name: condition.shape[1:]
        for condition in manifest.conditions
        if condition.name.startswith("observation.")
    }
    if (words := state_words(manifest)) is not None:
        shapes[words.observation] = (len(words.scale),)
    features = {name: PolicyFeature(_kind(name, shape), tuple(shape)) for name, shape in shapes.items()}
    actions = {"action": PolicyFeature(FeatureType.ACTION, action_shape(manifest))}
    return FewstepConfig(n_obs_steps=policy.observations, input_features=features, output_features=actions)


def _kind(name: str, shape: tuple[int, ...]) -> FeatureType:
    if len(shape) == 3:
        return FeatureType.VISUAL
    return FeatureType.ENV if name == "observation.environment_state" else FeatureType.STATE
