"""Refuse modules that keep a value of their first call: later calls, and the graph, would use it too.

Many modules keep a table that they compute once, such as rotary positions. It depends on the shapes of the inputs only.
A kept value that depends on the inputs themselves would be a constant of the graph, computed from the inputs with which
export happens to call the module first.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from fewstep.export.error_text import module_name
from fewstep.plans.errors import UserError

REGISTERED = ("_parameters", "_buffers", "_modules")  # attributes of a torch module; buffers are read separately
DEPTH = 3  # of containers in containers whose items are read
# compared by value; tensors and arrays by identity
SCALARS = str | int | float | complex | np.generic
FIX = "compute it from the inputs in each call, or once in __init__"

State = dict[str, tuple[dict[str, Any], dict[str, Any]]]  # name of a holder -> its attributes and its buffers


@dataclass(frozen=True)
class _Contents:
    """The items of a dict, a list or a tuple at one time. Other modules may hold the same container."""

    container: Any
    items: dict[Any, Any]


def refuse_kept_values(module: torch.nn.Module, call: Callable[[], Any], other: Callable[[], Any]) -> Any:
    """Return the result of `call`, the first call of a module. Raises UserError if the result of `other`, a call with
    other inputs of the same shapes, depends on whether `call` came before it.

    Without kept values nothing but `call` is run. Afterwards the module is in its state after `call`.
    """
    before = _read_state(module)
    returned = call()
    after_call = _read_state(module)
    names = _changed(before, after_call)
    if not names or _first_tensor(returned) is None:  # the caller refuses other results
        return returned
    results = []
    for state in (after_call, before, before):
        _restore(module, state)
        results.append(_first_tensor(other()))
    later, fresh, repeated = results
    if not _are_close(later, fresh) and _are_close(fresh, repeated):  # otherwise it draws random numbers
        kept = ", ".join(names[:3])
        raise UserError(
            f"{module_name(module)} keeps values of its first call in {kept}, which change later calls", FIX
        )
    _restore(module, after_call)
    return returned


def _first_tensor(returned: Any) -> torch.Tensor | None:
    """Return a copy of the prediction among the results of a module, or None if it is not a float32 tensor."""
    first = returned[0] if isinstance(returned, tuple | list) and returned else returned
    return first.clone() if isinstance(first, torch.Tensor) and first.dtype == torch.float32 else None


def _are_close(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is None or other is None or one.shape != other.shape:
        return one is other
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)


def _read_state(module: torch.nn.Module) -> State:
    """Return the attributes of each holder, with the items of containers among them, and its buffers."""
    return {
        name: (
            {key: _contents(value) for key, value in vars(each).items() if key not in REGISTERED},
            dict(vars(each).get("_buffers", {})),
        )
        for name, each in _holders(module)
    }


def _contents(value: Any, depth: int = DEPTH) -> Any:
    """Return a container with its present items, and any other value as it is."""
    if not isinstance(value, dict | list | tuple) or not depth:
        return value
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    return _Contents(value, {key: _contents(each, depth - 1) for key, each in pairs})


def _holders(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield each module, and the other objects among its attributes, such as a cache of the user's class, by name."""
    for name, each in module.named_modules():
        yield name, each
        for key, value in vars(each).items():
            if key not in REGISTERED and _may_hold(value):
                yield f"{name}.{key}".lstrip("."), value


def _may_hold(value: Any) -> bool:
    """Return True for an object of a class that is neither Python's nor torch's."""
    is_other = isinstance(value, torch.nn.Module | torch.Tensor | type | FunctionType | MethodType | ModuleType)
    return not is_other and hasattr(value, "__dict__") and type(value).__module__.split(".")[0] != "torch"


def _restore(module: torch.nn.Module, state: State) -> None:
    """Give each holder its attributes and buffers in a state."""
    for name, each in _holders(module):
        if name not in state:
            continue
        (attributes, buffers), own = state[name], vars(each)
        for key in [key for key in own if key not in REGISTERED and key not in attributes]:
            del own[key]
        own.update({key: _put_back(value) for key, value in attributes.items()})
        if "_buffers" in own:
            own["_buffers"].clear()
            own["_buffers"].update(buffers)


def _put_back(value: Any) -> Any:
    """Return a value of a state. A container is the one that the module had, with the items that it had."""
    if not isinstance(value, _Contents):
        return value
    container, items = value.container, {key: _put_back(each) for key, each in value.items.items()}
    if isinstance(container, dict) and [*map(id, container.values())] != [*map(id, items.values())]:
        container.clear()
        container.update(items)
    elif isinstance(container, list):
        container[:] = items.values()
    return container


def _changed(before: State, after: State) -> list[str]:
    """Return the names of attributes and buffers that hold another tensor, array, number or text than before."""
    found = []
    for name, parts in after.items():
        former = before.get(name, ({}, {}))
        for old, new in zip(former, parts, strict=True):
            found += [
                f"{name}.{key}".lstrip(".")
                for key, value in new.items()
                if not _same(_list(old.get(key)), _list(value))
            ]
    return found


def _same(old: list[Any], new: list[Any]) -> bool:
    """Return True if two lists hold the same objects, or equal numbers and texts."""
    pairs = zip(old, new, strict=False)
    return len(old) == len(new) and all(
        a is b or (type(a) is type(b) and isinstance(a, SCALARS) and a == b) for a, b in pairs
    )


def _list(value: Any) -> list[Any]:
    """Return the tensors, arrays, numbers and texts in an attribute of a state, also those in containers."""
    if isinstance(value, _Contents):
        return [each for item in value.items.values() for each in _list(item)]
    return [value] if isinstance(value, torch.Tensor | np.ndarray | SCALARS) else []
