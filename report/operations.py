"""The int8 coverage of each operation: its type, its fraction of the work, and the reason if it is not int8."""

from collections.abc import Collection

from fewstep.calibration.lowering.coverage import count_operation_macs
from fewstep.calibration.ranges.read_table import load as load_ranges
from fewstep.graph.graph import Graph, Node
from fewstep.graph.selection import explain_selection, layer_name
from fewstep.measure.bodies import ranges_file
from fewstep.measure.results import BodyCoverage, Operation
from fewstep.runtime.bundle.manifest import Body, Coverage
from fewstep.runtime.bundle.reading import Bundle

ACTIVATIONS = "both factors are activations"
NO_FORM = "has no int8 form here"
MAPPED = "kept in float by the precision map"
SPARED = "kept in float: int8 saves little time there or loses much quality, or --keep-float names it"
UNSEEN = "its activations had no values in calibration"


def operation_coverage(
    prepared: Graph, body: str, coverage: Coverage, unseen: Collection[str] = (), spared: Collection[str] = ()
) -> BodyCoverage:
    """Return the matrix products and convolutions of the prepared graph in order, with their type in a quantized body.

    unseen: the tensors of the prepared graph without values in calibration, by their names in the ranges table.
    spared: the operations that stay in float because they cause much of the error (`float_operations`).
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
    """Return the reason why an operation that could be int8 stays in float."""
    if node.output in spared:
        return SPARED
    return MAPPED if {node.inputs[0], node.output}.isdisjoint(unseen) else UNSEEN


def unseen_tensors(bundle: Bundle, body: Body) -> tuple[str, ...]:
    """Return the tensors without values in the calibration of a body; none if it was not calibrated."""
    file = ranges_file(bundle, body)
    return () if file is None else load_ranges(bundle.file(file)).unseen


def float_operations(body: Body) -> frozenset[str]:
    """Return the operations of a body that stay in float because they cause much of its error."""
    return frozenset(name for trial in body.trials if trial.is_chosen for name in trial.in_float)


def _reason(node: Node, prepared: Graph) -> str:
    """Return the reason why an operation that is not a product with a constant weight stays in float."""
    return NO_FORM if any(map(prepared.is_constant, node.inputs)) else ACTIVATIONS
