"""Open graphs on ONNX Runtime's CUDA provider, in an environment that need have nothing but onnxruntime-gpu.

It reads one JSON object for each line of its input: `graph` and `optimized` are files, and `nhwc` is a setting. For
each it prints a line with the problem, or "", after it wrote the graph as the provider will run it.
"""

import json
import sys

import onnxruntime

FATAL_ONLY = 4


def open_graph(graph: str, optimized: str, nhwc: bool) -> str:
    """Return why a graph cannot be one CUDA graph; "" if it can."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = optimized
    options.log_severity_level = FATAL_ONLY
    settings = {"use_tf32": "0", "enable_cuda_graph": "1"} | ({"prefer_nhwc": "1"} if nhwc else {})
    providers = [("CUDAExecutionProvider", settings)]
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions share no base class except Exception
        return str(error).strip()
    return "" if "CUDAExecutionProvider" in session.get_providers() else "the provider did not start"


if __name__ == "__main__":
    print(json.dumps(onnxruntime.__version__), flush=True)
    for line in sys.stdin:
        print(json.dumps(open_graph(**json.loads(line))), flush=True)
