"""The metadata of a baked file: JSON under the key `fewstep`, for programs that only have the file.

Every inference engine that reads ONNX exposes it. In onnxruntime it is `session.get_modelmeta().custom_metadata_map`.
"""

from typing import Any

import msgspec

from fewstep.graph.bake.hold import HeldAs
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.guidance import describe
from fewstep.plans.spec import Strict
from fewstep.runtime.bundle.manifest import Affine, Body, Condition, Manifest, Policy, Size, Spectrogram, Vocabulary
from fewstep.runtime.kinds.kind import kinds
from fewstep.runtime.sampling.finite_checks import PICTURE_LIMIT, has_pixels
from fewstep.runtime.sampling.whole_runs import graphs_digest, plan_digest

KEY = "fewstep"
TOKENS = "tokens"  # the meaning of an input: known tokens, -1 at open positions
NO_CHECKSUM = "0" * 64


class BakedPort(Strict, frozen=True):
    """An input or output of a baked file.

    meaning: noise, draws, chances, given, tokens, condition, ids (of a text), mask (of ids), held, hold (its mask),
        sample, picture or carried.
    """

    name: str
    meaning: str
    shape: tuple[int | str, ...]
    dtype: str


class BakedSample(Strict, frozen=True):
    """A test vector: a sample that the baked file computed on the machine where it was baked.

    seed: the seed of the noise of the first row, with the draw numbers that the file lists. Each following row has the
        next seed.
    sizes: the free sizes of the call, by name.
    inputs: for each other input, the number that fills it.
    sha256: the hash of the sample's float32 bytes.
    values: 64 evenly spaced elements of the sample, beginning with the first.
    """

    seed: int
    sizes: dict[str, int]
    inputs: dict[str, float]
    sha256: str
    values: tuple[float, ...]


class Baked(Strict, frozen=True, kw_only=True):
    """The metadata of a baked file. A sampler may call the file instead of running the steps if it has the same plan
    and the same graphs, `form` is "" and `around` is False.

    file_sha256: the hash of the file with zeros in place of these 64 digits.
    sample: the test vector; None if onnxruntime could not run the file.
    plan: the plan's name.
    guidance: a description of the guidance.
    evaluations: the number of network evaluations, each with all its branches.
    draws: the numbers of the plan's draws in the input `draws`, in order. The input `noise` is draw 0.
    carried: the outputs after the sample. The next run reads them as inputs named carried_...; the first run reads
        zeros.
    vocabulary: the vocabulary of a token denoiser, whose samples are ids.
    plan_sha256, graphs_sha256: the hashes of the compiled plan and of the bundle's graphs.
    form: float16 or int8-weights, made from the body; "" for the body's own precision, None in files of older versions.
    around: whether a program changed the run (`--around`).
    hold: the value of `--hold`.
    range: the model range of a sample, or of the image that the file returns; None if it is unknown.
    sizes: the free axes of x, with their ranges.
    units: the map from a sample to a robot's units.
    """

    file_sha256: str = NO_CHECKSUM  # the first field, so that programs without a parser find it
    sample: BakedSample | None = None
    model: str
    plan: str
    guidance: str
    evaluations: int
    precision: str
    target: str
    inputs: tuple[BakedPort, ...]
    output: BakedPort
    draws: tuple[int, ...]
    conditions: tuple[Condition, ...]
    range: tuple[float, float] | None = None
    units: Affine | None = None
    policy: Policy | None = None
    spectrogram: Spectrogram | None = None
    sizes: tuple[Size, ...] = ()
    licence: str | None
    source: str
    source_sha256: str
    versions: dict[str, str]
    carried: tuple[BakedPort, ...] = ()
    vocabulary: Vocabulary | None = None
    plan_sha256: str = ""
    graphs_sha256: str = ""
    form: str | None = None
    around: bool = False
    hold: HeldAs = "none"


KINDS = frozenset(Baked.__struct_fields__) - {
    "carried"
}  # facts of a denoiser that a program needs and that are not in the ports


def describe_run(
    manifest: Manifest,
    body: Body,
    plan: AnyPlan,
    inputs: tuple[BakedPort, ...],
    output: BakedPort,
    draws: tuple[int, ...],
    carried: tuple[BakedPort, ...] = (),
) -> Baked:
    """Return the metadata of a baked file: a description of its run along a plan."""
    provenance = manifest.provenance
    return Baked(
        model=manifest.name,
        plan=plan.name,
        guidance=describe(plan.guidance),
        evaluations=len(plan.steps),
        precision=body.precision,
        target=body.target,
        inputs=inputs,
        output=output,
        draws=draws,
        conditions=manifest.conditions,
        range=known_range(manifest, output),
        licence=provenance.licence,
        source=provenance.source,
        source_sha256=provenance.source_sha256,
        versions=provenance.versions,
        carried=carried,
        plan_sha256=plan_digest(plan),
        graphs_sha256=graphs_digest(manifest, body),
        **{name: getattr(manifest, name) for name, _ in kinds(manifest) if name in KINDS},
    )


def known_range(manifest: Manifest, output: BakedPort) -> tuple[float, float] | None:
    """Return the range of the output: that of pictures, or the one that the Spec or `export --check` gives samples.
    None if it is unknown."""
    limit, is_image = manifest.data_limit, has_pixels(manifest) and manifest.spectrogram is None
    if output.meaning == "picture" or (limit is None and is_image and manifest.vocabulary is None):
        limit = PICTURE_LIMIT
    return None if limit is None else (-limit, limit)


def encode_metadata(baked: Baked) -> dict[str, str]:
    """Return the metadata of the file."""
    return {KEY: msgspec.json.encode(baked).decode()}


def decode_metadata(metadata: dict[str, Any]) -> Baked:
    """Return the description in a file's metadata."""
    return msgspec.json.decode(metadata[KEY], type=Baked)
