"""Refuse modules that keep a value of their first call: later calls, and the graph, would use it too.

Many modules keep a table that they compute once, such as rotary positions. It depends on the shapes of the inputs only.
A kept value that depends on the inputs themselves would be a constant of the graph, computed from the inputs with which
export happens to call the module first.
"""

import copy
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch

from fewstep.export.error_text import module_name
from fewstep.plans.errors import UserError

REGISTERED = ("_parameters", "_buffers", "_modules")  # attributes of a torch module; buffers are read separately
CONTAINERS = (dict, list)
FIX = "compute it from the inputs in each call, or once in __init__"

State = dict[str, tuple[dict[str, Any], dict[str, Any]]]  # name of a holder -> its attributes and its buffers


def refuse_kept_values(module: torch.nn.Module, call: Callable[[], Any], other: Callable[[], Any]) -> Any:
    """Return the result of `call`, the first call of a module. Raises UserError if the result of `other`, a call with
    other inputs of the same shapes, depends on whether `call` came before it.

    Without kept values nothing but `call` is run. Afterwards the module is in its state after `call`.
    """
    before = _read_state(module)
    returned = call()
    after_call = _read_state(module)
    names = _changed(before, after_call)
    if not names:
        return returned
    later = _first_tensor(other())
    _restore(module, before)
    fresh = _first_tensor(other())
    if later.shape != fresh.shape or not torch.allclose(later, fresh, rtol=1e-4, atol=1e-5, equal_nan=True):
        kept = ", ".join(names[:3])
        raise UserError(
            f"{module_name(module)} keeps values of its first call in {kept}, which change later calls", FIX
        )
    _restore(module, after_call)
    return returned


def _first_tensor(returned: Any) -> torch.Tensor:
    tensor: torch.Tensor = returned[0] if isinstance(returned, tuple | list) else returned
    return tensor.clone()


def _read_state(module: torch.nn.Module) -> State:
    """Return the attributes of each holder, containers among them copied, and its buffers."""
    return {
        name: (
            {key: _copy(value) for key, value in vars(each).items() if key not in REGISTERED},
            dict(vars(each).get("_buffers", {})),
        )
        for name, each in _holders(module)
    }


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


def _copy(value: Any) -> Any:
    return copy.copy(value) if type(value) in CONTAINERS else value


def _restore(module: torch.nn.Module, state: State) -> None:
    """Give each holder its attributes and buffers in a state."""
    for name, each in _holders(module):
        if name not in state:
            continue
        (attributes, buffers), own = state[name], vars(each)
        for key in [key for key in own if key not in REGISTERED and key not in attributes]:
            del own[key]
        own.update({key: _copy(value) for key, value in attributes.items()})
        if "_buffers" in own:
            own["_buffers"].clear()
            own["_buffers"].update(buffers)


def _changed(before: State, after: State) -> list[str]:
    """Return the names of attributes and buffers that hold another tensor or number than before."""
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
    """Return True if two lists of tensors and numbers hold the same ones."""
    pairs = zip(old, new, strict=False)
    return len(old) == len(new) and all(a is b or (type(a) is type(b) is not torch.Tensor and a == b) for a, b in pairs)


def _list(value: Any) -> list[Any]:
    """Return the tensors and numbers in an attribute, also those in containers."""
    return list(_values(value, 3))


def _values(value: Any, depth: int) -> Iterator[Any]:
    if isinstance(value, torch.Tensor | int | float):
        yield value
    elif isinstance(value, dict | list | tuple) and depth:
        for each in value.values() if isinstance(value, dict) else value:
            yield from _values(each, depth - 1)
