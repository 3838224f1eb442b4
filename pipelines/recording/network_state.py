"""The state of a network that a pipeline may change during its call: all that its code reads besides its arguments."""

from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.plans.errors import UserError

HOOKS = ("_forward_hooks", "_forward_pre_hooks")
OWN = frozenset(vars(nn.Module())) - {"training"}  # fields of torch
SIMPLE = frozenset((bool, int, float, str, type(None)))  # the types of most fields
EQUAL = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout, MethodType)  # have a safe ==
WITHOUT_FIELDS = (nn.Module, Tensor, FunctionType, MethodType, type)  # that are compared
HELD = ("_parameters", "_buffers", "_modules")
DEPTH = 3  # of nested lists, dicts and objects that are compared by their contents
PROCESSOR = "processor"  # a field of modules: what computes their attention
REGISTRY = "_diffusers_hook"  # a field of modules: the hooks of diffusers, which pipelines create without any hook
Place = tuple[str, str]  # the name of a module, and a field of it or of an object in this field
State = Mapping[Place, tuple[object, ...]]  # the value of each place, or its type and its contents


class ChangedNetworkError(UserError):
    """The pipeline changes the network itself during its call, and not only the network's arguments."""


def read_state(network: nn.Module) -> State:
    """Return the state of a network: of each module its class, its weights, buffers, children and hooks, a `forward` of
    its own, and all other fields, such as attention processors and scales of adapters.

    Tensors, modules and functions are compared by identity, and tensors also by their number of changes in place. The
    `forward` of the network itself is left out: a recording replaces it.
    """
    state: dict[Place, tuple[object, ...]] = {}
    for name, module in network.named_modules():
        fields = vars(module)
        state[name, "class"] = _list_contents(type(module), 0)
        for field in HELD:
            for key, value in fields[field].items():
                state[name, f"{field}.{key}"] = _list_contents(value, 0)
        for field in HOOKS:
            if fields[field]:
                state[name, field] = _list_contents([*fields[field].values()], 1)
        for field, value in fields.items():
            if field in OWN or (field == "forward" and not name):
                continue
            if field == REGISTRY:
                if value.hooks:
                    state[name, field] = _list_contents([value, *value.hooks.values()], 1)
                continue
            state[name, field] = _list_contents(value, DEPTH)
            if hasattr(value, "__dict__") and not isinstance(value, WITHOUT_FIELDS):  # such as a processor with a scale
                for key, own in vars(value).items():
                    state[name, f"{field}.{key}"] = _list_contents(own, DEPTH)
    return state


def _list_contents(value: Any, depth: int) -> tuple[object, ...]:
    """Return objects that are equal to those of another time if the value is unchanged. A list or a dict may be another
    one of the same contents. What is compared by identity follows its number: tuples are compared in order, so that
    the `==` of two tensors is never called."""
    if type(value) in SIMPLE:
        return type(value), value  # 1, 1.0 and True are equal
    if isinstance(value, Tensor):
        return id(value), value, 0 if value.is_inference() else value._version
    if depth and isinstance(value, dict | list | tuple):
        keys, values = (value.keys(), value.values()) if isinstance(value, dict) else ((), value)
        contents = (content for own in values for content in _list_contents(own, depth - 1))
        return type(value), len(value), *map(repr, keys), *contents
    return (type(value), value) if isinstance(value, EQUAL) else (id(value), value)


def find_changes(before: State, now: State) -> list[Place]:
    """Return the places at which two states of a network differ, in the order of its modules."""
    if before == now:
        return []
    places = (*before, *(place for place in now if place not in before))
    return [place for place in places if before.get(place) != now.get(place)]


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

    def is_at_rest(self) -> bool:
        """Return True if the state is that at rest."""
        return not find_changes(self.state, read_state(self.network))

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
        own = getattr(now[-1], "__name__", "") if now else ""
        return f"the forward of {of}" + (f" ({own})" if own else "")
    return f"the {'class' if field == 'class' else f'attribute {field}'} of {of}"
