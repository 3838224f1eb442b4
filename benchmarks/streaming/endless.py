"""Memory of a stream of 100 000 chunks that carry on, by the least network that does.

python benchmarks/streaming/endless.py --work FOLDER [--chunks 100000]
"""

import argparse
from pathlib import Path

import torch

from fewstep.export import Carried, ScheduleSpec, Spec
from fewstep.export.export import ExportOptions, export
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.loading import load

BANDS, FRAMES, PAST = 8, 16, 3


class Causal(torch.nn.Module):
    """A convolution over time that reaches PAST frames back."""

    def __init__(self) -> None:
        super().__init__()
        self.causal = torch.nn.Conv1d(BANDS, BANDS, PAST + 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor, past: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        whole = torch.cat([past, x], dim=2)
        return torch.tanh(self.causal(whole)) * (time[:, None, None] / 1000), whole[:, :, -PAST:]


def make() -> tuple[torch.nn.Module, Spec]:
    torch.manual_seed(0)
    past = Carried("past", (BANDS, PAST))
    return Causal(), Spec("causal", (BANDS, FRAMES), (), "flow", ScheduleSpec("flow", timesteps=1000), carried=(past,))


def held() -> float:
    """MB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--chunks", type=int, default=100_000)
    arguments = parser.parse_args()
    bundle = arguments.work / "causal"
    if not bundle.exists():
        export(ExportOptions(f"{Path(__file__)}:make", bundle))
    sampler, carried = load(bundle, backend=OnnxRuntime(threads=1)), None
    plan = sampler.compile("ddim:2")
    for number in range(1, arguments.chunks + 1):
        _, carried = sampler.carry_on(plan, [number], carried=carried)
        if str(number).strip("0") in ("1", "5") and number >= 1000:
            print(f"{number} chunks: {held():.1f} MB, {carried.nbytes} bytes carried", flush=True)


if __name__ == "__main__":
    main()
