"""Refuse modules that keep a value of their first call: later calls, and the graph, would use it too.

Many modules keep a table that they compute once, such as rotary positions. It depends on the shapes of the inputs only.
A kept value that depends on the inputs themselves would be a constant of the graph, computed from the inputs with which
export happens to call the module first.
"""

import re
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from fewstep.export.error_text import module_name
from fewstep.plans.errors import UserError

TENSORS = r"\.(_parameters|_buffers)\."  # attributes of a torch module, whose content has the names of attributes
DEPTH = 4  # of containers in containers; a module may refer to objects of any size, such as loggers
SCALARS = str | int | float | complex | np.generic  # compared by value; tensors and arrays by identity
FIX = "compute it from the inputs in each call, or once in __init__"

Container = dict[Any, Any] | list[Any]
State = dict[str, tuple[Container, Container]]  # name -> a container, and a copy with its content


def refuse_kept_values(module: torch.nn.Module, call: Callable[[], Any], other: Callable[[], Any]) -> Any:
    """Return the result of `call`, the first call of a module. Raises UserError if the result of `other`, a call with
    other inputs of the same shapes, depends on whether `call` came before it.

    Without kept values nothing but `call` is run. Afterwards the module is in its state after `call`.
    """
    before = _read_state(module)
    returned = call()
    after_call = _read_state(module)
    names = _find_changes(before, after_call)
    if not names or not _tensors(returned):
        return returned
    results = []
    for state in (after_call, before, before):
        _restore(state)
        results.append(_tensors(other()))
    later, fresh, repeated = results
    if not _are_close(later, fresh) and _are_close(fresh, repeated):  # otherwise it draws random numbers
        kept = ", ".join(names[:3])
        raise UserError(
            f"{module_name(module)} keeps values of its first call in {kept}, which change later calls", FIX
        )
    _restore(after_call)
    return returned


def _tensors(returned: Any) -> list[torch.Tensor]:
    """Return copies of the tensors that a module returned."""
    all_of = returned if isinstance(returned, tuple | list) else [returned]
    return [value.clone() for value in all_of if isinstance(value, torch.Tensor)]


def _are_close(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return len(some) == len(others) and all(
        (one.shape, one.dtype) == (other.shape, other.dtype)
        and torch.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)
        for one, other in zip(some, others, strict=True)
    )


def _read_state(module: torch.nn.Module) -> State:
    seen = set[int]()
    return {
        name: (container, dict(container) if isinstance(container, dict) else list(container))
        for own, layer in module.named_modules()
        for name, container in _containers(own, vars(layer), DEPTH, seen)
    }


def _containers(name: str, value: Any, depth: int, seen: set[int]) -> Iterator[tuple[str, Container]]:
    """Yield a dict or list, or the attributes of an object such as a cache of the user's class, and those inside it, by
    name. `seen` are the ids of those yielded before."""
    content = value if isinstance(value, dict | list | tuple) else vars(value) if _may_hold(value) else None
    if content is None or id(content) in seen or not depth:
        return
    seen.add(id(content))
    if not isinstance(content, tuple):
        yield name, content
    for key, entry in _items(content):
        yield from _containers(f"{name}.{key}", entry, depth - 1, seen)


def _may_hold(value: Any) -> bool:
    """Return True for an object with attributes that is neither a module nor of a class of torch."""
    is_other = isinstance(value, torch.nn.Module | torch.Tensor | type | FunctionType | MethodType | ModuleType)
    return not is_other and hasattr(value, "__dict__") and type(value).__module__.split(".")[0] != "torch"


def _items(content: Container | tuple[Any, ...]) -> list[tuple[Any, Any]]:
    return list(content.items() if isinstance(content, dict) else enumerate(content))


def _restore(state: State) -> None:
    """Give each container its content in a state."""
    for container, content in state.values():
        now, former = ([(key, id(value)) for key, value in _items(each)] for each in (container, content))
        if now == former:
            continue
        container.clear()
        if isinstance(container, dict):
            container.update(content)
        else:
            container.extend(content)


def _find_changes(before: State, after: State) -> list[str]:
    """Return the names of tensors, arrays, numbers and texts that were not there before, or had another value."""
    found = []
    for name, (_, content) in after.items():
        former = dict(_items(before[name][1])) if name in before else {}
        found += [f"{name}.{key}" for key, value in _items(content) if not _is_same(former.get(key), value)]
    return [re.sub(TENSORS, ".", name).lstrip(".") for name in found]


def _is_same(old: Any, new: Any) -> bool:
    """Return True unless `new` is another tensor, array, number or text than `old`, or a tuple with one."""
    if isinstance(new, tuple):
        return isinstance(old, tuple) and len(old) == len(new) and all(map(_is_same, old, new))
    if isinstance(new, torch.Tensor | np.ndarray):
        return old is new
    return not isinstance(new, SCALARS) or (type(old) is type(new) and bool(old == new))
