"""A policy of two joints on a tiny bundle: its network is a function of x, and ignores the observations."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

import fewstep.runtime
from fewstep.runtime import Sampler
from fewstep.runtime.bundle.manifest import Affine, Condition, Policy
from tests.bundles import with_manifest_fields

HORIZON, EXECUTED = 16, 4
SEEN = {"state": [0.0, 0.0]}
BAD = {"state": [0.0, np.nan]}  # an observation that is not finite
Network = Callable[[np.ndarray], np.ndarray]  # x [B, 16, 2] -> x0


def tiny_policy(
    bundle: Path,
    network: Network,
    policy: Policy | None = None,
    others: tuple[Condition, ...] = (),
    *,
    shape: tuple[int, int] = (HORIZON, 2),
    units: Affine | None = None,
) -> Sampler:
    sampler = fewstep.runtime.load(bundle)
    policy = policy or Policy(1, 0, EXECUTED)
    state = Condition("state", "state", (policy.observations, 2), "float32", typical=(0.0, 1.0))
    graph = msgspec.structs.replace(sampler.body.graph, inputs=sampler.body.graph.inputs[:1])
    sampler = sampler.with_network_parts(
        body=msgspec.structs.replace(sampler.body, graphs=(graph,)),
        prologue=None,
        graph=lambda feeds: {"v": np.asarray(network(feeds["x"]), np.float32)},
    )
    own = {"conditions": (state, *others), "prologue": None, "prediction": "sample"}
    return with_manifest_fields(sampler, **own, x_shape=shape, policy=policy, units=units)


def ramp(x: np.ndarray) -> np.ndarray:
    """Action j is j / 100 in both joints."""
    return np.broadcast_to(np.arange(HORIZON)[:, None] / 100, x.shape)
