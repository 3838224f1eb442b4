"""The state of a network that a pipeline may change during its call: all that its code reads besides its arguments."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.plans.errors import UserError

HOOKS = ("_forward_hooks", "_forward_pre_hooks")
OWN = frozenset(vars(nn.Module())) - {"training"}  # fields of torch
PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout, type(None))
DEPTH = 3  # of nested lists, dicts and objects that are compared by their contents
PROCESSOR = "processor"  # a field of modules: what computes their attention
REGISTRY = "_diffusers_hook"  # a field of modules: the hooks of diffusers, which pipelines create without any hook
Place = tuple[str, str]  # the name of a module, and a field of it or of an object in this field
State = Mapping[Place, Any]


class ChangedNetworkError(UserError):
    """The pipeline changes the network itself during its call, and not only the network's arguments."""


@dataclass(frozen=True, eq=False)
class _Identity:
    """An object that is equal to itself only. `version` counts the changes of a tensor in place."""

    value: object
    version: int = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value and self.version == other.version

    __hash__ = None  # type: ignore[assignment]


def read_state(network: nn.Module) -> State:
    """Return the state of a network: of each module its class, its weights, buffers, children and hooks, a `forward` of
    its own, and all other fields, such as attention processors and scales of adapters.

    Tensors, modules and functions are compared by identity, and tensors also by their number of changes in place. The
    `forward` of the network itself is left out: a recording replaces it.
    """
    state: dict[Place, Any] = {}
    for name, module in network.named_modules():
        state[name, "class"] = _Identity(type(module))
        for field in ("_parameters", "_buffers", "_modules"):
            for key, value in getattr(module, field).items():
                state[name, f"{field}.{key}"] = _fingerprint(value, 0)
        for field in HOOKS:
            if hooks := getattr(module, field):
                state[name, field] = [_fingerprint(hook, 0) for hook in hooks.values()]
        for field, value in vars(module).items():
            if field in OWN or (field == "forward" and not name):
                continue
            if field == REGISTRY:
                if value.hooks:
                    state[name, field] = [_Identity(value), *map(_Identity, value.hooks.values())]
                continue
            for place, own in _fields(field, value):
                state[name, place] = own
    return state


def _fields(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield a field, and those of the object in it, such as the scale of an attention processor."""
    yield place, _fingerprint(value, DEPTH)
    if _is_object(value):
        for name, own in vars(value).items():
            yield f"{place}.{name}", _fingerprint(own, DEPTH)


def _is_object(value: Any) -> bool:
    """Return True for an object with fields, other than a module, a tensor, a function or a class."""
    return hasattr(value, "__dict__") and not isinstance(value, nn.Module | Tensor | FunctionType | MethodType | type)


def _fingerprint(value: Any, depth: int) -> Any:
    """Return an object that is equal to that of another time if the value is unchanged."""
    if isinstance(value, PLAIN):
        return type(value), repr(value)
    if isinstance(value, Tensor):
        return _Identity(value, 0 if value.is_inference() else value._version)
    if isinstance(value, MethodType):
        return _Identity(value.__func__), _Identity(value.__self__)
    if depth and isinstance(value, dict):
        return type(value), [(repr(key), _fingerprint(own, depth - 1)) for key, own in value.items()]
    if depth and isinstance(value, list | tuple):
        return type(value), [_fingerprint(own, depth - 1) for own in value]
    return _Identity(value)


def find_changes(before: State, now: State) -> list[Place]:
    """Return the places at which two states of a network differ, in the order of its modules."""
    places = (*before, *(place for place in now if place not in before))
    return [place for place in places if place not in before or place not in now or before[place] != now[place]]


def refuse_cache(network: nn.Module, label: str) -> None:
    """Raise UserError for a network with a cache of diffusers, which reads features of earlier calls."""
    for module in network.modules():
        for name, hook in getattr(getattr(module, REGISTRY, None), "hooks", {}).items():
            if getattr(hook, "_is_stateful", False):
                what = f"{label} has the cache {name}, which keeps features from call to call"
                raise UserError(what, "call its disable_cache(); docs/export/networks.md, Feature caching, has another")


class Watch:
    """Compares the state of a network at each call with its state at rest. What the network's own code changes, such as
    a table that it keeps, is a part of that state afterwards. `fix` returns the fix of a change, for the names of the
    layers whose attention processors it replaces."""

    def __init__(self, label: str, network: nn.Module, fix: Callable[[Sequence[str]], str]) -> None:
        self.label, self.network, self.fix, self.state = label, network, fix, read_state(network)

    def check(self, when: str) -> None:
        """Raise ChangedNetworkError if the state differs. `when` says at which call: "before call 3 of step 1"."""
        now = read_state(self.network)
        places = find_changes(self.state, now)
        if places:
            layers = [module for module, field in places if field == PROCESSOR]
            change = describe_change(places[0], now)
            raise ChangedNetworkError(f"{self.label} during the call: {change}, {when}", self.fix(layers))

    def accept(self) -> None:
        """Take the present state as that at rest."""
        self.state = read_state(self.network)


def describe_change(place: Place, state: State) -> str:
    """Describe a field of a module, and the function that a `forward` is in a state: "the forward of blocks.0
    (skip)"."""
    (module, field), now = place, state.get(place)
    of = module or "the network itself"
    kind, _, name = field.partition(".")
    nouns = {"_parameters": "the weight", "_buffers": "the buffer", "_modules": "the module"}
    if kind in nouns:
        return f"{nouns[kind]} {f'{module}.{name}'.lstrip('.')}"
    if kind in (*HOOKS, REGISTRY):
        return f"the hooks of {of}"
    if kind == PROCESSOR:
        return f"the attention processor of {of}" + (f" ({name})" if name else "")
    if kind == "scaling":
        return f"the adapter scales of {of}"
    if field == "forward":
        function = now[0] if isinstance(now, tuple) else now  # of a method, its function
        own = getattr(getattr(function, "value", None), "__name__", "")
        return f"the forward of {of}" + (f" ({own})" if own else "")
    return f"the {'class' if field == 'class' else f'attribute {field}'} of {of}"
