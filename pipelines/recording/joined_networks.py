"""A second network that runs before the denoiser, which takes its outputs: a ControlNet in each step, a T2I-Adapter
once per call. Both are recorded as one network.

The outputs of the second network are random in a recording. They are found in the arguments of the denoiser by their
values, perhaps multiplied by a number and repeated for each branch of guidance. So are the arguments that both networks
share, such as x, the time and the text.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fewstep.pipelines.recording.call_record import (
    INPUTS_OF,
    SCALE,
    CallRecord,
    Joint,
    NetworkCall,
    SchedulerStep,
    float_tensors,
)
from fewstep.pipelines.recording.stand_ins import UNRECORDED, recording_error
from fewstep.plans.errors import UserError

FILLED = 0.0  # of an argument that `JoinedNetwork` fills in


class JoinedNetwork(nn.Module):
    """A denoiser and its second network, called with the arguments of a joined call."""

    def __init__(self, network: nn.Module, second: nn.Module, joint: Joint) -> None:
        super().__init__()
        self.network, self.second, self.joint = network, second, joint

    def forward(self, **arguments: Any) -> Any:
        joint = self.joint
        flat, structure = pytree.tree_flatten_with_path(arguments)
        leaves = {pytree.keystr(path): leaf for path, leaf in flat}
        for path, (source, count) in joint.shared.items():
            leaves[path] = leaves[source] if count is None else leaves[source][:, :count]
        for path in joint.numbers:  # one for each sample
            leaves[path] = leaves[path].reshape(-1, *(1,) * (joint.dimensions - 1))
        of_second = pytree.tree_unflatten(list(leaves.values()), structure)[joint.inputs]
        scale = of_second.pop(SCALE) if joint.is_scaled else None
        outputs = float_tensors(self.second(**of_second))
        outputs = outputs if scale is None else [scale * output for output in outputs]
        leaves |= {path: outputs[number] for path, number in joint.fed.items()}
        own = pytree.tree_unflatten(list(leaves.values()), structure)
        del own[joint.inputs]
        return self.network(**own)


def split_joined(networks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Return networks by component, with each joined one as its two networks."""
    split: dict[str, nn.Module] = {}
    for name, network in networks.items():
        if isinstance(network, JoinedNetwork):
            split |= {name: network.network, network.joint.component: network.second}
        else:
            split[name] = network
    return split


def join_calls(name: str, record: CallRecord, seconds: Collection[str]) -> CallRecord:
    """Return a recording in which each call of a denoiser that takes outputs of a second network is a joined call.
    `seconds` are the components of second networks. Raises UserError if no denoiser takes outputs of one as they
    are."""
    if not seconds:
        return record
    steps, pending = list[SchedulerStep](), None
    for step in record.steps:
        joined, pending = _join_step(name, step, seconds, pending)
        steps.append(joined)
    return replace(record, steps=tuple(steps))


def find_joint(name: str, record: CallRecord) -> Joint | None:
    """Return how all calls of a denoiser are joined with those of a second network, or None. Raises UserError if this
    differs between calls."""
    joint, *others = _distinct_joints(record)
    if others:
        component = next(own.component for own in (joint, *others) if own is not None)
        what = f"{name} uses its network {component} in different ways in some steps or branches"
        raise UserError(what, f"give --call guidance_scale=1, or true_cfg_scale=1, for one branch; or {UNRECORDED}")
    return joint


def joins_alike(record: CallRecord) -> bool:
    """Return whether all calls of a denoiser are joined with those of a second network in the same way. The branches of
    a guidance may share a call of the second network, with the text of one of them."""
    return len(_distinct_joints(record)) == 1


def _distinct_joints(record: CallRecord) -> list[Joint | None]:
    joints = list[Joint | None]()
    for joint in (call.joint for step in record.steps for call in step.calls):
        if joint not in joints:
            joints.append(joint)
    return joints


def _join_step(
    name: str, step: SchedulerStep, seconds: Collection[str], pending: NetworkCall | None
) -> tuple[SchedulerStep, NetworkCall | None]:
    """Return a step with joined calls, and the last call of a second network. `pending` is that of earlier steps."""
    calls, used = list[NetworkCall](), True
    for call in step.calls:
        if call.component in seconds:
            _check_used(name, pending, used)
            pending, used = call, False
            continue
        joined = None if pending is None else _join(call, pending)
        used = used or joined is not None
        calls.append(call if joined is None else joined)
    _check_used(name, pending, used)
    return replace(step, calls=tuple(calls)), pending


def _check_used(name: str, second: NetworkCall | None, used: bool) -> None:
    if second is not None and not used:
        what = f"{name} passes the outputs of its network {second.component} to no denoiser unchanged"
        raise recording_error(what)


def _join(call: NetworkCall, second: NetworkCall) -> NetworkCall | None:
    """Return the joined call of a denoiser and a second network; None if the denoiser takes no output of it."""
    found = {path: (number, scale) for path, number, scale in _find_fed(call, (second.output, *second.more))}
    fed, scales = {path: number for path, (number, _) in found.items()}, {scale for _, scale in found.values()}
    is_scaled = not any(isinstance(leaf, float) for leaf in second.leaves.values())  # otherwise it takes its weight
    if len(scales) != 1 or (scales != {1.0} and not is_scaled):
        return None
    own = second.arguments | ({SCALE: scales.pop()} if is_scaled else {})
    inputs, rows = INPUTS_OF + second.component, len(second.output)
    flat, own_structure = pytree.tree_flatten_with_path(own)
    within = {
        f"['{inputs}']{pytree.keystr(path)}": _repeat(leaf, rows, len(call.output) // rows) for path, leaf in flat
    }
    tensors = {path: leaf for path, leaf in call.leaves.items() if isinstance(leaf, Tensor) and path not in fed}
    shared = {path: source for path, leaf in within.items() if (source := _find_equal(leaf, tensors)) is not None}
    numbers = tuple(path for path, leaf in within.items() if isinstance(leaf, float))
    filled = {path: torch.full((len(call.output),), within[path]) for path in numbers} | dict.fromkeys(shared, FILLED)
    leaves = {**call.leaves, **dict.fromkeys(fed, FILLED), **within, **filled}
    arguments = pytree.tree_unflatten([leaves[path] for path in call.leaves], call.structure)
    arguments[inputs] = pytree.tree_unflatten([leaves[path] for path in within], own_structure)
    flat, structure = pytree.tree_flatten_with_path(arguments)
    leaves = {pytree.keystr(path): leaf for path, leaf in flat}
    joint = Joint(second.component, fed, shared, numbers, second.output.dim(), is_scaled)
    return replace(call, leaves=leaves, structure=structure, joint=joint)


def _find_fed(call: NetworkCall, outputs: Collection[Tensor]) -> Iterator[tuple[str, int, float]]:
    """Yield the paths of a call's arguments that are outputs of another network, each with the number of the output and
    its factor. Equal outputs, such as zeros, are taken in their order."""
    left = dict(enumerate(outputs))
    for path, leaf in call.leaves.items():
        for number, output in left.items():
            if (scale := _find_scale(leaf, output)) is not None:
                del left[number]
                yield path, number, scale
                break


def _find_scale(leaf: Any, output: Tensor) -> float | None:
    """Return the number of six digits by which an output was multiplied to give an argument, whose rows may repeat
    those of the output; None if there is none."""
    if not isinstance(leaf, Tensor) or leaf.dtype != output.dtype or leaf.shape[1:] != output.shape[1:]:
        return None
    repeated = _repeat(output, len(output), len(leaf) // len(output))
    if repeated.shape != leaf.shape:
        return None
    place = int(output.flatten().abs().argmax())
    largest = float(output.flatten()[place])
    scale = float(f"{float(leaf.flatten()[place]) / largest:.6g}") if largest else 1.0
    return scale if torch.allclose(leaf, repeated * scale, rtol=1e-5, atol=0.0) else None


def _repeat(leaf: Any, rows: int, repeats: int) -> Any:
    """Return a value with its rows repeated, if it has that many."""
    has_rows = isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == rows
    return torch.cat([leaf] * repeats) if has_rows and repeats > 1 else leaf


def _find_equal(leaf: Any, tensors: Mapping[str, Tensor]) -> tuple[str, int | None] | None:
    """Return the path of the tensor that an argument is, or whose first channels it is, with their number."""
    for path, tensor in tensors.items():
        if _is_equal(leaf, tensor):
            return path, None
    for path, tensor in tensors.items():
        if (
            isinstance(leaf, Tensor)
            and min(leaf.dim(), tensor.dim()) > 2
            and _is_equal(leaf, tensor[:, : leaf.shape[1]])
        ):
            return path, leaf.shape[1]
    return None


def _is_equal(leaf: Any, tensor: Tensor) -> bool:
    is_alike = isinstance(leaf, Tensor) and leaf.dtype == tensor.dtype and leaf.shape == tensor.shape
    return is_alike and torch.equal(leaf, tensor)
