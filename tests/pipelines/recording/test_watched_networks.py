"""The copy of a stand-in serves several recordings as long as no call changes it."""

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from fewstep.pipelines.recording.components import BuiltPipeline
from fewstep.pipelines.recording.network_state import Watch
from fewstep.pipelines.recording.record import _Recorder, _watch_networks
from fewstep.pipelines.recording.stand_ins import OutputShapes

pytest.importorskip("diffusers")
from torch import nn


def build() -> BuiltPipeline:
    return BuiltPipeline(SimpleNamespace(net=nn.Linear(2, 2)), {"net": OutputShapes("net", lambda: nn.Linear(2, 2))})


def record(built: BuiltPipeline, networks: dict[str, nn.Module] | None = None) -> list[Watch]:
    """Return the watches of one recording: over the stand-in and over the network that runs."""
    with ExitStack() as stack:

        def answer(*_: Any) -> None: ...

        watches = _watch_networks(stack, built, _Recorder(), networks or {}, answer)
        assert built.pipeline.net is watches[1].network
    return watches


def test_a_second_recording_has_the_copy_of_the_first() -> None:
    built = build()
    (stand_in, copy), again = record(built), record(built)
    assert [watch.network for watch in again] == [stand_in.network, copy.network]
    assert built.pipeline.net is stand_in.network is not copy.network


def test_a_changed_copy_is_replaced() -> None:
    built = build()
    (stand_in, changed) = record(built)
    changed.network.gain = 2.0
    (again, other) = record(built)
    assert again.network is stand_in.network and other.network is not changed.network
    assert not hasattr(other.network, "gain")


def test_a_network_with_weights_runs_in_place_of_the_copy() -> None:
    built, network = build(), nn.Linear(2, 2)
    assert record(built, {"net": network})[1].network is network
    assert built.denoisers["net"].watches == []
