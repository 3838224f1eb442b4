"""What export needs to know about a denoiser: a `Spec` (facts that a network does not contain) and a `Source`.

A new type of source is one file in `sources/` with a function that returns a `Source`. If it has a torch module, it can
return a `sources.torch_module.TorchSource`. `sources/onnx_file.py` is a source without torch.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, cast, get_args, get_type_hints

import msgspec

from fewstep.graph.files.commit import Writer
from fewstep.graph.graph import GROUP, OUTPUT, TIME, TO, Array, Graph, X
from fewstep.plans.configs.classes import schedule_from_scheduler_config
from fewstep.plans.configs.tokens import sampler_from_scheduler_config
from fewstep.plans.errors import UserError
from fewstep.plans.grids import trailing
from fewstep.plans.names.grid_name import parse_grid
from fewstep.plans.prediction import check_prediction
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import Prediction, ScheduleSpec
from fewstep.runtime.bundle.consistency import interface_problems
from fewstep.runtime.bundle.manifest import Carried, Description, DType, Manifest, NamedOutput
from fewstep.runtime.bundle.platforms import Bits
from fewstep.runtime.kinds.condition import find_unnamed, has_typical_within_limits
from fewstep.runtime.kinds.graph_entry import CARRIED, NAMED, NEXT
from fewstep.runtime.kinds.kind import Kind, kinds
from fewstep.runtime.kinds.lora_slots import LoraSlots
from fewstep.runtime.kinds.sizes import input_shape, output_shape
from fewstep.runtime.lora.file import Lora
from fewstep.runtime.progress import Progress

KIND = get_type_hints(ScheduleSpec)["kind"]
FIXES = {  # fixes for wrong fields of a Spec
    "name": "give a string",
    "x_shape": "give the shape of one sample, like (1, 28, 28)",
    "conditions": f"give a tuple of Condition, as the denoiser was trained; dtypes are {', '.join(get_args(DType))}",
    "prediction": f"give one of {', '.join(get_args(Prediction))}",
    "schedule": f"give a ScheduleSpec of kind {', '.join(get_args(KIND))}",
    "grid": "give a grid such as 'trailing', or leave it out",
    "data_limit": "give the largest magnitude in your data, such as 1 for images in [-1, 1], or math.inf for none",
    "distilled": "give True for a network that was distilled to few steps, or leave it out",
    "self_condition": "give True for a network that takes its last x0 after x, without these, or leave it out",
    "heads": "give the number of outputs shaped like x along the channels: 2 or more with steers",
    "steers": "give 'x' or 'x0', the variable of the second output's gradient, or leave it out",
    "towards": "give the name of the degraded sample that noising reverts to, or leave it out",
    "scheduler": "give the fields of a scheduler_config.json, or leave it out",
    "x": "give the name of the input that is x",
    "time": "give the name of the input that is the time",
    "to": "give the name of the input that is the second time, or leave it out",
    "output": "give the name of the output that is the prediction",
}
OF_CONDITION = {  # fixes for wrong fields of a condition
    "follows": 'give {AXIS: SIZE}, like {1: "height", 2: "width*8"}',
    "default": "give the value as a flat tuple, such as (2,) for one number",
    **dict.fromkeys(("null", "low", "high", "typical", "shape"), "give what the denoiser was trained with"),
}
OF_INPUTS = "rename the condition's input, also in an .onnx file"
OF_TENSORS = "x, time, to, output and conditions need different names"


class Spec(Description, frozen=True):
    """A denoiser's interface and meaning.

    The module is called as `forward(x, time, *conditions)`: x float32 [B, *x_shape], time float32 [B] in the network's
    own units (DDPM timesteps for the discrete schedules), conditions [B, *shape] in the order given here. It returns
    its prediction, shaped like x.

    A network with two times, the start and the end of a step (flow maps, consistency trajectories, MeanFlow), takes
    both: `forward(x, time, to, *conditions)`. Its spec names the second one, `to="to"`.

    A network that generates a long sample chunk by chunk takes and returns carried tensors, such as keys and values:
    `forward(x, time, *conditions, *carried)` -> (prediction, *carried), tensors [B, *shape] in the order given here.

    A network may also return tensors that no step reads, such as a depth or the logits of a class. These `outputs`
    follow the prediction and precede carried tensors: (prediction, *outputs, *carried).

    A token denoiser predicts "logits" on the schedule "flow", whose sigma is the fraction of masked tokens:
    `forward(ids int64 [B, *x_shape], time, *conditions)` -> float32 [B, *x_shape, vocabulary.size]. x_shape is
    [length], or [codebooks, length]. The masked fraction implies the time, so most such networks do not read it.

    A network with a separate time for each position, `positions`, takes time [B, positions] (`plans.continuation`).

    `self_condition` is for networks that also take the x0 that their previous evaluation predicted, zeros at first.
    They receive x [B, 2 C, ...], which is x and then that x0.

    `towards` is for restoration networks: it names the given sample (a condition, or an array passed at run time) to
    which the noising process reverts. A network with several outputs, `heads`, concatenates them along the channels.
    With `steers`, the second output is a gradient with respect to that variable (`literature.gradients`). `sizes` are
    axes of x that a caller may choose for each run, such as height and width: x_shape has their defaults. `units` maps
    samples to physical units. For policies, whose samples are action sequences [horizon, ...], `policy` defines which
    actions are executed. For sound, `spectrogram` defines the transform to x. `scheduler` has the fields of a
    scheduler_config.json of diffusers, for the plan "scheduler:STEPS". `data_limit` is the largest magnitude in data;
    infinity removes an earlier one. `grid` is the default grid of plan names (see `plans.default_grid`). `distilled`
    networks have no exact trajectory. `x`, `time`, `to` and `output` name tensors of .onnx files."""

    scheduler: dict[str, Any] | None = None
    x: str = X
    time: str = TIME
    to: str | None = None
    output: str = OUTPUT

    @property
    def times(self) -> dict[str, str]:
        """The names of the network's time inputs in an .onnx file, by the names that fewstep's graphs use."""
        return {TIME: self.time} | ({} if self.to is None else {TO: self.to})

    @property
    def carried_inputs(self) -> dict[str, Carried]:
        """The carried tensors, by the names of the graph inputs that take them."""
        return {CARRIED + tensor.name: tensor for tensor in self.carried}

    @property
    def other_outputs(self) -> dict[str, Carried | NamedOutput]:
        """The network's outputs other than the prediction, in order, by the names of the graph's outputs."""
        carried = {NEXT + tensor.name: tensor for tensor in self.carried}
        return {NAMED + output.name: output for output in self.outputs} | carried

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample of the input x, with the last x0 after it if the network is self-conditioned."""
        return tuple(map(int, input_shape(self, self.x_shape)))

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of one sample of the output."""
        return tuple(map(int, output_shape(self, self.x_shape)))

    def _describe_field(self, place: str) -> str:
        """Describe a field for messages: conditions have names."""
        found = re.fullmatch(r"conditions\[(\d+)\]\.(\w+)", place)
        return f"{place!r}" if found is None else f"{found[2]!r} of condition {self.conditions[int(found[1])].name!r}"

    def __post_init__(self) -> None:
        self._convert_fields()
        for check in CHECKS:
            check.run(self)

    def _convert_fields(self) -> None:
        """Convert lists in the fields to tuples. Raises UserError for a field of a wrong type."""
        for field in msgspec.structs.fields(self):  # msgspec checks types only when it decodes
            value = getattr(self, field.name)
            try:
                converted = msgspec.convert(msgspec.to_builtins(value), field.type)
            except (msgspec.ValidationError, TypeError) as error:
                reason = " ".join(str(error).split())  # it may quote a name with a line break
                reason = reason.replace("$", field.name).replace("`object`", "`dict`").replace("`array`", "`tuple`")
                what = f"field {field.name!r} of spec {self.name!r} is wrong: {reason}"
                raise UserError(what, _fix((*re.findall(r"- at `(.*?)`", reason), field.name)[0])) from None
            msgspec.structs.force_setattr(self, field.name, converted)


def _check_names(spec: Spec) -> None:
    for name in (spec.name, *(name for condition in spec.conditions for name in (condition.name, condition.input))):
        if not name.strip() or not name.isprintable():
            what = f"spec {spec.name!r} has the invalid name {name!r}"
            raise UserError(what, "give one line of visible characters")


def _check_prefixes(spec: Spec) -> None:
    if taken := [condition.input for condition in spec.conditions if condition.input.startswith(CARRIED)]:
        what = f"spec {spec.name!r} has a condition with the input {taken[0]!r}"
        raise UserError(what, f"rename it: {CARRIED} begins the names of carried tensors")


def _check_unique_names(spec: Spec) -> None:
    inputs = [condition.input for condition in spec.conditions]
    ports = {port.name for _, kind in kinds(spec) for side in kind.ports() for port in side}
    for names, noun, fix in (
        ([X, TIME, TO, GROUP, OUTPUT, *inputs, *ports], "inputs", OF_INPUTS),
        ([spec.x, *spec.times.values(), spec.output, *inputs], "tensors", OF_TENSORS),
        ([condition.name for condition in spec.conditions], "conditions", "rename one"),
    ):
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"spec {spec.name!r} has two {noun} named {twice!r}", fix)


def _check_interface(spec: Spec) -> None:
    for place, wrong in interface_problems(spec):
        raise UserError(f"field {spec._describe_field(place)} of spec {spec.name!r}: {wrong}", _fix(place))


def _check_kinds(spec: Spec) -> None:
    for place, kind in kinds(spec):
        if mistake := kind.mistake(spec):
            raise UserError(f"field {place!r} of spec {spec.name!r}: {mistake}", kind.FIX)


def _check_second_time(spec: Spec) -> None:
    lone = next((kind for _, kind in kinds(spec) if not kind.SECOND_TIME), None)
    if spec.to is not None and lone is not None:
        raise UserError(f"spec {spec.name!r}: a denoiser with {lone.NOUN} cannot have a second time", "leave out `to`")


def _check_conditions(spec: Spec) -> None:
    for condition in spec.conditions:
        what = f"condition {condition.name!r} of spec {spec.name!r}"
        if "int" in condition.dtype and (condition.low is None or condition.high is None):
            raise UserError(f"{what} has no bounds", "give low and high")
        if condition.shared and (condition.null, condition.null_file) != (None, None):
            raise UserError(f"{what} is shared and has a null value", "leave out null or shared")
        if condition.typical is not None and not has_typical_within_limits(condition):
            raise UserError(f"{what} has typical {list(condition.typical)}", "give increasing numbers from low to high")
        if (unnamed := find_unnamed(condition)) is not None:
            fix = "give a label for each integer from 0 to high, or none"
            raise UserError(f"{what} has {len(condition.labels)} labels, and none for {unnamed}", fix)


def _check_prediction(spec: Spec) -> None:
    check_prediction(spec.prediction, NoiseSchedule(spec.schedule).time_at_lam(0.0), spec.schedule)


def _check_grid(spec: Spec) -> None:
    """A grid that lists times works for one number of steps only."""
    if spec.grid is None:
        return
    if spec.vocabulary is not None:
        what = f"spec {spec.name!r} predicts logits and has a grid"
        raise UserError(what, "leave the grid out: token plans have none")
    if not spec.grid:
        raise UserError(f"field 'grid' of spec {spec.name!r} is empty", FIXES["grid"])
    try:
        times, _ = parse_grid(spec.grid, f"ddim:1@{spec.grid}")
        listed = times.keywords.get("times") if isinstance(times, partial) else None
        schedule = NoiseSchedule(spec.schedule)
        _ = [times(schedule, count) for count in ((1, 2) if listed is None else (len(listed),))]
    except UserError as error:
        raise UserError(f"field 'grid' of spec {spec.name!r}: {error.what}", error.fix) from None


def _check_scheduler(spec: Spec) -> None:
    if spec.scheduler is None:
        return
    if spec.vocabulary is not None:  # refuses numbers that no plan supports
        sampler_from_scheduler_config(spec.scheduler, 1).sampler(spec.x_shape, 1)
        return
    of, prediction = schedule_from_scheduler_config(spec.scheduler)
    if (NoiseSchedule(of).fingerprint, prediction) != (NoiseSchedule(spec.schedule).fingerprint, spec.prediction):
        what = f"spec {spec.name!r} predicts {spec.prediction} on a schedule that differs from its scheduler's"
        raise UserError(what, "leave the scheduler out, or give its schedule and prediction")


def _check_start(spec: Spec) -> None:
    if spec.prediction == "epsilon" and trailing(NoiseSchedule(spec.schedule), 1)[0].alpha == 0:
        raise UserError(
            f"spec {spec.name!r}: an epsilon prediction on schedule {spec.schedule.kind}, where alpha starts at 0 "
            "and the noise does not determine x0",
            "use a denoiser that predicts flow or sample",
        )


@dataclass(frozen=True)
class SpecRule:
    """A requirement that docs/export/spec.md lists. `run` raises UserError for a spec that breaks it."""

    subject: str
    requirement: str
    run: Callable[[Spec], None]


CHECKS = (  # in this order: a check may rely on those before it
    SpecRule("names", "are one line of visible characters", _check_names),
    SpecRule("inputs of conditions", f"do not begin with `{CARRIED}`, the prefix of carried tensors", _check_prefixes),
    SpecRule("names of inputs, tensors and conditions", "occur once each", _check_unique_names),
    SpecRule("shapes, sizes, schedule and conditions", "do not contradict each other", _check_interface),
    SpecRule("properties of some denoisers, such as units", "fit the rest of the Spec", _check_kinds),
    SpecRule("a second time", "excludes separate times of positions, and tokens", _check_second_time),
    SpecRule(
        "integer conditions",
        "have bounds, which labels cover, and each typical range lies within its bounds",
        _check_conditions,
    ),
    SpecRule("the prediction", "exists on the kind of schedule", _check_prediction),
    SpecRule("the default grid", "has times on the schedule, and tokens have none", _check_grid),
    SpecRule("the scheduler's config", "has the schedule and the prediction of the Spec", _check_scheduler),
    SpecRule("an epsilon prediction", "does not start at alpha 0, where noise does not determine x0", _check_start),
)


def _fix(place: str) -> str:
    """Return the fix for a wrong field, such as "x_shape" or "conditions[0].low". A `Kind` defines its own fixes."""
    name, of_condition = re.split(r"\W", place)[0], OF_CONDITION.get(place.rpartition(".")[2])
    if name == "conditions" and of_condition:
        return of_condition
    types = next(get_args(field.type) for field in msgspec.structs.fields(Spec) if field.name == name)
    own = (kind.FIX for kind in types if isinstance(kind, type) and issubclass(kind, Kind))
    return next(own, "") or FIXES[name]


class Reference(Protocol):
    """The original denoiser, running, with which its graphs are compared. Feeds and tensors are by graph name."""

    @property
    def name(self) -> str:
        """The denoiser's name for messages, e.g. the module's class."""
        ...

    @property
    def engine(self) -> str:
        """The engine that runs it, e.g. "torch"."""
        ...

    @property
    def tolerance(self) -> float:
        """The largest difference that rounding may cause, relative to the largest absolute value of the output."""
        ...

    @property
    def fix(self) -> str:
        """The fix if the exported graph differs from it."""
        ...

    def output(self, feeds: Mapping[str, Array], where: str = "") -> Array:
        """Return the prediction, float32 [B, *output_shape]. `where` describes the inputs in error messages."""
        ...

    def other_outputs(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs other than the prediction, [B, *shape], by the names of the graph's outputs."""
        ...

    def random_operation(self) -> str:
        """Return the operation in it that draws at random, as text after a space, or ""."""
        ...

    def tensor_names(self) -> Collection[str]:
        """Return the names of the inner tensors that it can compute. Equal names in the exported graph are the same
        values."""
        ...

    def inner_tensors(self, feeds: Mapping[str, Array], names: Collection[str]) -> dict[str, Array]:
        """Return the inner tensors of these names, [B, ...] if they have one part per sample."""
        ...


@dataclass(frozen=True)
class TracedDenoiser:
    """A denoiser as a float32 graph in opset 20 with a dynamic batch, whose inputs are x, time and conditions."""

    graph: Graph
    reference: Reference
    lora_slots: LoraSlots | None = None


class CompanionSource(Protocol):
    """The networks that accompany a denoiser: text encoders, an autoencoder."""

    @property
    def encoders(self) -> tuple[str, ...]:
        """The text encoders, by their names in LoRA files: "text_encoder", "text_encoder_2"."""
        ...

    @property
    def file_sizes(self) -> tuple[int, ...]:
        """The sizes of their files in a bundle: bytes of a network's weights in float32, and 0 for a small file."""
        ...

    def with_loras(self, loras: Sequence[Lora]) -> "CompanionSource":
        """Return these networks with the weight updates that the LoRA files contain for them."""
        ...

    def add(self, writer: Writer, manifest: Manifest, progress: Progress, bits: Bits | None) -> Manifest:
        """Export and verify these networks, with weights of `bits` or float32. Return the manifest with entries."""
        ...


class Source(Protocol):
    """A denoiser to export, and its origin: `label` names it without a folder, `sha256` is its content."""

    @property
    def spec(self) -> Spec: ...

    @property
    def label(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    @property
    def scheduler(self) -> Mapping[str, Any] | None:
        """The fields of the source's scheduler config, for plans named "scheduler:STEPS". None without a scheduler."""
        ...

    @property
    def companions(self) -> CompanionSource | None:
        """The other networks of the pipeline, such as its text encoder and autoencoder. None if there are none."""
        ...

    def trace(self) -> TracedDenoiser:
        """Return the denoiser as a graph. Raises UserError naming an operation that cannot be exported."""
        ...


def with_spec(source: Source, label: str = "", **changed: Any) -> Source:
    """Return the source with some fields of its spec changed, and with another label if one is given."""
    spec, whole = msgspec.structs.replace(source.spec, **changed), cast(Any, source)
    return cast(Source, replace(whole, spec=spec, label=label or source.label))
