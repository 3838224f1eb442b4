"""The metadata of a baked file: a JSON text under the key `fewstep`, for programs that only have the file.

Every inference engine that reads ONNX shows it, such as onnxruntime by `session.get_modelmeta().custom_metadata_map`.
"""

from typing import Any

import msgspec

from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.guidance import describe
from fewstep.plans.spec import Strict
from fewstep.runtime.bundle.manifest import Affine, Body, Condition, Manifest, Policy, Spectrogram, Vocabulary
from fewstep.runtime.kinds.kind import kinds

KEY = "fewstep"
TOKENS = "tokens"  # the meaning of an input: known tokens, -1 where a position is open
NO_CHECKSUM = "0" * 64


class BakedPort(Strict, frozen=True):
    """An input or output. `meaning`: noise, draws, chances, given, tokens, condition, ids (of a text), mask (of ids),
    held, hold (its mask), sample, picture or carried."""

    name: str
    meaning: str
    shape: tuple[int | str, ...]
    dtype: str


class BakedSample(Strict, frozen=True):
    """A test vector: a sample that the file computed where it was baked.

    seed: of the first row's noise, whose draws have the numbers that the file names; the next row has the next seed.
    sizes: of the call, by the names of free axes. inputs: the number of which each other input is full. sha256: of the
    sample's float32 bytes. values: of 64 of its numbers, at equal distances from the first on.
    """

    seed: int
    sizes: dict[str, int]
    inputs: dict[str, float]
    sha256: str
    values: tuple[float, ...]


class Baked(Strict, frozen=True, kw_only=True):
    """The facts of a baked file.

    file_sha256: of the file, in which these 64 digits are zeros. sample: None where onnxruntime could not run the file.
    plan: its name; guidance: in words. evaluations: of the network, each with all its branches.
    draws: the numbers of the plan's draws in the input `draws`, in its order; the input `noise` is draw 0.
    carried: outputs behind the sample, which the next run takes under the names that begin with carried_; zeros begin.
    vocabulary: of tokens, whose sample has ids.
    range: the model range of a sample, or of the picture that the file returns. units: from there to a robot's units.
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
    range: tuple[float, float]
    units: Affine | None = None
    policy: Policy | None = None
    spectrogram: Spectrogram | None = None
    licence: str | None
    source: str
    source_sha256: str
    versions: dict[str, str]
    carried: tuple[BakedPort, ...] = ()
    vocabulary: Vocabulary | None = None


KINDS = frozenset(Baked.__struct_fields__) - {"carried"}  # of a denoiser, which a program needs; ports say the others


def describe_run(
    manifest: Manifest,
    body: Body,
    plan: AnyPlan,
    inputs: tuple[BakedPort, ...],
    output: BakedPort,
    draws: tuple[int, ...],
    carried: tuple[BakedPort, ...] = (),
) -> Baked:
    """The description of a run along a plan."""
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
        range=(-1.0, 1.0),
        licence=provenance.licence,
        source=provenance.source,
        source_sha256=provenance.source_sha256,
        versions=provenance.versions,
        carried=carried,
        **{name: getattr(manifest, name) for name, _ in kinds(manifest) if name in KINDS},
    )


def encode_metadata(baked: Baked) -> dict[str, str]:
    """The metadata of the file."""
    return {KEY: msgspec.json.encode(baked).decode()}


def decode_metadata(metadata: dict[str, Any]) -> Baked:
    """The description in a file's metadata."""
    return msgspec.json.decode(metadata[KEY], type=Baked)
