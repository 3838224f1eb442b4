"""Coverage operation by operation: what each does, how much of the work it is, and why it is not int8."""

from collections.abc import Collection

from fewstep.calibration.lowering.coverage import count_operation_macs
from fewstep.calibration.ranges.read_table import load as load_ranges
from fewstep.graph.graph import Graph, Node
from fewstep.graph.selection import explain_selection
from fewstep.measure.bodies import ranges_file
from fewstep.measure.results import BodyCoverage, Operation
from fewstep.runtime.bundle.manifest import Body, Coverage
from fewstep.runtime.bundle.reading import Bundle

ACTIVATIONS = "both factors are activations"
NO_FORM = "has no int8 form here"
MAPPED = "left in float by the precision map"
SPARED = "left in float: int8 wins little or no time in it, or loses much"
UNSEEN = "its activations had no values in calibration"


def operation_coverage(
    prepared: Graph, body: str, coverage: Coverage, unseen: Collection[str] = (), spared: Collection[str] = ()
) -> BodyCoverage:
    """The multiplying operations of the prepared graph in order, each with its fate in a lowered body.

    `unseen` are the tensors of the prepared graph that had no values in calibration, as its ranges table names them.
    `spared` are the operations that stay in float since they make much of the error (`float_operations`).
    """
    work, int8 = count_operation_macs(prepared), set(coverage.int8_ops)
    judged = {op.name: (op, reason) for op, reason in explain_selection(prepared)}
    rows = []
    for node in prepared.nodes:
        if node.output not in work:
            continue
        op, reason = judged.get(node.output, (None, _reason(node, prepared)))
        is_int8 = node.output in int8
        rows.append(
            Operation(
                name=layer_name(node),
                kind=node.op,
                channels=(op.channels_in, op.channels_out) if op else None,
                macs=work[node.output],
                precision="int8" if is_int8 else "float",
                reason="" if is_int8 else reason or _why_left_in_float(node, unseen, spared),
            )
        )
    return BodyCoverage(body, coverage, tuple(rows), coverage.int8_macs / max(coverage.total_macs, 1))


def _why_left_in_float(node: Node, unseen: Collection[str], spared: Collection[str]) -> str:
    """The reason why an operation that the rule takes stays float."""
    if node.output in spared:
        return SPARED
    return MAPPED if {node.inputs[0], node.output}.isdisjoint(unseen) else UNSEEN


def unseen_tensors(bundle: Bundle, body: Body) -> tuple[str, ...]:
    """The tensors that had no values when a body was calibrated; none of one that was not."""
    file = ranges_file(bundle, body)
    return () if file is None else load_ranges(bundle.file(file)).unseen


def float_operations(body: Body) -> frozenset[str]:
    """The operations of a body that stay in float since they make much of its error."""
    return frozenset(name for trial in body.trials if trial.is_chosen for name in trial.in_float)


def layer_name(node: Node) -> str:
    """The name of an operation on the page: its module and kind, "middle.conv1/Conv", or the tensor it makes."""
    return node.name or node.output


def _reason(node: Node, prepared: Graph) -> str:
    """The reason why an operation that is no product with a constant weight stays float."""
    return NO_FORM if any(map(prepared.is_constant, node.inputs)) else ACTIVATIONS
