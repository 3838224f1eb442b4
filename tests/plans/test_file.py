"""Plans of earlier schemas are read, impossible ones refused by name; wrong arguments are one line with a fix."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from fewstep.literature.time_travel import time_travel
from fewstep.plans.any_plan import check_compiled
from fewstep.plans.argument_checks import check_integer
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import LONGEST, UserError, printable
from fewstep.plans.file import decode, encode
from fewstep.plans.guidance import Cfg
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import Clip
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.plans.transforms import tail, use_given_noise
from fewstep.runtime.sampling.execute import Hold
from tests.plans.execute_plan import sample
from tests.refusals import refuses

V = DenoiserFacts(ScheduleSpec("cosine"), "v")
SCHEMA_1 = b"""{"schema":1,"name":"dpmpp_2m:2","schedule":"799a0d6f2273e702","prediction":"v","guidance":2.0,"rows":1,
"start":[[0.9999999987856165]],"start_draws":[0],"steps":[{"network":"denoiser","time":999.0,"lam":-9.917941075811987,
"group":0,"branches":["cond","uncond"],"input":[1.0],"x0":[0.00004928252131369569,-1.999999997571233,
0.9999999987856165],"clip":{"low":-1,"high":1},"update":[[0.7114467027042136,0.0,0.0,0.7027049970538797]],"draws":[]},
{"network":"denoiser","time":499.0,"lam":-0.012313441405756353,"group":0,"branches":["cond","uncond"],"input":[1.0],
"x0":[0.7027400589411693,-1.422893403680489,0.7114467018402445],"clip":{"low":-1,"high":1},
"update":[[0.0,0.0,0.0,1.0]],"draws":[]}],"output":[1.0]}"""  # written by the version that had it


def test_a_plan_of_schema_1_samples_as_it_did():
    old, new = decode(SCHEMA_1), compile_plan("dpmpp_2m:2", V, 2.0, Clip(-1, 1))
    assert (old.guidance, old.steps[0].shaping, old.schedule) == (Cfg(2.0), Clip(-1, 1), new.schedule)
    x = np.linspace(-2, 2, 7)

    def network(index, step, u):
        return [np.sin(u), np.cos(u)]

    expected = sample(new, network, lambda draw: x, np.float64)
    assert sample(old, network, lambda draw: x, np.float64) == pytest.approx(expected, abs=1e-12)
    assert decode(encode(old)) == old
    with pytest.raises(UserError, match="older version cannot hold"):
        sample(old, network, lambda draw: x, np.float64, hold=Hold(x, np.ones(7)))


def test_a_newer_plan_is_refused_before_its_fields_are_read():
    with refuses(("p.json", "schema 4"), "update fewstep"):
        decode(b'{"schema": 4, "whatever": []}', "p.json")


STEP = msgspec.json.decode(encode(compile_plan("dpmpp_2m:4", V)))["steps"][0]
BARE = {"start": [], "output": [], "steps": [STEP | {"input": [], "x0": [1.0], "update": []}]}
DAMAGED = [  # fields of the plan, or of its first step, and what is said of them
    ({"schema": 99}, "plan schema 99"),
    ({"rows": 3}, "start is not 3 x 1"),
    ({"rows": 10**15}, "start is not 1000000000000000 x 1"),
    ({"output": [1.0]}, "output is not 1 x 2"),
    ({"output": [3.5e38, 0.0]}, "output holds a number that is not finite"),  # float32 does not hold it
    ({"start": [[-1e300], [0.0]]}, "start holds a number that is not finite"),
    ({"steps": []}, "it has no steps"),
    ({"rows": 0, **BARE}, "has no state"),
    ({"start_draws": [], "start": [[], []]}, "neither draws nor given tensors"),
    ({"start_draws": [-1]}, "draw -1 is out of range"),
    ({"start_draws": [2**70]}, f"draw {2**70} is out of range"),
    ({"surprise": 1}, "surprise"),
    ({"rows": None}, "rows"),
    ({"prediction": "noise"}, "prediction"),
    ({"given": ["y", "y"]}, r"given tensors are \['y', 'y'\]"),
    ({"first_step": 2}, "its first step is 2, but it is not a tail"),
    ({"tail_of": "ddim:4", "first_step": 2}, r"it is the tail of 'ddim:4' from step 2, but starts from \[\]"),
    ({"tensors": [{"shape": [2], "data": "AAAA"}]}, r"tensors\[0\] does not have the numbers of shape \[2\]"),
    ({"tensors": [{"shape": [2**62], "data": ""}]}, r"tensors\[0\] does not have the numbers"),
    ({"tensors": [{"shape": [1] * 99, "data": "AAAAAAAA8D8="}]}, r"tensors\[0\] has 99 axes"),
    ({"start_terms": [{"row": 0, "column": 0, "tensor": 0}]}, "start has a term"),
    ({"guidance": {"type": "branches", "weights": {"cond": 3.0}}}, "do not sum to 1"),
    ({"steps": [STEP | {"heads": 0}]}, r"steps\[0\] has 0 heads"),
    ({"steps": [STEP | {"heads": 2}]}, r"steps\[0\].* is not"),
    ({"steps": [STEP | {"branches": ["cond", "cond"]}]}, "evaluates the branches"),
    ({"steps": [STEP | {"shape": {"type": "clip", "low": 1, "high": 0}}]}, r"steps\[0\] clips to"),
    # the network gets float32: numpy would warn of an overflow, and the output be infinite
    ({"steps": [STEP | {"time": 1e308}]}, r"steps\[0\] passes the network the time 1e\+308"),
    ({"steps": [STEP | {"to": 1e308}]}, r"steps\[0\] passes the network the time 1e\+308"),
]


@pytest.mark.parametrize(("changes", "message"), DAMAGED)
def test_a_damaged_plan_says_where(changes, message):
    raw = msgspec.json.decode(encode(compile_plan("dpmpp_2m:4", V)))
    with pytest.raises(UserError, match=message):
        decode(msgspec.json.encode(raw | changes), "plans/x.json")


def test_an_older_plan_without_its_fields_is_no_plan():
    raw = msgspec.json.decode(SCHEMA_1)
    broken = (raw | {"steps": [1]}, raw | {"steps": None}, {"schema": 1}, raw | {"guidance": "much"})
    for data in (*map(msgspec.json.encode, broken), b'{"schema": 1, "name": "\xff"}'):
        with pytest.raises(UserError, match="is not a plan"):
            decode(data)


def test_a_message_is_one_printable_line():
    error = UserError("field 'a\nb' holds\t\x1b[31mred\x00 and \u2028 more", "write  it\nagain")
    assert str(error) == "field 'a b' holds \\x1b[31mred\\x00 and more; write it again"
    assert (error.what, error.fix) == tuple(str(error).split("; "))


def test_ordinary_text_stays_as_it_is():
    assert str(UserError("é is no 8-bit number in 'x0'", "give 1.5")) == "é is no 8-bit number in 'x0'; give 1.5"


def test_of_a_long_text_both_ends_are_shown():
    error = UserError("a" * 500_000 + ": no such file", "give " + ", ".join(map(str, range(100_000))))
    assert len(str(error)) < 2 * (LONGEST + 50)
    assert error.what.startswith("aaa") and error.what.endswith(": no such file")
    assert f" [{500_014 - LONGEST} characters left out] " in error.what
    assert printable("x" * LONGEST) == "x" * LONGEST


def test_spaces_and_marks_of_a_printed_text_stay():
    assert printable("    pip install  'a[b]'") == "    pip install  'a[b]'"
    assert printable("one\ntwo\x9b2J\udcff") == "one\\ntwo\\x9b2J\\udcff"


PLAN = compile_plan("ddim:4", V)


def test_a_whole_number_is_of_any_integer_type() -> None:
    made = check_integer("steps", np.int64(3), 1)
    assert made == 3 and type(made) is int
    assert tail(PLAN, np.int8(1)) == tail(PLAN, 1)


@pytest.mark.parametrize("value", [0, 5, 2.0, "2", None, [2]])
def test_what_is_no_whole_number_in_the_range_is_reported(value: Any) -> None:
    with pytest.raises(UserError) as caught:
        check_integer("steps", value, 1, 4)
    assert str(caught.value) == f"steps {value!r}; give a whole number from 1 to 4"


@pytest.mark.parametrize("transform", [use_given_noise, lambda plan: tail(plan, 1), lambda plan: time_travel(plan, 2)])
def test_a_name_where_a_compiled_plan_is_needed_is_reported(transform: Callable[[Any], Any]) -> None:
    with refuses("'ddim:4'", "sampler.compile('ddim:4')"):
        transform("ddim:4")


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (lambda: tail(PLAN, 1.0), "plan 'ddim:4' has no step 1.0; give a whole number from 0 to 3"),
        (lambda: time_travel(PLAN, 2.5), "repeats 2.5; give a whole number from 1 up"),
        (lambda: time_travel(PLAN, 2, "1"), "jump '1'; give a whole number from 1 up"),
    ],
)
def test_counts_of_a_transform_are_whole_numbers(transform: Callable[[], Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        transform()
    assert str(caught.value) == said


@pytest.mark.parametrize("plan", [None, 3, ["ddim:4"], Plan])
def test_what_is_no_plan_at_all_is_one_line(plan: Any) -> None:
    with refuses("is not compiled", "sampler.compile"):
        check_compiled(plan)
