"""Code that a plan's name or a guidance names: it runs, its errors are reported, and no file brings code."""

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode, encode
from fewstep.plans.guidance import Branches
from fewstep.plans.names.guidance_text import from_text
from fewstep.plans.names.plan_name import is_plan_name, parse_plan_name
from fewstep.plans.names.user_code import load_function, split_code
from fewstep.plans.names.user_file import run_file
from tests.plans.gaussian import COSINE, denoising

HEUN3 = """
from itertools import pairwise

def euler(trace, times, *, share: float = 1.0):
    x = trace.start()
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        x = t.sigma / s.sigma * x + share * (t.alpha - s.alpha * t.sigma / s.sigma) * x0
    return x

def wrong(trace, times):
    return 1.0

def failing(trace, times):
    return trace.nothing

def even(schedule, steps):
    return tuple(schedule.time(t) for t in (900.0, 500.0, 100.0))

def half(schedule, steps):
    return (1, 2)

def negative(schedule, steps):
    from fewstep.plans.schedule import Time
    return tuple(Time(500.0 - number, 2.0, -0.5) for number in range(steps + 1))

def beyond(schedule, steps):
    from fewstep.plans.schedule import Time
    return tuple(Time(1e7, 0.5, 0.9 - 0.1 * number) for number in range(steps + 1))

def text(schedule, steps):
    from fewstep.plans.schedule import Time
    return (Time("500", 0.6, 0.8), Time(0.0, 1.0, 0.0), Time(0.0, 1.0, 0.0))

def silent(trace, times):
    return trace.denoise(0.0 * trace.start(), times[0])[1]

def editing(trace, times):
    x, x0 = trace.denoise(trace.start(), times[0])
    x0.terms[999] = 1.0
    return x0

def towards(a, b):
    from fewstep.plans.guidance import Branches
    return Branches({"cond": a, "uncond": 1 - a - b, "style": b})

def number(a):
    return a

WORD = "word"
"""
DENOISER = denoising(COSINE, "v")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_solver.py"
    path.write_text(HEUN3)
    return path


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("my_solver.py:heun3:8", ("my_solver.py", "heun3:8")),
        ("folder/my solver.py:heun3(order=2):8@karras", ("folder/my solver.py", "heun3(order=2):8@karras")),
        (r"C:\here\my.py:heun3", (r"C:\here\my.py", "heun3")),
        ("package.module:usf:5", ("package.module", "usf:5")),
        ("dpmpp_2m:8", None),
        ("ddim(eta=0.5):10@karras(rho=5)", None),
        ("0.5:8", None),
        ("my_solver.heun3:8@my_grids.even", None),
        ("my_solver.py:8", None),
        ("ddim:4@my_grids.py:even", None),
        ("plan.json", None),
    ],
)
def test_code_is_known_by_its_form(text: str, parts: tuple[str, str] | None) -> None:
    assert split_code(text) == parts


def test_a_solver_of_a_file_is_a_plan_of_the_same_numbers(file: Path) -> None:
    mine, ddim = compile_plan(f"{file}:euler:6@karras", DENOISER), compile_plan("ddim:6@karras", DENOISER)
    assert mine.name == "my_solver.euler:6@karras"  # neither the folder nor what would open it again
    assert [step.time for step in mine.steps] == [step.time for step in ddim.steps]
    for own, known in zip(mine.steps, ddim.steps, strict=True):
        assert np.array(own.update) == pytest.approx(np.array(known.update), abs=1e-12)


def test_parameters_of_user_code_are_in_the_name(file: Path) -> None:
    assert compile_plan(f"{file}:euler(share=0.5):2", DENOISER).name == "my_solver.euler(share=0.5):2"
    with pytest.raises(UserError, match="my_solver.euler has no parameter 'sharing'"):
        parse_plan_name(f"{file}:euler(sharing=1):2")


def test_a_grid_of_a_file_gives_its_times(file: Path) -> None:
    plan = compile_plan(f"ddim:2@{file}:even", DENOISER)
    assert (plan.name, [step.time for step in plan.steps]) == ("ddim:2@my_solver.even", [900.0, 500.0])


def test_a_grid_with_another_number_of_times_is_refused(file: Path) -> None:
    """Otherwise a plan of 3 steps would run 2."""
    said = r"the grid of plan 'ddim:3@my_solver\.even' returned 3 times for 3 steps; return 4, from noisy to clean"
    with pytest.raises(UserError, match=said):
        compile_plan(f"ddim:3@{file}:even", DENOISER)


def test_a_solver_of_a_module_is_named_by_it() -> None:
    name = "fewstep.plans.solvers.heun:heun:4"
    assert compile_plan(name, DENOISER).steps == compile_plan("heun:4", DENOISER).steps
    assert compile_plan(name, DENOISER).name == "fewstep.plans.solvers.heun.heun:4"


def test_a_changed_file_is_run_again(file: Path) -> None:
    before = compile_plan(f"{file}:euler:1", DENOISER)
    file.write_text(HEUN3.replace("share: float = 1.0", "share: float = 0.25"))
    os.utime(file, ns=(1, 1))
    assert compile_plan(f"{file}:euler:1", DENOISER).steps != before.steps


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("none:2", "has no function 'none'"),
        ("WORD:2", "has no function 'WORD'"),
        ("8", "my_solver.py' is not NAME|is of code"),
        ("euler", "does not have a number of steps"),
        ("wrong:2", "returned float"),
        ("failing:2", r"my_solver.py:failing failed: AttributeError: .* \(line 15\)"),
        ("editing:2", r"my_solver.py:editing failed: TypeError: .* does not support item assignment \(line 40\)"),
        ("euler:2@{file}:beyond", r"returned the network time 1e\+07, outside 0 .. 999 of schedule cosine-1000"),
        ("euler:2@{file}:half", "did not return times"),
        ("euler:2@{file}:negative", "returned a time with alpha 2 and sigma -0.5"),
        ("euler:2@{file}:text", "returned a time with '500', which is not a number"),
        ("silent:2", "the solver of plan .* does not use its noise; let it begin with trace.start"),
    ],
)
def test_what_code_lacks_is_one_line(file: Path, rest: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        compile_plan(f"{file}:{rest.format(file=file)}", DENOISER)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.py:a:8", "there is no file none.py"),
        ("my_solver.heun3:8", "'my_solver.heun3' in plan .* is user-supplied code"),
        ("my_solver.heun3(share=1):8", "is user-supplied code, .*; name its file or module"),
        ("fewstep.none:a:8", "the module fewstep.none cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_missing_home_of_code_is_named(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_plan_name(name)


def test_a_form_of_guidance_is_a_function_of_numbers(file: Path) -> None:
    made = from_text(f"{file}:towards:2,0.5")
    assert made == Branches({"cond": 2.0, "uncond": -1.5, "style": 0.5})
    refused = (
        (f"{file}:number:2", "returned float"),
        (f"{file}:towards:2,a", f"arguments that are not numbers.*write it as {file.name}:towards:2,0.5"),
    )
    for text, said in refused:
        with pytest.raises(UserError, match=said):
            from_text(text)


def test_no_file_names_code(file: Path) -> None:
    """A plan that names code is refused before its name is read, and a name is checked without an import."""
    (file.parent / "evil.py").write_text("raise SystemExit('imported')")
    name = f"{file.parent / 'evil.py'}:f:2"
    assert not is_plan_name(name)
    plan = msgspec.structs.replace(compile_plan("ddim:2", DENOISER), name=name)
    with pytest.raises(UserError, match="refers to code"):
        decode(encode(plan))
    with pytest.raises(UserError, match="is not NAME"):  # as the default grid, which a bundle may bring
        parse_plan_name("ddim:2", f"{file.parent / 'evil.py'}:f")


def test_an_interrupt_is_no_failure_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "interrupted.py"
    file.write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        run_file(str(file))


def test_two_files_import_siblings_of_one_name_each_from_its_folder(tmp_path: Path) -> None:
    """A command may name a solver of one folder and a grid of another. Python keeps one module for each name."""
    for folder, share in (("a", 1.0), ("b", 0.25)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "shared_numbers.py").write_text(f"SHARE = {share}\n")
        code = "def share():\n    return SHARE\n"
        (tmp_path / folder / f"in_{folder}.py").write_text(f"from shared_numbers import SHARE\n{code}")
    files = [f"{tmp_path}/a/in_a.py", f"{tmp_path}/b/in_b.py"]
    assert [load_function(file, "share")() for file in files] == [1.0, 0.25]
