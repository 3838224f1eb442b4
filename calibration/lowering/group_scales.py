"""Quantization parameters that change with the range group: each group is a row of one packed table, and the body's
input "group" selects it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fewstep.calibration.lowering.scheme import Replacement
from fewstep.graph.graph import GROUP, Array, Node, Value

GROUP_INPUT = Value(GROUP, np.dtype(np.int64), (1,))


def gather_columns(what: str, table: Array, names: Sequence[str]) -> Replacement:
    """Return the nodes that set each tensor of `names` [1] to its column of `table` [groups, names] for the current
    range group, with a single Gather.

    `what` is the table's name, which must be unique in the graph.
    """
    rows, row, shape = (f"{part}({what})" for part in ("rows", "row", "shape"))
    return Replacement(
        (
            Node("Gather", (what, GROUP), (rows,), {"axis": 0}),  # [1, names]
            Node("Reshape", (rows, shape), (row,)),
            # onnxruntime 1.23.0 cannot read sizes given as an input of more than 127 bytes
            Node("Split", (row,), tuple(names), {"axis": 0, "num_outputs": len(names)}),
        ),
        {what: table, shape: np.array([-1])},
    )


@dataclass(frozen=True)
class ChannelCode:
    """The per-channel arguments of QuantizeLinear and DequantizeLinear: two names, and their values, `scales` [groups,
    channels] and `zero`, which is the same for all channels."""

    scale: str
    zero_point: str
    scales: Array
    zero: Array

    @property
    def channels(self) -> int:
        return int(self.scales.shape[1])


def gather_channel_scales(what: str, codes: Sequence[ChannelCode]) -> Replacement:
    """Return the nodes and constants that define scales and zero points: one Gather for all codes with the same number
    of channels. If there is one group, scales are constants."""
    nodes: list[Node] = []
    constants: dict[str, Array] = {}
    for channels in sorted({code.channels for code in codes}):
        alike = [code for code in codes if code.channels == channels]
        if len(alike[0].scales) == 1:
            constants |= {code.scale: code.scales[0] for code in alike}
        else:
            table = np.concatenate([code.scales for code in alike], axis=1)
            rows = gather_columns(f"{what}({channels})", table, [code.scale for code in alike])
            nodes += rows.nodes
            constants |= rows.constants
        constants |= {code.zero_point: np.full(channels, code.zero) for code in alike}
    return Replacement(tuple(nodes), constants)
