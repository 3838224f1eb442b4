"""Read how a LeRobot policy normalises each feature: the numbers that it subtracts, and multiplies by.

Since LeRobot has pipelines of processors, policy_preprocessor.json and policy_postprocessor.json name the files of a
policy's statistics. Before that, the statistics were buffers of the policy itself.

A policy that was trained on several data sets may store one set of statistics for each, under the data set's name:
"so100.buffer.action.mean". LeRobot finds none of these, and samples without normalisation. Here one is chosen by name.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.export.sources.diffusers.files import read_json
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Affine

if TYPE_CHECKING:
    from torch import Tensor

SMALL = 1e-8  # LeRobot adds it to a deviation
RETRAINED = "take the folder that LeRobot wrote at the end of training, with its processors"
WRITE_IT = "write a function that returns (module, Spec), and give FILE.py:FUNCTION (docs/policies.md)"
NAME_IT = "choose the data set whose robot and units are yours, as --statistics"
IDENTITY = "IDENTITY"
KINDS = {"STATE", "VISUAL", "ENV", "ACTION", "REWARD", "LANGUAGE"}  # LeRobot's types of features
BUFFER = ".buffer"  # ends the name of a data set in a processor's file, where LeRobot moved it out of the weights
ENDS = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}  # they become -1 and 1

RENAMED, TOKENIZER_STEP = "rename_observations_processor", "tokenizer_processor"
LINES = ("smolvla_new_line_processor", "pi0_new_line_processor")  # steps that end a task with a line end
IDLE = ("to_batch_processor", "device_processor")  # they change no number
STATE_PROMPT = "pi05_prepare_state_tokenizer_processor_step"

Weights = Mapping[str, "Tensor"]
Features = Mapping[str, Mapping[str, Any]]  # name -> {"type": ..., "shape": ...}
Numbers = dict[tuple[str, str, str], tuple[float, ...]]  # by data set ("": without a name), feature and statistic


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
    """Modes by type of feature ("STATE"), and the numbers of all data sets.

    chosen: the data set whose statistics are taken, where it has those of a feature; None takes those without a name.
    added: what normalising adds to a deviation.
    only: the observations that are normalised, None for all.
    listed: the features that the step lists, None where it lists none.
    """

    modes: Mapping[str, str]
    numbers: Numbers
    where: str  # for messages
    chosen: str | None = None
    added: float = 0.0
    only: Collection[str] | None = None
    listed: Collection[str] | None = None

    def feature_statistics(self, feature: str, kind: str, count: int) -> FeatureStatistics:
        """Statistics of a feature with `count` elements or channels. UserError where they are missing or not finite."""
        skipped = self.only is not None and kind != "ACTION" and feature not in self.only
        mode = IDENTITY if skipped else self.modes.get(kind, IDENTITY)  # as LeRobot, which trains so too
        if mode == IDENTITY:
            ones, zeros = (1.0,) * count, (0.0,) * count
            return FeatureStatistics(zeros, ones, zeros, self._value_range(feature, count) or ((-1.0,) * count, ones))
        self._check_present(feature, kind, mode)
        if mode == "MEAN_STD":
            mean, std = (self._number(feature, statistic, count) for statistic in ("mean", "std"))
            scale = tuple(1 / (each + self.added) if each else 0.0 for each in std)
            spread = (
                tuple(m - 2 * s for m, s in zip(mean, std, strict=True)),
                tuple(m + 2 * s for m, s in zip(mean, std, strict=True)),
            )
            return FeatureStatistics(mean, scale, (0.0,) * count, self._value_range(feature, count) or spread)
        if mode not in ENDS:
            raise UserError(f"{self.where} normalises {feature} by {mode!r}", f"choose MEAN_STD or {', '.join(ENDS)}")
        low, high = (self._number(feature, statistic, count) for statistic in ENDS[mode])
        if any(b > h for b, h in zip(low, high, strict=True)):
            raise UserError(f"{self.where}: {ENDS[mode][0]} of {feature} is above its {ENDS[mode][1]}", RETRAINED)
        scale = tuple(2 / (h - b) if h > b else 0.0 for b, h in zip(low, high, strict=True))
        return FeatureStatistics(low, scale, (-1.0,) * count, self._value_range(feature, count) or (low, high))

    def data_sets(self, feature: str | None = None) -> list[str]:
        """The names of the data sets that have statistics, or those of one feature."""
        return sorted({name for name, each, _ in self.numbers if name and feature in (None, each)})

    def _check_present(self, feature: str, kind: str, mode: str) -> None:
        """UserError where the step would leave a feature as it is, although `mode` normalises its type.

        LeRobot leaves it as it is without a word, so that a robot would receive normalised actions.
        """
        if self.listed is not None and kind != "ACTION" and feature not in self.listed:
            raise UserError(f"{self.where} normalises {kind} by {mode}, and does not list {feature}", RETRAINED)
        if self._has(self._data_set(feature), feature):
            return
        what, named = f"{self.where} has no statistics of {feature}, which {mode} needs", self.data_sets(feature)
        if not named:
            others = self.data_sets()
            raise UserError(what + f": its data sets {', '.join(others)} lack them too" * bool(others), RETRAINED)
        if self.chosen is None:
            raise UserError(f"{what}, but under names of data sets: {', '.join(named)}", f"{NAME_IT} {named[0]}")
        raise UserError(f"{what}, under {self.chosen!r}: {', '.join(named)} have them", f"{NAME_IT} {named[0]}")

    def _has(self, data_set: str, feature: str) -> bool:
        return any((name, each) == (data_set, feature) for name, each, _ in self.numbers)

    def _data_set(self, feature: str) -> str:
        """The name under which the statistics of a feature are taken."""
        return self.chosen if self.chosen is not None and self._has(self.chosen, feature) else ""

    def _find_numbers(self, feature: str, statistic: str) -> tuple[float, ...] | None:
        return self.numbers.get((self._data_set(feature), feature, statistic))

    def _number(self, feature: str, statistic: str, count: int) -> tuple[float, ...]:
        numbers = self._find_numbers(feature, statistic)
        if numbers is None:
            raise UserError(f"{self.where} has no {statistic} of {feature}", RETRAINED)
        if len(numbers) != count:
            raise UserError(f"{self.where} has {len(numbers)} numbers {statistic} of {feature}, not {count}", RETRAINED)
        if not all(abs(number) < float("inf") for number in numbers):
            raise UserError(f"{self.where}: {statistic} of {feature} holds NaN or infinity", RETRAINED)
        if statistic == "std" and min(numbers) < 0:
            raise UserError(f"{self.where}: std of {feature} holds {min(numbers):g}", RETRAINED)
        return numbers

    def _value_range(self, feature: str, count: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """The least and the greatest values in the training data."""
        ends = [self._find_numbers(feature, statistic) or () for statistic in ("min", "max")]
        fits = all(len(end) == count and all(abs(number) < float("inf") for number in end) for end in ends)
        return (ends[0], ends[1]) if fits and all(a <= b for a, b in zip(*ends, strict=True)) else None


def read_normaliser(
    folder: Path, place: StatisticsPlace, config: Mapping[str, Any], weights: Weights, chosen: str | None = None
) -> Normaliser:
    """The normaliser in the file of a place; without one, from the buffers among the weights."""
    if (folder / place.file).is_file():
        return _read_processor(folder, place, config, chosen)
    modes, features = _config_modes(folder, config), _normalised_features(config, place)
    numbers: Numbers = {}
    for feature in features:
        marked = re.compile(rf"{place.buffers}\.(?:(.+)_)?buffer_{re.escape(feature.replace('.', '_'))}\.(\w+)")
        for name in weights:
            if found := marked.fullmatch(name):
                numbers[found[1] or "", feature, found[2]] = _numbers(weights[name])
    needed = [name for name, feature in features.items() if modes.get(feature["type"], IDENTITY) != IDENTITY]
    if needed and not numbers:
        raise UserError(f"{folder} has no {place.file}, and its weights hold no statistics of {needed[0]}", RETRAINED)
    return Normaliser(modes, numbers, str(folder), chosen, SMALL if place is BEFORE else 0.0)


def check_chosen(folder: Path, chosen: str, normalisers: Iterable[Normaliser]) -> None:
    """UserError where no normaliser has statistics under the chosen name."""
    names = sorted({name for each in normalisers for name in each.data_sets()})
    if chosen not in names:
        fix = f"give one of {', '.join(names)}" if names else "leave --statistics out"
        raise UserError(f"{folder} has no statistics under the name {chosen!r}", fix)


def _read_processor(folder: Path, place: StatisticsPlace, config: Mapping[str, Any], chosen: str | None) -> Normaliser:
    file, features = folder / place.file, _normalised_features(config, place)
    steps = [step for step in processor_steps(folder, place) if step.get("registry_name") == place.step]
    if len(steps) > 1:
        raise UserError(f"{file} has {len(steps)} steps {place.step}, and fewstep reads one", WRITE_IT)
    if not steps:  # nothing is normalised
        modes = _config_modes(folder, config)
        for name, feature in features.items():
            if (mode := modes.get(feature["type"], IDENTITY)) != IDENTITY:
                what = f"{file} has no {place.step}, and config.json normalises {name} by {mode}"
                raise UserError(what, RETRAINED)
        return Normaliser({}, {}, str(file))
    settings, state = steps[0].get("config") or {}, steps[0].get("state_file")
    modes = _modes(settings.get("norm_map") if isinstance(settings, dict) else None, f"norm_map in {file}")
    numbers = {} if state is None else _stored_numbers(folder, file, str(state), config)
    added = float(settings.get("eps", SMALL)) if place is BEFORE else 0.0
    if not 0 <= added < float("inf"):
        raise UserError(f"{file} adds {added:g} to deviations (eps)", RETRAINED)
    listed, only = (settings.get(key) for key in ("features", "normalize_observation_keys"))
    if not all(names is None or isinstance(names, dict | list) for names in (listed, only)):
        raise UserError(f"{file} names no list of observations (normalize_observation_keys)", RETRAINED)
    return Normaliser(modes, numbers, str(file), chosen, added, only, listed)


def _modes(modes: Any, where: str) -> dict[str, str]:
    """How each type of feature is normalised. UserError where that is not said, or for a type that LeRobot lacks."""
    if not isinstance(modes, dict):
        raise UserError(f"{where} does not say how each type of feature is normalised", RETRAINED)
    if unknown := sorted({str(kind) for kind in modes} - KINDS):
        raise UserError(
            f"{where} normalises features of type {unknown[0]!r}", f"name one of {', '.join(sorted(KINDS))}"
        )
    return {str(kind): str(mode) for kind, mode in modes.items()}


def _config_modes(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    return _modes(config.get("normalization_mapping"), f"normalization_mapping in {folder / 'config.json'}")


def _normalised_features(config: Mapping[str, Any], place: StatisticsPlace) -> Features:
    """The features that a place normalises."""
    return dict(config["input_features" if place is BEFORE else "output_features"])


def _stored_numbers(folder: Path, file: Path, state: str, config: Mapping[str, Any]) -> Numbers:
    """The statistics in the file of a step: FEATURE.STATISTIC, or DATA_SET.buffer.FEATURE.STATISTIC."""
    if Path(state).name != state:
        raise UserError(f"{file} names {state!r}, which is not a file next to it", RETRAINED)
    features = sorted((*config["input_features"], *config["output_features"]), key=len, reverse=True)
    numbers: Numbers = {}
    for name, tensor in read_tensors(folder / state).items():
        stored, _, statistic = name.rpartition(".")
        feature = next((each for each in features if f".{stored}".endswith(f".{each}")), None)
        if feature is None:  # of a feature of the data set that is none of the policy's
            continue
        place = stored.removesuffix(feature).removesuffix(".").removesuffix(BUFFER), feature, statistic
        if place in numbers:
            raise UserError(f"{folder / state} has {statistic} of {feature} twice for {place[0]!r}", RETRAINED)
        numbers[place] = _numbers(tensor)
    return numbers


def check_steps(folder: Path) -> None:
    """UserError for a step of a processor that is not read, since actions would be others without it."""
    for place in (BEFORE, AFTER):
        for step in processor_steps(folder, place):
            name, settings = step.get("registry_name"), step.get("config") or {}
            if name not in READ and settings.get("enabled") is not False:
                what = f"{folder / place.file} has a step {name or step.get('class')!r}, which fewstep does not read"
                raise UserError(what, WRITE_IT)


def read_robot_names(folder: Path, features: Collection[str]) -> dict[str, str]:
    """The robot's names of observations, by the policy's names, where steps of the preprocessor rename them, one after
    the other. UserError for a step that gives a name to two, or one that is none of the policy's features."""
    names, file = dict[str, str](), folder / BEFORE.file
    for step in processor_steps(folder, BEFORE):
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
    named = [step.get("state_file") for place in (BEFORE, AFTER) for step in processor_steps(folder, place)]
    return sorted({str(name) for name in named if name is not None})


def processor_steps(folder: Path, place: StatisticsPlace) -> Sequence[Mapping[str, Any]]:
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

    from fewstep.export.mapped_weights import map_floats

    if not path.is_file():
        raise UserError(f"{path} is missing", RETRAINED)
    try:
        return load_file(path) | map_floats(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path} is no safetensors file ({' '.join(str(error).split())})", RETRAINED) from error


def _numbers(tensor: "Tensor") -> tuple[float, ...]:
    return tuple(tensor.double().flatten().tolist())
