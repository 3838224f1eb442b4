"""A summary of a loop as it is printed."""

from fewstep.robots.control.statistics import Record


def test_a_summary_is_a_few_lines_in_milliseconds() -> None:
    record = Record()
    record.counts.update(ticks=8, late=1, waiting=2, missed=1)
    record.plans.update({"ddim:2": 2, "ddim:1": 1})
    record.sampling.extend([0.010, 0.010, 0.0123456])
    assert str(record.summary()).splitlines() == [
        "ticks: 8, of them 5 planned, 1 late, 0 held, 0 stopped, 2 waiting; "
        "0 limited, 0 overrun, 0 rejected, 0 jumps of the clock",
        "calls: 2 of ddim:2, 1 of ddim:1; 1 missed, 0 cut, 0 dropped, 0 failed",
        "sampling: 10.0 ms (p50), 12.3 ms (p99), 12.3 ms at most",
        "acting: none",
        "seam: nan, contrast of jerk: nan",
    ]
