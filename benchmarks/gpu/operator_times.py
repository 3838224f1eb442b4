"""The time of an operator of ONNX Runtime's CUDA provider, without its launch, from a chain that is one CUDA graph."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.gpu.contenders import CPU, find_libraries
from benchmarks.gpu.operator_chains import (
    REFERENCE,
    Chain,
    chains,
    input_of,
    layout_of,
    model_of,
    nchw,
    to_layout,
)
from benchmarks.gpu.results import AnyRecord, OperatorTime
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.onnxruntime import FATAL_ONLY
from fewstep.runtime.backends.onnxruntime_cuda import PROVIDER, provider_settings

COMPARED = 2  # operators of the chain whose result is compared with the CPU's
CALLS = 30


@dataclass(frozen=True)
class ChainJob:
    """A chain. device: cpu for a rehearsal."""

    chain: Chain
    device: str

    def run(self) -> Iterable[AnyRecord]:
        found = self.failure("")
        chain, x = self.chain, input_of(self.chain)
        compared = run_chain(chain, COMPARED, x, self.device)[0]
        expected = reference(chain)
        difference = float(np.abs(compared.astype(np.float64) - expected).max() / np.abs(expected).max())
        short, long = (run_chain(chain, length, x, self.device)[1] for length in (chain.short, chain.long))
        each = 1e6 * (long - short) / (chain.long - chain.short)
        yield OperatorTime(found.operator, found.precision, found.shape, found.launched, each, difference)

    def failure(self, reason: str) -> OperatorTime:
        launched = "CUDA graph" if self.device == "cuda" else "on the CPU"
        return OperatorTime(self.chain.name, self.chain.precision, self.chain.shape, launched, reason=reason)


def chain_jobs(device: str) -> list[ChainJob]:
    """All chains."""
    return [ChainJob(chain, device) for chain in chains()]


def reference(chain: Chain) -> np.ndarray:
    """Return the result of the compared chain, on the CPU in float32."""
    layout = layout_of(chain)
    own = replace(
        chain,
        operator=REFERENCE.get(chain.operator, chain.operator),
        precision="float32",
        shape=nchw(chain.shape, layout),
    )
    x = input_of(chain).astype(np.float32)
    given = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if layout == "NHWC" else x
    session = onnxruntime.InferenceSession(model_of(own, COMPARED), quiet_options(), providers=["CPUExecutionProvider"])
    return to_layout(session.run(None, {"x": given})[0], layout)


def run_chain(chain: Chain, length: int, x: np.ndarray, device: str) -> tuple[np.ndarray, float]:
    """Return the result of a chain, and the median seconds of a call whose tensors stay on the device."""
    place = (device, 0)
    call, result = bound_chain(chain, length, x, place)
    for _ in range(3):  # plain, recorded, replayed
        call()
    times = []
    for _ in range(CALLS if device == "cuda" else 1):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return result.numpy(), float(np.median(times))


def bound_chain(chain: Chain, length: int, x: np.ndarray, place: tuple[str, int]) -> tuple[Callable[[], None], Any]:
    """Return a session's call with tensors bound at fixed addresses, and the OrtValue of its result."""
    device, number = place
    find_libraries(device)
    provider = CPU
    if device == "cuda":
        own = provider_settings(number, cuda_graph=True) | {"prefer_nhwc": str(int(chain.prefer_nhwc))}
        provider = (PROVIDER, own)
    session = onnxruntime.InferenceSession(
        model_of(chain, length), quiet_options(), providers=[provider], enable_fallback=0
    )
    if provider[0] not in session.get_providers():
        raise UserError(f"onnxruntime runs without {provider[0]}", "see `fewstep doctor`")
    given = onnxruntime.OrtValue.ortvalue_from_numpy(x, *place)
    result = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(x.shape), x.dtype, *place)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", given)
    binding.bind_ortvalue_output("y", result)

    def call() -> None:
        session.run_with_iobinding(binding)

    call.held = given  # type: ignore[attr-defined]
    return call, result


def quiet_options() -> Any:
    """Options of a session that optimizes all it can."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = FATAL_ONLY
    return options
