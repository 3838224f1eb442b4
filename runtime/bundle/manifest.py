"""The schema of a bundle's manifest.json, as frozen structs that msgspec validates while reading.

Nothing here touches a file; `reading.py` reads manifests and `fewstep.graph.commit` writes them. Structs of kinds stand
with what they do, and are named here too.
"""

from collections.abc import Iterable
from math import inf
from typing import Literal

import msgspec

from fewstep.plans.spec import By, Prediction, ScheduleSpec, Strict
from fewstep.runtime.bundle.platforms import Platform as Platform
from fewstep.runtime.kinds.companions import AutoencoderEntry as AutoencoderEntry
from fewstep.runtime.kinds.companions import PromptForm as PromptForm
from fewstep.runtime.kinds.companions import StateWords as StateWords
from fewstep.runtime.kinds.companions import TextEncoderEntry as TextEncoderEntry
from fewstep.runtime.kinds.companions import Tokens as Tokens
from fewstep.runtime.kinds.graph_entry import DType as DType
from fewstep.runtime.kinds.graph_entry import GraphEntry as GraphEntry
from fewstep.runtime.kinds.graph_entry import Role as Role
from fewstep.runtime.kinds.graph_entry import TensorEntry as TensorEntry
from fewstep.runtime.kinds.lora_slots import LoraSlots
from fewstep.runtime.kinds.named_tensors import Carried as Carried
from fewstep.runtime.kinds.named_tensors import NamedOutput as NamedOutput
from fewstep.runtime.kinds.policies import Policy as Policy
from fewstep.runtime.kinds.positions import Positions as Positions
from fewstep.runtime.kinds.sizes import Size as Size
from fewstep.runtime.kinds.sound import Spectrogram as Spectrogram
from fewstep.runtime.kinds.units import Affine as Affine
from fewstep.runtime.kinds.vocabulary import Vocabulary as Vocabulary

SCHEMA = 3  # 1 and 2 are read too: see `old_schemas.py`

Precision = Literal["float32", "float16", "bfloat16", "int8"]


class Coverage(Strict, frozen=True):
    """The operations that run in int8, counted in the optimized graph. MACs are per sample."""

    int8_macs: int
    total_macs: int
    int8_ops: tuple[str, ...]
    float_ops: tuple[str, ...]  # weighted ops left in float


class StepGraph(GraphEntry, frozen=True):
    """A graph of a body: it runs the steps with lambda below `until`, but for those of the graphs before it. None: it
    runs all that are left."""

    coverage: Coverage | None = None
    until: float | None = None


class Difference(Strict, frozen=True):
    """A difference of two outputs of an int8 body at one state, beside the same in float32, at a step counted from 0.

    gain: the least-squares factor of float32's that is in int8's; 1 is no change.
    ratio: 10 log10(|float32's|^2 / |int8's - float32's|^2), in dB.
    share: the size of float32's difference, as a part of float32's predicted sample x0, or of the output's part in x0
        where that is larger.
    """

    step: int
    gain: float
    ratio: float
    share: float


class TokenAgreement(Strict, frozen=True):
    """The agreement of an int8 body of a token denoiser with float32, at the states of float32's run.

    disagreement: the share of open positions whose likeliest token is another. same: the share of tokens that are the
        same at the end of runs of their own. steps: of each, the disagreement and the mean KL divergence in nats.
    """

    disagreement: float
    same: float
    steps: tuple[tuple[float, float], ...]


class Trial(Strict, frozen=True, omit_defaults=True):
    """The samples that judge a body: the method of its ranges, and PSNR in dB against float32, the mean and the 5th
    percentile of samples of `seeds` seeds. `guidance` and `condition` are of the step at which int8 keeps least of
    cond - uncond, and of the change that another condition makes; None where there is no such difference.

    `snr` is the variance of float32's samples over the error, and `unrelated` the mean PSNR of float32's samples of two
    seeds, in dB. `in_float` are operations that stay in float since they make much of the error.

    `random_conditions` are conditions that had random values, since no values of them were given.

    Of a token denoiser `psnr` and `p5` are of logarithms of probabilities: their variance over their error, in dB.

    Earlier versions chose among several trials. They also tried to take the mean error of the output out, and to leave
    thin convolutions in float. They noted how much of the error was one number for each channel (`shift`).
    """

    ranges: str
    psnr: float
    p5: float
    seeds: int
    is_chosen: bool
    has_bias: bool = False
    shift: float = 0.0
    in_float: tuple[str, ...] = ()
    guidance: Difference | None = None
    condition: Difference | None = None
    tokens: TokenAgreement | None = None
    snr: float | None = None
    unrelated: float | None = None
    random_conditions: tuple[str, ...] = ()


class Body(Strict, frozen=True):
    """One deployable form of the denoiser: what runs N times a sample.

    `groups` are increasing edges of lambda = log(alpha / sigma). A step with lambda in [edge_g-1, edge_g) uses group g:
    k edges make k + 1 groups. No edges: one group and one graph, which has no "group" input.

    `graphs` are in the order of their steps, from the noise on. They differ in what they leave in float, or in their
    ranges, and each `until` is an edge of the groups. Most bodies have one graph.
    """

    graphs: tuple[StepGraph, ...]
    precision: Precision
    target: str  # the name of one of `platforms.PLATFORMS`, that of a plugin's target, or PORTABLE
    groups: tuple[float, ...] = ()
    plan: str | None = None  # the plan it was calibrated along
    trials: tuple[Trial, ...] = ()  # of all int8, on seeds without any other use
    ranges: str | None = None  # the table that it was lowered by; None where all bodies share the manifest's
    platform: Platform | None = None  # of a plugin's target, so that no reader needs the plugin; None for others

    @classmethod
    def from_graph(
        cls,
        graph: GraphEntry,
        precision: Precision,
        target: str,
        groups: tuple[float, ...] = (),
        plan: str | None = None,
        coverage: Coverage | None = None,
    ) -> "Body":
        """A body whose one graph runs all steps."""
        runs = StepGraph(**msgspec.structs.asdict(graph) | {"coverage": coverage})
        return cls((runs,), precision, target, groups, plan)

    @property
    def graph(self) -> StepGraph:
        """The graph of the last steps, which are all steps of most bodies."""
        return self.graphs[-1]

    def graph_index(self, group: int) -> int:
        """The index of the graph that runs the steps of a range group."""
        edge = self.groups[group] if group < len(self.groups) else inf  # where the group ends
        return next(i for i, each in enumerate(self.graphs) if each.until is None or edge <= each.until)


class Condition(Strict, frozen=True):
    """A named condition of the denoiser: one value of `shape` per sample.

    In the unconditional branch of guidance each element is `null`, or the value is the array in `null_file`. Where all
    branches share a condition (a size, a picture next to x), it is the sample's own. With none of these the denoiser
    has no unconditional form. `default` is the value, flattened, of a sample without one; one number stands for
    each element. `low` and `high` are limits, both included: nothing else is taken. `typical` is where random values
    are drawn from by verification, and by calibration where no data is given; None: from low to high. `labels`, if any,
    name the integers from 0.
    """

    name: str
    input: str  # the graph input it feeds
    shape: tuple[int, ...] = ()
    dtype: DType = "int64"
    null: float | None = None
    low: float | None = None
    high: float | None = None
    labels: tuple[str, ...] = ()
    typical: tuple[float | tuple[float, ...], float | tuple[float, ...]] | None = None
    null_file: str | None = None  # .npy of `shape`: what one number cannot say, such as the encoded empty prompt
    shared: bool = False
    default: tuple[float, ...] | None = None
    follows: dict[int, str] = {}  # axes of `shape` that follow x's free sizes: {1: "height", 2: "width*8"}


class EngineEntry(Strict, frozen=True):
    """A built engine. `key` is everything that must match for it to be loaded; the side-car JSON repeats it."""

    file: str
    sidecar: str
    body: str
    backend: str
    device: str
    key: str


class FittedPlan(Strict, frozen=True):
    """A plan whose numbers were fitted to a body, which a caller finds as `fitted:EVALUATIONS`.

    `nominal` is the plan that it began as. `nominal_psnr` and `psnr` are in dB against the teacher: means over `seeds`
    seeds that neither fit nor choice saw. `error` is the standard error of their difference.
    """

    evaluations: int
    body: str
    file: str
    nominal: str
    teacher: str
    nominal_psnr: float
    psnr: float
    error: float
    seeds: int


class Adapter(Strict, frozen=True):
    """A LoRA that was merged into the denoiser at that strength."""

    file: str  # its name, without the folder
    sha256: str
    strength: float


class Provenance(Strict, frozen=True):
    """The origin of a bundle. It names no user, host or path: a bundle is meant to be given away."""

    source: str  # a shipped model's name, FILE:FUNCTION without the folder, or ORG/NAME@COMMIT of a hub
    source_sha256: str
    versions: dict[str, str]
    commands: tuple[str, ...]
    adapters: tuple[Adapter, ...] = ()
    licence: str | None = None  # as the source's card names it


class NetworkEntry(Strict, frozen=True):
    """A network that runs steps in the denoiser's place: those with lambda below `until`, but for those of the networks
    before it. `plans.spec.PURE_NOISE` as an end leaves it the steps at lambda -infinity alone.

    `inputs` names its conditions, which are some of the manifest's, each with the input that it feeds. `source` says
    where the network is from, as in `Provenance`. The other fields are a manifest's.
    """

    until: float
    prediction: Prediction
    inputs: dict[str, str]
    bodies: dict[str, Body]
    source: str
    source_sha256: str
    heads: int = 1
    steers: By | None = None
    prologue: GraphEntry | None = None
    conditioner: GraphEntry | None = None
    engines: tuple[EngineEntry, ...] = ()
    ranges: str | None = None
    precision: str | None = None
    verification: str | None = None


class Description(Strict, frozen=True, omit_defaults=True):
    """A denoiser's interface and meaning: a Spec states them, and a Manifest keeps them."""

    name: str
    x_shape: tuple[int, ...]  # one sample, without the batch axis, e.g. (1, 28, 28)
    conditions: tuple[Condition, ...]
    prediction: Prediction
    schedule: ScheduleSpec
    heads: int = 1  # outputs of x's shape that the denoiser gives, one after the other along the first axis
    steers: By | None = None  # the second output is a gradient by this, which `Steer` guidance reads
    towards: str | None = None  # restoration: the given tensor (or condition) that noising reverts to
    vocabulary: Vocabulary | None = None  # of a token denoiser, whose x are ids
    positions: Positions | None = None  # a time for each, and samples that roll on
    policy: Policy | None = None
    units: Affine | None = None  # what a sample means outside: actions in a robot's units
    spectrogram: Spectrogram | None = None  # what x is of: sound
    sizes: tuple[Size, ...] = ()  # free axes of x
    carried: tuple[Carried, ...] = ()  # what bodies take and return from run to run
    outputs: tuple[NamedOutput, ...] = ()  # what bodies return beside the prediction
    distilled: bool = False  # to few steps: no plan of many is exact
    grid: str | None = None  # of plan names without one; None: by a rule at export, trailing in bundles of before


class Manifest(Description, frozen=True, kw_only=True):
    """The commit record of a bundle: what is not named here does not exist."""

    schema: int
    prologue: GraphEntry | None
    conditioner: GraphEntry | None = None  # what depends on conditions alone: run once for each distinct one
    bodies: dict[str, Body]
    provenance: Provenance
    files: dict[str, str]  # path -> sha256 of every file of the bundle but the manifest
    plans: dict[str, str] = {}  # plan name -> file
    engines: tuple[EngineEntry, ...] = ()
    ranges: str | None = None
    precision: str | None = None  # JSON: precision maps, as they were searched
    verification: str | None = None  # JSON table: torch against ONNX
    report: str | None = None
    results: str | None = None  # JSON: the report's figures
    evaluation: str | None = None  # JSON: the figures of `fewstep measure`
    scheduler: str | None = None  # JSON: the scheduler config that came with the denoiser, for plan "scheduler:STEPS"
    text: TextEncoderEntry | None = None
    autoencoder: AutoencoderEntry | None = None
    fitted: tuple[FittedPlan, ...] = ()
    networks: dict[str, NetworkEntry] = {}  # beside the denoiser, which all else describes; from the noise on
    lora_slots: LoraSlots | None = None  # of the denoiser

    def digests(self, graphs: Iterable[GraphEntry]) -> list[str | None]:
        """The hashes of all that the results of some graphs follow from: their files, and null values of conditions."""
        files = [file for graph in graphs for file in (graph.file, *graph.data)]
        files += [each.null_file for each in self.conditions if each.null_file is not None]
        return [self.files.get(file) for file in files]
