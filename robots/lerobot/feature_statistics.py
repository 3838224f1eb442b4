"""The statistics of one feature of a LeRobot policy, as they are stored, and as they normalise."""

from dataclasses import dataclass

from fewstep.runtime.bundle.manifest import Affine


@dataclass(frozen=True)
class Statistic:
    """A stored statistic of a feature: its values in order, and their shape."""

    values: tuple[float, ...]
    shape: tuple[int, ...]

    def rows(self, count: int) -> list[tuple[float, ...]]:
        """Return the distinct rows of values for each step of a sequence, [steps, count], or else all values."""
        if len(self.shape) != 2 or self.shape[1] != count:
            return [self.values]
        return list(dict.fromkeys(self.values[at : at + count] for at in range(0, len(self.values), count)))


@dataclass(frozen=True)
class FeatureStatistics:
    """The statistics by which one feature is normalised: normalised = (raw - centre) * scale + base, with one number
    per element or channel, or per element of each step of a sequence.

    A scale of 0 marks a feature that never changed in the data. LeRobot divides by 1e-8 there: the value of the data
    becomes `base`, and any other value becomes a number that the network has never seen. Here all values become `base`.
    `typical` is the usual range (low, high) of raw values.
    """

    centre: tuple[float, ...]
    scale: tuple[float, ...]
    base: tuple[float, ...]
    typical: tuple[tuple[float, ...], tuple[float, ...]]

    def inverse(self, count: int, padding: int = 0) -> Affine:
        """Return the map from normalised to raw values of `count` elements: along the last axis or, if steps differ, of
        each element. Each action has `padding` more elements, which are unchanged."""
        back = tuple(1 / scale if scale else 0.0 for scale in self.scale)
        shift = tuple(c - b * s for c, b, s in zip(self.centre, self.base, back, strict=True))
        padded_scale, padded_shift = _pad_steps(back, count, padding, 1.0), _pad_steps(shift, count, padding, 0.0)
        return Affine(padded_scale, padded_shift, -1 if len(back) == count else None, self.base[0])


def _pad_steps(numbers: tuple[float, ...], count: int, padding: int, fill: float) -> tuple[float, ...]:
    """Append padding to the `count` numbers of each step."""
    steps = (numbers[at : at + count] for at in range(0, len(numbers), count))
    return tuple(number for step in steps for number in (*step, *[fill] * padding))
