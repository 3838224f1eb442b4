"""Parse the conditions and sizes of a command line."""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from fewstep.plans.errors import UserError, quote_path
from fewstep.runtime.bundle.conditions import check, random_range
from fewstep.runtime.bundle.manifest import Condition, Manifest, Size
from fewstep.runtime.kinds.sizes import LARGEST, NAME, sizes_for_shape

DIGITS = 4000  # Python refuses to parse longer integers


def parse_conditions(
    texts: Sequence[str], known: Sequence[Condition], of_any_size: bool = False, axes: Sequence[Size] = ()
) -> dict[str, list[Any]]:
    """Parse "class=3", "class=dress", "flag=true", "text=@file.npy" into lists of values by name. The runtime
    checks the arrays.

    Arrays may be `of_any_size` if they are cut into windows later. `axes` are the free axes of x.
    """
    shapes = {condition.name: condition.shape for condition in known}
    named = {condition.name: condition for condition in known}
    labels = {condition.name: condition.labels for condition in known}
    values: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            example = f"{known[0].name}=VALUE" if known else "class=3"
            raise UserError(f"condition {text!r} is not NAME=VALUE", f"write it as --condition {example}")
        if value.startswith("@"):
            if name not in shapes:
                check(known, {name: []}, 0)  # names the conditions that there are
            arrays = load_arrays(f"condition {name!r}", Path(value[1:]), shapes[name], of_any_size, named[name], axes)
            values.setdefault(name, []).extend(arrays)
        elif shapes.get(name):
            raise UserError(
                f"condition {name!r} takes arrays of shape {list(shapes[name])}",
                f"give them as a file: --condition {name}=@FILE.npy",
            )
        else:
            values.setdefault(name, []).append(_parse_label_or_number(name, value, labels.get(name, ())))
    for name, own in values.items():
        if not shapes.get(name):
            check([condition for condition in known if condition.name == name] or known, {name: own}, len(own))
    return values


def refuse_texts(texts: Sequence[str], manifest: Manifest) -> None:
    """Raise UserError for a text in --condition, if the bundle has a text encoder: it is a prompt."""
    if manifest.text is None:
        return
    taken = {condition.name for condition in manifest.conditions} - manifest.text.encoded
    for text in texts:
        name, _, value = text.partition("=")
        if name not in taken and not value.startswith("@") and isinstance(_parse_value(value), str):
            raise UserError(f"{text!r} is a text, and no condition takes texts", f"give --prompt {quote(value)}")


def _parse_label_or_number(name: str, text: str, labels: Sequence[str]) -> int | float | str:
    """Return a number, or the text of a label; "nan" may be one. Raises UserError for a whole number that is also the
    label of another number."""
    parsed = _parse_value(text)
    folded = [label.casefold() for label in labels]
    if isinstance(parsed, str) or text.casefold() not in folded:
        return parsed
    own = folded.index(text.casefold())
    if isinstance(parsed, int) and parsed != own:
        what = f"{name}={text} may mean the number {text} or the label {text!r}, which is number {own}"
        raise UserError(what, f"in Python give condition={{{name!r}: [{own}]}} or {{{name!r}: [{text}]}}")
    return parsed if isinstance(parsed, int) else text


def parse_sizes(texts: Sequence[str]) -> dict[str, int]:
    """Parse the option --size, of a bundle or of a tiled sample: "height=96" to {"height": 96}."""
    sizes: dict[str, int] = {}
    for text in texts:
        name, equals, number = text.partition("=")
        is_number = number.isascii() and number.isdecimal() and bool(number.strip("0"))
        if not (equals and NAME.fullmatch(name) and is_number):
            raise UserError(
                f"size {text!r} is not NAME=NUMBER", "write it as --size height=96, or leave it out if x has one size"
            )
        if name in sizes:
            raise UserError(f"size {name!r} is given twice", "give it once")
        if len(number) > DIGITS or int(number) > LARGEST:
            raise UserError(f"size {text!r} is too large", f"give at most {LARGEST}")
        sizes[name] = int(number)
    return sizes


def list_required_arguments(manifest: Manifest, conditions: Path | None = None) -> list[str]:
    """Return command line words that give the file of conditions, or the first file of a folder, whose samples have one
    size. Without a file, give an example value for each required condition."""
    if conditions is not None:
        from fewstep.measure.rollouts.conditions_file import list_files  # only few commands give a file

        return ["--conditions", quote_path(list_files(conditions)[0])]
    encoded = () if manifest.text is None else manifest.text.graph.outputs
    words = ["--prompt", '"..."'] if encoded else []
    for condition in manifest.conditions:
        if condition.default is None and condition.name not in {tensor.name for tensor in encoded}:
            words += ["-c", f"{condition.name}={_example_value(condition)}"]
    return words


def needs_records(manifest: Manifest) -> bool:
    """Return whether a condition has neither a range, a default nor a text encoder, so that none can be drawn."""
    encoded = () if manifest.text is None else manifest.text.encoded
    given = [
        condition for condition in manifest.conditions if condition.name not in encoded and condition.default is None
    ]
    return any(random_range(condition) is None for condition in given)


def _example_value(condition: Condition) -> str:
    """Return an example value of the condition: a label, its lowest number, or the name of a file of arrays."""
    if condition.shape:
        return "@FILE.npy"
    if condition.labels and _parse_value(condition.labels[0]) == condition.labels[0]:  # no number
        return quote(condition.labels[0])
    low, _ = random_range(condition) or (0, 0)
    return f"{float(low):g}"


def load_arrays(
    what: str,
    path: Path,
    shape: tuple[int, ...],
    of_any_size: bool,
    condition: Condition | None = None,
    axes: Sequence[Size] = (),
) -> list[Any]:
    """Load values from a .npy file: one array of `shape`, or [N, *shape] for N values.

    `what` names the values in messages. `condition` is theirs, if they are of one, and `axes` are the free axes of x.
    Raises UserError for pickled content or another shape.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "it is not a .npy file of numbers"
        raise UserError(f"{what}: {path} cannot be read ({reason})", "write it with numpy.save") from error
    if of_any_size and isinstance(array, np.ndarray) and array.ndim in (len(shape), len(shape) + 1):
        return [array] if array.ndim == len(shape) else list(array)
    if not isinstance(array, np.ndarray) or array.shape not in (shape, array.shape[:1] + shape):
        has = f"has the shape {list(array.shape)}" if isinstance(array, np.ndarray) else "is an .npz of several arrays"
        fix = f"give a .npy of one value {list(shape)}, or of N: [N, ...]"
        if condition is not None and isinstance(array, np.ndarray) and len(shape) <= array.ndim <= len(shape) + 1:
            sizes = sizes_for_shape(condition, array.shape[-len(shape) :], axes)
            options = " ".join(f"--size {name}={size}" for name, size in sizes.items())
            fix += f", or choose the free size: {options}" if options else ""
        raise UserError(f"{what}: {path} {has}", fix)
    return [array] if array.shape == shape else list(array)


def _parse_value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
