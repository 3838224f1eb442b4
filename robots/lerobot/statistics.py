"""Read how a LeRobot policy normalises each feature: the numbers that it subtracts, and multiplies by.

Since LeRobot has pipelines of processors, policy_preprocessor.json and policy_postprocessor.json name the files of a
policy's statistics. Before that, the statistics were buffers of the policy itself.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.export.sources.diffusers.files import read_json
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Affine

if TYPE_CHECKING:
    from torch import Tensor

LOG = logging.getLogger("fewstep")
SMALL = 1e-8  # LeRobot adds it to a deviation
RETRAINED = "take the folder that LeRobot wrote at the end of training, with its processors"
WRITE_IT = "write a function that returns (module, Spec), and give FILE.py:FUNCTION (docs/policies.md)"
ENDS = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}  # they become -1 and 1

RENAMED, TOKENIZER_STEP = "rename_observations_processor", "tokenizer_processor"
LINES = ("smolvla_new_line_processor", "pi0_new_line_processor")  # steps that end a task with a line end
IDLE = ("to_batch_processor", "device_processor")  # they change no number
STATE_PROMPT = "pi05_prepare_state_tokenizer_processor_step"

Weights = Mapping[str, "Tensor"]
Features = Mapping[str, Mapping[str, Any]]  # name -> {"type": ..., "shape": ...}


@dataclass(frozen=True)
class StatisticsPlace:
    """A place of statistics: the state of a step of a pipeline in `file`, or before there were any in buffers."""

    file: str
    step: str
    buffers: str


BEFORE = StatisticsPlace("policy_preprocessor.json", "normalizer_processor", "normalize_inputs")
AFTER = StatisticsPlace("policy_postprocessor.json", "unnormalizer_processor", "unnormalize_outputs")
READ = {RENAMED, BEFORE.step, AFTER.step, TOKENIZER_STEP, STATE_PROMPT, *LINES, *IDLE}  # all steps that are known


@dataclass(frozen=True)
class FeatureStatistics:
    """The statistics of one feature: normalised = (raw - centre) * scale + base, with one number per element or
    channel.

    A scale of 0 marks a feature that never changed in the data. LeRobot divides by 1e-8 there: the value of the data
    becomes `base`, and any other value becomes a number that the network has never seen. Here all values become `base`.
    `typical` is where raw values lie.
    """

    centre: tuple[float, ...]
    scale: tuple[float, ...]
    base: tuple[float, ...]
    typical: tuple[tuple[float, ...], tuple[float, ...]]

    @property
    def inverse(self) -> Affine:
        """The map from normalised to raw, along the last axis."""
        back = tuple(1 / scale if scale else 0.0 for scale in self.scale)
        shift = tuple(c - b * s for c, b, s in zip(self.centre, self.base, back, strict=True))
        return Affine(back, shift, constant=self.base[0])


@dataclass(frozen=True)
class Normaliser:
    """Modes by type of feature ("STATE"), and numbers by feature and statistic ("observation.state", "min").

    `added` is what normalising adds to a deviation. `only` are the observations that are normalised, None for all.
    """

    modes: Mapping[str, str]
    numbers: Mapping[tuple[str, str], tuple[float, ...]]
    where: str  # for messages
    added: float = 0.0
    only: Collection[str] | None = None

    def of(self, feature: str, kind: str, count: int) -> FeatureStatistics:
        """Statistics of a feature with `count` elements or channels. UserError where they are missing or not finite."""
        skipped = self.only is not None and kind != "ACTION" and feature not in self.only
        mode = "IDENTITY" if skipped else self.modes.get(kind, "IDENTITY")
        statistics = {statistic for name, statistic in self.numbers if name == feature}
        if mode != "IDENTITY" and not statistics:
            LOG.warning("%s has no statistics of %s: it is taken as it is, as LeRobot does", self.where, feature)
        if mode == "IDENTITY" or not statistics:
            ones, zeros = (1.0,) * count, (0.0,) * count
            return FeatureStatistics(zeros, ones, zeros, self._seen(feature, count) or ((-1.0,) * count, ones))
        if mode == "MEAN_STD":
            mean, std = (self._number(feature, statistic, count) for statistic in ("mean", "std"))
            scale = tuple(1 / (each + self.added) if each else 0.0 for each in std)
            spread = (
                tuple(m - 2 * s for m, s in zip(mean, std, strict=True)),
                tuple(m + 2 * s for m, s in zip(mean, std, strict=True)),
            )
            return FeatureStatistics(mean, scale, (0.0,) * count, self._seen(feature, count) or spread)
        if mode not in ENDS:
            raise UserError(f"{self.where} normalises {feature} by {mode!r}", f"choose MEAN_STD or {', '.join(ENDS)}")
        low, high = (self._number(feature, statistic, count) for statistic in ENDS[mode])
        if any(b > h for b, h in zip(low, high, strict=True)):
            raise UserError(f"{self.where}: {ENDS[mode][0]} of {feature} is above its {ENDS[mode][1]}", RETRAINED)
        scale = tuple(2 / (h - b) if h > b else 0.0 for b, h in zip(low, high, strict=True))
        return FeatureStatistics(low, scale, (-1.0,) * count, self._seen(feature, count) or (low, high))

    def _number(self, feature: str, statistic: str, count: int) -> tuple[float, ...]:
        numbers = self.numbers.get((feature, statistic))
        if numbers is None:
            raise UserError(f"{self.where} has no {statistic} of {feature}", RETRAINED)
        if len(numbers) != count:
            raise UserError(f"{self.where} has {len(numbers)} numbers {statistic} of {feature}, not {count}", RETRAINED)
        if not all(abs(number) < float("inf") for number in numbers):
            raise UserError(f"{self.where}: {statistic} of {feature} holds NaN or infinity", RETRAINED)
        if statistic == "std" and min(numbers) < 0:
            raise UserError(f"{self.where}: std of {feature} holds {min(numbers):g}", RETRAINED)
        return numbers

    def _seen(self, feature: str, count: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """The least and the greatest values in the training data."""
        ends = [self.numbers.get((feature, statistic), ()) for statistic in ("min", "max")]
        fits = all(len(end) == count and all(abs(number) < float("inf") for number in end) for end in ends)
        return (ends[0], ends[1]) if fits and all(a <= b for a, b in zip(*ends, strict=True)) else None


def normaliser(
    folder: Path, place: StatisticsPlace, config: Mapping[str, Any], features: Features, weights: Weights
) -> Normaliser:
    """The normaliser in the file of a place; without one, from the buffers among the weights."""
    if (folder / place.file).is_file():
        return _from_processor(folder, place)
    modes = {str(kind): str(mode) for kind, mode in dict(config.get("normalization_mapping") or {}).items()}
    numbers = {}
    for feature in features:
        start = f"{place.buffers}.buffer_{feature.replace('.', '_')}."
        for name in weights:
            if name.startswith(start):
                numbers[feature, name.removeprefix(start)] = _numbers(weights[name])
    needed = [name for name, feature in features.items() if modes.get(feature["type"], "IDENTITY") != "IDENTITY"]
    if needed and not numbers:
        raise UserError(f"{folder} has no {place.file}, and its weights hold no statistics of {needed[0]}", RETRAINED)
    return Normaliser(modes, numbers, str(folder), added=SMALL if place is BEFORE else 0.0)


def _from_processor(folder: Path, place: StatisticsPlace) -> Normaliser:
    file = folder / place.file
    step = next((step for step in steps_of(folder, place) if step.get("registry_name") == place.step), None)
    if step is None:  # nothing is normalised
        return Normaliser({}, {}, str(file))
    settings, state = step.get("config") or {}, step.get("state_file")
    modes = settings.get("norm_map") if isinstance(settings, dict) else None
    if not isinstance(modes, dict):
        raise UserError(f"{file} does not say how its {place.step} normalises (norm_map)", RETRAINED)
    numbers = {}
    if state is not None:
        if Path(str(state)).name != state:
            raise UserError(f"{file} names {state!r}, which is not a file next to it", RETRAINED)
        for name, tensor in read_tensors(folder / str(state)).items():
            feature, _, statistic = name.rpartition(".")
            numbers[feature, statistic] = _numbers(tensor)
    added = float(settings.get("eps", SMALL)) if place is BEFORE else 0.0
    if not 0 <= added < float("inf"):
        raise UserError(f"{file} adds {added:g} to deviations (eps)", RETRAINED)
    normalised = [settings[key] for key in ("features", "normalize_observation_keys") if settings.get(key) is not None]
    if not all(isinstance(names, dict | list) for names in normalised):
        raise UserError(f"{file} names no list of observations (normalize_observation_keys)", RETRAINED)
    only = set.intersection(*map(set, normalised)) if normalised else None
    return Normaliser({str(k): str(v) for k, v in modes.items()}, numbers, str(file), added, only)


def check_steps(folder: Path) -> None:
    """UserError for a step of a processor that is not read, since actions would be others without it."""
    for place in (BEFORE, AFTER):
        for step in steps_of(folder, place):
            name, settings = step.get("registry_name"), step.get("config") or {}
            if name not in READ and settings.get("enabled") is not False:
                what = f"{folder / place.file} has a step {name or step.get('class')!r}, which fewstep does not read"
                raise UserError(what, WRITE_IT)


def robot_names(folder: Path, features: Collection[str]) -> dict[str, str]:
    """The robot's names of observations, by the policy's names, where steps of the preprocessor rename them, one after
    the other. UserError for a step that gives a name to two, or one that is none of the policy's features."""
    names, file = dict[str, str](), folder / BEFORE.file
    for step in steps_of(folder, BEFORE):
        renames = (step.get("config") or {}).get("rename_map") or {} if step.get("registry_name") == RENAMED else {}
        if not isinstance(renames, dict) or not all(isinstance(name, str) for name in renames.values()):
            raise UserError(f"{file} has a rename_map that gives no name for each name", RETRAINED)
        renamed = {name: robot for name, robot in names.items() if name not in renames}
        for own, name in dict[str, str](renames).items():
            robot = names.get(own, own)
            if renamed.setdefault(name, robot) != robot:
                raise UserError(f"{file} renames {renamed[name]} and {robot} to {name}", RETRAINED)
        names = renamed
    if unknown := sorted(names.keys() - set(features)):
        has = f"which is none of the policy's {', '.join(features)}"
        raise UserError(f"{file} renames {names[unknown[0]]} to {unknown[0]}, {has}", RETRAINED)
    return names


def state_files(folder: Path) -> list[str]:
    """The files of tensors that a folder's processors name, without the policy's own weights."""
    named = [step.get("state_file") for place in (BEFORE, AFTER) for step in steps_of(folder, place)]
    return sorted({str(name) for name in named if name is not None})


def steps_of(folder: Path, place: StatisticsPlace) -> Sequence[Mapping[str, Any]]:
    """The steps of a processor, none where the folder has no such file."""
    path = folder / place.file
    steps = read_json(path, RETRAINED).get("steps") if path.is_file() else []
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise UserError(f"{path} lists no steps", RETRAINED)
    return steps


def read_tensors(path: Path) -> dict[str, "Tensor"]:
    """A safetensors file, on the CPU. Large float32 tensors are read-only, and mapped."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from fewstep.export.mapped import map_floats

    if not path.is_file():
        raise UserError(f"{path} is missing", RETRAINED)
    try:
        return load_file(path) | map_floats(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path} is no safetensors file ({' '.join(str(error).split())})", RETRAINED) from error


def _numbers(tensor: "Tensor") -> tuple[float, ...]:
    return tuple(tensor.double().flatten().tolist())
