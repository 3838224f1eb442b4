"""The page from kept lines."""

from benchmarks.gpu.page import page_of
from benchmarks.gpu.results import (
    Agreement,
    DenoiserRow,
    Machine,
    OperatorTime,
    PartEnd,
    PlanCount,
    PlanTime,
    Timing,
)

MACHINE = Machine("a GPU", {"torch": "2.11.0", "triton": "3.6.0"}, "2026-11-27")
ROW = DenoiserRow("cifar10", "torch", "float16", 70.26, 60.25, (Timing(1, 2.5, 3.0), Timing(8, 4.0, 4.5)))
NAME = "64->64 3x3 at 28x28, batch 2"
RACE = (
    PlanCount(NAME, "silu", 9, engines={"eng4": 9}),
    PlanCount(NAME, "half_silu", 13, engines={"eng4": 13}),
    PlanCount(NAME, "half_bias", 40, engines={"eng41": 40}),
    PlanTime(NAME, "silu", "eng4_a", 1.0, 12.0),
    PlanTime(NAME, "silu", "eng4_b", 1.0, 10.0),
    PlanTime(NAME, "silu", "eng7", 1.0, reason="RuntimeError: no"),
    PlanTime(NAME, "half_silu", "eng4", 1.0, 20.0),
    PlanTime(NAME, "half_bias", "eng41", 0.1, 12.5),
)


def test_a_row_has_its_decibels_and_times() -> None:
    assert "| cifar10, dpmpp_2m:8 | torch | float16 | 70.3 / 60.2 | 2.50, 3.00 | 4.00, 4.50 |" in page_of(
        [MACHINE, ROW]
    )


def test_the_machine_has_its_versions() -> None:
    assert "- a GPU; torch 2.11.0, triton 3.6.0; measured on 2026-11-27\n" in page_of([MACHINE, ROW])


def test_the_last_of_two_rows_counts() -> None:
    later = DenoiserRow("cifar10", "torch", "float16", 71.0, 61.0, (Timing(1, 2.0, 2.0),))
    page = page_of([MACHINE, ROW, later])
    assert "| 71.0 / 61.0 | 2.00, 2.00 |  |" in page and "70.3" not in page


def test_a_later_run_without_figures_replaces_none() -> None:
    over = DenoiserRow("cifar10", "torch", "float16", reason="the time was over")
    page = page_of([MACHINE, ROW, over])
    assert "70.3 / 60.2" in page and "the time was over" not in page


def test_a_row_that_failed_says_why() -> None:
    row = DenoiserRow("cifar10", "broken", "int8", reason="there is no engine; build one")
    assert "| broken | int8 |  |  | there is no engine; build one |" in page_of([row])


def test_bounds_have_a_column_where_one_is_known() -> None:
    row = DenoiserRow("cifar10", "tensorrt", "int8", 60.0, 50.0, (Timing(1, 5.0, 6.0), Timing(8, 7.0, 8.0)), (4.0, 4.5))
    assert "| 5.00, 6.00 | 7.00, 8.00 | 4.00, 4.50 |" in page_of([row])
    assert "bound |" not in page_of([ROW])


def test_the_fastest_plan_of_a_convolution_is_compared_with_those_of_half() -> None:
    page = page_of(RACE)
    assert f"| {NAME} | int8, scale, bias and SiLU, to half | 9, 2 | eng4_b | 10.0 | 0.50, 0.80 |" in page
    assert f"| {NAME} | half, bias and SiLU | 13, 1 | eng4 | 20.0 |  |" in page


def test_plans_of_which_none_ran_say_why() -> None:
    page = page_of([RACE[0], RACE[5]])
    assert f"| {NAME} | int8, scale, bias and SiLU, to half | 9, 0 | RuntimeError: no |  |  |" in page


def test_agreement_counts_plans_with_the_same_bits() -> None:
    same, other = (Agreement(NAME, "linear", f"eng{n}", 1000, n, n / 100) for n in (0, 5))
    page = page_of([*RACE, same, other])
    assert "| int8, scale and bias, to half | 2 | 2000 | 1 | 0.5 % | 0.05 |" in page


def test_an_operator_has_its_microseconds() -> None:
    row = OperatorTime("Conv", "float16", (2, 64, 28, 28), "CUDA graph", 7.256, 1.2e-4)
    assert "| Conv | float16 | 2x64x28x28 | 7.26 | 1.2e-04 |" in page_of([row])


def test_a_part_that_was_cut_short_is_named() -> None:
    assert "- part `torch` ended after 20 s: the time was over\n" in page_of(
        [MACHINE, PartEnd("torch", 20.2, "the time was over")]
    )
