"""The page's section on TensorRT-RTX engines: the work of their kernels in a step, and lower bounds of its time."""

from collections.abc import Sequence

from fewstep.graph.engines.engine_costs import cost_lines, read_costs
from fewstep.report.elements import Html, details, join, paragraph, section
from fewstep.runtime.bundle.networks import label_with_network, networks
from fewstep.runtime.bundle.reading import Bundle


def describe_engines(bundle: Bundle) -> tuple[tuple[str, ...], ...]:
    """Return a name and the cost lines for each engine of a bundle whose program can be read."""
    shown = list[tuple[str, ...]]()
    for network in networks(bundle.manifest):
        own = bundle.select_network(network)
        lines = cost_lines(own.manifest.engines, read_costs(own))
        shown += [
            (f"{label_with_network(network, engine.body)} for {engine.device}", *lines[engine.file])
            for engine in own.manifest.engines
            if engine.file in lines
        ]
    return tuple(shown)


def engines_section(engines: Sequence[tuple[str, ...]]) -> Html:
    """Return a folded list of lines for each engine."""
    lead = paragraph(
        "The memory traffic and the multiplications of each engine's kernels in a step, read from its program. A bound "
        "is the least time that a GPU needs for them, not a measured time. Only TensorRT-RTX engines contain their "
        "program; TensorRT engines are not listed."
    )
    return section("Engines", lead, *(details(name, join(map(paragraph, lines))) for name, *lines in engines))
