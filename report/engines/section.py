"""The page's section on engines: what their kernels do in a step, and bounds, which are no times."""

from collections.abc import Sequence

from fewstep.graph.engines.engine_costs import cost_lines, read_costs
from fewstep.report.elements import Html, details, join, paragraph, section
from fewstep.runtime.bundle.networks import label_with_network, networks
from fewstep.runtime.bundle.reading import Bundle


def describe_engines(bundle: Bundle) -> tuple[tuple[str, ...], ...]:
    """The engines of a bundle whose programs can be read: each with its name and the lines of its account."""
    shown = list[tuple[str, ...]]()
    for network in networks(bundle.manifest):
        own = bundle.select_network(network)
        lines = cost_lines(own.manifest.engines, read_costs(own))
        shown += [
            (f"{label_with_network(network, each.body)} for {each.device}", *lines[each.file])
            for each in own.manifest.engines
            if each.file in lines
        ]
    return tuple(shown)


def engines_section(engines: Sequence[tuple[str, ...]]) -> Html:
    """One folded list of lines for each engine."""
    lead = paragraph(
        "What the kernels of each engine read, write and multiply in a step, from its program. A bound is what a GPU "
        "needs at least for that, and no time. Engines of TensorRT carry no program, so only TensorRT-RTX's are here."
    )
    return section("Engines", lead, *(details(name, join(map(paragraph, lines))) for name, *lines in engines))
