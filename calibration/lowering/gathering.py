"""Numbers that change with the range group: rows of one packed table, chosen by the body's input "group"."""

from collections.abc import Sequence

import numpy as np

from fewstep.calibration.lowering.scheme import Replacement
from fewstep.graph.graph import GROUP, Array, Node, Value

GROUP_INPUT = Value(GROUP, np.dtype(np.int64), (1,))


def gathered(what: str, table: Array, names: Sequence[str]) -> Replacement:
    """The nodes that give `names` [1] each the numbers of their columns of `table` [groups, names]: one Gather for all.

    `what` the table is called; each graph has one of them.
    """
    rows, row, shape = (f"{part}({what})" for part in ("rows", "row", "shape"))
    return Replacement(
        (
            Node("Gather", (what, GROUP), (rows,), {"axis": 0}),  # [1, names]
            Node("Reshape", (rows, shape), (row,)),
            # sizes as an input, of more than 127 bytes, are what onnxruntime 1.23.0 cannot read
            Node("Split", (row,), tuple(names), {"axis": 0, "num_outputs": len(names)}),
        ),
        {what: table, shape: np.array([-1])},
    )
