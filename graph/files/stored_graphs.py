"""Graphs of a bundle, compared with its manifest."""

from fewstep.graph.files import io
from fewstep.graph.graph import Graph
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import GraphEntry
from fewstep.runtime.bundle.reading import Bundle


def load_stored(bundle: Bundle, entry: GraphEntry) -> Graph:
    """Read a graph of a bundle. Raises UserError if its inputs or outputs are not those that the manifest names."""
    graph = io.load(bundle.graph(entry), root=bundle.path)
    for kind, ports, named in (("inputs", graph.inputs, entry.inputs), ("outputs", graph.outputs, entry.outputs)):
        found, wanted = (sorted(port.name for port in side) for side in (ports, named))
        if found != wanted:
            what = f"{entry.file} has the {kind} {', '.join(found)}, but the manifest says {', '.join(wanted)}"
            raise UserError(f"{bundle.path}: {what}", bundle.export_again)
    return graph
