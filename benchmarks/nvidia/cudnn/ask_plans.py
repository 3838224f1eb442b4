"""Ask cuDNN for the plans of operations on described GPUs, in the environment that has cuDNN. It needs no GPU.

It reads {"gpus": {name: properties}, "operations": [...]} from stdin and writes a JSON line for cuDNN's versions,
then one for each operation and GPU, as soon as cuDNN has answered.
"""

import json
import sys
import time
from importlib import import_module
from typing import Any

from benchmarks.nvidia.cudnn.operation_graphs import engines_of, operation_graph
from benchmarks.nvidia.cudnn.operations import decode


def main() -> None:
    request, cudnn = json.load(sys.stdin), import_module("cudnn")
    print(json.dumps({"frontend": cudnn.__version__, "backend": cudnn.backend_version()}), flush=True)
    for name, properties in request["gpus"].items():
        device = cudnn.create_device_properties(json.dumps(properties))
        for number, fields in enumerate(request["operations"]):
            print(json.dumps({"gpu": name, "operation": number, **ask(cudnn, fields, device)}), flush=True)


def ask(cudnn: Any, fields: dict[str, Any], device: Any) -> dict[str, Any]:
    """Return the engines of an operation with the number of their plans, or the reason why there are none."""
    started = time.perf_counter()
    try:
        engines, reason = engines_of(operation_graph(cudnn, decode(fields), device=device)), ""
    except Exception as error:  # cuDNN's errors share no base class but Exception
        engines, reason = {}, " ".join(str(error).split())[:300]
    return {"engines": engines, "reason": reason, "seconds": round(time.perf_counter() - started, 3)}


if __name__ == "__main__":
    main()
