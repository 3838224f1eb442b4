"""int8 bodies for TensorRT by the fused kernels of cuDNN, compared with half precision.

    python -m benchmarks.nvidia.cudnn plans --python ENVIRONMENT/bin/python [--model cifar10] [--output FOLDER]
    python -m benchmarks.nvidia.cudnn prepare [--model cifar10] --programs FOLDER
    python -m benchmarks.nvidia.cudnn run --programs FOLDER --output FOLDER [--minutes 8] [--rehearse]
    python -m benchmarks.nvidia.cudnn page FILE...

`plans` splits each body into the groups that TensorRT makes kernels of, and asks cuDNN for the plans of each on a
described H100, Orin and RTX 3060. It needs no GPU, gcc, and an environment of the same Python with the wheels
nvidia-cudnn-cu13, nvidia-cublas, nvidia-cuda-nvrtc, nvidia-cuda-runtime, nvidia-cudnn-frontend and cuda-bindings
(0.9 GB). `prepare` writes what `run` needs of each denoiser. `run` needs an NVIDIA GPU, torch, nvidia-cudnn-frontend
and msgspec: it measures whole calls of each body at batches 1, 8, 64 and 256, and then each group alone. `plans` and
`run` append lines to FOLDER/results.jsonl as they find them, and `page` writes lab/measured/cudnn.md from such files.
"""

import sys
from importlib import import_module

VERBS = ("plans", "prepare", "run", "page")


def main(given: list[str]) -> int:
    """Run a verb. Each imports its own packages: where there is a GPU, onnx may be missing."""
    if not given or given[0] not in VERBS:
        print(f"usage: python -m benchmarks.nvidia.cudnn {{{','.join(VERBS)}}} [--help]\n\n{__doc__}")
        return 0 if given[:1] in (["-h"], ["--help"]) else 2
    import_module(f"benchmarks.nvidia.cudnn.commands.{given[0]}").main(given[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
