"""Options of every verb survive the command line: `options.command_line(verb)` parses back to them."""

import importlib
import shlex
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from fewstep.cli.generate import is_argument, make_command, options_of
from fewstep.cli.outcome import Outcome
from fewstep.cli.verbs import VERBS
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import CfgPlusPlus, Pag
from fewstep.plans.names.plan_reference import NamedReference, parse_plan_text
from fewstep.runtime.options import option_fields
from fewstep.runtime.progress import SILENT, Progress

PLANS = list(map(parse_plan_text, ("ddim:3@karras", "fitted:4", "scheduler:5", "plan.json")))
VALUES: dict[Any, list[Any]] = {  # which a field of this type may have
    bool: [True, False],
    int: [1, 2, 4, 8, 300],
    float: [0.125, 0.5, 1.0, 1e-7, 123456.75],
    str: ["word", "two words", "a=b", "0", "10ms", "psnr", "cpu-x86", "openvino"],
    Path: [Path("file.npy"), Path("a file.json")],
    Pag: [Pag(3.0), CfgPlusPlus(0.5)],
    NamedReference: PLANS,
}
DRAWS = 20  # of each verb


def values(hint: Any) -> list[Any]:
    """Return values that a field of this type may have."""
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return list(parts)
    if get_origin(hint) is tuple:
        return [each for one in values(parts[0]) for each in ((one,), (one, one))]
    return VALUES.get(hint, [value for part in parts for value in values(part)])


@cache
def parser(verb: str) -> tuple[typer.Typer, list[object]]:
    """Return a verb's command, which appends its options to the list and does nothing else."""
    seen: list[object] = []

    def show(options: object, progress: Progress) -> Outcome:
        return Outcome(options)

    show.__annotations__["options"] = kind_of(verb)
    app = typer.Typer()
    app.command()(make_command(show, SILENT, lambda outcome: seen.append(outcome.value)))
    return app, seen


def parse(verb: str, arguments: list[str]) -> object:
    app, seen = parser(verb)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, (arguments, done.output, done.exception)
    return seen.pop()


def draw(rng: np.random.Generator, kind: type, least: int) -> Any:
    """Return options with random values in at least `least` fields, or None if they contradict each other."""
    hints = get_type_hints(kind)
    given: dict[str, Any] = {"bundle": "BUNDLE", "output": "file.npy"}
    for field in filter(is_argument, option_fields(kind)):
        given.setdefault(field.name, values(hints[field.name])[0])
    given = {field.name: given[field.name] for field in filter(is_argument, option_fields(kind))}
    free = [field for field in option_fields(kind) if field.name not in given and "unrecorded" not in field.metadata]
    for index in rng.permutation(len(free))[:least]:
        choices = values(hints[free[index].name])
        given[free[index].name] = choices[rng.integers(len(choices))]
    try:
        return kind(**given)
    except UserError:
        return None


def kind_of(verb: str) -> type:
    return options_of(importlib.import_module(f"fewstep.cli.verbs.{verb}").verb)


@pytest.mark.parametrize("verb", [verb for verb in sorted(VERBS) if is_argument(option_fields(kind_of(verb))[0])])
def test_options_are_those_of_their_command_line(verb: str) -> None:
    kind = kind_of(verb)
    rng, tried = np.random.default_rng(0), 0
    for attempt in range(DRAWS * 10):
        options = draw(rng, kind, 1 + attempt % 3)
        if options is None or tried == DRAWS:
            continue
        first = f"{vars(options)[option_fields(kind)[0].name]}{' -o file.npy' * (verb == 'export')}"  # as export says
        words = shlex.split(options.command_line(verb, of=first))
        assert parse(verb, words[2:]) == options, words
        tried += 1
    assert tried >= DRAWS / 2
