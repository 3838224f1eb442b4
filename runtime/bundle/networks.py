"""The networks of a bundle by name, and views of a bundle with a single network.

Most bundles have one network, the denoiser, which the manifest itself describes. Further networks replace it in the
steps of an interval of lambda (`NetworkEntry`), or in the light steps of a plan. Verbs that work on one network at a
time see it as a separate bundle.
"""

from collections.abc import Iterator, Mapping
from math import inf
from typing import Any

import msgspec

from fewstep.plans.plan import DENOISER
from fewstep.runtime.bundle.manifest import Body, GraphEntry, Manifest, NetworkEntry
from fewstep.runtime.kinds.kind import companions, kinds

COMMON = tuple(field for field in NetworkEntry.__struct_fields__ if field in Manifest.__struct_fields__)


def networks(manifest: Manifest) -> tuple[str, ...]:
    """Return the names of all networks in the order in which a plan uses them, from noise to data. The denoiser is the
    last."""
    return (*manifest.networks, DENOISER)


def network_names(manifest: Manifest) -> dict[str, str]:
    """Map the name that options use for each network to its name in a plan's steps. The denoiser is the first, and has
    the name of its component if that is known. A light network, whose weights are the denoiser's, is left out."""
    return {manifest.component or DENOISER: DENOISER} | {name: name for name in interval_ends(manifest)}


def network_at(manifest: Manifest, lam: float | None) -> str:
    """Return the name of the network whose interval contains the log-SNR `lam`, where None stands for -infinity. Light
    steps are run by the light network instead."""
    level = -inf if lam is None else lam
    return next((name for name, until in interval_ends(manifest).items() if level < until), DENOISER)


def interval_ends(manifest: Manifest) -> dict[str, float]:
    """Return the log-SNR at which each network's interval ends, by the network's name. A light network has no interval
    and is left out."""
    return {name: network.until for name, network in manifest.networks.items() if network.until is not None}


def calibration_plan(manifest: Manifest) -> str:
    """Return the name of the plan along which a bundle is calibrated by default. If the bundle has a light network, the
    plan runs that too."""
    return manifest.space.default_plan + ("" if manifest.features is None else "+every")


def common_bodies(manifest: Manifest) -> dict[str, Body]:
    """Return those bodies of the denoiser, by name, that all other networks of the bundle also have. Only these can run
    a whole plan."""
    others = manifest.networks.values()
    return {
        name: body for name, body in manifest.bodies.items() if all(name in graphs_of.bodies for graphs_of in others)
    }


def edges_of(manifest: Manifest, body: str) -> dict[str, tuple[float, ...]]:
    """Return the edges of a body's range groups in each network, for `regroup`."""
    return {name: select_network(manifest, name).bodies[body].groups for name in networks(manifest)}


def label_with_network(network: str, text: str) -> str:
    """Prefix a text with the name of its network. A text about the denoiser is returned unchanged."""
    return text if network == DENOISER else f"{network}: {text}"


def select_network(manifest: Manifest, name: str) -> Manifest:
    """Return the manifest with the named network as its only one."""
    if name == DENOISER:
        return msgspec.structs.replace(manifest, networks={})
    entry = manifest.networks[name]
    conditions = tuple(
        msgspec.structs.replace(condition, input=entry.inputs[condition.name])
        for condition in manifest.conditions
        if condition.name in entry.inputs
    )
    fields = {field: getattr(entry, field) for field in COMMON}
    return msgspec.structs.replace(
        manifest, conditions=conditions, networks={}, **fields, **_empty_expert_fields(manifest)
    )


def _empty_expert_fields(manifest: Manifest) -> dict[str, Any]:
    """Return the fields that experts do not have, with empty values."""
    return {"fitted": ()} | {field: None for field, kind in kinds(manifest) if kind.EXPERTS == "without"}


def replace_network(manifest: Manifest, name: str, changed: Manifest) -> Manifest:
    """Merge a manifest of `select_network`, which a verb has changed, into the manifest of all networks.

    Changes to fields that do not belong to the network, such as the commands in its provenance, are kept.
    """
    fields = {field: getattr(manifest, field) for field in ("conditions", "networks", *_empty_expert_fields(manifest))}
    if name == DENOISER:
        return msgspec.structs.replace(changed, networks=manifest.networks)
    entry: NetworkEntry = msgspec.structs.replace(
        manifest.networks[name], **{field: getattr(changed, field) for field in COMMON}
    )
    fields |= {field: getattr(manifest, field) for field in COMMON} | {"networks": {**manifest.networks, name: entry}}
    return msgspec.structs.replace(changed, **fields)


def denoiser_graphs(manifest: Manifest) -> Iterator[tuple[str, GraphEntry]]:
    """Yield (name of the manifest field, graph) for each graph of the denoiser. Other networks' graphs are not
    included."""
    yield from setup_graphs(manifest)
    yield from step_graphs(manifest)


def shared_graphs(manifest: Manifest) -> dict[str, GraphEntry]:
    """Return the graphs that the bodies of a network share, by name: conditioner, prologue, and the graphs of the text
    encoder and the autoencoder. A body may replace them (`Body.replaces`)."""
    return {**dict(setup_graphs(manifest)), **companions(manifest)}


def with_graphs_of(manifest: Manifest, body: str, shared: Mapping[str, GraphEntry]) -> Manifest:
    """Return the manifest as a body sees it: of the graphs that all bodies share, `shared`, it has those that the body
    runs instead."""
    replaced = manifest.bodies[body].replaces if body in manifest.bodies else {}
    fields_of = GraphEntry.__struct_fields__
    own = {name: GraphEntry(*(getattr(graph, field) for field in fields_of)) for name, graph in replaced.items()}
    graphs = {**shared, **own}
    if graphs == shared_graphs(manifest):
        return manifest
    fields: dict[str, Any] = {name: graphs[name] for name, _ in setup_graphs(manifest) if name in graphs}
    fields |= {field: kind.with_companions(graphs) for field, kind in kinds(manifest) if kind.companions()}
    return msgspec.structs.replace(manifest, **fields)


def setup_graphs(manifest: Manifest) -> Iterator[tuple[str, GraphEntry]]:
    """Yield the name and entry of each graph that runs before the first step: conditioner, then prologue."""
    for name, graph in (("conditioner", manifest.conditioner), ("prologue", manifest.prologue)):
        if graph is not None:
            yield name, graph


def step_graphs(manifest: Manifest) -> Iterator[tuple[str, GraphEntry]]:
    """Yield the graphs that run at steps."""
    for name, body in manifest.bodies.items():
        for number, graph in enumerate(body.graphs):
            yield f"bodies[{name!r}].graphs[{number}]", graph
