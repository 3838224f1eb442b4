"""Conditions of a file, and those that are held out of it."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from fewstep.measure.rollouts.conditions_file import (
    GivenConditions,
    digest_records,
    distribute_records,
    read_branches,
    read_conditions,
)
from fewstep.measure.rollouts.seeds import FIRST_SEED, describe_conditions, draw_condition, held_out_conditions
from fewstep.measure.rollouts.trajectories import roll_out
from fewstep.plans.errors import UserError
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.conditions import check, random_range
from fewstep.runtime.bundle.manifest import Condition, Description
from fewstep.runtime.sampling.loading import load

CLASS = Condition("class", "label", null=3, low=0, high=2)
IMAGE = Condition("image", "image", shape=(2, 3), dtype="float32")
GIVEN = {"class": np.array([0, 2, 1, 1, 0]), "image": np.arange(30, dtype=np.float64).reshape(5, 2, 3)}


def takes(*conditions: Condition) -> Description:
    return Description("tiny", (1, 4), conditions, "epsilon", ScheduleSpec("linear"))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_file_gives_a_row_of_each_condition(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"own{suffix}"
    save_file(GIVEN, path) if suffix == ".safetensors" else np.savez(path, **GIVEN)  # type: ignore[arg-type]
    rows = read_conditions(path, takes(CLASS, IMAGE))
    np.testing.assert_array_equal(rows["class"], GIVEN["class"])
    np.testing.assert_array_equal(rows["image"], GIVEN["image"])
    assert (rows["class"].dtype, rows["image"].dtype) == (np.int64, np.float32)


def test_samples_of_a_file_for_check_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((3, 4)), level=np.arange(3.0))
    level = Condition("level", "level", (), "float32")
    for read in (lambda path: read_conditions(path, takes(level)), lambda path: read_branches(path, [level])["cond"]):
        caplog.clear()
        records = read(tmp_path / "data.npz")
        assert records.keys() == {"level"} and records["level"].tolist() == [0.0, 1.0, 2.0]
        assert caplog.messages == ["data.npz has samples, x: only its conditions are used"]
    own = Condition("x", "x", (4,), "float32")
    assert read_conditions(tmp_path / "data.npz", takes(level, own))["x"].shape == (3, 4)


def test_a_digest_is_of_names_types_shapes_and_values() -> None:
    a, b = np.zeros(6), np.ones(6)
    others = ({"b": a}, {"a": a.astype(np.int64)}, {"a": a.reshape(2, 3)}, {"a": b}, {"a": b, "b": a}, {"b": b, "a": a})
    assert (
        len({*map(digest_records, ({"a": a}, {"a": a, "b": b}, *others))}) == 7
    )  # the last is the second in another order


def test_rows_are_spread_over_the_file_or_taken_in_turn(caplog: pytest.LogCaptureFixture) -> None:
    rows = {"a": np.arange(10), "b": 10 * np.arange(10)}
    assert distribute_records(rows, 4)["a"].tolist() == [0, 2, 5, 7] and distribute_records(rows, 10)[
        "a"
    ].tolist() == list(range(10))
    assert not caplog.messages
    dealt = distribute_records(rows, 12)
    assert dealt["a"].tolist() == [*range(10), 0, 1] and (dealt["b"] == 10 * dealt["a"]).all()
    assert "10 records of conditions serve 12 samples: each is used more than once" in caplog.text


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"class": GIVEN["class"]}, "own.npz: condition 'image' is missing; give float32 values of shape"),
        ({**GIVEN, "pose": np.zeros(5)}, "own.npz: unknown condition 'pose'; it takes 'class', 'image'"),
        ({**GIVEN, "class": np.zeros(4, int)}, r"have different lengths \(class 4, image 5\)"),
        ({**GIVEN, "class": np.array([0, 1, 9, 0, 0])}, "own.npz: condition 'class': 9 is out of range"),
        ({**GIVEN, "image": np.full((5, 2, 3), np.nan)}, "own.npz: condition 'image': nan is not a finite float32"),
        ({**GIVEN, "image": np.zeros((5, 3, 2))}, r"own.npz: condition 'image': one value has the shape \[3, 2\]"),
        ({**GIVEN, "class": np.array(3)}, "array 'class' of own.npz has no rows"),
        ({**GIVEN, "class": np.zeros(0, int)}, "array 'class' of own.npz has no rows"),
        (
            {**GIVEN, "class": np.array([None] * 5)},
            r"own.npz cannot be read \(it holds other objects than arrays\); write",
        ),
        ({**GIVEN, "class": np.zeros(5)}, "condition 'class': 0.0 is not a whole number of type int64"),
    ],
)
def test_what_does_not_fit_is_one_line(given: dict[str, Any], says: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **given)
    with pytest.raises(UserError, match=says):
        read_conditions(tmp_path / "own.npz", takes(CLASS, IMAGE))


@pytest.mark.parametrize("name", ["own.npz", "own.safetensors", "own.txt", "absent.npz"])
def test_a_file_that_is_none_is_one_line(name: str, tmp_path: Path) -> None:
    if name != "absent.npz":
        (tmp_path / name).write_bytes(b"no such file")
    with pytest.raises(UserError, match=name):
        read_conditions(tmp_path / name, takes(CLASS))


def test_trajectories_take_their_row(tiny_bundle: Path) -> None:
    sampler = load(tiny_bundle)
    plan = sampler.compile("ddim:2", guidance=2.0)
    seeds, classes = range(FIRST_SEED, FIRST_SEED + 5), [0, 2, 1, 1, 0]
    *_, last = roll_out(sampler, plan, seeds, batch=5, conditions={"class": np.array(classes)})
    expected = sampler.sample(plan, seeds, {"class": classes})
    (row,) = (row for row, value in enumerate(plan.output) if value == 1.0)
    assert np.array_equal(last.state.after[row], expected)
    states = list(roll_out(sampler, plan, seeds, batch=2, conditions={"class": np.array(classes)}))
    assert np.array_equal(np.concatenate([s.state.after[row] for s in states if s.state.index == 1]), expected)


def test_limits_and_the_range_to_draw_from_are_two_things() -> None:
    free = Condition("pose", "pose", (2,), "float32", typical=(-1.0, 1.0))
    assert random_range(free) == (-1.0, 1.0)
    assert np.abs([draw_condition(free, 0, seed) for seed in range(50)]).max() <= 1
    assert check([free], {"pose": [[100.0, -100.0]]}, 1)["pose"].tolist() == [[100.0, -100.0]]
    limited = Condition("speed", "speed", (), "float32", low=0.0, high=100.0, typical=(3.0, 5.0))
    assert min(draw_condition(limited, 0, seed) for seed in range(50)) >= 3
    assert random_range(Condition("speed", "speed", (), "float32", low=0.0, high=9.0)) == (0.0, 9.0)
    assert random_range(Condition("speed", "speed", (), "float32", low=0.0)) is None
    mask = Condition("mask", "mask", (100,), "bool")
    assert 30 < draw_condition(mask, 0, 1).sum() < 70


def alter_headers(content: bytes, local: int, central: int, value: int) -> bytes:
    """Return a zip file of one member with one byte of its two headers changed."""
    changed = bytearray(content)
    changed[local] = changed[content.index(b"PK\x01\x02") + central] = value
    return bytes(changed)


HUGE = (
    b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (10**15,), }".ljust(117) + b"\n"
)


@pytest.mark.parametrize("damage", ["encrypted", "method", "content", "huge", "text", "npy"])
def test_a_damaged_file_is_one_line(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez_compressed(path, image=np.random.default_rng(0).random((500, 2, 3)))
    content = path.read_bytes()
    if damage == "encrypted":
        path.write_bytes(alter_headers(content, 6, 8, 1))
    elif damage == "method":
        path.write_bytes(alter_headers(content, 8, 10, 99))
    elif damage == "content":
        path.write_bytes(content[:200] + b"\xff" * 60 + content[260:])
    elif damage == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("image.npy" if damage == "huge" else "image", HUGE.replace(b"10**15", b"10" + b"0" * 14))
    with pytest.raises(
        UserError, match=r"own\.npz (cannot be read \(|has no rows)|array 'image' of own.npz has no rows"
    ):
        read_conditions(path, takes(IMAGE))


CLASSES = Condition("class", "class", null=3, low=0, high=2, labels=("a", "b", "c"))
GOAL = Condition("goal", "goal", shape=(2,), dtype="float32", low=-1.0, high=1.0)


def denoiser(*conditions: Condition) -> Description:
    return Description("tiny", (4,), conditions, "v", ScheduleSpec("cosine"))


def test_classes_cycle_with_the_seeds_and_never_are_null():
    values = held_out_conditions(denoiser(CLASSES), range(7))["class"]
    assert values.dtype == np.int64 and values.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_continuous_conditions_depend_on_the_seed_alone():
    many = held_out_conditions(denoiser(CLASSES, GOAL), range(5))["goal"]
    assert (
        np.array_equal(many[3:4], held_out_conditions(denoiser(CLASSES, GOAL), [3])["goal"]) and np.abs(many).max() <= 1
    )


MAY_BE_MISSING = Condition("label", "label", low=0, high=1, null=2, default=(2,))


def test_a_default_that_is_the_null_value_is_not_drawn() -> None:
    assert {int(draw_condition(MAY_BE_MISSING, 0, seed)) for seed in range(50)} == {0, 1}
    assert [int(draw_condition(MAY_BE_MISSING, 0, seed, is_held_out=True)) for seed in range(4)] == [0, 1, 0, 1]
    kept = Condition("label", "label", low=0, high=1, null=2, default=(1,))
    assert {int(draw_condition(kept, 0, seed)) for seed in range(50)} == {1}


def test_a_file_without_a_label_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.savez(tmp_path / "own.npz", speed=np.zeros(3, np.float32))
    speed = Condition("speed", "speed", dtype="float32", low=0.0, high=1.0)
    assert read_conditions(tmp_path / "own.npz", takes(speed, MAY_BE_MISSING))["label"].tolist() == [2, 2, 2]
    assert "own.npz has no label: all samples have its null value, and are not guided by it" in caplog.text


def test_files_of_a_folder_without_a_label_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    level = {"level": np.zeros(2, np.float32)}
    np.savez(tmp_path / "a.npz", **level, label=np.array([0, 1]))
    np.savez(tmp_path / "b.npz", **level)
    records = read_conditions(tmp_path, takes(MAY_BE_MISSING, Condition("level", "level", (), "float32")))
    assert records["label"].tolist() == [0, 1, 2, 2]
    assert caplog.messages == ["b.npz has no label: all samples have its null value, and are not guided by it"]


def test_labels_use_the_users_words():
    assert describe_conditions(denoiser(CLASSES), 4) == "b"
    assert describe_conditions(denoiser(Condition("class", "class", low=0, high=9)), 4) == "class 4"
    assert describe_conditions(denoiser(GOAL), 4) == describe_conditions(denoiser(), 4) == "seed 4"


def test_rows_of_a_file_are_taken_in_turn():
    rows = {"class": np.array([2, 0, 1]), "goal": np.arange(6.0).reshape(3, 2)}
    values = held_out_conditions(denoiser(CLASSES, GOAL), range(50_000, 50_004), rows)
    assert values["class"].tolist() == [1, 2, 0, 1] and values["goal"][0].tolist() == [4, 5]  # 50 000 is 2 mod 3
    assert describe_conditions(denoiser(CLASSES), 0, rows) == "c"


@pytest.mark.parametrize(("rows", "held_out"), [(15, 0), (16, 4), (64, 16)])
def test_one_of_four_rows_judges_if_there_are_enough(rows: int, held_out: int) -> None:
    prompts = tuple(f"prompt {row}" for row in range(rows))
    own, judged = GivenConditions({"level": np.arange(rows)}, prompts=prompts).split_held_out()
    assert own.records is not None and judged.records is not None
    assert judged.is_held_out == (held_out > 0) and len(judged.records["level"]) == (held_out or rows)
    assert judged.prompts == tuple(f"prompt {row}" for row in judged.records["level"])
    if held_out:
        assert sorted([*own.records["level"], *judged.records["level"]]) == [*range(rows)]


@pytest.mark.parametrize("period", [2, 4])
def test_rows_that_repeat_in_a_period_judge_with_every_value(period: int) -> None:
    own, judged = GivenConditions({"class": np.arange(64) % period}).split_held_out()
    assert own.records is not None and judged.records is not None
    for records in (own.records, judged.records):
        assert {*records["class"].tolist()} == {*range(period)}
