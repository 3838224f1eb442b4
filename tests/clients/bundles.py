"""Write a policy whose actions are known: `python -m tests.clients.bundles KIND FOLDER`, with KIND arm or pusht.

Element e of action j is j + e / 10 plus the mean of the last observed state. It runs without torch.
"""

import sys
from pathlib import Path

import numpy as np

from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import Condition, Policy
from tests.bundles import node, small, value, write_graphs

HORIZON, EXECUTED, ACTIONS = 8, 4, 2
CAMERA = (3, 24, 32)
KINDS = {  # observations, and the shape of each observed feature
    "arm": (1, {"observation.state": (3,), "observation.images.cam0": CAMERA}),
    "pusht": (2, {"observation.state": (2,), "observation.environment_state": (16,)}),
}


def known_actions(state_mean: float, count: int = HORIZON) -> np.ndarray:
    """Return the actions [count, ACTIONS] from an observation on."""
    return np.arange(count)[:, None] + np.arange(ACTIONS) / 10 + state_mean


def write(kind: str, folder: Path) -> Path:
    """Write the bundle of a kind."""
    observations, shapes = KINDS[kind]
    names = {name: name.replace(".", "_") for name in shapes}
    inputs = [value("x", "batch", HORIZON, ACTIONS)]
    roles = {}
    for name, shape in shapes.items():
        dtype = "uint8" if len(shape) == 3 else "float32"
        inputs.append(value(names[name], "batch", observations, *shape, dtype=dtype))
        roles[name] = Condition(name, names[name], (observations, *shape), dtype, typical=(0.0, 1.0))
    first = observations - 1
    unused = [entry.name for entry in inputs[2:]]
    nodes = [
        node("Mul", "x none", "nothing"),
        node("Gather", "observation_state last", "state", axis=1),
        node("ReduceMean", "state axis", "mean", keepdims=1),
        node("Reshape", "mean column", "moved"),
        node("Add", "nothing ramp", "still"),
        node("Add", "still moved", "v0"),
    ]
    for place, name in enumerate(unused):  # every condition is an input of the graph
        nodes += [
            node("Cast", name, f"float{place}", to=1),
            node("ReduceMax", f"float{place}", f"most{place}", keepdims=0),
            node("Mul", f"most{place} none", f"none{place}"),
            node("Add", f"v{place} none{place}", f"v{place + 1}"),
        ]
    nodes.append(node("Identity", f"v{len(unused)}", "v"))
    body = small(
        inputs,
        [value("v", "batch", HORIZON, ACTIONS)],
        nodes,
        none=0.0,
        last=np.array(first),
        axis=np.array([1]),
        column=np.array([-1, 1, 1]),
        ramp=(known_actions(0.0) - first).astype(np.float32)[None],
    )
    return write_graphs(
        folder,
        {"body": body},
        {"float32": {}},
        name=kind,
        conditions=tuple(roles.values()),
        prediction="sample",
        schedule=ScheduleSpec("cosine", timesteps=100),
        policy=Policy(observations, first, EXECUTED),
    )


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
