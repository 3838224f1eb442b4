"""The body of each network from which engines are built. A 16-bit body is converted from the float32 body."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from fewstep.graph.engines.build_options import BuildOptions
from fewstep.graph.engines.builders import EngineBuilder
from fewstep.graph.files import io
from fewstep.graph.files.commit import Writer
from fewstep.graph.files.stored_graphs import load_stored
from fewstep.graph.half_types import HALVES
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.passes.half import to_half
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.calibrate_command import calibrate_fix
from fewstep.runtime.bundle.manifest import Body, Precision
from fewstep.runtime.bundle.manifest import GraphEntry as GraphFile
from fewstep.runtime.bundle.networks import networks
from fewstep.runtime.bundle.platforms import PORTABLE
from fewstep.runtime.bundle.reading import Bundle


@dataclass(frozen=True)
class NetworkBody:
    """A network, the bundle restricted to this network, and the body from which an engine is built. A 16-bit body may
    not exist yet (None)."""

    network: str
    bundle: Bundle
    name: str
    body: Body | None


def network_bodies(options: BuildOptions, builder: EngineBuilder) -> Iterator[NetworkBody]:
    """Yield, for each network, the body from which an engine is to be built, after checking its files. Raises UserError
    if it is missing, except for a 16-bit body, which `build` creates."""
    whole = options.open()
    whole.check_continuous("build")
    names = builder.bodies[options.precision]
    for network in networks(whole.manifest):
        bundle = whole.select_network(network)
        name = next((name for name in names if name in bundle.manifest.bodies), names[0])
        body = bundle.manifest.bodies.get(name)
        if body is None and name not in HALVES:
            fix = calibrate_fix(bundle, name)
            fix += ", or build --precision float16" if "float16" in builder.bodies else ""
            raise UserError(f"{options.bundle} has no body {name!r} to build", fix)
        for graph in () if body is None else body.graphs:
            bundle.graph(graph)
        yield NetworkBody(network, bundle, name, body)


def make_body(part: NetworkBody, writer: Writer) -> NetworkBody:
    """Return the network and its body. A 16-bit body that does not exist yet is made from the float32 body, and
    written."""
    if part.body is not None:
        return part
    base = part.bundle.body("float32").graph
    graph = drop_unused(to_half(load_stored(part.bundle, base), HALVES[part.name]))
    file, data = io.store(writer, graph, part.name, external_above=0 if base.data else None)
    precision: Precision = "float16" if part.name == "float16" else "bfloat16"
    return replace(part, body=Body.from_graph(GraphFile(file, base.inputs, base.outputs, data), precision, PORTABLE))
