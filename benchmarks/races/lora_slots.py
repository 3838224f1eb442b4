"""The cost of slots for LoRA files: a step without slots, with slots that are not filled, and with files of a rank.

    python -m benchmarks.races.lora_slots PLAIN SLOTS [--body float32] [--rows 1] [--rank 16] [--rounds 9] [--threads 1]

PLAIN and SLOTS are bundles of one source, without and with --lora-slots. Each contender has a process of its own, and
they take turns. A line has how many times as long a step takes as PLAIN's, the median over turns, by wall time and by
the processor's time, which other programs move little.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.options import add_turns, parser_of, positive, refusing
from benchmarks.races.turns import Call, in_turns
from fewstep.runtime.backends import graph_of
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.openvino_agreement import drawn
from fewstep.runtime.bundle.lora_slots import ENDS, port, port_shape
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.lora.adapted import slots_in


def opened(path: Path, body: str, rows: int, threads: int, rank: int) -> Call:
    bundle, rng = open_bundle(path), np.random.default_rng(0)
    network = OnnxRuntime(threads=threads).load(bundle, body)
    fed = dict(drawn(graph_of(bundle, body), {"batch": rows}, 0))
    slots = slots_in(bundle) if rank else None
    for layer in slots.graphs["body"] if slots is not None else ():
        for end in ENDS:
            shape = [rank if isinstance(size, str) else size for size in port_shape(layer, end, slots.layers[layer])]
            fed[port(layer, end)] = (0.01 * rng.standard_normal(shape)).astype(np.float32)
    return lambda: network(fed)


def main(given: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("plain", type=Path, metavar="PLAIN")
    parser.add_argument("slots", type=Path, metavar="SLOTS")
    parser.add_argument("--body", default="float32")
    parser.add_argument("--rows", type=positive, default=1, help="of x in a call")
    parser.add_argument("--rank", type=positive, default=16)
    add_turns(parser, threads=1, rounds=9, seconds=0.5)
    options = parser.parse_args(given)
    asked = (options.body, options.rows, options.threads)
    contenders = {
        "without slots": partial(opened, options.plain, *asked, 0),
        "slots, not filled": partial(opened, options.slots, *asked, 0),
        f"slots, rank {options.rank}": partial(opened, options.slots, *asked, options.rank),
    }
    with refusing(parser):
        times = in_turns(contenders, options.rounds, options.turn_seconds)
    print("| step | milliseconds | times as long, by the wall | by the processor |\n|---|---|---|---|")
    for name, own in times.items():
        wall, processor = own.against(times["without slots"])
        print(f"| {name} | {1e3 * median(own.wall):.3g} | {1 / wall:.3f} | {1 / processor:.3f} |")


if __name__ == "__main__":
    main()
