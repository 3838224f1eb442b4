"""The tables of the GPU's time of a call."""

from benchmarks.gpu.page import page_of
from benchmarks.gpu.results import DenoiserRow, DeviceTime, KernelTime, Timing

OURS, TORCH = "onnxruntime-cuda, form", "torch, compiled, reduce-overhead"
ROWS = (
    DenoiserRow("cifar10", OURS, "float16", 70.0, 60.0, (Timing(1, 10.0, 11.0), Timing(8, 12.0, 13.0))),
    DenoiserRow("cifar10", TORCH, "float16", 70.0, 60.0, (Timing(1, 8.0, 9.0), Timing(8, 16.0, 17.0))),
)
TIMES = tuple(
    DeviceTime("cifar10", engine, "float16", batch, busy, 100.0, (KernelTime(kernel, 20.0, 1500.4),))
    for engine, batch, busy, kernel in (
        (OURS, 1, 9.6, "GroupNorm"),
        (TORCH, 1, 7.0, "triton_norm"),
        (OURS, 8, 11.9, "GroupNorm"),
        (TORCH, 8, 15.0, "triton_norm"),
    )
)


def test_the_host_has_the_rest_of_a_call() -> None:
    page = page_of([*ROWS, *TIMES])
    assert f"| cifar10 | {OURS} | float16 | 1 | 10.00 | 9.60 | 100 | 4 % |" in page
    assert f"| cifar10 | {TORCH} | float16 | 1 | 8.00 | 7.00 | 100 | 12 % |" in page


def test_kernels_are_listed_where_torch_is_faster() -> None:
    page = page_of([*ROWS, *TIMES])
    assert "cifar10 at batch 1: 1.25 of the time of torch. The kernels with the most time:" in page
    assert f"| {OURS}, float16 | `GroupNorm` | 20 | 1500 |\n| {TORCH}, float16 | `triton_norm` | 20 | 1500 |" in page
    assert "cifar10 at batch 8" not in page


def test_kernels_are_listed_next_to_times_of_torch_from_an_earlier_run() -> None:
    page = page_of([*ROWS, *(time for time in TIMES if time.engine == OURS)])
    assert "cifar10 at batch 1: 1.25 of the time of torch." in page
    assert f"| {OURS}, float16 | `GroupNorm` | 20 | 1500 |" in page and "triton_norm" not in page


def test_a_call_that_was_not_profiled_says_why() -> None:
    failed = DeviceTime("cifar10", OURS, "float16", 1, reason="the profiler saw no kernel")
    assert f"| cifar10 | {OURS} | float16 | 1 |  |  |  | the profiler saw no kernel |" in page_of([*ROWS, failed])


def test_a_page_without_profiles_has_no_such_part() -> None:
    assert "The GPU's time of a call" not in page_of(ROWS)
