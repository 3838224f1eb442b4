"""Deployments whose times are known."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from fewstep.plans.plan import Plan
from fewstep.report.choosing import choose as choosing
from fewstep.report.choosing import cost, deployments
from fewstep.report.choosing.deployment_judge import DeploymentJudge
from fewstep.report.choosing.engines import TimedEngine
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.sampling.network import Network
from fewstep.runtime.sampling.step_call import GraphCall

CALL = {"float32": 3.0, "int8": 1.0}  # milliseconds of a network's call
UNIT = 3.0  # milliseconds of the unit


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the precision of each call of a network in this process; a call takes CALL, and every body runs on
    onnxruntime."""
    opened, call = list[str](), Network.__call__

    def count_call(network: Network, x: np.ndarray, *rest: Any) -> GraphCall:
        opened.append(network.body.precision)
        return call(network, x, *rest)

    def ratios(
        judging: DeploymentJudge, body: str, engine: TimedEngine, plans: Mapping[str, Plan]
    ) -> tuple[dict[str, float], bool]:
        each = CALL[judging.bundle.body(body).precision]
        return {name: each * len(plan.steps) / UNIT for name, plan in plans.items()}, True

    def fastest_engine(bundle: Bundle, body: str, *_: object) -> TimedEngine:
        return TimedEngine("onnxruntime", 1, CALL[bundle.body(body).precision])

    monkeypatch.setattr(Network, "__call__", count_call)
    monkeypatch.setattr(deployments, "measure_ratios", ratios)
    monkeypatch.setattr(choosing, "measure_unit", lambda judging, threads: UNIT)
    monkeypatch.setattr(choosing, "find_fastest_engine", fastest_engine)
    monkeypatch.setattr(choosing, "describe_small_speedup", lambda *_: None)
    monkeypatch.setattr(cost, "measure_opening", lambda *_: 0.5)
    return opened
