"""Checks of a manifest beyond its types: sizes, ranges, and graphs that must fit together."""

from collections.abc import Iterator
from itertools import accumulate
from math import isfinite
from operator import mul

from fewstep.plans.names.user_code import split_code
from fewstep.plans.plan import DENOISER, LIGHT
from fewstep.plans.schedule import spec_problem
from fewstep.runtime.bundle.manifest import Description, GraphEntry, Manifest, TensorEntry
from fewstep.runtime.bundle.networks import (
    denoiser_graphs,
    interval_ends,
    select_network,
    setup_graphs,
    shared_graphs,
    step_graphs,
)
from fewstep.runtime.bundle.platforms import is_core
from fewstep.runtime.kinds.condition import condition_problem
from fewstep.runtime.kinds.kind import kinds
from fewstep.runtime.kinds.sizes import (
    ELEMENTS_LIMIT,
    dimension_problem,
    follows_problem,
    free_shape,
    free_x_shape,
    input_shape,
    output_shape,
)

INPUT_ROLES = {"conditioner": ("condition",), "prologue": ("time", "to", "condition", "row")}  # roles of their inputs
BATCH = "batch"
OF_KINDS = ("carried", "named")  # roles of ports that optional properties of a denoiser add
Problems = Iterator[tuple[str, str]]  # (field, what is wrong with it)


def manifest_problems(manifest: Manifest) -> Problems:
    """Yield the problems of a manifest, in the order of checks.

    Only the first problem is certain, because later checks rely on earlier ones.
    """
    yield from interface_problems(manifest)
    if problem := spec_problem(manifest.schedule):
        yield f"schedule.{problem[0]}", problem[1]
    if any(port.role == "to" for _, graph in denoiser_graphs(manifest) for port in graph.inputs):
        for field, kind in kinds(manifest):
            if not kind.SECOND_TIME:
                yield field, f"a denoiser with {kind.NOUN} cannot have a second time"
    yield from _row_problems(manifest)
    yield from _replacement_problems(manifest)
    for field, graph in denoiser_graphs(manifest):
        yield from _port_problems(field, graph, manifest)
    yield from _body_problems(manifest)
    yield from _network_problems(manifest)


def _network_problems(manifest: Manifest) -> Problems:
    """Yield problems of the networks besides the denoiser: in their intervals and conditions, and in each network."""
    names = {condition.name for condition in manifest.conditions}
    untils = [*interval_ends(manifest).values()]
    if untils != sorted(set(untils)) or not all(map(isfinite, untils)):
        yield "networks", f"they end at lambda {untils}, which is not in increasing order"
    if manifest.networks and (lone := next((kind.NOUN for _, kind in kinds(manifest) if kind.EXPERTS == "none"), "")):
        yield "networks", f"a bundle with {lone} has one network"
    yield from _light_problems(manifest)
    for name, network in manifest.networks.items():
        field = f"networks[{name!r}]"
        if name == DENOISER or not name.isidentifier():
            yield field, f"the name is not an identifier, or is {DENOISER}, the network of the manifest itself"
        if unknown := network.inputs.keys() - names:
            yield f"{field}.inputs", f"the manifest has no condition {min(unknown)!r}"
        for place, reason in manifest_problems(select_network(manifest, name)):
            yield f"{field}.{place}", reason


def _light_problems(manifest: Manifest) -> Problems:
    """Yield what is wrong with the manifest's entries on the light network, which reads the features that the denoiser
    returns."""
    for name, network in manifest.networks.items():
        if network.until is None and name != LIGHT:
            yield f"networks[{name!r}].until", f"it is missing, which is allowed only for the network {LIGHT}"
    if manifest.features is not None and manifest.features.is_read:
        return  # the light network by itself
    light = manifest.networks.get(LIGHT)
    of_light = None if light is None or light.features is None else light.features
    read = None if of_light is None else (of_light.name, of_light.shape, of_light.is_read)
    returned = None if manifest.features is None else (manifest.features.name, manifest.features.shape, True)
    if returned != read:
        yield "features", f"the network {LIGHT} reads the features {read}, and the denoiser returns {returned}"


def interface_problems(of: Description) -> Problems:
    """Yield a field and a reason for each value of a denoiser's description that is invalid. A Spec states this
    description, and a manifest stores it."""
    shape, conditions = of.x_shape, of.conditions
    if not shape or min(shape) < 1 or any(count > ELEMENTS_LIMIT for count in accumulate(shape, mul)):
        yield "x_shape", f"{list(shape)} is not the shape of a sample of at most {ELEMENTS_LIMIT} elements"
    if of.self_condition and (reason := _self_condition_problem(of)):
        yield "self_condition", reason
    if of.data_limit is not None and not of.data_limit > 0:  # a Spec may have infinity, which no manifest stores
        yield "data_limit", f"{of.data_limit:g} is not a positive number"
    if of.heads < (least := 1 if of.steers is None else 2):
        yield "heads", f"{of.heads} is less than {least}"
    if of.prediction == "logits" and of.vocabulary is None:
        yield "vocabulary", "a denoiser that predicts logits needs a vocabulary"
    for field, kind in kinds(of):
        if reason := kind.problem(of):
            yield field, reason
    if (
        not len({condition.input for condition in conditions})
        == len({condition.name for condition in conditions})
        == len(conditions)
    ):
        yield "conditions", "two have the same name or input"
    for index, condition in enumerate(conditions):
        if problem := condition_problem(condition):
            yield f"conditions[{index}].{problem[0]}", problem[1]
        if reason := follows_problem(condition, of):
            yield f"conditions[{index}].follows", reason


def _self_condition_problem(of: Description) -> str | None:
    """Return, as text, a property of a self-conditioned network that cannot be combined with self-conditioning, or None
    if it has none."""
    others = {
        "a vocabulary": of.prediction == "logits",
        "a time for each position": of.positions is not None,
        "carried tensors of the sample": any(tensor.bank == "sample" for tensor in of.carried),
        "a free first axis": any(size.axis == 0 for size in of.sizes),
    }
    return next((f"it cannot be combined with {what}" for what, has in others.items() if has), None)


def _row_problems(manifest: Manifest) -> Problems:
    """Yield what is wrong with the tensors that conditioner and prologue pass to later graphs. Each must be computed
    before it is read."""
    rows: set[str] = set()
    for field, graph in setup_graphs(manifest):
        for tensor in graph.inputs:
            if tensor.role not in INPUT_ROLES[field]:
                yield field, f"its input {tensor.name!r} has the role {tensor.role!r}"
        if unmade := _row_names(graph.inputs) - rows:
            yield field, f"no graph before it returns the row {min(unmade)!r}"
        rows |= {tensor.name for tensor in graph.outputs}
    for field, graph in step_graphs(manifest):
        if unmade := _row_names((*graph.inputs, *graph.outputs)) - rows:
            yield field, f"the prologue does not return the row {min(unmade)!r}"


def _replacement_problems(manifest: Manifest) -> Problems:
    """Yield what is wrong with the graphs that bodies run instead of shared ones, whose inputs and outputs they must
    have."""
    shared = shared_graphs(manifest)
    for name, body in manifest.bodies.items():
        for which, graph in body.replaces.items():
            field, exported = f"bodies[{name!r}].replaces[{which!r}]", shared.get(which)
            if exported is None:
                yield field, f"the manifest has no {which} that it could replace"
            elif (graph.inputs, graph.outputs) != (exported.inputs, exported.outputs):
                yield field, f"its inputs and outputs are not those of the manifest's {which}"


def _row_names(tensors: tuple[TensorEntry, ...]) -> set[str]:
    return {tensor.name for tensor in tensors if tensor.role == "row"}


def _port_problems(field: str, graph: GraphEntry, manifest: Manifest) -> Problems:
    """Yield what is wrong with a graph's inputs and outputs, whose shapes must be those that the manifest describes."""
    conditions = {condition.input: condition for condition in manifest.conditions}
    for tensor in graph.inputs:
        if tensor.role != "condition":
            continue
        if (condition := conditions.get(tensor.name)) is None:
            yield field, f"no condition feeds the input {tensor.name!r}"
            continue
        shape = free_shape(condition.shape, condition.follows)
        if (tensor.shape, tensor.dtype) != ((BATCH, *shape), condition.dtype):
            yield field, f"the input {tensor.name!r} is not batch x {list(shape)} of {condition.dtype}"
    for tensor in (*graph.inputs, *graph.outputs):
        if any(size != BATCH and dimension_problem(size, manifest.sizes) for size in tensor.shape):
            yield field, f"tensor {tensor.name!r} has the shape {list(tensor.shape)}"


def _plan_names(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield the names of plans that readers compile, with their fields."""
    yield from ((f"bodies.{name}.plan", body.plan) for name, body in manifest.bodies.items() if body.plan is not None)
    yield from (("fitted", fitted.nominal) for fitted in manifest.fitted)


def _body_problems(manifest: Manifest) -> Problems:
    if not manifest.bodies:
        yield "bodies", "there is none"
    inputs, outputs = ({port for _, kind in kinds(manifest) for port in kind.ports()[end]} for end in (0, 1))
    shape = free_x_shape(manifest)
    for field, graph in step_graphs(manifest):
        roles = [tensor.role for tensor in graph.inputs]
        if roles.count("x") != 1 or [tensor.role for tensor in graph.outputs].count("output") != 1:
            yield field, "it does not have exactly one input of role x and one output of role output"
        for of_kinds, tensors in ((inputs, graph.inputs), (outputs, graph.outputs)):
            ports = {tensor for tensor in tensors if tensor.role in OF_KINDS}
            if ports != of_kinds:
                yield field, f"its ports of {' or '.join(OF_KINDS)} tensors are {sorted(port.name for port in ports)}"
        for tensor in (*graph.inputs, *graph.outputs):
            wanted = (BATCH, *(output_shape if tensor.role == "output" else input_shape)(manifest, shape))
            if tensor.role == "x" and (tensor.dtype == "int64") != (manifest.space.dtype == "int64"):
                yield field, f"x is {tensor.dtype} in a denoiser that predicts {manifest.prediction}"
            if tensor.role in ("x", "output") and tensor.shape != wanted:
                yield field, f"tensor {tensor.name!r} has the shape {list(tensor.shape)}, not {list(wanted)}"
    for field, plan in _plan_names(manifest):
        if split_code(plan) is not None:
            yield field, f"the plan's name {plan!r} refers to code, which a bundle must not name"
    for name, body in manifest.bodies.items():
        if body.platform is not None and (is_core(body.target) or body.platform.name != body.target):
            yield (
                f"bodies[{name!r}].platform",
                f"it is {body.platform.name!r}, but the body's target is {body.target!r}",
            )
        roles = [tensor.role for graph in body.graphs for tensor in graph.inputs]
        is_grouped = "group" in roles or len(body.graphs) > 1
        edges, untils = list(body.groups), [graph.until for graph in body.graphs]
        if edges != sorted(set(edges)) or (len(edges) > 0) != is_grouped:
            yield (
                f"bodies[{name!r}].groups",
                "edges must increase, and need an input of role group or several graphs, which in turn need edges",
            )
        if not untils or untils[-1] is not None or untils[:-1] != [edge for edge in edges if edge in untils]:
            yield f"bodies[{name!r}].graphs", f"they end at {untils}, but range groups end at {edges}"
