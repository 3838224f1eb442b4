"""What a baked file says of itself: a JSON text under `fewstep` in its metadata, for programs that only have the file.

Every inference engine that reads ONNX shows it, such as onnxruntime by `session.get_modelmeta().custom_metadata_map`.
"""

from typing import Any

import msgspec

from fewstep.plans.guidance import describe
from fewstep.plans.plan import Plan
from fewstep.plans.spec import Strict
from fewstep.runtime.bundle.manifest import Affine, Body, Condition, Manifest, Policy, Spectrogram

KEY = "fewstep"


class BakedPort(Strict, frozen=True):
    """An input or output. `meaning`: noise, draws, given, condition, ids, mask (of ids), held, hold (its mask), sample
    or picture."""

    name: str
    meaning: str
    shape: tuple[int | str, ...]
    dtype: str


class Baked(Strict, frozen=True):
    """What a baked file holds.

    plan: its name; guidance: in words. evaluations: of the network, each with all its branches.
    draws: the numbers of the plan's draws in the input `draws`, in its order; the input `noise` is draw 0.
    range: the model range of a sample, or of the picture that the file returns. units: from there to a robot's units.
    """

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
    units: Affine | None
    policy: Policy | None
    spectrogram: Spectrogram | None
    licence: str | None
    source: str
    source_sha256: str
    versions: dict[str, str]


def described(
    manifest: Manifest, body: Body, plan: Plan, inputs: tuple[BakedPort, ...], output: BakedPort, draws: tuple[int, ...]
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
        units=manifest.units,
        policy=manifest.policy,
        spectrogram=manifest.spectrogram,
        licence=provenance.licence,
        source=provenance.source,
        source_sha256=provenance.source_sha256,
        versions=provenance.versions,
    )


def encoded(baked: Baked) -> dict[str, str]:
    """The metadata of the file."""
    return {KEY: msgspec.json.encode(baked).decode()}


def decoded(metadata: dict[str, Any]) -> Baked:
    """The description in a file's metadata."""
    return msgspec.json.decode(metadata[KEY], type=Baked)
