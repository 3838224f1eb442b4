"""Windows cover everything, neighbours overlap, and their weights sum to one where they do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.plans.errors import UserError
from fewstep.runtime.windows import blend_weights, window_places


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_element_counts_and_windows_overlap(data) -> None:
    multiple = data.draw(st.sampled_from([1, 2, 4]))
    window = multiple * data.draw(st.integers(2, 8))
    full = window + multiple * data.draw(st.integers(0, 20))
    overlap = data.draw(st.integers(0, window - multiple))
    margin = data.draw(st.integers(0, overlap // 2))
    places = window_places((full,), (window,), overlap, multiple, data.draw(st.integers(0, 9)))
    starts = [along.start for (along,) in places]
    assert starts[0] == 0 and starts[-1] == full - window and all(start % multiple == 0 for start in starts)
    assert all(b - a <= window - overlap for a, b in zip(starts, starts[1:], strict=False))
    total = np.zeros(full)
    for place in places:
        weight = blend_weights(place, (full,), margin, overlap)
        assert (weight[:margin] == 0).all() or place[0].start == 0
        total[place] += weight
    assert (total > 1e-6).all()


def test_weights_of_two_neighbours_sum_to_one() -> None:
    first, second = window_places((14,), (8,), 2, 1)[:2]
    total = np.zeros(14)
    for place in (first, second):
        total[place] += blend_weights(place, (14,), 0, 2)
    np.testing.assert_allclose(total[:12], 1)


def test_windows_move_with_the_offset() -> None:
    starts = {tuple(along.start for (along,) in window_places((64,), (16,), 4, 1, offset)) for offset in range(12)}
    assert len(starts) == 12


def test_a_place_in_two_axes_has_the_product_of_weights() -> None:
    place = (slice(0, 1), slice(4, 8), slice(0, 4))
    rise = blend_weights((slice(4, 8),), (8,), 0, 2)
    np.testing.assert_array_equal(blend_weights(place, (1, 8, 4), 0, 2)[0], np.repeat(rise[:, None], 4, 1))


@pytest.mark.parametrize("arguments", [((20,), (8,), 8), ((21,), (8,), 2, 4), ((20,), (8,), 6, 4)])
def test_windows_that_cannot_be(arguments) -> None:
    with pytest.raises(UserError, match="that overlap by"):
        window_places(*arguments)
