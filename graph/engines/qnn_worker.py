"""Compile a Hexagon context binary, as the child process of build_engine.py. See `build_worker.py`.

python qnn_worker.py GRAPH ENGINE REQUEST.json
"""

import json
import sys
from pathlib import Path

from fewstep.plans.errors import UserError
from fewstep.runtime.backends.qnn import Qnn


def main(graph: str, engine: str, request_path: str) -> None:
    request = json.loads(Path(request_path).read_text())
    try:
        Qnn(request["device"]).open(Path(graph).name, graph, request["sizes"], Path(engine))
    except UserError as error:
        sys.exit(f"[E] {error.what}")


if __name__ == "__main__":
    main(*sys.argv[1:])
