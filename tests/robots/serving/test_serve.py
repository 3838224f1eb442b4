"""The options of `fewstep serve`: where it listens, whom it serves, and what is refused in one line."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.cli.verbs import serve as serve_verb
from fewstep.measure.rollouts.end_quality import end_quality
from fewstep.plans.any_plan import shaping_of
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.plans.shaping import Clip
from fewstep.report.choosing import saved_choice
from fewstep.report.choosing.engines import TimedEngine
from fewstep.report.choosing.saved_choice import Deployment, SavedChoice
from fewstep.robots.serving.listening import Listening, read_token
from fewstep.robots.serving.serve import (
    Served,
    ServeOptions,
    check_listening,
    describe_ready,
    find_server,
    parse_renamed,
)
from fewstep.runtime.progress import SILENT
from tests.cli.test_bake import calibrate_along

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    ("host", "is_local"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.8.0.1", True)]
    + [("0.0.0.0", False), ("::", False), ("192.168.0.2", False), ("robot.local", False), ("", False)],
)
def test_only_this_machines_addresses_are_local(host: str, is_local: bool) -> None:
    assert Listening(host, 1).is_local == is_local


def test_a_token_admits_clients_that_have_it() -> None:
    assert Listening("::", 1, TOKEN).admits(TOKEN)
    assert not any(
        Listening("::", 1, TOKEN).admits(token) for token in (None, "", TOKEN[:-1], TOKEN + "x", "é", "\ud800")
    )
    assert Listening("::1", 1).admits(None)


def test_an_address_of_ipv6_has_brackets() -> None:
    assert Listening("::1", 1).address(8000) == "[::1]:8000"
    assert Listening("localhost", 1).address(8000) == "localhost:8000"


def test_an_address_that_others_reach_needs_a_token(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"others can reach 0\.0\.0\.0; give --token FILE, or listen on 127\.0\.0\.1"):
        check_listening(ServeOptions(tmp_path, host="0.0.0.0"))
    with pytest.raises(UserError, match="LeRobot's client cannot send a token; .* ssh -L 8080"):
        check_listening(ServeOptions(tmp_path, "lerobot", rate=30, host="0.0.0.0"))
    (tmp_path / "token").write_text(TOKEN + "\n")
    listening = check_listening(ServeOptions(tmp_path, host="0.0.0.0", token=tmp_path / "token"))
    assert listening == Listening("0.0.0.0", 8000, TOKEN, 1)


UNUSABLE = (b"", b"short", b"two words, which are long", b"\xff" * 20, b"a" * 10 + b"\x00" * 10)


@pytest.mark.parametrize("content", UNUSABLE)
def test_an_unusable_token_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(UserError, match="the token file"):
        read_token(tmp_path / "token")
    with pytest.raises(UserError, match="cannot be read"):
        read_token(tmp_path / "none")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"protocol": "other"}, "protocol cannot be 'other'"),
        ({"protocol": "lerobot"}, "--protocol lerobot needs --rate"),
        ({"protocol": "lines"}, "--protocol lines needs --rate"),
        ({"rate": 30.0}, "--rate is not for openpi"),
        ({"protocol": "lines", "rate": 0.0}, "--rate is 0"),
        ({"robots": 0}, "--robots is 0"),
        ({"port": 70000}, "--port is 70000"),
        ({"protocol": "lines", "rate": 30.0, "robots": 2}, "serves one robot"),
        ({"protocol": "lines", "rate": 30.0, "rename": ("a=b",)}, "takes the names of conditions"),
        ({"protocol": "lerobot", "rate": 30.0, "token": "file"}, "cannot send a token"),
        ({"chosen": True, "precision": "int8"}, "--chosen already sets --precision; leave out --precision or --chosen"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        ServeOptions(Path("policy"), **options)


def test_statistics_are_printed_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served(9, "ticks: 60\ncalls: 9 of ddim:2")
    monkeypatch.setattr(serve_verb, "serve", lambda *_: served)
    assert serve_verb.verb(ServeOptions(Path("policy")), SILENT).shown == (
        "9 sequences sampled: ticks: 60",
        "calls: 9 of ddim:2",
    )


def save(monkeypatch: pytest.MonkeyPatch, decibels: float = 50.0, memory: str | None = None) -> SavedChoice:
    """Save a choice of two plans, whose samples have this PSNR."""
    quality = end_quality(np.array([decibels]), "teacher")
    winner = Deployment("float32", "float32", TimedEngine("onnxruntime", 1, None), "ddim:4", 4, 1.0, 1.0, quality)
    family = "ddim:4", "ddim:2"
    choice = SavedChoice("tiny", "", "2026-11-30", 1, None, Clip(-2.0, 2.0), winner, family, memory=memory)
    monkeypatch.setattr(saved_choice, "load_choice", lambda path: choice)
    return choice


def test_the_choice_is_served_with_all_plans_of_its_family(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = save(monkeypatch).shaping
    with serve_verb.open_chosen(ServeOptions(tiny_bundle, chosen=True)) as (sampler, plans):
        assert sampler.body.precision == "float32"
        assert [(plan.name, shaping_of(plan)) for plan in plans] == [("ddim:4", clip), ("ddim:2", clip)]


@pytest.mark.parametrize(("decibels", "is_said"), [(50.0, False), (10.0, True)])
def test_a_choice_far_from_the_teacher_is_served_with_a_warning(
    decibels: float,
    is_said: bool,
    tiny_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    save(monkeypatch, decibels)
    with serve_verb.open_chosen(ServeOptions(tiny_bundle, chosen=True)):
        assert ("look at its samples" in caplog.text) == is_said


def test_a_choice_for_a_budget_of_memory_is_not_served(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(monkeypatch, memory="2GB")
    with (
        pytest.raises(UserError, match=r"in 2GB of memory, .*; run fewstep choose without --memory"),
        serve_verb.open_chosen(ServeOptions(tiny_bundle, chosen=True)),
    ):
        pass


def test_a_plan_that_int8_was_not_calibrated_along_is_served_with_a_warning(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calibrate_along(tiny_bundle, "ddim:4", 2.0)
    for plan, is_said in ((None, False), (parse_plan_text("ddim:3"), True)):
        with serve_verb.open_checked(ServeOptions(tiny_bundle, plan=plan, precision="int8")):
            assert ("int8 was calibrated along" in caplog.text) == is_said


def test_a_server_names_the_bundle_by_its_path(tiny_bundle: Path) -> None:
    """Many policies are named "policy"."""
    options = ServeOptions(tiny_bundle)
    with serve_verb.open_checked(options) as (sampler, (plan, *_)):
        line = describe_ready(options, check_listening(options), sampler, plan, 8000)
    assert line.startswith(f"{tiny_bundle} (float32, ") and line.endswith(" to one robot at a time, as openpi")


def test_names_are_pairs() -> None:
    assert parse_renamed(("a/b=state", "c=d=e")) == {"a/b": "state", "c": "d=e"}
    for text in ("a", "=b", "a="):
        with pytest.raises(UserError, match="is not of the form CLIENT_NAME=CONDITION"):
            parse_renamed((text,))


@pytest.mark.parametrize(
    ("protocol", "library", "module"), [("openpi", "websockets", "websocket"), ("lerobot", "grpc", "grpc_server")]
)
def test_a_missing_library_is_named_with_its_extra(
    protocol: str, library: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"fewstep.robots.serving.{module}", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf"needs {library}.*, which is not installed; pip install 'fewstep\[serve\]'"):
        find_server(protocol)
