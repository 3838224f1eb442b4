"""The table of small bodies on a CPU."""

from lab.races.small import CONTENDERS, FIRST, head, line

SECONDS = {FIRST: 0.004, "float32, openvino-bf16": 0.001, "int8, onnxruntime": 0.002, "int8, openvino": 0.0025}


def cells() -> list[str]:
    return line("network", 1, 8, SECONDS).strip("|").split("|")


def test_a_cell_has_milliseconds_and_the_speed_relative_to_float32() -> None:
    assert cells()[3].strip() == "4.00 (1.00)" and cells()[5].strip() == "2.00 (2.00)"


def test_the_last_cell_is_the_fastest_int8_although_float32_is_faster_elsewhere() -> None:
    assert cells()[-1].strip() == "2.00"


def test_an_absent_contender_leaves_its_cell_empty() -> None:
    assert cells()[3 + list(CONTENDERS).index("int8, onnxruntime-rows")].strip() == ""


def test_the_head_has_the_columns_of_a_line() -> None:
    assert {each.count("|") for each in head()} == {line("network", 1, 8, SECONDS).count("|")}
