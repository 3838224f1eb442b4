"""The rule that decides on each operation is named."""

from fewstep.calibration.precision.float_decisions import explain_decision
from fewstep.calibration.precision.mixed_precision import default_float_count
from tests.calibration.precision.test_ranking import ranking


def rules(errors: tuple[float, ...], times: tuple[float, ...], signal: float = 1.0) -> list[str]:
    """The rule that decides on each operation, in the order in which they move to float."""
    found = ranking(errors, times, signal)
    return [explain_decision(found, place, default_float_count(found)) for place in range(len(errors))]


def test_the_rule_that_decides_is_named() -> None:
    assert rules((7.6e-7, 0.8e-7, 0.5e-7), (0.0802, 0.0802, 0.0160)) == [
        "the limit is 8 %",
        "with those above it 9.62 %, and the limit is 8 %",
        "with those above it 17.64 %, and the limit is 8 %",
    ]
    assert rules((9e-7, 0.5e-7, 0.5e-7), (0.02, 0.05, 0.9)) == [
        *["the first 2 together gain 13.01 dB in float, and must gain 3.50 dB"] * 2,
        "with those above it 97.00 %, and the limit is 8 %",
    ]
    assert rules((1e-6, 1e-7, 9e-7), (0.0, 0.05, 0.9))[::2] == [
        "slower in int8",
        "with those above it 95.00 %, and the limit is 8 %",
    ]
    assert rules((1e-7, 9e-7), (0.05, 0.9))[0] == "it gains 0.46 dB in float, and must gain 2.50 dB"
    needed = rules((1e-4, 9e-5, 9e-6, 1e-6), (0.2, 0.2, 0.2, 0.9), 1e-3)
    assert needed[1:3] == ["needed for the minimum quality", "not needed for the minimum quality"]
