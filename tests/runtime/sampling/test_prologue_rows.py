"""Values that are computed before the first step, on the tiny bundle with its prologue split by hand."""

import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fewstep.runtime
from fewstep.plans.guidance import Cfg
from fewstep.runtime.bundle.manifest import GraphEntry, TensorEntry
from fewstep.runtime.sampling import prologue_rows
from fewstep.runtime.sampling.prologue_rows import RowCache, _as_slice, _distinct
from tests.bundles import with_manifest_fields
from tests.refusals import refuses

TABLE = np.array([[0.1], [0.2], [0.3], [0.0]], np.float32)  # as in conftest: one shift a label, the last for none
SHIFT, ROW = TensorEntry("shift", "row", ("batch", 1)), TensorEntry("row", "row", ("batch", 1))
TIME, LABEL = TensorEntry("time", "time", ("batch",)), TensorEntry("label", "condition", ("batch",), "int64")


class Split:
    """The tiny sampler whose row is computed in two graphs; `calls` lists the labels and times of each."""

    def __init__(self, bundle: Path) -> None:
        self.labels: list[list[int]] = []
        self.times: list[list[float]] = []
        self.whole = fewstep.runtime.load(bundle)
        graphs = {
            "conditioner": GraphEntry("graphs/prologue.onnx", (LABEL,), (SHIFT,)),
            "prologue": GraphEntry("graphs/prologue.onnx", (TIME, SHIFT), (ROW,)),
        }
        self.sampler = with_manifest_fields(self.whole, **graphs).with_network_parts(
            conditioner=self.condition, prologue=self.add_time
        )

    def condition(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        self.labels.append(feeds["label"].tolist())
        return {"shift": TABLE[feeds["label"]]}

    def add_time(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        self.times.append(feeds["time"].tolist())
        return {"row": feeds["shift"] + feeds["time"][:, None] / 1000}


@pytest.fixture
def split(tiny_bundle: Path) -> Split:
    return Split(tiny_bundle)


@pytest.mark.parametrize("guidance", [None, 2.0])
def test_two_graphs_give_the_samples_of_one(split: Split, guidance: float | None) -> None:
    how: dict[str, Any] = {"seeds": [1, 2, 3], "condition": {"class": [2, 0, 2]}, "guidance": guidance}
    expected = split.whole.sample("dpmpp_2m:4", **how)
    np.testing.assert_allclose(split.sampler.sample("dpmpp_2m:4", **how), expected, rtol=1e-6)


def test_each_condition_is_met_once_and_each_pair_with_a_time_once(split: Split) -> None:
    split.sampler.sample("ddim:4", seeds=[1, 2, 3], condition={"class": [2, 0, 2]}, guidance=2.0)
    assert split.labels == [[0, 2, 3]]  # 3 is none
    assert len(split.times) == 1 and len(split.times[0]) == 3 * 4


def test_pictures_are_distinguished_in_no_time() -> None:
    """Pictures of a megabyte each: numpy's own unique rows would make a field of each byte, and take ten seconds."""
    first, second = np.zeros((2, 1, 3, 640, 640), np.uint8)
    second[..., -1] = 1
    began = time.process_time()
    distinct, place = _distinct({"camera": np.stack([second, first, second]), "task": np.array([1, 1, 1])})
    assert time.process_time() - began < 2
    assert place.tolist() == [1, 0, 1] and distinct["camera"][:, 0, 0, 0, -1].tolist() == [0, 1]


def test_plans_of_several_lengths_share_a_call(split: Split) -> None:
    how: dict[str, Any] = {"seeds": [1, 2], "condition": {"class": [2, 0]}}
    expected = split.whole.sample_each(["ddim:4", "ddim:2"], **how)
    np.testing.assert_allclose(split.sampler.sample_each(["ddim:4", "ddim:2"], **how), expected, rtol=1e-6)


def test_the_body_may_read_the_conditioner_itself(split: Split, tiny_bundle: Path) -> None:
    """A network without a time input leaves nothing for a prologue."""
    whole = GraphEntry("graphs/prologue.onnx", (LABEL,), (ROW,))
    alone = with_manifest_fields(split.sampler, prologue=None, conditioner=whole).with_network_parts(
        conditioner=lambda feeds: {"row": TABLE[feeds["label"]]}, prologue=None
    )
    x = np.ones((2, 1, 4, 4), np.float32)
    found = alone.evaluate(x, 50, {"class": [1, 1]})
    np.testing.assert_allclose(found, 0.5 + 0.2, rtol=1e-6)


@pytest.mark.parametrize(("graph", "row"), [("conditioner", "shift"), ("prologue", "row")])
def test_a_graph_that_forgets_the_batch_is_refused(split: Split, graph: str, row: str) -> None:
    lost = split.sampler.with_network_parts(**{graph: lambda feeds: {row: np.ones((1, 1), np.float32)}})
    with refuses((f"the {graph} does not return", f"'{row}'")):
        lost.sample("ddim:2", seeds=[1, 2], condition={"class": [0, 1]})


def test_the_conditioner_waits_for_another_condition(split: Split) -> None:
    first = split.sampler.sample("ddim:2", seeds=[1], condition={"class": [2]})
    again = split.sampler.sample("ddim:3", seeds=[1], condition={"class": [2]})
    assert split.labels == [[2]] and len(split.times) == 2 and not np.array_equal(first, again)
    split.sampler.sample("ddim:2", seeds=[1], condition={"class": [1]})
    np.testing.assert_array_equal(split.sampler.sample("ddim:2", seeds=[1], condition={"class": [2]}), first)
    assert split.labels == [[2], [1], [2]]
    split.sampler.forget()
    split.sampler.sample("ddim:2", seeds=[1], condition={"class": [2]})
    assert len(split.labels) == 4


def test_forgetting_includes_the_experts(split: Split) -> None:
    with_expert = split.sampler.with_network("noisy", split.sampler.network())
    split.sampler.evaluate(np.ones((1, 1, 4, 4), np.float32), 50, {"class": [1]})
    with_expert.forget()
    split.sampler.evaluate(np.ones((1, 1, 4, 4), np.float32), 50, {"class": [1]})
    assert split.labels == [[1], [1]]


def test_rows_of_many_conditions_are_not_kept(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prologue_rows, "FEW", 2)
    for seeds in ([1, 2, 3], [1, 2], [1, 2, 3]):
        for _ in range(2):
            split.sampler.sample("ddim:2", seeds=seeds, condition={"class": [seed - 1 for seed in seeds]})
    assert [len(label) for label in split.labels] == [3, 3, 2, 3, 3]


def test_the_last_rows_are_gone_before_others_are_made() -> None:
    last, rows = RowCache(), [np.zeros((1, 4))]
    gone = weakref.ref(rows[0])
    last.rows({"label": np.array([0])}, 1, lambda: {"row": rows.pop()})
    assert gone() is not None
    last.rows({"label": np.array([1])}, 1, lambda: {"row": np.zeros(1) if gone() is None else pytest.fail("kept")})


def test_large_rows_meet_one_time_at_once(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    how: dict[str, Any] = {"seeds": [1, 2, 3], "condition": {"class": [2, 0, 2]}, "guidance": 2.0}
    expected = split.sampler.sample("ddim:4", **how)
    monkeypatch.setattr(prologue_rows, "AT_ONCE", 5)  # bytes: a row has 4
    np.testing.assert_array_equal(split.sampler.sample("ddim:4", **how), expected)
    assert [len(each) for each in split.times] == [3 * 4] + [1] * 3 * 4


def test_calls_of_one_plan_share_the_places_of_pairs_and_no_values(tiny_bundle: Path) -> None:
    """Values that a sampler keeps from call to call never change a sample: each is bitwise that of a new sampler."""
    kept, plans = fewstep.runtime.load(tiny_bundle), {}
    for labels in ([0], [1], [2, 0], [0, 2], [1, 1], [1], [2, 1, 2], [1, 2, 2]):
        for guidance in (None, 2.0, Cfg(2.0, interval=(-1, 2))):
            plan = plans.setdefault(str(guidance), kept.compile("dpmpp_2m:4", guidance))
            given: dict[str, Any] = {"seeds": range(len(labels)), "condition": {"class": labels}}
            expected = fewstep.runtime.load(tiny_bundle).sample(plan, **given)
            np.testing.assert_array_equal(kept.sample(plan, **given), expected)


def test_pairs_are_found_once_for_calls_of_a_plan_whose_samples_share_conditions_alike(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    real = prologue_rows._distinct_pairs
    monkeypatch.setattr(prologue_rows, "_distinct_pairs", lambda *args: made.append(1) or real(*args))
    plan = split.sampler.compile("ddim:4")
    for labels in ([2, 0], [0, 1], [1, 1], [2, 2]):  # two that differ in the order of their bytes, then one condition
        split.sampler.sample(plan, [1, 2], {"class": labels})
    assert len(made) == 3
    split.sampler.sample(split.sampler.compile("ddim:3"), [1, 2], {"class": [2, 2]})  # other times
    assert len(made) == 4


@pytest.mark.parametrize("places", [[0, 2], [1, 0], [0, 0]])
def test_two_rows_are_a_slice_only_if_they_follow_each_other(places: list[int]) -> None:
    assert _as_slice(np.array([1, 2])) == slice(1, 3)
    np.testing.assert_array_equal(np.arange(3)[_as_slice(np.array(places))], places)
