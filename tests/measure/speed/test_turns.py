"""Contenders in processes of their own."""

import os
from collections.abc import Mapping
from functools import partial
from time import process_time, sleep

import pytest

from fewstep.measure.speed import worker
from fewstep.measure.speed.turns import TimedProcess
from fewstep.measure.speed.worker import Call
from fewstep.plans.errors import UserError


def calls(**named: Call) -> Mapping[str, Call]:
    return named


def numbers(limit: int) -> float:
    began = process_time()
    sum(range(limit))
    return process_time() - began


def refusing() -> Mapping[str, Call]:
    raise UserError("no such engine", "install it")


class Refused(Exception):
    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


def far_away() -> Mapping[str, Call]:
    raise Refused(404, reason="not here")


def filling() -> Mapping[str, Call]:
    raise MemoryError


def test_a_contender_runs_in_another_process_and_sleeps_between_turns() -> None:
    with TimedProcess("ours", partial(calls, pid=os.getpid, work=partial(numbers, 10**5), spent=process_time)) as ours:
        assert ours.result("pid") != os.getpid()
        (wall, processor), *_ = ours.turn(0.0, "work")
        assert 0 < processor <= 1.5 * wall and 0 < ours.milliseconds("work") < 1000
        before = ours.result("spent")
        sleep(0.1)
        assert ours.result("spent") - before < 0.05 and ours.peak_mib() > 5


def test_calls_ahead_are_not_counted_unless_one_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_CALLS", {"": lambda: None})
    times = iter([(0.03, 9.0), (0.03, 9.0), (0.1, 1.0), (0.2, 2.0), (0.3, 3.0)])
    monkeypatch.setattr(worker, "_once", lambda call: next(times))
    assert worker.turn("", 0.25) == [(0.1, 1.0), (0.2, 2.0)]
    monkeypatch.setattr(worker, "_once", lambda call: (2.0, 4.0))
    assert worker.turn("", 0.25) == [(2.0, 4.0)]


def test_failures_of_a_contender_are_one_line() -> None:
    with pytest.raises(UserError, match="^no such engine; install it$"):
        TimedProcess("ours", refusing)
    with pytest.raises(UserError, match="^ours lacks memory; end other programs"):
        TimedProcess("ours", filling)
    with pytest.raises(UserError, match="^ours failed: Refused: 404: not here; run it alone"):
        TimedProcess("ours", far_away)  # pickle does not make this error again
    with (
        TimedProcess("ours", partial(calls, die=partial(os._exit, 3), divide=partial(divmod, 1, 0))) as ours,
        pytest.raises(UserError, match=r"^the process of ours ended \(exit code 3\); run it alone"),
    ):
        with pytest.raises(UserError, match="^ours failed: .*zero; run it alone"):
            ours.turn(call="divide")
        ours.turn(call="die")
