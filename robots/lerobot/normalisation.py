"""Read the normalisation of each feature of a LeRobot policy: its offsets and scales.

In folders with processor pipelines, policy_preprocessor.json and policy_postprocessor.json name the files with the
statistics. In older folders, the statistics are buffers of the policy.

A policy that was trained on several data sets may store separate statistics for each, under the data set's name:
"so100.buffer.action.mean". LeRobot does not find these, and samples without normalisation. Here the caller chooses one
data set by name.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.export.sources.model_files import read_json
from fewstep.plans.errors import UserError
from fewstep.robots.lerobot.feature_statistics import FeatureStatistics, Statistic

if TYPE_CHECKING:
    from torch import Tensor

SMALL = 1e-8  # LeRobot adds it to standard deviations
RETRAINED = "give the folder that LeRobot wrote at the end of training, with its processors"
WRITE_IT = "write a function that returns (module, Spec), and give FILE.py:FUNCTION (docs/policies.md)"
NAME_IT = "choose the data set with your robot and units: --statistics"
IDENTITY = "IDENTITY"
KINDS = {"STATE", "VISUAL", "ENV", "ACTION", "REWARD", "LANGUAGE"}  # LeRobot's types of features
BUFFER = ".buffer"  # suffix of a data set's name in the file of a processor, if LeRobot moved it out of the weights
ENDS = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}  # mapped to -1 and 1

RENAMED, TOKENIZER_STEP = "rename_observations_processor", "tokenizer_processor"
LINES = ("smolvla_new_line_processor", "pi0_new_line_processor")  # steps that append a line end to the task
IDLE = ("to_batch_processor", "device_processor")  # steps that change no values
RELATIVE, ABSOLUTE = "relative_actions_processor", "absolute_actions_processor"  # before and after the network
STATE_PROMPT = "pi05_prepare_state_tokenizer_processor_step"

Weights = Mapping[str, "Tensor"]
Features = Mapping[str, Mapping[str, Any]]  # name -> {"type": ..., "shape": ...}


Numbers = dict[tuple[str, str, str], Statistic]  # by data set ("": without a name), feature and statistic


@dataclass(frozen=True)
class StatisticsPlace:
    """Where a folder stores statistics: in the state of `step` of the pipeline in `file`, or, in older folders, in
    buffers of the policy whose names begin with `buffers`."""

    file: str
    step: str
    buffers: str


BEFORE = StatisticsPlace("policy_preprocessor.json", "normalizer_processor", "normalize_inputs")
AFTER = StatisticsPlace("policy_postprocessor.json", "unnormalizer_processor", "unnormalize_outputs")
READ = {RENAMED, BEFORE.step, AFTER.step, TOKENIZER_STEP, STATE_PROMPT, RELATIVE, ABSOLUTE, *LINES, *IDLE}  # all known


@dataclass(frozen=True)
class Normaliser:
    """The normalisation modes by type of feature ("STATE"), and the statistics of all data sets.

    chosen: the data set whose statistics are used, if it has those of a feature; None uses statistics without a name.
    added: a number that is added to standard deviations.
    only: the observations that are normalised; None for all.
    listed: the features that the step lists; None if it has no list.
    """

    modes: Mapping[str, str]
    numbers: Numbers
    where: str  # the file and step, for messages
    chosen: str | None = None
    added: float = 0.0
    only: Collection[str] | None = None
    listed: Collection[str] | None = None

    def feature_statistics(self, feature: str, kind: str, count: int, steps: int = 1) -> FeatureStatistics:
        """Return the statistics of a feature with `count` elements or channels. Those of each of `steps` steps are in
        order, if they differ.

        Raises UserError if they are missing or not finite, and if those of other numbers of steps differ.
        """
        skipped = self.only is not None and kind != "ACTION" and feature not in self.only
        mode = IDENTITY if skipped else self.modes.get(kind, IDENTITY)  # as LeRobot does, in training too
        if mode == IDENTITY:
            ones, zeros = (1.0,) * count, (0.0,) * count
            return FeatureStatistics(zeros, ones, zeros, self._value_range(feature, count) or ((-1.0,) * count, ones))
        self._check_present(feature, kind, mode)
        if mode == "MEAN_STD":
            mean, std = self._numbers_of(feature, ("mean", "std"), count, steps)
            scale = tuple(1 / (deviation + self.added) if deviation else 0.0 for deviation in std)
            spread = (
                tuple(m - 2 * s for m, s in zip(mean, std, strict=True)),
                tuple(m + 2 * s for m, s in zip(mean, std, strict=True)),
            )
            return FeatureStatistics(mean, scale, (0.0,) * len(mean), self._value_range(feature, count) or spread)
        if mode not in ENDS:
            raise UserError(f"{self.where} normalises {feature} by {mode!r}", f"choose MEAN_STD or {', '.join(ENDS)}")
        low, high = self._numbers_of(feature, ENDS[mode], count, steps)
        if any(b > h for b, h in zip(low, high, strict=True)):
            raise UserError(f"{self.where}: {ENDS[mode][0]} of {feature} is above its {ENDS[mode][1]}", RETRAINED)
        scale = tuple(2 / (h - b) if h > b else 0.0 for b, h in zip(low, high, strict=True))
        return FeatureStatistics(low, scale, (-1.0,) * len(low), self._value_range(feature, count) or (low, high))

    def data_sets(self, feature: str | None = None) -> list[str]:
        """Return the names of the data sets that have statistics, of any feature or of the given one."""
        return sorted({name for name, each, _ in self.numbers if name and feature in (None, each)})

    def _check_present(self, feature: str, kind: str, mode: str) -> None:
        """Raise UserError if the step would not change a feature although `mode` normalises its type.

        LeRobot then silently skips the normalisation, so that a robot would receive normalised actions.
        """
        if self.listed is not None and kind != "ACTION" and feature not in self.listed:
            raise UserError(f"{self.where} normalises {kind} by {mode}, but does not list {feature}", RETRAINED)
        if self._has(self._data_set(feature), feature):
            return
        what, named = f"{self.where} has no statistics of {feature}, which {mode} needs", self.data_sets(feature)
        if not named:
            others = self.data_sets()
            raise UserError(what + f"; its data sets {', '.join(others)} lack them too" * bool(others), RETRAINED)
        if self.chosen is None:
            raise UserError(f"{what}, except for the data sets {', '.join(named)}", f"{NAME_IT} {named[0]}")
        raise UserError(
            f"{what}, for the data set {self.chosen!r}; these have them: {', '.join(named)}", f"{NAME_IT} {named[0]}"
        )

    def _has(self, data_set: str, feature: str) -> bool:
        return any((name, each) == (data_set, feature) for name, each, _ in self.numbers)

    def _data_set(self, feature: str) -> str:
        """Return the data set whose statistics of a feature are used; empty for those without a name."""
        return self.chosen if self.chosen is not None and self._has(self.chosen, feature) else ""

    def _find_statistic(self, feature: str, statistic: str) -> Statistic | None:
        return self.numbers.get((self._data_set(feature), feature, statistic))

    def _numbers_of(
        self, feature: str, statistics: tuple[str, str], count: int, steps: int
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return two statistics: `count` numbers each or, if one differs between steps, those of all steps."""
        first, second = (self._number(feature, statistic, count, steps) for statistic in statistics)
        length = max(len(first), len(second))
        return first * (length // len(first)), second * (length // len(second))

    def _number(self, feature: str, statistic: str, count: int, steps: int) -> tuple[float, ...]:
        stored = self._find_statistic(feature, statistic)
        if stored is None:
            raise UserError(f"{self.where} has no {statistic} of {feature}", RETRAINED)
        rows = stored.rows(count)
        if len(rows) > 1 and stored.shape[0] != steps:
            what = (
                f"{self.where}: {statistic} {list(stored.shape)} of {feature} differs between the steps of a sequence"
            )
            if steps > 1:
                raise UserError(f"{what}, and sequences have {steps}", RETRAINED)
            raise UserError(f"{what}, which fewstep reads of actions only", WRITE_IT)
        numbers = stored.values if len(rows) > 1 else rows[0]
        if len(rows) == 1 and len(numbers) != count:
            raise UserError(
                f"{self.where}: {statistic} of {feature} has {len(numbers)} numbers, not {count}", RETRAINED
            )
        if not all(abs(number) < float("inf") for number in numbers):
            raise UserError(f"{self.where}: {statistic} of {feature} contains NaN or infinity", RETRAINED)
        if statistic == "std" and min(numbers) < 0:
            raise UserError(f"{self.where}: std of {feature} contains {min(numbers):g}", RETRAINED)
        return numbers

    def _value_range(self, feature: str, count: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Return the least and the greatest values in the training data; None if they are unknown."""
        stored = [self._find_statistic(feature, statistic) for statistic in ("min", "max")]
        rows = [[] if statistic is None else statistic.rows(count) for statistic in stored]
        ends = [numbers[0] if len(numbers) == 1 else () for numbers in rows]
        fits = all(len(end) == count and all(abs(number) < float("inf") for number in end) for end in ends)
        return (ends[0], ends[1]) if fits and all(a <= b for a, b in zip(*ends, strict=True)) else None


def read_normaliser(
    folder: Path, place: StatisticsPlace, config: Mapping[str, Any], weights: Weights, chosen: str | None = None
) -> Normaliser:
    """Read the statistics that normalise inputs, or outputs, of a policy (`place`). They are in the processor's file
    or, without such a file, in buffers among the weights."""
    if (folder / place.file).is_file():
        return _read_processor(folder, place, config, chosen)
    modes, features = _config_modes(folder, config), _features_of_place(config, place)
    numbers: Numbers = {}
    for feature in features:
        marked = re.compile(rf"{place.buffers}\.(?:(.+)_)?buffer_{re.escape(feature.replace('.', '_'))}\.(\w+)")
        for name in weights:
            if found := marked.fullmatch(name):
                numbers[found[1] or "", feature, found[2]] = _read_statistic(weights[name])
    needed = [name for name, feature in features.items() if modes.get(feature["type"], IDENTITY) != IDENTITY]
    if needed and not numbers:
        raise UserError(
            f"{folder} has no {place.file}, and its weights contain no statistics of {needed[0]}", RETRAINED
        )
    return Normaliser(modes, numbers, str(folder), chosen, SMALL if place is BEFORE else 0.0)


def check_chosen(folder: Path, chosen: str, normalisers: Iterable[Normaliser]) -> None:
    """Raise UserError if no normaliser has statistics for the chosen data set."""
    names = sorted({name for normaliser in normalisers for name in normaliser.data_sets()})
    if chosen not in names:
        fix = f"give one of {', '.join(names)}" if names else "leave --statistics out"
        raise UserError(f"{folder} has no statistics for the data set {chosen!r}", fix)


def _read_processor(folder: Path, place: StatisticsPlace, config: Mapping[str, Any], chosen: str | None) -> Normaliser:
    file, features = folder / place.file, _features_of_place(config, place)
    step = _only_step(folder, place, place.step)
    if step is None:  # nothing is normalised
        modes = _config_modes(folder, config)
        for name, feature in features.items():
            if (mode := modes.get(feature["type"], IDENTITY)) != IDENTITY:
                what = f"{file} has no {place.step}, but config.json normalises {name} by {mode}"
                raise UserError(what, RETRAINED)
        return Normaliser({}, {}, str(file))
    settings, state = step.get("config") or {}, step.get("state_file")
    modes = _modes(settings.get("norm_map") if isinstance(settings, dict) else None, f"norm_map in {file}")
    numbers = {} if state is None else _read_numbers(folder, file, str(state), config)
    added = float(settings.get("eps", SMALL)) if place is BEFORE else 0.0
    if not 0 <= added < float("inf"):
        raise UserError(f"{file} has an invalid eps: {added:g}", RETRAINED)
    listed, only = (settings.get(key) for key in ("features", "normalize_observation_keys"))
    if not all(names is None or isinstance(names, dict | list) for names in (listed, only)):
        raise UserError(f"features or normalize_observation_keys in {file} is not a list", RETRAINED)
    return Normaliser(modes, numbers, str(file), chosen, added, only, listed)


def _modes(modes: Any, where: str) -> dict[str, str]:
    """Return the normalisation mode of each type of feature. Raises UserError if it is missing, and for a type that
    LeRobot does not have."""
    if not isinstance(modes, dict):
        raise UserError(f"{where} has no normalisation modes by type of feature", RETRAINED)
    if unknown := sorted({str(kind) for kind in modes} - KINDS):
        raise UserError(
            f"{where} has the unknown type of feature {unknown[0]!r}", f"use one of {', '.join(sorted(KINDS))}"
        )
    return {str(kind): str(mode) for kind, mode in modes.items()}


def _config_modes(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    return _modes(config.get("normalization_mapping"), f"normalization_mapping in {folder / 'config.json'}")


def _features_of_place(config: Mapping[str, Any], place: StatisticsPlace) -> Features:
    """Return the features that are normalised at a place: the inputs before the network, the outputs after it."""
    return dict(config["input_features" if place is BEFORE else "output_features"])


def _read_numbers(folder: Path, file: Path, state: str, config: Mapping[str, Any]) -> Numbers:
    """Read the statistics in the file of a step: FEATURE.STATISTIC, or DATA_SET.buffer.FEATURE.STATISTIC."""
    if Path(state).name != state:
        raise UserError(f"{file} names {state!r}, which is not a file in the same folder", RETRAINED)
    features = sorted((*config["input_features"], *config["output_features"]), key=len, reverse=True)
    numbers: Numbers = {}
    for name, tensor in read_tensors(folder / state).items():
        stored, _, statistic = name.rpartition(".")
        feature = next((feature for feature in features if f".{stored}".endswith(f".{feature}")), None)
        if feature is None:  # a feature of the data set that the policy does not use
            continue
        place = stored.removesuffix(feature).removesuffix(".").removesuffix(BUFFER), feature, statistic
        if place in numbers:
            raise UserError(
                f"{folder / state} has {statistic} of {feature} twice for the data set {place[0]!r}", RETRAINED
            )
        numbers[place] = _read_statistic(tensor)
    return numbers


def check_steps(folder: Path) -> None:
    """Raise UserError for an unknown step of a processor, without which the actions would differ."""
    for place in (BEFORE, AFTER):
        for step in processor_steps(folder, place):
            name, settings = step.get("registry_name"), step.get("config") or {}
            if name not in READ and settings.get("enabled") is not False:
                what = f"{folder / place.file} has a step {name or step.get('class')!r}, which fewstep does not read"
                raise UserError(what, WRITE_IT)


def read_robot_names(folder: Path, features: Collection[str]) -> dict[str, str]:
    """Return the names that the robot uses for observations that the preprocessor renames, by the policy's names.

    The renaming steps are applied in order. Raises UserError for a step that gives one name to two observations, or a
    name that is not a feature of the policy.
    """
    names, file = dict[str, str](), folder / BEFORE.file
    for step in processor_steps(folder, BEFORE):
        renames = (step.get("config") or {}).get("rename_map") or {} if step.get("registry_name") == RENAMED else {}
        if not isinstance(renames, dict) or not all(isinstance(name, str) for name in renames.values()):
            raise UserError(f"{file} has a rename_map that does not map names to names", RETRAINED)
        renamed = {name: robot for name, robot in names.items() if name not in renames}
        for own, name in dict[str, str](renames).items():
            robot = names.get(own, own)
            if renamed.setdefault(name, robot) != robot:
                raise UserError(f"{file} renames {renamed[name]} and {robot} to {name}", RETRAINED)
        names = renamed
    if unknown := sorted(names.keys() - set(features)):
        has = f"which is not a feature of the policy ({', '.join(features)})"
        raise UserError(f"{file} renames {names[unknown[0]]} to {unknown[0]}, {has}", RETRAINED)
    return names


def read_relative_elements(folder: Path, count: int) -> tuple[int, ...] | None:
    """Return the elements of an action of `count` elements that the network predicts relative to the state: all but
    those whose names contain one of `exclude_joints`. None if actions are absolute.

    Raises UserError if the two processors disagree about it.
    """
    relative, absolute = (_only_step(folder, place, name) for place, name in ((BEFORE, RELATIVE), (AFTER, ABSOLUTE)))
    settings, after = ((step or {}).get("config") or {} for step in (relative, absolute))
    if bool(settings.get("enabled")) != bool(after.get("enabled")):
        what = f"{folder}: one of the steps {RELATIVE} and {ABSOLUTE} is enabled, and the other is not"
        raise UserError(what, RETRAINED)
    if not settings.get("enabled"):
        return None
    tokens = [str(token).lower() for token in settings.get("exclude_joints") or [] if token]
    names = [str(name).lower() for name in settings.get("action_names") or []]
    excluded = {place for place, name in enumerate(names) if any(token in name for token in tokens)}
    return tuple(place for place in range(count) if place not in excluded)


def state_files(folder: Path) -> list[str]:
    """Return the tensor files that a folder's processors name, without the policy's weights."""
    named = [step.get("state_file") for place in (BEFORE, AFTER) for step in processor_steps(folder, place)]
    return sorted({str(name) for name in named if name is not None})


def processor_steps(folder: Path, place: StatisticsPlace) -> Sequence[Mapping[str, Any]]:
    """Return the steps of a processor from its file, or an empty list if the folder has no such file."""
    path = folder / place.file
    steps = read_json(path, RETRAINED).get("steps") if path.is_file() else []
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise UserError(f"{path} has no list of steps", RETRAINED)
    return steps


def _only_step(folder: Path, place: StatisticsPlace, name: str) -> Mapping[str, Any] | None:
    """Return a processor's step of a name; None without one. Raises UserError if there are several."""
    steps = [step for step in processor_steps(folder, place) if step.get("registry_name") == name]
    if len(steps) > 1:
        raise UserError(f"{folder / place.file} has {len(steps)} steps {name}; fewstep reads only one", WRITE_IT)
    return steps[0] if steps else None


def read_tensors(path: Path) -> dict[str, "Tensor"]:
    """Read a safetensors file to the CPU. Large float32 tensors are read-only and memory-mapped."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from fewstep.export.tracing.weights.mapped_weights import map_tensors

    if not path.is_file():
        raise UserError(f"{path} is missing", RETRAINED)
    try:
        return load_file(path) | map_tensors(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path} is not a safetensors file ({' '.join(str(error).split())})", RETRAINED) from error


def _read_statistic(tensor: "Tensor") -> Statistic:
    return Statistic(tuple(tensor.double().flatten().tolist()), tuple(tensor.shape))
