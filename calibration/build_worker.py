"""The child process of build.py: builds one engine. A graph that kills the builder kills only this process.

    python build_worker.py GRAPH ENGINE REQUEST.json

Imports polygraphy and nothing of fewstep. Exit code 0 means that ENGINE was written; what went wrong is on stderr.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"  # read by polygraphy once, while it is imported


def main(graph: str, engine: str, request_path: str) -> None:
    import tensorrt_rtx
    from polygraphy import func
    from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
    from polygraphy.backend.trt import Profile, engine_bytes_from_network, network_from_onnx_path
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.ERROR
    request: dict[str, Any] = json.loads(Path(request_path).read_text())
    profile = Profile()
    for name, shapes in request["shapes"].items():
        profile.add(name, *map(tuple, shapes))

    def set_flags(builder: Any, network: Any, config: Any) -> None:
        if not request["flags"]["tf32"]:  # on by default
            config.clear_flag(tensorrt_rtx.BuilderFlag.TF32)

    capability = tuple(request["compute_capability"])
    config = func.extend(CreateConfigRTX(compute_capabilities=[capability], profiles=[profile]))(set_flags)
    network = network_from_onnx_path(graph, strongly_typed=request["flags"]["strongly_typed"])
    Path(engine).write_bytes(engine_bytes_from_network(network, config=config))


if __name__ == "__main__":
    main(*sys.argv[1:])
