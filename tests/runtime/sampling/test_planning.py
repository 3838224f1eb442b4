"""The number of modules that handle the text of a plan until it is compiled."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from fewstep.plans.errors import UserError
from fewstep.plans.file import encode
from fewstep.plans.names.plan_reference import NamedReference, NameParts
from fewstep.runtime.sampling.loading import load

MOST = 12  # modules


@contextmanager
def modules_given(text: str) -> Iterator[set[str]]:
    """Return the modules of fewstep, without messages, that have a function which receives the text, a `Path` or its
    parts.
    """
    found: set[str] = set()

    def profile(frame: FrameType, event: str, _: Any) -> None:
        module = str(frame.f_globals.get("__name__", ""))
        if event != "call" or not module.startswith("fewstep.") or module == "fewstep.plans.errors":
            return
        code = frame.f_code
        for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
            value = None if name == "self" else frame.f_locals.get(name)
            if isinstance(value, str | Path | NamedReference | NameParts) and text in str(value):
                found.add(module)

    sys.setprofile(profile)
    try:
        yield found
    finally:
        sys.setprofile(None)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return ["dpmpp_2m:3", "ddim(eta=0.5):3@karras(rho=5)", "scheduler:5", "fitted:4"]


def test_few_modules_handle_the_text_of_a_plan(tiny_bundle: Path, texts: list[str]) -> None:
    sampler, file, found = load(tiny_bundle), tiny_bundle / "plan.json", set[str]()
    file.write_bytes(encode(sampler.compile("ddim:2")))
    for text in (*texts, str(file)):
        with modules_given(text) as modules, suppress(UserError):
            sampler.compile(text)
        assert "fewstep.plans.names.plan_reference" in modules
        found |= modules
    assert len(found) <= MOST, sorted(found)
