"""Parse calls in the name of a plan: NAME or NAME(parameter=value, ...), with Python's literals as values.

A call is never evaluated. Its function is looked up, and its parameters are checked and bound.
"""

import ast
import inspect
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache, partial
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fewstep.plans.errors import UserError
from fewstep.plans.names.namespace import Namespace, add_result_check
from fewstep.plans.names.user_code import code_name, load_function
from fewstep.plans.publication import facts_of

Value = bool | int | float | tuple[float, ...] | None

LARGEST = 1e300  # largest absolute value of a parameter
NEAR = 0.7  # least similarity of a suggested name, 1 for equal names; with less, cfgpp suggested rfpp
MOST_LISTED = 40  # maximum number of names that a message lists
NUMBERS = tuple[float, ...]
WORDS: dict[Any, str] = {bool: "True or False", int: "an integer", float: "a number", NoneType: "None", Any: "a number"}
LISTS = (tuple, list, Sequence, Collection, Iterable)  # the types, with or without [float], that a list is given for
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
NO_VALUE = "annotate it as float, int, bool or tuple[float, ...], the types that a name sets, or use its default"


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a solver or grid that a name may set: all after the first two, except *rest, **more and
    those that are fixed by the order in a family's name."""
    fixed = {*function.keywords, *facts_of(function).lacks} if isinstance(function, partial) else set()
    after = list(inspect.signature(function).parameters.items())[2:]
    return {name: each for name, each in after if name not in fixed and each.kind not in VARIADIC}


@cache
def _settable_parameters(function: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """Return the parameters that a name may set, and their types: of annotations, or else of defaults. Raises UserError
    if the annotations of user-supplied code cannot be read."""
    inner = function.func if isinstance(function, partial) else function
    try:
        settable, hints = parameters(function), get_type_hints(inner)
        return settable, {name: hints.get(name, _type_of(each.default)) for name, each in settable.items()}
    except (TypeError, ValueError, NameError, AttributeError) as error:  # no signature; an annotation without a value
        what = f"the parameters of {getattr(inner, '__name__', inner)!r} cannot be read: {error}"
        fix = "use a function whose annotations are names that exist when its file runs"
        raise UserError(what, fix) from error


def bind_call(text: str, name: str, among: Namespace, home: str | None = None) -> tuple[Any, str]:
    """Return the function that `text` names, with its parameters bound, and `text` in canonical form. An alias keeps
    the name that the user gave.

    Args:
        text: NAME or NAME(parameter=value, ...).
        name: the name of the plan, for messages.
        among: the functions among which the name is looked up.
        home: the file or module of user-supplied code; if given, the function is looked up there instead.

    Raises UserError for an unknown function or parameter, and for a value that the parameter does not accept.
    """
    called, arguments = _parse_call(text, name)
    if home is not None:
        loaded = load_function(home, called, passes_arithmetic=True)
        function = add_result_check(loaded, among.checked, f"{among.kind} {home}:{called}")
        return _bind_parameters(function, code_name(home, called), arguments, name, among.kind)
    among.check_meaning(called)
    alias = _format_call(called, arguments) if called in among.aliases else None
    if alias is not None:
        called, preset = _parse_call(among.aliases[called], name)
        arguments = {**preset, **arguments}
    called, arguments = _resolve_order(called, arguments, name, among)
    found = among.find(called)
    if found is None:
        from difflib import get_close_matches  # only for this message: importing it takes milliseconds

        all_names = [*among.names(), *among.aliases, *among.suggested]
        near, all_of_them = get_close_matches(called, all_names, cutoff=NEAR), "`fewstep plan --list` shows all"
        listed = f"choose one of {', '.join(all_names)}" if len(all_names) <= MOST_LISTED else all_of_them
        fix = f"choose {' or '.join(near)}; {all_of_them}" if near else listed
        raise UserError(f"unknown {among.kind} '{called}' in plan '{name}'", fix)
    bound, canonical = _bind_parameters(found, called, arguments, name, among.kind)
    return bound, alias or canonical


def _bind_parameters(
    function: Callable[..., Any], called: str, arguments: Mapping[str, Value], name: str, kind: str
) -> tuple[Any, str]:
    """Return the function with these arguments bound, and the text of the call in canonical form. Raises UserError for
    a parameter that the function lacks."""
    accepted, hints = _settable_parameters(function)
    for parameter in arguments:
        if parameter not in accepted:
            takes = f"give one of {', '.join(accepted)}" if accepted else "leave the parentheses out: it takes none"
            raise UserError(f"{kind} {called} has no parameter '{parameter}' (plan '{name}')", takes)
        if accepted[parameter].kind is inspect.Parameter.POSITIONAL_ONLY:
            what = f"{kind} {called} takes '{parameter}' by position only (plan '{name}')"
            raise UserError(what, "remove the / from its parameters: a name gives them by keyword")
    values = {key: _check_value(value, hints[key], f"{called}({key}=...)", name) for key, value in arguments.items()}
    changed = {key: value for key, value in sorted(values.items()) if _plain(value) != _plain(accepted[key].default)}
    missing = [key for key, each in accepted.items() if each.default is inspect.Parameter.empty and key not in values]
    if missing:
        fix = f"write {called}({missing[0]}=...)" if _describe_type(hints[missing[0]]) else NO_VALUE
        raise UserError(f"{kind} {called} needs {missing[0]} (plan '{name}')", fix)
    if not changed:
        return function, called
    return partial(function, **changed), _format_call(called, changed)


def _format_call(called: str, arguments: Mapping[str, Any]) -> str:
    """Return the text of a call, with sorted parameters."""
    written = ", ".join(f"{key}={_format_value(_plain(value))}" for key, value in sorted(arguments.items()))
    return f"{called}({written})" if written else called


def _resolve_order(
    called: str, arguments: Mapping[str, Value], name: str, among: Namespace
) -> tuple[str, Mapping[str, Value]]:
    """Convert ("unipc", {"order": 3, "bh1": True}) to ("unipc_3", {"bh1": True}). Other calls are unchanged."""
    orders = among.orders(called)
    if not orders:
        return called, arguments
    if "order" not in arguments:
        choices = ", ".join(f"{called}_{order}" for order in orders)
        raise UserError(f"solver {called} needs order (plan '{name}')", f"choose one of {choices}")
    order = _check_value(arguments["order"], int, f"{called}(order=...)", name)
    if order not in orders:
        choices = ", ".join(map(str, orders))
        raise UserError(f"{called}(order=...) cannot be {order} (plan '{name}')", f"choose one of {choices}")
    return f"{called}_{order}", {key: value for key, value in arguments.items() if key != "order"}


def _parse_call(text: str, name: str) -> tuple[str, Mapping[str, Value]]:
    """Parse "ddim(eta=0.5)" to ("ddim", {"eta": 0.5})."""
    if text.isidentifier():
        return text, {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", SyntaxWarning)  # Python warns of 0x4or, which it reads as two words
            node = ast.parse(text, mode="eval").body
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            arguments = {
                str(keyword.arg): _value(keyword.value) for keyword in node.keywords if keyword.arg is not None
            }
            if len(arguments) == len(node.keywords):
                return node.func.id, arguments
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    if ":" in name and re.match(r"[^\W\d]\w*\.\w", text):  # the form that `code_name` writes
        fix = "name its file or module as well, as in my_solver.py:heun3:8, or run the file of the plan"
        raise UserError(f"'{text}' in plan '{name}' is user-supplied code, which this name does not load", fix)
    part = "it" if text == name else f"'{text}'"
    what = f"'{name}' is not a plan: {part} is not NAME or NAME(parameter=number, ...)"
    raise UserError(what, "write it as in ddim(eta=0.5):10@karras(rho=7), or give the .json file of a plan")


def _value(node: ast.expr) -> Value:
    """Return the value of a literal number, boolean, None, or list of numbers. Raises ValueError for anything else."""
    value = ast.literal_eval(node)
    if isinstance(value, list | tuple):
        if not all(isinstance(item, int | float) and not isinstance(item, bool) for item in value):
            raise ValueError(value)
        return tuple(float(item) for item in value)
    if value is not None and not isinstance(value, bool | int | float):
        raise ValueError(value)
    return value


def _check_value(value: Value, hint: Any, where: str, name: str) -> Any:
    """Return the value as the type of its parameter's annotation. Raises UserError if it is of another type."""
    numbers = value if isinstance(value, tuple) else () if value is None else (value,)
    if all(abs(number) <= LARGEST for number in numbers):
        try:
            return _convert(value, hint)
        except ValueError:
            pass
    fix = f"give {_describe_type(hint)}" if _describe_type(hint) else NO_VALUE
    written = repr(value) if isinstance(value, float) else _format_value(value)  # 3.0 is no integer
    raise UserError(f"{where} cannot be {written} (plan '{name}')", fix)


def _convert(value: Value, hint: Any) -> Any:
    """Return a value as the type of an annotation. Raises ValueError if it is of another type."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        for part in parts:
            if not _is_refused(value, part):
                return _convert(value, part)
    if kind is float and type(value) in (int, float):
        return float(value)  # type: ignore[arg-type]
    is_part = kind is Literal and (type(value), value) in [(type(part), part) for part in parts]
    if kind is Any or type(value) is kind and not isinstance(value, tuple) or is_part:
        return value
    if isinstance(value, tuple) and kind in LISTS:
        return _convert_list(value, kind, parts)
    if isinstance(value, tuple) and _is_array(kind):
        import numpy as np  # only for this annotation

        return np.array(value)
    raise ValueError


def _convert_list(numbers: tuple[float, ...], kind: Any, parts: tuple[Any, ...]) -> Any:
    """Return numbers as a tuple or a list whose items have the types `parts`. Raises ValueError if one does not."""
    is_fixed = kind is tuple and parts and parts[-1] is not Ellipsis
    if is_fixed and len(parts) != len(numbers):
        raise ValueError
    types = parts if is_fixed else (parts[:1] or (float,)) * len(numbers)
    pairs = zip(numbers, types, strict=True)
    items = [_convert(int(each) if part is int and each.is_integer() else each, part) for each, part in pairs]
    return items if kind is list else tuple(items)


def _is_refused(value: Value, hint: Any) -> bool:
    try:
        _convert(value, hint)
    except ValueError:
        return True
    return False


def _describe_type(hint: Any) -> str:
    """Return what a name gives a parameter of this type, as text. "" if it gives no value of it."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return " or ".join(filter(None, map(_describe_type, parts)))
    if kind is Literal:
        return " or ".join(str(part) for part in parts if not isinstance(part, str))
    if kind in LISTS or _is_array(kind):
        is_fixed = kind is tuple and parts and parts[-1] is not Ellipsis
        noun = "integers" if parts and {*parts} - {Ellipsis} == {int} else "numbers"
        return f"a list of {len(parts)} {noun}" if is_fixed else f"a list of {noun}"
    return WORDS.get(kind, "")


def _type_of(default: Any) -> Any:
    """Return the type of a parameter without an annotation: that of its default. A number may replace an integer."""
    if default is None or default is inspect.Parameter.empty:
        return Any
    return int | float if type(default) is int else type(default)


def _is_array(kind: Any) -> bool:
    return getattr(kind, "__module__", None) == "numpy" and getattr(kind, "__name__", None) == "ndarray"


def _plain(value: Any) -> Any:
    """Return a list or an array as a tuple, and any other value as it is."""
    value = value.tolist() if _is_array(type(value)) else value
    return tuple(value) if isinstance(value, list) else value


def _format_value(value: Value) -> str:
    """Return the shortest text that parses to the value."""
    if isinstance(value, tuple):
        return f"[{', '.join(_format_value(item) for item in value)}]"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return repr(value)
