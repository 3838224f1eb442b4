"""The schema of a bundle's manifest.json, as frozen structs that msgspec validates while reading.

This module does not access files: `reading.py` reads manifests, and `fewstep.graph.files.commit` writes them. The
structs of optional properties are defined with their code in `kinds`, and exported from here too.
"""

from collections.abc import Iterable
from math import inf
from typing import Literal

import msgspec

from fewstep.plans.spec import By, Prediction, ScheduleSpec, Strict
from fewstep.runtime.bundle.figures import JudgeScore, ReferenceCheck, SizeQuality, Together
from fewstep.runtime.bundle.platforms import WEIGHTS_ONLY, Quantized
from fewstep.runtime.bundle.platforms import Platform as Platform
from fewstep.runtime.kinds.companions import AutoencoderEntry as AutoencoderEntry
from fewstep.runtime.kinds.companions import PromptForm as PromptForm
from fewstep.runtime.kinds.companions import StateWords as StateWords
from fewstep.runtime.kinds.companions import TextEncoderEntry as TextEncoderEntry
from fewstep.runtime.kinds.companions import Tokens as Tokens
from fewstep.runtime.kinds.condition import Condition as Condition
from fewstep.runtime.kinds.graph_entry import DType as DType
from fewstep.runtime.kinds.graph_entry import GraphEntry as GraphEntry
from fewstep.runtime.kinds.graph_entry import Role as Role
from fewstep.runtime.kinds.graph_entry import TensorEntry as TensorEntry
from fewstep.runtime.kinds.lora_slots import LoraSlots
from fewstep.runtime.kinds.named_tensors import Carried as Carried
from fewstep.runtime.kinds.named_tensors import Features as Features
from fewstep.runtime.kinds.named_tensors import NamedOutput as NamedOutput
from fewstep.runtime.kinds.policies import Policy as Policy
from fewstep.runtime.kinds.positions import Positions as Positions
from fewstep.runtime.kinds.sample_space import CONTINUOUS, SampleSpace
from fewstep.runtime.kinds.sample_space import Vocabulary as Vocabulary
from fewstep.runtime.kinds.sizes import Size as Size
from fewstep.runtime.kinds.sound import Spectrogram as Spectrogram
from fewstep.runtime.kinds.units import Affine as Affine

SCHEMA = 4  # `old_schemas.py` upgrades 1 to 3

Precision = Literal["float32", "float16", "bfloat16", Quantized]


class Coverage(Strict, frozen=True):
    """The operations that run in int8, counted in the optimized graph. MACs are per sample."""

    int8_macs: int
    total_macs: int
    int8_ops: tuple[str, ...]
    float_ops: tuple[str, ...]  # operations with weights that stay in float


class StepGraph(GraphEntry, frozen=True):
    """A graph of a body. It runs those steps with log-SNR below `until` that no graph before it runs, or all remaining
    steps if `until` is None."""

    coverage: Coverage | None = None
    until: float | None = None


class ReplacedGraph(GraphEntry, frozen=True):
    """A graph that a body runs instead of one that the bundle has for all bodies. `coverage` is None if its activations
    are float."""

    coverage: Coverage | None = None


class Difference(Strict, frozen=True):
    """How an int8 body changes the difference between two outputs at one state, compared with float32. `step` counts
    from 0.

    gain: the least-squares factor between float32's difference and int8's; 1 means no change.
    ratio: 10 log10(|float32's|^2 / |int8's - float32's|^2), in dB.
    share: the size of float32's difference relative to float32's predicted sample x0, or to the output's part in x0 if
        that is larger.
    """

    step: int
    gain: float
    ratio: float
    share: float


class TokenAgreement(Strict, frozen=True):
    """The agreement of an int8 body of a token denoiser with float32, at the states along the float32 run.

    disagreement: the fraction of masked positions whose most likely token differs.
    same: the fraction of equal tokens in the final samples of separate runs.
    steps: for each step, the disagreement and the mean KL divergence in nats.
    """

    disagreement: float
    same: float
    steps: tuple[tuple[float, float], ...]


class Trial(Strict, frozen=True, omit_defaults=True):
    """The evaluation of a body by samples.

    ranges: the method of its ranges.
    psnr, p5: PSNR in dB against float32 over samples of `seeds` seeds, the mean and the 5th percentile. For a token
        denoiser they are the ratio of the variance of log-probabilities to their mean squared error, in dB.
    is_chosen, has_bias, shift: fields of earlier versions, which chose among several trials. Some trials subtracted the
        mean error of the output, or left thin convolutions in float. `shift` is the fraction of the squared error that
        was a constant for each channel.
    in_float: operations that stay in float because they cause much of the error.
    guidance: the difference cond - uncond, at the step at which int8 preserves it worst; None without guidance.
    condition: the difference that another condition makes, at the step at which int8 preserves it worst; None without
        conditions.
    snr: the ratio of the variance of float32's samples to the mean squared error, in dB.
    unrelated: the mean PSNR between float32's samples of two seeds, in dB.
    random_conditions: conditions that had random values, because none were given.
    beyond: the largest magnitude in float32's and the body's samples, if it is beyond the range of usual data.
    fixed_conditions: conditions that had one value in all samples, although they have other values too.
    reference: the check of float32's samples; None in bundles of earlier versions, and for tokens.
    by_size: the quality at each size, if samples have several.
    psnr_range, p5_range: the ranges of both on other seeds (`quality_range`); None in bundles of earlier versions, for
        few seeds, and for tokens.
    judged: the score by the user's judge, which decided instead of PSNR; None without one.
    picture_psnr: the mean PSNR in dB of a few pictures, with the text encoder and the decoder that the body runs; None
        without a decoder of pictures, and in bundles of earlier versions.
    held_out: the number of given records that judged the body and that its calibration did not use; 0 if the records of
        the calibration judged it; None without given records, and in bundles of earlier versions.
    given: the digest of the given records; None without any, and in bundles of earlier versions.
    calibrated: short digests of the given records that the calibration used; empty without any, and in bundles of
        earlier versions.
    together: the quality of samples that all networks of this body make; None for a single network, and for all but the
        denoiser's body.
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
    beyond: float | None = None
    fixed_conditions: tuple[str, ...] = ()
    reference: ReferenceCheck | None = None
    by_size: tuple[SizeQuality, ...] = ()
    psnr_range: tuple[float, float] | None = None
    p5_range: tuple[float, float] | None = None
    judged: JudgeScore | None = None
    picture_psnr: float | None = None
    held_out: int | None = None
    given: str | None = None
    calibrated: tuple[str, ...] = ()
    together: Together | None = None


class CallTime(Strict, frozen=True):
    """The time of a whole call for one sample with an int8 body and in float32, on one machine: conditioner, prologue
    and all steps.

    graphs: the files of the body that was timed. If the body has others now, these figures are out of date.
    plan: the name of the plan. float32, milliseconds: of a call in float32, and with the body. They are wall time, or
        the processor time of all threads if other programs delayed the calls (`load`).
    slowest, fastest: the lowest and the highest speed of the body relative to float32, over the rounds in turns.
    setup: the share of the call with the body that conditioner and prologue take.
    processor: the name of the machine's processor. threads: as the user gave them, 0 for the default.
    share_of_macs, share_of_bytes: the shares of a call's multiply-accumulates and bytes that are int8, with the text
        encoder and the decoder; None if unknown.
    companions: the time of the body's text encoder and decoder, which is part of `milliseconds`; None without either,
        and if they were not timed. day: the date in ISO 8601; "" in older bundles.
    sizes: the free sizes of the sample; empty if the bundle has none, and in older bundles.
    load: the wall time of a loop relative to its processor time when the timing began; 1 on an idle machine.
    """

    body: str
    graphs: tuple[str, ...]
    plan: str
    float32: float
    milliseconds: float
    slowest: float
    fastest: float
    setup: float
    processor: str
    threads: int
    share_of_macs: float | None = None
    share_of_bytes: float | None = None
    companions: float | None = None
    day: str = ""
    sizes: dict[str, int] = {}
    load: float = 1.0

    @property
    def speedup(self) -> float:
        """The speed relative to float32."""
        return self.float32 / self.milliseconds


class Body(Strict, frozen=True):
    """One deployable form of the denoiser, which runs N times per sample.

    `groups` are increasing edges of lambda = log(alpha / sigma). A step with lambda in [edge_g-1, edge_g) uses group g,
    so k edges separate k + 1 groups. Without edges there is one group and one graph, which has no "group" input.

    `graphs` are in the order of their steps, starting at the noise. They differ in their float operations or in their
    ranges, and each `until` is an edge of the groups. Most bodies have one graph.
    """

    graphs: tuple[StepGraph, ...]
    precision: Precision
    target: str  # the name of one of `platforms.PLATFORMS`, that of a plugin's target, or PORTABLE
    groups: tuple[float, ...] = ()
    plan: str | None = None  # the plan along which the body was calibrated
    trials: tuple[Trial, ...] = ()  # trials of int8 bodies, on seeds that have no other use
    ranges: str | None = None  # the table it was lowered with; None if all bodies share the manifest's table
    platform: Platform | None = None  # set for a plugin's target, so that readers need not import it
    replaces: dict[str, ReplacedGraph] = {}  # by the names of `networks.shared_graphs`: those that it runs instead
    reasons: dict[str, str] = {}  # by the same names: why it runs a shared one, in float32; empty in earlier versions

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
        """Return a body whose only graph runs all steps."""
        runs = StepGraph(**msgspec.structs.asdict(graph) | {"coverage": coverage})
        return cls((runs,), precision, target, groups, plan)

    @property
    def is_quantized(self) -> bool:
        """Whether the body has integers for weights: calibration made it from float32, and judged it."""
        return self.precision in ("int8", *WEIGHTS_ONLY)

    @property
    def graph(self) -> StepGraph:
        """The graph of the last steps; in most bodies it runs all steps."""
        return self.graphs[-1]

    def graph_index(self, group: int) -> int:
        """Return the index of the graph that runs the steps of a range group."""
        edge = self.groups[group] if group < len(self.groups) else inf  # where the group ends
        return next(i for i, graph in enumerate(self.graphs) if graph.until is None or edge <= graph.until)


class EngineEntry(Strict, frozen=True):
    """A built engine. `key` is the digest of everything that must match before it is loaded; the sidecar JSON contains
    it in full."""

    file: str
    sidecar: str
    body: str
    backend: str
    device: str
    key: str


class FittedPlan(Strict, frozen=True):
    """A plan whose coefficients and times were fitted to a body. Callers name it `fitted:EVALUATIONS`.

    `nominal` is the plan that the fit started from. `nominal_psnr` and `psnr` are the mean PSNRs against the teacher
    over `seeds` held-out seeds, in dB. `error` is the standard error of their difference. `judged` is the score by the
    user's judge; None without one.
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
    judged: JudgeScore | None = None


class Adapter(Strict, frozen=True):
    """A LoRA that was merged into a network at a strength."""

    file: str  # the file's name, without the folder
    sha256: str
    strength: float
    network: str | None = None  # the network that the user named; None if the file's keys say it


class Provenance(Strict, frozen=True):
    """The origin of a bundle. It names no user, host or path, because bundles are distributed."""

    source: str  # a shipped model's name, FILE:FUNCTION without the folder, or ORG/NAME@COMMIT of a hub
    source_sha256: str
    versions: dict[str, str]
    commands: tuple[str, ...]
    adapters: tuple[Adapter, ...] = ()
    licence: str | None = None  # as named on the source's model card


class NetworkEntry(Strict, frozen=True):
    """A network that replaces the denoiser in some steps: those with lambda below `until` that no earlier network runs.

    If `until` is `plans.spec.PURE_NOISE`, it runs only the steps at lambda -infinity. If it is None, the network is the
    light one, which runs the steps that a plan assigns to it. `inputs` maps its conditions, a subset of the manifest's,
    to graph inputs. `source` is its origin, as in `Provenance`. The other fields are those of a manifest.
    """

    until: float | None
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
    lora_slots: LoraSlots | None = None
    features: Features | None = None


class Description(Strict, frozen=True, omit_defaults=True):
    """The description of a denoiser's interface and meaning. A Spec states it, and a Manifest stores it."""

    name: str
    x_shape: tuple[int, ...]  # one sample, without the batch axis, e.g. (1, 28, 28)
    conditions: tuple[Condition, ...]
    prediction: Prediction
    schedule: ScheduleSpec
    heads: int = 1  # number of outputs of x's shape, concatenated along the first axis
    steers: By | None = None  # the second output is a gradient with respect to this, which `Steer` guidance reads
    towards: str | None = None  # restoration: the given tensor (or condition) that noising reverts to
    vocabulary: Vocabulary | None = None  # the vocabulary of a token denoiser, whose x are ids
    positions: Positions | None = None  # a separate time for each position of a sample
    policy: Policy | None = None
    units: Affine | None = None  # the units of samples, such as a robot's actions
    spectrogram: Spectrogram | None = None  # the transform from sound to x
    sizes: tuple[Size, ...] = ()  # free axes of x
    carried: tuple[Carried, ...] = ()  # tensors that bodies carry from run to run
    outputs: tuple[NamedOutput, ...] = ()  # tensors that bodies return besides the prediction
    distilled: bool = False  # whether it was trained for few steps, so that plans of many steps are not exact
    self_condition: bool = False  # whether the network takes the last x0 after x, along its first axis
    data_limit: float | None = None  # the largest magnitude in training data; None: unknown
    grid: str | None = None  # for plan names without one; None: by a rule at export, trailing in old bundles

    @property
    def space(self) -> SampleSpace:
        """The space of x."""
        return CONTINUOUS if self.vocabulary is None else self.vocabulary


class Manifest(Description, frozen=True, kw_only=True):
    """The commit record of a bundle: files that it does not name are not part of the bundle."""

    schema: int
    prologue: GraphEntry | None
    conditioner: GraphEntry | None = None  # the part that depends only on conditions, run once for each distinct one
    bodies: dict[str, Body]
    provenance: Provenance
    files: dict[str, str]  # path -> sha256 of every file of the bundle except the manifest
    plans: dict[str, str] = {}  # plan name -> file
    engines: tuple[EngineEntry, ...] = ()
    ranges: str | None = None
    precision: str | None = None  # JSON: precision maps, as the search found them
    verification: str | None = None  # JSON table: torch against ONNX
    report: str | None = None
    data_moments: tuple[float, float] | None = None  # mean and standard deviation of the values in training data
    results: str | None = None  # JSON: the report's figures
    evaluation: str | None = None  # JSON: the figures of `fewstep measure`
    scheduler: str | None = None  # JSON: the scheduler config that came with the denoiser, for plan "scheduler:STEPS"
    text: TextEncoderEntry | None = None
    autoencoder: AutoencoderEntry | None = None
    fitted: tuple[FittedPlan, ...] = ()
    calls: tuple[CallTime, ...] = ()  # times of int8 bodies, as calibration found them on one machine
    networks: dict[str, NetworkEntry] = {}  # besides the denoiser, starting at the noise
    component: str | None = None  # the denoiser's name in its folder, such as "transformer_2"
    lora_slots: LoraSlots | None = None
    features: Features | None = None  # inner features that a light network reads

    def digests(self, graphs: Iterable[GraphEntry]) -> list[str | None]:
        """Return the hash of every file that determines the results of these graphs: their own files, and the files of
        the conditions' null values. It is None for a file that the manifest does not list."""
        files = [file for graph in graphs for file in (graph.file, *graph.data)]
        files += [condition.null_file for condition in self.conditions if condition.null_file is not None]
        return [self.files.get(file) for file in files]
