"""Every failure is one line on stderr that names the problem and the fix, with exit code 1 or 2."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewstep.cli.conditions import parse_conditions
from fewstep.cli.main import main
from fewstep.cli.verbs import VERBS
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Condition
from tests.cli.conftest import Command, Refusal, as_in_a_terminal
from tests.refusals import Words, assert_refusal, refuses

RUN = ("--condition", "class=dress", "--guidance", "2")


def process(*arguments: object, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run the command in a separate process."""
    command = [sys.executable, "-m", "fewstep.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def test_run_writes_a_grid_and_says_so(tiny_bundle: Path, tmp_path: Path) -> None:
    done = process("run", tiny_bundle, "-n", 5, *RUN, "--scale", 1, "--precision", "int8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "grid.png: 5 samples of dpmpp_2m:8 in int8" in done.stdout
    assert Image.open(tmp_path / "grid.png").size == (3 * 5 - 1, 2 * 5 - 1)


def test_a_command_leaves_no_record_of_its_use(tiny_bundle: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    command = [sys.executable, "-m", "fewstep.cli", "run", str(tiny_bundle), *RUN, "-o", "x.npy"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    left = [str(path) for path in (tmp_path / "cache").rglob("*") if path.is_file() and "onnxruntime" in str(path)]
    assert left == []


def test_a_failure_without_a_known_fix_ends_where_it_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise UserError("torch cannot trace it", "")

    monkeypatch.setattr("fewstep.cli.app.run", fail)
    assert main(["doctor", "--json"]) == 1
    printed = capsys.readouterr()
    assert printed.err == "fewstep: torch cannot trace it\n"
    assert printed.out == '{"error": "torch cannot trace it", "fix": ""}\n'


def test_a_wrong_choice_is_named_without_the_words_of_a_library(refusal: Refusal) -> None:
    line = refusal("calibrate", "bundle", "--groups", "wide", code=2)
    assert_refusal(line, names=("'--groups'", "'wide'", "'step', 'pooled'"))


def test_run_writes_the_samples_of_the_library(tiny_bundle: Path, tmp_path: Path) -> None:
    from fewstep.runtime import load

    arguments = ["run", tiny_bundle, "-n", 3, "-c", "class=0", "-c", "class=bag", "--seed", 7, "-o", tmp_path / "x.npy"]
    assert main([str(argument) for argument in arguments]) == 0
    with load(tiny_bundle) as sampler:
        expected = sampler.sample("dpmpp_2m:8", seeds=[7, 8, 9], condition={"class": [0, 2, 0]})
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected)


@pytest.mark.parametrize(
    ("arguments", "names", "fix"),
    [
        (("--plan", "euler_z:8", *RUN), "'euler_z'", ()),
        (("--plan", "ddim:101", *RUN), ("101 steps", "cosine-100"), ()),
        (("--plan", "gone.json", *RUN), "gone.json", ()),
        (("--precision", "int4", *RUN), "'int4'", "int8"),
        ((), "'class'", "0 shirt, 1 dress, 2 bag"),
        (("-c", "class=hat"), "'hat'", "bag"),
        (("-c", "class=9"), "9", ()),
        (("-c", "colour=1", "-c", "class=1"), "'colour'", "class"),
        (("-c", "1"), "condition '1' is not NAME=VALUE", "--condition class=VALUE"),
        (("--seed", "-5", *RUN), "seed -5", ()),
        (("-n", "0", *RUN), "0 samples", ()),
        (("-o", "grid.jpeg", *RUN), "grid.jpeg", ".png"),
        (("-o", "nowhere/grid.png", *RUN), "folder nowhere", ()),
        (("--guidance", "nan", "-c", "class=1"), "guidance nan", ()),
        (("--guidance", "1e40", "-c", "class=1"), "step 1 of 8", ()),
        (("--threads", "99999", *RUN), "99999 threads", ()),
        (("--backend", "tensorflow", *RUN), "'tensorflow'", "onnxruntime, "),
        (("-n", "99999999999", *RUN), "99999999999 samples", ()),
        (("--scale", "2", "-o", "x.npy", *RUN), ("--scale", "x.npy"), ()),
        (("--scale", "100000", *RUN), "--scale is 100000", "64"),
        (("--scale", "64", "-n", "10000", *RUN), "25600 x 25600", "--scale"),
        (("--plan", "dpmpp_2m:-3", *RUN), "dpmpp_2m:-3", ()),
    ],
)
def test_what_run_cannot_do_is_named(
    tiny_bundle: Path, refusal: Refusal, arguments: tuple[str, ...], names: Words, fix: Words
) -> None:
    assert_refusal(refusal("run", tiny_bundle, *arguments), names, fix)


@pytest.mark.parametrize("verb", ["calibrate", "report", "run", "build", "inspect", "verify", "measure"])
def test_every_verb_names_a_bundle_that_is_none(tmp_path: Path, refusal: Refusal, verb: str) -> None:
    assert_refusal(refusal(verb, tmp_path / "nothing"), names=str(tmp_path / "nothing"), fix="fewstep export")
    assert_refusal(refusal(verb, tmp_path), names=str(tmp_path), fix="fewstep export")


def test_conditions_come_from_files(tiny_bundle: Path, tmp_path: Path, refusal: Refusal) -> None:
    np.save(tmp_path / "classes.npy", np.array([0, 2]))
    for name, conditions in (("a.npy", ("-c", "class=@classes.npy")), ("b.npy", ("-c", "class=0", "-c", "class=bag"))):
        done = process("run", tiny_bundle, "-n", 3, *conditions, "-o", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


def test_arrays_are_one_value_or_many(tmp_path: Path) -> None:
    known = [Condition("text", input="text", shape=(2,), dtype="float32")]
    np.save(tmp_path / "one.npy", np.array([1.0, 2.0]))
    np.save(tmp_path / "many.npy", np.array([[3.0, 4.0], [5.0, 6.0]]))
    texts = [f"text=@{tmp_path / name}" for name in ("one.npy", "many.npy")]
    np.testing.assert_array_equal(parse_conditions(texts, known)["text"], [[1, 2], [3, 4], [5, 6]])
    np.save(tmp_path / "wrong.npy", np.zeros((2, 3)))
    np.save(tmp_path / "pickled.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no")
    for text, names, fix in (
        (f"text=@{tmp_path / 'wrong.npy'}", "[2, 3]", "[2]"),
        (f"text=@{tmp_path / 'pickled.npy'}", "pickled.npy", ()),
        (f"text=@{tmp_path / 'text.npy'}", "text.npy", ()),
        (f"text=@{tmp_path / 'gone.npy'}", "gone.npy", ()),
        ("text=3", "[2]", "--condition text=@FILE.npy"),
    ):
        with refuses(names, fix):
            parse_conditions([text], known)


def test_a_number_that_is_the_label_of_another_is_refused() -> None:
    known = [Condition("class", input="class", low=0, high=3, labels=("1", "0", "2", "Nan"))]
    assert parse_conditions(["class=2", "class=3", "class=nan"], known) == {"class": [2, 3, "nan"]}
    with refuses(("class=1", "the label '1', which is number 0")):
        parse_conditions(["class=1"], known)


@pytest.mark.parametrize(("text", "parsed"), [("1", 1), ("0", 0), ("true", "true"), ("False", "False")])
def test_a_boolean_is_a_number_or_its_label(text: str, parsed: int | str) -> None:
    assert parse_conditions([f"flag={text}"], [Condition("flag", input="flag", dtype="bool")]) == {"flag": [parsed]}


def test_damaged_bundles_are_named(tiny_bundle: Path, refusal: Refusal) -> None:
    graph = tiny_bundle / "graphs/body.onnx"
    content = graph.read_bytes()
    graph.write_bytes(content[: len(content) // 2])
    assert_refusal(refusal("run", tiny_bundle, *RUN), names=("graphs/body.onnx", "damaged"))
    graph.unlink()
    assert_refusal(refusal("run", tiny_bundle, *RUN), names=("graphs/body.onnx", "missing"))
    (tiny_bundle / "manifest.json").write_text("{")
    assert_refusal(refusal("run", tiny_bundle, *RUN), names=("manifest.json", "JSON"))


@pytest.mark.parametrize(
    ("arguments", "names", "fix"),
    [
        (("sample",), "'sample'", ()),
        (("run",), "run needs BUNDLE", "fewstep run "),
        (("run", "b", "--stepz", "8"), "--stepz", ()),
        (("run", "b", "-n", "many"), "'--samples'", ()),
        (("--loud",), "--loud", ()),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(
    refusal: Refusal, arguments: tuple[str, ...], names: Words, fix: Words
) -> None:
    assert_refusal(refusal(*arguments, code=2), names, fix)


@pytest.mark.parametrize("given", [("--plan", "ddim:3"), ("--plan=ddim:3",)])
def test_an_option_of_one_value_is_given_once(refusal: Refusal, given: tuple[str, ...]) -> None:
    line = refusal("run", "bundle", "--plan", "ddim:2", *given, code=2)
    assert line == "fewstep: --plan is given twice; give it once"
    assert "twice" not in refusal("run", "bundle", "-c", "class=1", "-c", "class=2", "-o", "x.npy")


def test_the_short_and_the_long_flag_are_one_option(refusal: Refusal) -> None:
    line = refusal("run", "bundle", "-o", "x.npy", "--output", "y.npy", code=2)
    assert line == "fewstep: --output is given twice; give it once"


def test_more_values_than_samples_are_refused(tiny_bundle: Path, refusal: Refusal) -> None:
    given = ("-c", "class=1", "-c", "class=2", "-c", "class=3", "-n", 2)
    line = refusal("run", tiny_bundle, "--plan", "ddim:2", *given, "-o", tiny_bundle.with_name("x.npy"))
    said = "--condition class is given 3 times, for 2 samples; give --samples 3, or fewer values"
    assert line == f"fewstep: {said}"


def test_a_place_that_cannot_be_written_is_named(tiny_bundle: Path, tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "grid.png").mkdir()
    line = refusal("run", tiny_bundle, *RUN, "-n", 1, "-o", tmp_path / "grid.png")
    assert_refusal(line, names=str(tmp_path / "grid.png"), fix="a file")


def test_debug_shows_where(tmp_path: Path, fewstep: Command) -> None:
    lines = fewstep("run", tmp_path / "nothing", "--debug", code=1).err.splitlines()
    assert lines[0].startswith("Traceback") and any("open_bundle" in line for line in lines)
    assert lines[-1].startswith("fewstep: there is no bundle")


def test_a_missing_extra_is_named(tiny_bundle: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert_refusal(refusal("run", tiny_bundle, *RUN), names="onnxruntime", fix="pip install 'fewstep[cpu]'")


def test_a_missing_library_is_named_with_the_extras_of_its_verb(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'onnx'", name="onnx.helper")

    monkeypatch.setattr("fewstep.cli.app.run", missing)
    assert_refusal(refusal("export", "fashion_mnist"), names="onnx", fix="pip install 'fewstep[cli,export]'")
    assert_refusal(refusal("report", "bundle"), names="onnx", fix="pip install 'fewstep[cli,calibration]'")


@pytest.mark.parametrize(
    ("module", "verb"),
    [("json", "--help"), ("fewstep.cli.command_line", "--help"), ("typer", "--help"), ("numpy", "plan")],
)
def test_an_interrupt_during_the_first_imports_is_exit_code_130(module: str, verb: str) -> None:
    code = (
        "import sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == '{module}': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        f"from fewstep.cli.main import main; sys.exit(main(['{verb}']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 130 and done.stderr.startswith("fewstep: interrupted"), done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("run", "initialization failed"),
        ("verify", ""),
        pytest.param("run", "", marks=pytest.mark.slow),
        pytest.param("verify", "initialization failed", marks=pytest.mark.slow),
    ],
)
def test_an_interrupt_that_a_library_makes_an_import_error_of_is_exit_code_130(
    tiny_bundle: Path, verb: str, said: str
) -> None:
    """onnxruntime's module does this while a bundle is opened. Also the same error without an interrupt."""
    code = (
        "import signal, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'onnxruntime':\n"
        f"            try: {'signal.raise_signal(signal.SIGINT)' if said else 'pass'}\n"
        "            except KeyboardInterrupt: pass\n"
        "            raise ImportError('initialization failed')\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from fewstep.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, verb, str(tiny_bundle)]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=as_in_a_terminal)
    if said:
        assert done.returncode == 130, done.stderr
        assert done.stderr.splitlines()[-1].startswith("fewstep: interrupted") and "Error" not in done.stderr
    else:
        assert done.returncode in (1, 70) and "initialization failed" in done.stderr.splitlines()[-1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a file that is always full")
@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_a_full_stdout_is_one_line(argument: str) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "fewstep.cli", argument]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("fewstep: output cannot be written") and done.stderr.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="needs a shell that closes streams")
@pytest.mark.parametrize("closed", [pytest.param("2>&-", marks=pytest.mark.slow), "<&- >&- 2>&-"])
def test_closed_streams_change_nothing(tiny_bundle: Path, tmp_path: Path, closed: str) -> None:
    """Services run like this. A file that is opened then must not get the number of stderr, which libraries use."""
    command = f"run {tiny_bundle} --plan ddim:2 -n 1 -c class=1 -o {tmp_path / 'x.npy'}"
    done = subprocess.run(f"{sys.executable} -m fewstep.cli {command} {closed}", shell=True)
    assert done.returncode == 0 and np.load(tmp_path / "x.npy").shape[0] == 1


def test_the_module_of_the_command_runs_too(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "fewstep.cli.main", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("fewstep ")


def test_help_and_version_import_no_heavy_library_and_help_not_even_numpy() -> None:
    """numpy would take half of the time."""
    code = (
        "import sys; from fewstep.cli.main import main; codes = main(['--help']), main([])\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'onnxscript', 'PIL'}\n"
        "found = (heavy | {'numpy'}) & sys.modules.keys(); assert not found, found\n"
        "assert (*codes, main(['--version'])) == (0, 0, 0), codes; assert not heavy & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        assert verb in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_every_option(verb: str) -> None:
    import importlib
    from typing import get_type_hints

    from fewstep.cli.generate import field_help

    options = next(iter(get_type_hints(importlib.import_module(f"fewstep.cli.verbs.{verb}").verb).values()))
    assert set(field_help(options)) == set(options.__dataclass_fields__)


def test_verbs_stand_in_groups_and_demo_comes_first(fewstep: Command) -> None:
    shown = fewstep("--help").out
    groups = list(dict.fromkeys(verb.group for verb in VERBS.values()))
    places = [shown.index(f"─ {group} ─") for group in groups]
    assert places == sorted(places) and shown.index("demo") < shown.index("export")


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_ends_with_an_example(verb: str, fewstep: Command) -> None:
    assert f"Example: {VERBS[verb].example}" in " ".join(fewstep(verb, "--help").out.split())


def test_options_for_experts_are_shown_when_they_are_asked_for(fewstep: Command) -> None:
    assert "--iterations" in fewstep("fit", "--help-all").out and "--iterations" not in fewstep("fit", "--help").out


@pytest.mark.parametrize(
    ("verb", "fix"),
    [
        ("calibrat", "calibrate"),
        ("xyz", "demo, doctor"),
        ("bench", "fewstep measure --columns ms"),
        ("evaluate", "fewstep measure --columns psnr,fd"),
    ],
)
def test_an_unknown_verb_leads_to_a_known_one(verb: str, fix: str, refusal: Refusal) -> None:
    assert_refusal(refusal(verb, "bundle", code=2), names=verb, fix=fix)
