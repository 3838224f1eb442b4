"""Conditions that are labels: integers that a network looks up in a table, with the names that a folder gives them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Condition


@dataclass(frozen=True)
class Labels:
    """The labels of an argument of a network: the integers below `count`. `settings` are those of `pipeline`, one of
    which may have the names of the labels, such as `id2label` in model_index.json."""

    pipeline: str
    count: int
    settings: Sequence[Any] = ()

    def describe(self, condition: Condition) -> Condition:
        """Return a condition of integers with their limits and names. The last or the first integer is no label if it
        is the null value. Raises UserError for a null value that the table does not have."""
        if condition.null is not None and not 0 <= condition.null < self.count:
            what = f"{self.pipeline} passes {condition.null:.0f} for no label, and the table of its network's "
            fix = f"give --call guidance_scale=1, and --null {condition.name}=N with the label that the network knows"
            raise UserError(f"{what}{condition.name} has {self.count} rows", f"{fix} as none")
        low = int(condition.null == 0)
        high = self.count - 1 - int(condition.null == self.count - 1)
        names = next(filter(None, (name_labels(named, high + 1) for named in self.settings)), ())
        return replace(condition, low=low, high=high, labels=names)


def name_labels(named: Any, count: int) -> tuple[str, ...]:
    """Return a name for each class from 0 to `count` - 1, from a mapping of their numbers to names; none if it does not
    name all of them.

    A class may have several names, separated by commas: the first is used. If several classes have the same first name,
    as the two cranes of ImageNet do, the number of the class is appended to it.
    """
    texts = [named.get(str(number)) for number in range(count)] if isinstance(named, Mapping) else []
    names = [text.split(",")[0].strip() for text in texts if isinstance(text, str)]
    if len(names) < count or not all(name and name.isprintable() for name in names):
        return ()
    uses = Counter(name.casefold() for name in names)
    made = tuple(name if uses[name.casefold()] == 1 else f"{name} {number}" for number, name in enumerate(names))
    return made if len({name.casefold() for name in made}) == count else ()
