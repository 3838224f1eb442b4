"""Records of conditions whose samples differ in size, such as texts of different lengths.

The shapes of some conditions follow x's free sizes, so a record determines the size of its sample. Records of one
shape are an array [N, *shape]. Records of different shapes are an array [N] of arrays (numpy's type `object`), which is
sliced in the same way, and whose rows `select_records` stacks.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime.backends import Arrays
from fewstep.runtime.kinds.kind import DescriptionProtocol
from fewstep.runtime.kinds.sizes import free_shape, infer_sizes

SUCCESSIVE = 2  # records of one size that follow each other, so that few seeds have many sizes


def join_records(parts: Sequence[Arrays]) -> dict[str, NDArray[Any]]:
    """Join records [N, *shape] of several files, which have the same conditions. The sizes of samples alternate."""
    return alternate_sizes({name: join_rows([part[name] for part in parts]) for name in parts[0]})


def record_shapes(records: Arrays) -> list[Hashable]:
    """Return a key for each record; records with equal keys have conditions of equal shapes."""
    count = len(next(iter(records.values()))) if records else 0
    ragged = [array for array in records.values() if array.dtype == object]
    return [tuple(array[place].shape for array in ragged) for place in range(count)]


def select_records(records: Arrays, places: slice | Sequence[int] | NDArray[np.integer]) -> dict[str, NDArray[Any]]:
    """Return some records. Those of one shape become an array [N, *shape]."""
    return {name: stack_rows(array[places]) for name, array in records.items()}


def alternate_sizes(records: Arrays) -> dict[str, NDArray[Any]]:
    """Return the records in an order in which sizes alternate, each in proportion to its number of records."""
    return select_records(records, alternate(record_shapes(records)))


def alternate(keys: Sequence[Hashable]) -> list[int]:
    """Return the indices of `keys` in an order in which equal keys are spread evenly, up to SUCCESSIVE together. Equal
    keys keep their order."""
    counts, used, positions = Counter(keys), Counter[Hashable](), list[float]()
    for key in keys:
        turns = -(-counts[key] // SUCCESSIVE)
        positions.append((used[key] // SUCCESSIVE + 0.5) / turns)
        used[key] += 1
    first = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return sorted(range(len(keys)), key=lambda place: (positions[place], first[keys[place]], place))


def group_sizes(records: Arrays) -> dict[str, NDArray[Any]]:
    """Return the records with those of one size after each other, so that an even choice of them has all sizes."""
    places = defaultdict[Hashable, list[int]](list)
    for place, key in enumerate(record_shapes(records)):
        places[key].append(place)
    return select_records(records, [place for group in places.values() for place in group])


def records_of_one_size(records: Arrays | None) -> dict[str, NDArray[Any]] | None:
    """Return the records of the most frequent size, for a comparison that needs samples of equal shape."""
    if records is None:
        return None
    keys = record_shapes(records)
    usual = Counter(keys).most_common(1)[0][0] if keys else ()
    return select_records(records, [place for place, key in enumerate(keys) if key == usual])


def places_of_one_size(samples: NDArray[Any]) -> NDArray[np.intp]:
    """Return the indices of the samples [N, *x_shape], or [N] arrays, of the most frequent size."""
    shapes = [sample.shape for sample in samples]
    usual = Counter(shapes).most_common(1)[0][0]
    return np.array([place for place, shape in enumerate(shapes) if shape == usual], np.intp)


def split_equal(keys: Sequence[Hashable], at_most: int) -> Iterator[slice]:
    """Split a sequence, in order, into slices of at most `at_most` equal keys."""
    start = 0
    while start < len(keys):
        stop = start + 1
        while stop < min(len(keys), start + at_most) and keys[stop] == keys[start]:
            stop += 1
        yield slice(start, stop)
        start = stop


def split_seeds_by_size(seeds: Sequence[int], records: Arrays | None, at_most: int) -> Iterator[Sequence[int]]:
    """Split seeds, in order, into parts of at most `at_most` seeds with records of one size. Seed i has record i mod
    N."""
    shapes = record_shapes(records) if records else [()]
    for part in split_equal([shapes[seed % len(shapes)] for seed in seeds], at_most):
        yield seeds[part]


def sizes_of_conditions(takes: DescriptionProtocol, values: Arrays) -> dict[str, int]:
    """Return the free sizes of x that follow from the shapes of conditions [N, *shape], by name. A size that no
    condition determines is left out. Raises UserError if two conditions have different sizes."""
    sizes, source = dict[str, int](), dict[str, str]()
    for condition in takes.conditions:
        if not condition.follows or condition.name not in values:
            continue
        named = free_shape(condition.shape, condition.follows)
        for name, size in infer_sizes(named, values[condition.name].shape[1:]).items():
            if sizes.setdefault(name, size) != size:
                what = f"{source[name]!r} has {name} {sizes[name]}, and {condition.name!r} has {name} {size}"
                raise UserError(f"conditions of one sample differ in size: {what}", "give both the same")
            source.setdefault(name, condition.name)
    return sizes


def join_rows(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Concatenate arrays [N, *shape]. If their shapes differ, return an array [N] whose elements are arrays."""
    if len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    rows = [row for part in parts for row in part]
    array = np.empty(len(rows), object)
    for place, row in enumerate(rows):  # numpy's own conversion would stack rows of equal shape
        array[place] = row
    return array


def stack_rows(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array [N] of arrays as an array [N, *shape], if all have one shape. Return others as they are."""
    if array.dtype != object or len({row.shape for row in array}) != 1:
        return array
    return np.stack(list(array))
