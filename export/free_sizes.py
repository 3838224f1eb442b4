"""Keep axes of x and of conditions dynamic in the graph of a torch module, and name the module that fixes one.

torch.export gets axes as multiples, such as `8 * height_steps`. It then needs no proof that sizes match after an image
is halved three times and upsampled again.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from math import lcm
from pathlib import Path
from typing import Any

import torch
from msgspec import structs
from torch.utils._sympy.printers import PythonPrinter

from fewstep.export.error_text import module_name
from fewstep.export.spec import Spec
from fewstep.export.tracing.export_errors import ANY_BATCH, CONSTRAINTS, FIXES_BATCH, SizeBranchError
from fewstep.export.tracing.size_guards import Guard
from fewstep.export.verification.points import find_odd_multiple, sizes_to_verify
from fewstep.export.verification.reference import call_module, select_prediction
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Description, Size
from fewstep.runtime.kinds.sizes import (
    apply_sizes,
    default_sizes,
    free_shape,
    free_x_shape,
    input_shape,
    parse_dimension,
)

LEAST_STEPS = 3  # minimum multiples of a size for tracing, if in range: torch.export treats an axis of 1 as a constant
OTHER_OPERATION = ", a tensor instead of a list, or an operation that takes any batch"
FACTORS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # multiples of a size's multiple that a module may need
WITHOUT = "give no sizes, or export that size only"
Inputs = Callable[[Spec, int], tuple[torch.Tensor, ...]]


def dynamic_axes(spec: Spec, batch: Any) -> list[dict[int, Any]]:
    """Return the dynamic axes of (x, *times, *conditions, *carried) for torch.export, each with `batch` as the leading
    one."""
    axes = symbolic_axes(spec.sizes)
    times: list[tuple[int | str, ...]] = [()] * len(spec.times)
    shapes = (
        input_shape(spec, free_x_shape(spec)),
        *times,
        *(free_shape(condition.shape, condition.follows) for condition in spec.conditions),
    )
    return [*({0: batch, **axes(shape)} for shape in shapes), *({0: batch} for _ in spec.carried)]


def symbolic_axes(sizes: Sequence[Size]) -> Callable[[Sequence[int | str]], dict[int, Any]]:
    """Return a function from the shape of a sample to the dynamic axes of a batch of them, for torch.export."""
    steps = {size.name: _size_symbol(size) for size in sizes}
    multiples = {size.name: size.multiple for size in sizes}

    def axes(shape: Sequence[int | str]) -> dict[int, Any]:
        return {
            axis: _axis_symbol(size, steps, multiples) for axis, size in enumerate(shape, 1) if isinstance(size, str)
        }

    return axes


def trace_sizes(spec: Description) -> dict[str, int]:
    """Return sizes for tracing: near the default, or half the longest text, none so small that an inner axis becomes 1,
    and all different, unless that leaves only one multiple, which torch.export treats as a constant."""
    chosen: dict[str, int] = {}
    usual = default_sizes(spec.x_shape, spec.sizes)
    reach = range(
        -len(spec.sizes), len(spec.sizes) + 1
    )  # enough steps in both directions to differ from all other sizes
    for size in spec.sizes:
        wanted = max(usual[size.name] if size.axis is not None else size.high // 2 + 1, LEAST_STEPS * size.multiple)
        values = {min(max(wanted + step * size.multiple, size.low), size.high) for step in reach}
        chosen[size.name] = min(
            values, key=lambda value: (value == size.multiple, value in chosen.values(), abs(value - wanted), value)
        )
    return chosen


def check_forward(module: torch.nn.Module, spec: Spec, inputs: Inputs, batch: int) -> None:
    """Raise UserError naming the line where the module fails at sizes of the verification other than its default."""
    for choice in sizes_to_verify(spec)[1:]:
        if (failure := _find_failure(module, spec, inputs, batch, choice)) is not None:
            if (fix := _find_missing_follows(module, spec, inputs, batch, choice)) is None:
                needed = _find_needed_multiple(module, spec, inputs, batch)
                fix = WITHOUT if needed is None else needed.fix
            raise UserError(failure.what, fix) from failure.__cause__


def _find_missing_follows(
    module: torch.nn.Module, spec: Spec, inputs: Inputs, batch: int, choice: Mapping[str, int]
) -> str | None:
    """Return the advice to let axes of conditions follow sizes whose default they have. None if that does not make the
    module run at the sizes of `choice`."""
    defaults = default_sizes(spec.x_shape, spec.sizes)
    for size in choice:
        for names in _conditions_of_length(spec, defaults[size]):
            following = tuple(
                structs.replace(condition, follows={**condition.follows, names[condition.name]: size})
                if condition.name in names
                else condition
                for condition in spec.conditions
            )
            with suppress(UserError):  # a condition that cannot follow a size, such as one with a default
                changed = structs.replace(spec, conditions=following)
                if _find_failure(module, changed, inputs, batch, choice) is None:
                    which = (f'condition {name!r} follows={{{axis}: "{size}"}}' for name, axis in names.items())
                    return f"give {' and '.join(which)}"
    return None


def _conditions_of_length(spec: Spec, length: int) -> list[dict[str, int]]:
    """Return the conditions that have a fixed axis of this length, as the axis by name: each alone, then all."""
    axes = {
        condition.name: axis
        for condition in spec.conditions
        for axis, size in reversed([*enumerate(condition.shape)])
        if size == length and axis not in condition.follows
    }
    return [*({name: axis} for name, axis in axes.items()), *([axes] if len(axes) > 1 else [])]


def _find_failure(
    module: torch.nn.Module, spec: Spec, inputs: Inputs, batch: int, choice: Mapping[str, int]
) -> UserError | None:
    """Return the error of a module at these sizes, or None if it returns its prediction in the right shape."""
    at = apply_sizes(spec, choice)
    where = " at " + ", ".join(f"{name} {value}" for name, value in choice.items())
    try:
        output = select_prediction(spec, call_module(module, spec, inputs(at, batch), where))
    except UserError as error:
        return error
    if output.shape != (batch, *at.output_shape):
        return UserError(f"{module_name(module)} returned shape {list(output.shape)}{where}", WITHOUT)
    return None


def _find_needed_multiple(module: torch.nn.Module, spec: Spec, inputs: Inputs, batch: int) -> UserError | None:
    """Return the error of a module that fails at some sizes near the default and runs at multiples of a number, as the
    multiple to give. None if it runs at all sizes that are tried, or if no multiple makes it run."""
    first: UserError | None = None
    needed = dict[str, int]()
    for size in spec.sizes:
        usual = size.default(spec.x_shape)
        for multiple in (factor * size.multiple for factor in FACTORS):
            if (value := find_odd_multiple(size, usual, multiple)) is None:
                return None
            failure = _find_failure(module, spec, inputs, batch, {size.name: value})
            first = first or failure
            if failure is None:
                needed |= {size.name: multiple} if multiple != size.multiple else {}
                break
        else:
            return None
    if first is None:
        return None
    return UserError(first.what, _give_multiples(spec, needed))


def explain_fixed_size(
    error: UserError,
    module: torch.nn.Module,
    spec: Spec,
    example: tuple[Any, ...],
    dynamic: Any,
) -> UserError:
    """Return the error of a module that could not be exported. If the module fixes a size or the batch, the error names
    it and the line; if its operations depend on a size, the multiple or the range to give."""
    reason = str(error.__cause__)
    if error.what.endswith(FIXES_BATCH):
        line = next(_find_fixing_lines(module, example, dynamic, _fixes_batch), "")
        return UserError(f"{error.what}{line}", f"{ANY_BATCH}{OTHER_OPERATION}" if line else ANY_BATCH)
    if "specialized" not in reason and (branching := _find_branching_sizes(spec, reason)):
        guards = error.guards if isinstance(error, SizeBranchError) else ()
        return _explain_branch(module, spec, branching, reason, guards)
    names = [size.name for size in spec.sizes if size.name in reason]
    if "specialized" not in reason or not names:
        return error
    line = next(_find_fixing_lines(module, example, dynamic, _makes_number_of_size), "")
    return UserError(f"{module_name(module)} fixes {' and '.join(names)}{line}", WITHOUT)


def _find_branching_sizes(spec: Spec, reason: str) -> list[Size]:
    """Return the sizes on which the operations depend, from torch's report: those that it names, or all if it names
    none. The batch is none of them."""
    if not any(words in reason for words in CONSTRAINTS):
        return []
    named = re.search(rf"{CONSTRAINTS[0]} \(([^)]*)\)", reason)
    return [size for size in spec.sizes if named is None or _symbol_name(size) in named[1].split(", ")]


def _explain_branch(
    module: torch.nn.Module, spec: Spec, sizes: list[Size], reason: str, guards: Sequence[Guard]
) -> UserError:
    """Return the error for code whose operations differ between values of `sizes`, from torch's report: code that pads
    to a multiple, for example, pads nothing at some values."""
    names = [size.name for size in sizes]
    where = next(filter(None, (_describe_guard(guard, spec, sizes) for guard in guards)), "")
    what = f"{module_name(module)} does other operations at some values of {' and '.join(names)}{where}"
    remainders, quotients = (
        [int(number) for number in re.findall(rf"{sign} ?(\d{{1,3}})\b", reason) if int(number)] for sign in "%/"
    )
    divisor = min(remainders or quotients, default=1)  # products of two sizes have multiples of it
    if divisor > 1:
        return UserError(what, _give_multiples(spec, {size.name: lcm(size.multiple, divisor) for size in sizes}))
    ranges = re.findall(r"(\w+) = Dim\('\w+', min=(\d+), max=(\d+)", reason)
    if narrower := [f"{name}={low}:{high}" for name, low, high in ranges if name in names]:
        return UserError(what, f"give Size another range, as in {', '.join(narrower)} (LOW:HIGH, also for --size)")
    if CONSTRAINTS[0] not in reason:
        return UserError(what, f"if forward pads to a multiple, give Size that multiple; otherwise {WITHOUT}")
    # of multiples torch.export asks for no proof, and the verification compares the graph with the module instead
    return UserError(what, _give_multiples(spec, {size.name: 2 * size.multiple for size in sizes}))


def _describe_guard(guard: Guard, spec: Spec, sizes: Sequence[Size]) -> str:
    """Return " (FILE:LINE): (length % 8) == 0 is false at length 17". "" for a guard on other axes than
    those of `sizes`, or on multiples, of which torch.export asks for no proof."""
    traced = trace_sizes(spec)
    names = {traced[size.name]: size.name for size in sizes if size.multiple == 1}
    if not set(guard.traced_at.values()) <= names.keys():
        return ""
    named = {symbol: names[value] for symbol, value in guard.traced_at.items()}
    at = ", ".join(f"{named[symbol]} {value}" for symbol, value in guard.false_at.items())
    condition = guard.condition.xreplace({symbol: type(symbol)(name, integer=True) for symbol, name in named.items()})
    return f"{guard.location}: {PythonPrinter().doprint(condition)} is false at {at}"


def _give_multiples(spec: Spec, multiples: Mapping[str, int]) -> str:
    """Return the advice to give these multiples, by the name of the size, as "height=8:32:4" with the multiples in the
    size's range."""
    texts, others = [], []
    for size in spec.sizes:
        if (multiple := multiples.get(size.name)) is None:
            continue
        low, high = -(-size.low // multiple) * multiple, size.high // multiple * multiple
        if low >= high:
            return WITHOUT
        texts.append(f"{size.name}={low}:{high}:{multiple}")
        if size.default(spec.x_shape) % multiple:
            others.append(f"a {size.name} that is a multiple of {multiple}")
    default = f"x_shape {' and '.join(others)}, and " if others else ""
    return f"give {default}Size a multiple, as in {', '.join(texts)} (LOW:HIGH:MULTIPLE, also for --size)"


def _find_fixing_lines(
    module: torch.nn.Module, example: tuple[Any, ...], dynamic: Any, fixes: Callable[[Mapping[str, Any]], bool]
) -> Iterator[str]:
    """Yield ' (FILE:LINE: CODE)' of code that fixes a size, from torch's report of a failed export. `fixes` selects the
    guards."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # draft_export logs its whole report
    try:
        drafted: Any = torch.export.draft_export(module, example, dynamic_shapes=dynamic, strict=False)
        failures = drafted._report.failures
    except Exception:  # any error, since the report is optional
        return
    finally:
        logging.disable(before)
    for failure in failures:
        stack: list[Mapping[str, Any]] = failure.data.get("user_stack") or []
        if fixes(failure.data) and stack:
            frame = stack[-1]
            file = _file_name(frame.get("filename"))
            yield f" ({file}{frame['line']}: {str(frame.get('loc', '')).strip()})"


def _file_name(number: object) -> str:
    """Return "network.py:" for the number of a file in torch's report, or "line " if this version of torch does not
    number files."""
    try:
        from torch._logging.structured import INTERN_TABLE  # private to torch
    except ImportError:
        INTERN_TABLE = {}
    path = next((path for path, index in INTERN_TABLE.items() if index == number), None)
    return "line " if path is None else f"{Path(path).name}:"


def _makes_number_of_size(guard: Mapping[str, Any]) -> bool:
    """Return True if a guard is like "Eq(s0, 16)", which fixes a size of an input. Other guards only state that two
    inputs have equal sizes or batches."""
    sources = list((guard.get("symbol_to_sources") or {}).values())
    inputs = {source.partition(".size()")[0] for source in sources}
    fixes = any(not source.endswith(".size()[0]") for source in sources)
    return "Eq(" in str(guard.get("expr", "")) and len(inputs) == 1 and fixes


def _fixes_batch(guard: Mapping[str, Any]) -> bool:
    """Return True if a guard recorded by torch.export, such as "Eq(s0, 2)", fixes the batch of an input."""
    sources = [*(guard.get("symbol_to_sources") or {}).values()]
    return "Eq(" in str(guard.get("expr", "")) and len(sources) == 1 and sources[0].endswith(".size()[0]")


def _size_symbol(size: Size) -> Any:
    """Return the symbol of a size: the number of its multiples."""
    if size.low == size.high:
        raise UserError(f"size {size.name} has one value, {size.low}", "leave it out of sizes, or give it a range")
    return torch.export.Dim(_symbol_name(size), min=size.low // size.multiple, max=size.high // size.multiple)


def _symbol_name(size: Size) -> str:
    return size.name if size.multiple == 1 else f"{size.name}_steps"


def _axis_symbol(size: str, steps: Mapping[str, Any], multiples: Mapping[str, int]) -> Any:
    """Return the symbol of an axis for torch.export. If the axis depends on one free size, it is a multiple of that
    size's symbol. If it depends on several sizes, torch.export infers it."""
    factor, names = parse_dimension(size)
    if len(names) > 1:
        return torch.export.Dim.AUTO
    times = int(factor * Fraction(multiples[names[0]]))
    return steps[names[0]] if times == 1 else times * steps[names[0]]
