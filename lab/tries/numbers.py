"""Texts of options: the number that Python reads, or a refusal."""

import inspect
import math
from collections.abc import Iterator
from unittest.mock import patch

import numpy as np

from fewstep.cli import app
from fewstep.cli.errors import CommandLineError
from fewstep.cli.output_flags import OutputOptions
from fewstep.cli.verbs import run as run_module
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.shaping import clip_to
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from lab.tries.attempt import Attempt

TEXTS = (
    *(
        "1",
        "0",
        "-1",
        "1.5",
        "1e3",
        "1e-3",
        "nan",
        "inf",
        "-inf",
        "1_000",
        " 2",
        "2 ",
        "0x10",
        "1e999",
        "",
        "two",
        "1,5",
        "1.5.2",
    ),
    *(
        "+3",
        "--3",
        "٣",
        "１",
        "1e",
        "0.1f",
        "True",
        "None",
        "[1]",
        "1;2",
        "1e-400",
        "00012",
        "1.",
        ".5",
        "-0.0",
        "2**3",
        "1/2",
    ),
    *("∞", "9" * 400, "1" + "0" * 30, "1\n2", "0.30000000000000004", "16777217", "1E2", "1e+2", "½", "1 2"),
)
OPTIONS = {
    "guidance": float,
    "clip": float,
    "strength": float,
    "samples": int,
    "seed": int,
    "threads": int,
    "rate": float,
}


def attempts(random: np.random.Generator, number: int) -> Iterator[Attempt]:
    for index in range(number):
        text, option = TEXTS[index % len(TEXTS)], list(OPTIONS)[index // len(TEXTS) % len(OPTIONS)]

        def run(text=text, option=option) -> None:  # type: ignore[no-untyped-def]
            seen: list[object] = []

            class Stop(Exception):
                pass

            def take(options: object, *_: object) -> None:
                seen.append(options)
                raise Stop

            take.__annotations__ = dict(run_module.verb.__annotations__)
            take.__doc__ = run_module.verb.__doc__
            take.__signature__ = inspect.signature(run_module.verb)  # type: ignore[attr-defined]
            with patch.object(run_module, "verb", take):
                try:
                    app.run(["run", "bundle", f"--{option}={text}"], OutputOptions())
                except Stop:
                    pass
                except CommandLineError as error:
                    raise UserError(str(error), "") from None
            value = getattr(seen[0], option)
            try:
                right = OPTIONS[option](text)
            except (ValueError, OverflowError):
                right = 0 if text == "-0.0" else None  # a whole number
            if option == "guidance" and right is None and "," in text:
                right = tuple(map(float, text.split(",")))
            weight = getattr(value, "weight", value)
            if isinstance(right, float) and math.isnan(right):  # refused when the plan is compiled
                shaping = clip_to(value) if option == "clip" else None
                compile_plan(
                    "ddim:2",
                    DenoiserFacts(ScheduleSpec("linear"), "epsilon"),
                    value if shaping is None else 2.0,
                    shaping,
                )
            assert weight == right, f"read as {value!r}, not {right!r}"

        yield Attempt(f"--{option}={text[:40]!r}", run, may_refuse=True)
