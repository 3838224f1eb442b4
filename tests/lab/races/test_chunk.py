"""The table of a policy's chunks."""

from lab.races.chunk import lines


def test_percentiles_are_multiples_of_the_median() -> None:
    calls = [(0.001 * (1 + number / 100), 0.002) for number in range(101)]  # wall times from 1 to 2 ms
    wall, processor = [line.strip("| ").split(" | ") for line in lines({"fewstep": calls})][2:]
    assert wall == ["fewstep", "wall", "101", "1.500", "1.27", "1.33", "1.33"]
    assert processor == ["fewstep", "processor", "101", "2.000", "1.00", "1.00", "1.00"]
