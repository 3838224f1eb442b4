"""The number formats in which `fewstep bake` can write the network of a float body."""

from dataclasses import replace
from typing import NamedTuple

from fewstep.graph.cuda.cuda_form import cuda_form
from fewstep.graph.cuda.cuda_form_check import form_problem
from fewstep.graph.graph import Graph, Node
from fewstep.graph.half_types import BFLOAT16, FLOAT16
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.passes.float32 import has_type
from fewstep.graph.passes.half import to_half
from fewstep.graph.passes.stored_weights import store_weights_as_int8
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.onnxruntime_cuda_form import FORM_ONLY
from fewstep.runtime.bundle import platforms
from fewstep.runtime.bundle.manifest import GraphEntry, Manifest

FLOAT16_FORM, INT8_WEIGHTS = "float16", platforms.INT8_WEIGHTS.precision
SOURCE = "float32"  # the body from which forms are made
CUDA = "-cuda"  # suffix of forms for ONNX Runtime's CUDA provider
HALF_FORMS = {FLOAT16_FORM: FLOAT16, "bfloat16": BFLOAT16}
CUDA_FORMS = tuple(name + CUDA for name in (SOURCE, *HALF_FORMS))


class BodyForm(NamedTuple):
    """The name of a body of the bundle, and the number format to which its network is converted; "" for the network as
    stored."""

    body: str
    form: str = ""


def body_form(manifest: Manifest, name: str) -> BodyForm:
    """Return what a name of `bake --body` means: a body of the bundle, or a number format to which a float body is
    converted."""
    if name in CUDA_FORMS and name not in manifest.bodies:
        base = name.removesuffix(CUDA)
        return BodyForm(base if base in manifest.bodies else SOURCE, name)
    is_form = name in (FLOAT16_FORM, INT8_WEIGHTS) and name not in manifest.bodies
    return BodyForm(SOURCE, name) if is_form else BodyForm(name)


def lossy_form(named: BodyForm) -> str:
    """Return the number format if converting the network to it changes its results by more than rounding, otherwise
    ""."""
    form = named.form.removesuffix(CUDA)
    return "" if form == named.body else form


def convert_network(graph: Graph, form: str, entry: GraphEntry) -> Graph:
    """Convert a network to a number format: float32, float16, bfloat16 or int8 weights, each also as a graph for ONNX
    Runtime's CUDA provider. Its inputs and outputs stay float32.

    form: the name of the format, as in `bake --body`.
    entry: the network's inputs in its bundle. Raises UserError if the graph for the CUDA provider differs from the
        network by more than rounding.
    """
    if form.endswith(CUDA):
        name = form.removesuffix(CUDA)
        network = convert_network(graph, name, entry)
        converted = cuda_form(network)
        problem = form_problem(network, converted, entry)
        if problem:
            fix = "bake --body float32" if name == FORM_ONLY else f"bake --body {name}"
            raise UserError(f"{entry.file} cannot be converted to {form}: {problem}", fix)
        return converted
    half = HALF_FORMS.get(form)
    if half is not None:
        return graph if has_type(graph, half) else drop_unused(to_half(graph, half))
    return store_weights_as_int8(graph) if form == INT8_WEIGHTS else graph


def precision_in(form: str, precision: str) -> str:
    """Return the precision in which a body computes after its conversion to the format `form`."""
    name = form.removesuffix(CUDA)
    return name if name in HALF_FORMS else precision


def dequantize_before_loops(graph: Graph) -> Graph:
    """Move each DequantizeLinear of a constant out of the Loops of a run, so that it is computed once, not at each
    step.

    Inside a Loop, onnxruntime 1.31 also refuses such a DequantizeLinear, since it looks for the weight of a MatMul in
    the Loop's body only.
    """
    nodes: list[Node] = []
    made: set[str] = set()
    constants = dict(graph.constants)
    for node in graph.nodes:
        body = node.attributes.get("body")
        if node.op != "Loop" or not isinstance(body, Graph):
            nodes.append(node)
            continue
        known = {**graph.constants, **body.constants}
        moved = [node for node in body.nodes if node.op == "DequantizeLinear" and known.keys() >= {*node.inputs}]
        gone = {node.output for node in moved}
        rest = tuple(node for node in body.nodes if node.output not in gone)
        read = {name for node in moved for name in node.inputs}
        constants |= {name: known[name] for name in read}
        body = replace(body, nodes=rest, constants={n: a for n, a in body.constants.items() if n not in read})
        nodes += [node for node in moved if node.output not in made]
        made |= gone
        nodes.append(replace(node, attributes={**node.attributes, "body": body}))
    return graph.with_nodes(nodes, constants)
