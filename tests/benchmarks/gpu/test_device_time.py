"""The GPU's time of a call, from activities as the profiler lists them."""

import pytest

from benchmarks.gpu import device_time as module
from benchmarks.gpu.device_time import UNSEEN, Activity, busy_time, device_time, device_times, kernel_name
from benchmarks.gpu.results import DenoiserRow, KernelTime

ROW = DenoiserRow("cifar10", "onnxruntime-cuda, form", "float16", 70.0, 60.0)
# Two calls: in each a convolution, a norm that runs at the same time as its end, and a copy after a pause.
SEEN = [
    Activity(name, start + first, end + first)
    for first in (0.0, 1000.0)
    for name, start, end in (
        ("void conv<__half, 3>(__half*)", 0.0, 50.0),
        ("void conv<__half, 1>(__half*)", 50.0, 60.0),
        ("norm", 55.0, 75.0),
        ("Memcpy DtoH (Device -> Pinned)", 100.0, 105.0),
    )
]


def test_time_in_which_two_kernels_run_counts_once() -> None:
    assert busy_time(SEEN) == 2 * (75.0 + 5.0)


def test_figures_are_of_one_call_and_kernels_of_one_name_are_added() -> None:
    found = device_time(ROW, 8, SEEN, 2)
    assert (found.busy, found.launches, found.batch) == (0.08, 4.0, 8)
    assert found.kernels == (
        KernelTime("conv", 2.0, 60.0),
        KernelTime("norm", 1.0, 20.0),
        KernelTime("Memcpy DtoH", 1.0, 5.0),
    )


@pytest.mark.parametrize(
    ("name", "short"),
    [
        (
            "void cudnn::ops::nchwToNhwcKernel<__half, float, true>(cudnn::Params<float>)",
            "cudnn::ops::nchwToNhwcKernel",
        ),
        ("void onnxruntime::cuda::(anonymous namespace)::Sum<float>(float*)", "onnxruntime::cuda::Sum"),
        ("sm90_xmma_fprop_implicit_gemm_f16f16", "sm90_xmma_fprop_implicit_gemm_f16f16"),
        ("<lambda>", "<lambda>"),
    ],
)
def test_a_kernel_has_its_name_without_types(name: str, short: str) -> None:
    assert kernel_name(name) == short


def test_a_profiler_that_sees_nothing_or_fails_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_time(ROW, 1, [], 2).reason == UNSEEN

    def fail(*_: object) -> list[Activity]:
        raise RuntimeError("CUPTI is missing")

    monkeypatch.setattr(module, "record_activities", fail)
    found = list(device_times(ROW, lambda seeds: seeds, (1, 8)))  # type: ignore[arg-type,return-value]
    assert [(each.batch, each.reason) for each in found] == [(1, "RuntimeError: CUPTI is missing")] + [
        (8, "RuntimeError: CUPTI is missing")
    ]
