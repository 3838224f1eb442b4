"""Each missing required argument or option gives one line with its meaning and a fix."""

import dataclasses
import importlib
from pathlib import Path

import pytest

from fewstep.cli.generate import is_argument, is_positional, options_of
from fewstep.cli.verbs import VERBS
from tests.cli.conftest import Refusal
from tests.refusals import assert_refusal


def parameters_of_verbs() -> list[tuple[str, tuple[str, ...], str, bool]]:
    """Return (verb, the required fields that precede the missing one, the missing one, whether it is an option) of
    every verb."""
    cases = list[tuple[str, tuple[str, ...], str, bool]]()
    for name in VERBS:
        fields = dataclasses.fields(options_of(importlib.import_module(f"fewstep.cli.verbs.{name}").verb))
        required = [field for field in fields if is_argument(field)]
        names = tuple(field.name for field in required)
        cases += [
            (name, names[:index], field.name, index > 0 and not is_positional(field))
            for index, field in enumerate(required)
        ]
    return cases


@pytest.mark.parametrize(("verb", "given", "missing", "is_option"), parameters_of_verbs())
def test_a_missing_parameter_is_named_with_its_meaning_and_a_fix(
    tiny_bundle: Path, refusal: Refusal, verb: str, given: tuple[str, ...], missing: str, is_option: bool
) -> None:
    values = {
        "bundle": (str(tiny_bundle),),
        "source": ("fashion_mnist",),
        "plan": ("--plan", "ddim:4"),
        "name": ("org/tiny",),
    }
    line = refusal(verb, *(word for name in given for word in values[name]), code=2)
    flag = f"--{missing}" if is_option else missing.upper()
    fix = "SOLVER:STEPS" if missing == "plan" else VERBS[verb].example  # the fix for a plan shows its form
    assert_refusal(line, names=f"{verb} needs {flag}", fix=fix)


def test_a_bake_of_no_bundle_names_the_folder(tmp_path: Path, refusal: Refusal) -> None:
    assert_refusal(refusal("bake", tmp_path / "gone", "-o", "run.onnx"), names=str(tmp_path / "gone"))
