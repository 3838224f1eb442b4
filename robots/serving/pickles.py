"""Read and write the pickles of LeRobot's asynchronous inference, without running any code that they name.

LeRobot's clients send pickled objects. Here a pickle is only a format: its opcodes build numbers, texts, lists, dicts
and arrays. A class or function in it is a name, never imported and never called.
"""

import pickletools
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np

from fewstep.plans.errors import UserError, first_line
from fewstep.robots.control.chunk import Float32
from fewstep.robots.serving.arrays import make_array, read_dtype

FIX = "send what LeRobot's robot client sends"
MOST_OPCODES = 100_000
LONGEST_TEXT = 2**16  # characters
MARK: Final = object()


@dataclass(frozen=True)
class Name:
    """A class or a function that a pickle names."""

    module: str
    name: str


@dataclass
class Made:
    """An object that a pickle makes by calling `kind` with `arguments`, and its state."""

    kind: Name
    arguments: Any
    state: Any = None


def read_pickle(content: bytes) -> object:
    """Return the object of a pickle. Arrays and numbers of numpy are built, and other objects are `Made`.

    Raises UserError for anything else.
    """
    try:
        return ValueBuilder().build(_run(content))
    except UserError:
        raise
    except Exception as error:  # pickletools and damaged operands raise many classes
        raise UserError(f"the message is not a pickle that can be read: {first_line(error):.200}", FIX) from None


def _run(content: bytes) -> object:
    """Run the opcodes of a pickle, and return the object at its end."""
    stack: list[object] = []
    memo: dict[int, object] = {}
    for count, (opcode, operand, _) in enumerate(pickletools.genops(content)):
        name, argument = opcode.name, cast(Any, operand)
        if count > MOST_OPCODES:
            raise ValueError(f"it has more than {MOST_OPCODES} opcodes")
        if name == "STOP":
            return stack.pop()
        if name in ("PROTO", "FRAME"):
            continue
        if name in VALUES:
            if isinstance(argument, str) and len(argument) > LONGEST_TEXT:
                raise ValueError(f"it has a text of more than {LONGEST_TEXT} characters")
            stack.append(argument)
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(Name(*argument.split(" ", 1)))
        elif name in STACK:
            STACK[name](stack)
        else:
            raise ValueError(f"it has the opcode {name}")
    raise ValueError("it has no end")


VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
VALUES |= {"SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"}


def _take(stack: list[object]) -> list[object]:
    """Remove and return the items above the last mark."""
    place = next((place for place in reversed(range(len(stack))) if stack[place] is MARK), None)
    if place is None:
        raise ValueError("it takes more than it has made")
    items = stack[place + 1 :]
    del stack[place:]
    return items


def _pop(stack: list[object], count: int) -> tuple[object, ...]:
    items = tuple(stack[len(stack) - count :])
    if len(items) < count or any(item is MARK for item in items):
        raise ValueError("it takes more than it has made")
    del stack[len(stack) - count :]
    return items


def _extend_list(stack: list[object], items: Sequence[object]) -> None:
    if not isinstance(stack[-1], list):
        raise ValueError("it appends to what is not a list")
    stack[-1].extend(items)


def _extend_dict(stack: list[object], items: Sequence[object]) -> None:
    if not isinstance(stack[-1], dict) or len(items) % 2:
        raise ValueError("it sets an item of what is not a dict")
    if not all(isinstance(key, str) for key in items[::2]):  # the hash of others can take hours
        raise ValueError("a dict in it has a key that is not text")
    stack[-1].update(zip(items[::2], items[1::2]))


def _name_from_stack(stack: list[object]) -> None:
    module, name = _pop(stack, 2)
    if not (isinstance(module, str) and isinstance(name, str)):
        raise ValueError("a name in it is not text")
    stack.append(Name(module, name))


def _make(stack: list[object]) -> None:
    kind, arguments = _pop(stack, 2)
    if not isinstance(kind, Name):
        raise ValueError("it calls what has no name")
    stack.append(Made(kind, arguments))


def _set_state(stack: list[object]) -> None:
    (state,) = _pop(stack, 1)
    if not isinstance(stack[-1], Made):
        raise ValueError("it sets the state of what it has not made")
    stack[-1].state = state


STACK: dict[str, Callable[[list[object]], None]] = {
    "NONE": lambda stack: stack.append(None),
    "NEWTRUE": lambda stack: stack.append(True),
    "NEWFALSE": lambda stack: stack.append(False),
    "MARK": lambda stack: stack.append(MARK),
    "EMPTY_LIST": lambda stack: stack.append([]),
    "EMPTY_DICT": lambda stack: stack.append({}),
    "EMPTY_TUPLE": lambda stack: stack.append(()),
    "TUPLE": lambda stack: stack.append(tuple(_take(stack))),
    "TUPLE1": lambda stack: stack.append(_pop(stack, 1)),
    "TUPLE2": lambda stack: stack.append(_pop(stack, 2)),
    "TUPLE3": lambda stack: stack.append(_pop(stack, 3)),
    "APPEND": lambda stack: _extend_list(stack, _pop(stack, 1)),
    "APPENDS": lambda stack: _extend_list(stack, _take(stack)),
    "SETITEM": lambda stack: _extend_dict(stack, _pop(stack, 2)),
    "SETITEMS": lambda stack: _extend_dict(stack, _take(stack)),
    "STACK_GLOBAL": _name_from_stack,
    "REDUCE": _make,
    "NEWOBJ": _make,
    "BUILD": _set_state,
}


@dataclass
class ValueBuilder:
    """Builds the arrays and numbers of numpy within objects. An object that is in several places is built in each, so
    their number is limited."""

    left: int = MOST_OPCODES

    def build(self, value: object, depth: int = 32) -> object:
        self.left -= 1
        if not depth or self.left < 0:
            raise ValueError("it nests too many objects")
        if isinstance(value, list | tuple):
            return type(value)(self.build(item, depth - 1) for item in value)
        if isinstance(value, dict):
            return {key: self.build(item, depth - 1) for key, item in value.items()}
        if not isinstance(value, Made):
            return value
        if f"{value.kind.module}.".startswith("numpy."):
            return _build_array(value)
        return Made(value.kind, self.build(value.arguments, depth - 1), self.build(value.state, depth - 1))


def _build_array(call: Made) -> object:
    """Return an array or a number of numpy."""
    name = call.kind.name
    if name == "_reconstruct":
        _, shape, dtype, is_fortran, content = call.state
    elif name == "_frombuffer":
        content, dtype, shape, order = call.arguments
        is_fortran = order == "F"
    elif name == "scalar":
        (dtype, content), shape, is_fortran = call.arguments, (), False
    else:
        raise ValueError(f"it names {call.kind.module}.{name}")
    array = make_array(content, _dtype(dtype), shape, bool(is_fortran))
    return array[()] if name == "scalar" else array


def _dtype(call: object) -> "np.dtype[Any]":
    """Return a type of numbers. Its state begins with a version and the order of its bytes."""
    if not isinstance(call, Made) or call.kind != Name("numpy", "dtype"):
        raise ValueError("an array has no type")
    dtype, order = read_dtype(call.arguments[0]), "|" if call.state is None else call.state[1]
    if order == "<":
        return dtype.newbyteorder("<")
    return dtype.newbyteorder(">") if order == ">" else dtype


def write_timed_actions(actions: Float32, module: str, timestamp: float, step: int, seconds: float) -> bytes:
    """Return the pickle of a list of LeRobot's TimedAction, one for each of the actions [n, elements].

    An action is a tensor of float32, which the client's torch makes of numbers.

    Args:
        module: LeRobot's module of TimedAction.
        timestamp, step: those of the observation, and of the first action.
        seconds: the time from one action to the next.
    """
    items = b"".join(
        _call(module, "TimedAction", _float(timestamp + number * seconds), _int(step + number), _tensor(action))
        for number, action in enumerate(actions.tolist())
    )
    return b"\x80\x02]" + b"(" + items + b"e."  # protocol 2, an empty list, a mark, the actions, APPENDS, STOP


def _call(module: str, name: str, *arguments: bytes) -> bytes:
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def _tensor(numbers: Sequence[float]) -> bytes:
    return _call("torch", "tensor", b"](" + b"".join(map(_float, numbers)) + b"e")


def _float(number: float) -> bytes:
    return b"G" + struct.pack(">d", number)


def _int(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)
