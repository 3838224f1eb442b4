"""Held-out conditions: fixed by the seed, spread over all values."""

import numpy as np

from fewstep.measure.rollouts.held_out import held_out_conditions, label
from fewstep.runtime.bundle.manifest import Condition

CLASSES = Condition("class", "class", null=3, low=0, high=2, labels=("a", "b", "c"))
GOAL = Condition("goal", "goal", shape=(2,), dtype="float32", low=-1.0, high=1.0)


def test_classes_cycle_with_the_seeds_and_never_are_null():
    values = held_out_conditions([CLASSES], range(7))["class"]
    assert values.dtype == np.int64 and values.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_continuous_conditions_depend_on_the_seed_alone():
    many = held_out_conditions([CLASSES, GOAL], range(5))["goal"]
    one = held_out_conditions([CLASSES, GOAL], [3])["goal"]
    assert many.shape == (5, 2) and (many[3] == one[0]).all() and (np.abs(many) <= 1).all()


def test_labels_use_the_users_words():
    assert label([CLASSES], 4) == "b"
    assert label([Condition("class", "class", low=0, high=9)], 4) == "class 4"
    assert label([GOAL], 4) == label([], 4) == "seed 4"


def test_rows_of_ones_own_are_taken_in_turn():
    rows = {"class": np.array([2, 0, 1]), "goal": np.arange(6.0).reshape(3, 2)}
    values = held_out_conditions([CLASSES, GOAL], range(50_000, 50_004), rows)
    assert values["class"].tolist() == [1, 2, 0, 1] and values["goal"][0].tolist() == [4, 5]  # 50 000 is 2 mod 3
    assert label([CLASSES], 0, rows) == "c"
