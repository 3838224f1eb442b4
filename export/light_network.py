"""`fewstep export --cache depth1`: a light network, for steps that read inner features of earlier steps."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from fewstep.export.spec import Spec
from fewstep.graph.cuts.feature_cuts import SplitBody, choose_cut, split_body
from fewstep.graph.cuts.prologue import PreparedDenoiser
from fewstep.graph.graph import OUTPUT, Graph
from fewstep.graph.passes.split_attention import split_attention
from fewstep.plans.errors import UserError
from fewstep.plans.plan import LIGHT
from fewstep.runtime.bundle.manifest import Body, GraphEntry, Manifest, NetworkEntry
from fewstep.runtime.kinds.kind import kinds
from fewstep.runtime.kinds.named_tensors import Features

FEATURES = "features"  # the name of the carried tensor
TOLERANCE = 1e-5  # for the light network with fresh features, relative to the largest output
ALONE = "leave --cache out"


def refuse_cache(spec: Spec, experts: Sequence[str], lora_slots: Sequence[str]) -> None:
    """Raise UserError for a denoiser that cannot reuse cached features between steps."""
    if experts:
        raise UserError("--cache (feature caching) cannot be used with --expert", ALONE)
    if lora_slots:
        raise UserError("--cache with --lora-slots: only a bundle of one network takes LoRA files at run time", ALONE)
    for _, kind in kinds(spec):
        if kind.EXPERTS == "none":
            raise UserError(f"--cache (feature caching) cannot be used for a denoiser with {kind.NOUN}", ALONE)


def cut_features(prepared: PreparedDenoiser, name: str, spec: Spec) -> tuple[PreparedDenoiser, Graph, Features]:
    """Split the body of a prepared denoiser at the cut `name`. Return the denoiser with the full body, the light body,
    and the description of the features that pass from one to the other.

    Raises UserError for an unknown cut, and if the light body, given the features of the same step, does not return the
    output of the full body.
    """
    cut = choose_cut(prepared.body, name)
    parts = split_body(prepared.body, cut, FEATURES)
    _verify(prepared, parts, spec)
    features = Features(FEATURES, parts.features.shape[1:], cut.name, round(cut.share, 4))
    return replace(prepared, body=parts.full), parts.light, features


def _verify(prepared: PreparedDenoiser, parts: SplitBody, spec: Spec) -> None:
    """Raise UserError if the full graph, or the light graph with features of the same step, does not return the output
    of the body, at the points of a quick verification."""
    from fewstep.export.verification.difference import measure_difference
    from fewstep.export.verification.points import comparison_points
    from fewstep.graph.cuts.prologue import open_rows
    from fewstep.graph.session import run

    rows = open_rows(prepared)
    for point in comparison_points(spec, "quick"):
        feeds = {**point.feeds, **rows(point.feeds)}
        whole = run(split_attention(prepared.body), feeds)[OUTPUT]
        made = run(split_attention(parts.full), feeds)
        fresh = run(split_attention(parts.light), {**feeds, parts.features.name: made[f"next_{FEATURES}"]})
        for graph, output in (("full", made[OUTPUT]), ("light", fresh[OUTPUT])):
            relative = measure_difference(whole, output).relative
            if not relative <= TOLERANCE:
                what = f"the {graph} network of --cache differs from the denoiser by {relative:.1e} at {point}"
                raise UserError(what, "choose another cut, or leave --cache out")


def add_light_network(entry: Manifest, graph: GraphEntry, features: Features) -> Manifest:
    """Return the manifest of a split denoiser with its light network, which uses the same conditioner and prologue."""
    ((name, full),) = entry.bodies.items()
    light = NetworkEntry(
        until=None,
        prediction=entry.prediction,
        inputs={condition.name: condition.input for condition in entry.conditions},
        bodies={name: Body.from_graph(graph, full.precision, full.target)},
        source=entry.provenance.source,
        source_sha256=entry.provenance.source_sha256,
        heads=entry.heads,
        steers=entry.steers,
        prologue=entry.prologue,
        conditioner=entry.conditioner,
        verification=entry.verification,
        features=msgspec.structs.replace(features, is_read=True),
    )
    return msgspec.structs.replace(entry, features=features, networks={LIGHT: light})
