"""Which backends `--backend auto` tries, and how calls of two take turns."""

from collections.abc import Callable

import msgspec
import pytest

from fewstep.evaluation.speed import fastest


def test_slow_calls_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "SECONDS", -1.0)
    monkeypatch.setattr(fastest, "QUIET", 0.0)
    order: list[str] = []
    assert len(fastest._race([lambda: order.append("a"), lambda: order.append("b")])) == 2
    assert order == ["a", "b"]


def test_calls_take_turns_and_the_first_of_a_turn_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def taken(call: Callable[[], object]) -> float:
        call()
        return 90.0 if order[-3:] != [order[-1]] * 3 else 20.0  # the first two of a turn fill its first moment

    monkeypatch.setattr(fastest, "_milliseconds", taken)
    medians = fastest._race([lambda: order.append("a"), lambda: order.append("b")])
    assert medians == [20.0, 20.0]
    assert order[: 2 * (2 + fastest.CALLS)] == ["a"] * (2 + fastest.CALLS) + ["b"] * (2 + fastest.CALLS)


def test_a_pair_of_which_one_is_clearly_slower_is_measured_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "QUIET", 0.0)
    monkeypatch.setattr(fastest, "_milliseconds", lambda call: call())
    turns: list[float] = []

    def taking(milliseconds: float) -> Callable[[], object]:
        return lambda: turns.append(milliseconds) or milliseconds

    assert fastest._race([taking(1.6), taking(1.0)]) == [1.6, 1.0]
    assert len(turns) == 2 * fastest.SURE
    assert fastest._race([taking(1.4), taking(1.0)]) == [1.4, 1.0]
    assert len(turns) == 2 * (fastest.SURE + fastest.ROUNDS)


@pytest.mark.parametrize(
    "cores, physical, expected",
    [
        (2, 2, [(0, True), (1, True), (0, False)]),
        (4, 2, [(0, True), (4, True), (1, True), (0, False)]),  # two threads of the processor share a core
        (4, 0, [(0, True), (4, True), (1, True), (0, False)]),
        (2, 1, [(0, True), (2, True), (2, False)]),
        (1, 1, [(0, True)]),
    ],
)
def test_all_cores_and_one_are_tried(
    cores: int, physical: int, expected: list[tuple[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = msgspec.structs.replace(fastest.this_cpu(), cores=cores)
    monkeypatch.setattr(fastest, "this_cpu", lambda: cpu)
    monkeypatch.setattr(fastest, "physical_cores", lambda: physical)
    monkeypatch.setattr(fastest, "NAMED", ("onnxruntime", "openvino", "tensorrt"))
    tried = [*fastest._candidates(0)]
    assert [(each.threads, each.spinning) for each in tried if each.backend == "onnxruntime"] == expected
    assert [each.threads for each in tried if each.backend == "openvino"] == [n for n, spins in expected if spins]
    assert [each.threads for each in tried if each.backend == "tensorrt"] == [0]
    given = [(each.backend, each.threads, each.spinning) for each in fastest._candidates(3)]
    assert given == [("onnxruntime", 3, True), ("openvino", 3, True), ("tensorrt", 0, True)]
