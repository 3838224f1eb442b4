"""Plugins of packages: a name has one meaning, nothing is imported before its name is used, errors name the package."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fewstep.calibration.lowering.targets import load_target, target_names
from fewstep.cli.main import main
from fewstep.export.changes import read_change
from fewstep.export.load_source import load_source
from fewstep.export.sources.folder_kinds import find_folder_kind
from fewstep.pipelines.kind import PIPELINE
from fewstep.plans import guidance
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.listing import plugin_listings, solver_listings
from fewstep.plans.names.guidance_text import from_text
from fewstep.plans.names.plan_name import check_no_plugin, is_plan_name, parse_plan_name, plugin_of_name, with_grid
from fewstep.plans.names.plugins import find_plugin, load_plugin, plugins
from fewstep.robots.lerobot.kind import LEROBOT
from tests.installed import install
from tests.plans.gaussian import COSINE, denoising
from tests.refusals import refuses

DENOISER = denoising(COSINE, "v")
CODE = """
from pathlib import Path
from fewstep.export.sources.folder_kinds import FolderKind
from fewstep.plans.solvers.heun import heun as ok
from fewstep.plans.grids.timesteps import leading

def raiser(trace, times):
    raise ValueError("boom\\nsecond line")

def leaver(trace, times):
    raise SystemExit(3)

def none(trace, times):
    pass

def still(trace, times):
    return trace.start()

def text(schedule, steps):
    return "abc"

def divides(module, spec):
    return 1 / 0

def unread(trace, times, *, order: "Missing" = 1):
    return trace.start()

def holds(folder):
    return (Path(folder) / "mark").is_file()

def broken(folder):
    raise OSError("no disk")

KIND = FolderKind(holds=holds, load=broken, weights=broken)

class Stop(BaseException):
    pass

def stopper(trace, times):
    raise Stop("enough")

def interrupter(trace, times):
    raise KeyboardInterrupt
"""
ENTRIES = {
    "solver.pece": "{}:ok",
    "solver.raiser": "{}:raiser",
    "solver.leaver": "{}:leaver",
    "solver.stopper": "{}:stopper",
    "solver.interrupter": "{}:interrupter",
    "solver.none": "{}:none",
    "solver.still": "{}:still",
    "solver.unread": "{}:unread",
    "grid.late": "{}:leading",
    "grid.bad": "{}:text",
    "guidance.form": "fewstep.plans.guidance:Cfg",
    "change.divides": "{}:divides",
    "source.marked": "{}:KIND",
}


@pytest.fixture
def zz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a package with a plugin of each kind."""
    package = f"zz{tmp_path.name.rpartition('-')[2]}{len(tmp_path.name)}x"
    install(tmp_path, monkeypatch, package, {name: entry.format(package) for name, entry in ENTRIES.items()}, CODE)
    return package


def test_plugins_add_names_of_each_kind(zz: str) -> None:
    for mine, known in (("pece:4", "heun:4"), ("ddim:4@late", "ddim:4@leading")):
        assert compile_plan(mine, DENOISER).steps == compile_plan(known, DENOISER).steps
    assert with_grid("pece:4") == "pece:4@trailing" and is_plan_name("pece:4")
    assert from_text("form:3") == guidance.Cfg(3.0)


def test_plugins_are_found_by_their_kind(zz: str) -> None:
    (late,) = plugins("grid")["late"]
    assert find_plugin("grid", "late") == late and find_plugin("grid", "none") is None
    assert plugins("sol") == {} and "bdia" in plugins("solver")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raiser:2", r"plugin solver\.raiser of {} failed: ValueError: boom \(line 8\); update {}, or uninstall it"),
        ("leaver:2", r"plugin solver\.leaver of {} failed: SystemExit: 3 \(line 11\)"),
        ("stopper:2", r"plugin solver\.stopper of {} failed: Stop: enough \(line 40\)"),
        ("none:2", r"plugin solver\.none of {} returned NoneType"),
        ("ddim:2@bad", r"plugin grid\.bad of {} did not return times"),
        ("still:2", "the solver of plan 'still:2' has no steps"),
        ("unread:2", "the parameters of 'unread' cannot be read: name 'Missing' is not defined"),
    ],
)
def test_an_error_of_a_plugin_names_it_and_its_package(zz: str, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said.format(zz, zz)):
        compile_plan(text, DENOISER)


def test_an_interrupt_in_a_plugin_remains_one(zz: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        compile_plan("interrupter:2", DENOISER)


def test_an_error_of_a_change_names_its_package(zz: str) -> None:
    with pytest.raises(UserError, match=rf"plugin change\.divides of {zz} failed: ZeroDivisionError"):
        read_change("divides").function(None, None)


def test_an_error_of_a_kind_of_folder_names_its_package(zz: str, tmp_path: Path) -> None:
    (tmp_path / "mark").touch()
    with pytest.raises(UserError, match=rf"plugin source\.marked of {zz} failed: OSError: no disk"):
        load_source(str(tmp_path))


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import fewstep_none", "ModuleNotFoundError"),
        ("", "AttributeError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("class Halted(BaseException): pass\nraise Halted('no')", "Halted: no"),
        ("def (", "SyntaxError"),
    ],
)
def test_a_plugin_that_does_not_load_is_named(
    code: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = f"broken_{why[:6].lower()}"
    install(tmp_path, monkeypatch, package, {"solver.a": f"{package}:a"}, code)
    said = rf"plugin solver\.a of {package} does not load \({why}.*\); update {package}, or uninstall it"
    with pytest.raises(UserError, match=said):
        parse_plan_name("a:2")


def test_the_value_of_a_plugin_is_what_its_entry_point_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "circle", {"solver.tau": "math:tau"})
    assert load_plugin(plugins("solver")["tau"][0]) == pytest.approx(6.2831853)


CORE = [
    ("solver.ddim", lambda: compile_plan("ddim:2", DENOISER)),
    ("solver.edm_euler", lambda: parse_plan_name("edm_euler:2")),
    ("solver.unipc", lambda: parse_plan_name("unipc(order=3):2")),
    ("solver.bdia", lambda: parse_plan_name("bdia:2")),
    ("grid.karras", lambda: parse_plan_name("ddim:2@karras")),
    ("grid.trailing", lambda: parse_plan_name("ddim:2")),
    ("change.freeu", lambda: pytest.importorskip("torch") and read_change("freeu:1,1,1,1")),
    ("guidance.pag", lambda: from_text("2+pag:3")),
    ("guidance.steer", lambda: from_text("steer:3")),
    ("target.cpu-x86", lambda: load_target("cpu-x86")),
]


@pytest.mark.parametrize(("name", "use"), CORE, ids=[name for name, _ in CORE])
def test_a_name_of_fewsteps_is_never_replaced(name: str, use, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use()
    install(tmp_path, monkeypatch, "evil", {name: "evil:ok"}, "raise SystemExit('imported')")
    kind, _, short = name.partition(".")
    said = f"{kind} '{short}' is ambiguous: {kind}.{short} of fewstep and of evil; uninstall evil, or give its"
    with pytest.raises(UserError, match=said):
        use()
    parse_plan_name("heun:2@exponential")  # other names keep their meaning
    assert "evil" not in sys.modules


def test_a_plugin_of_fewstep_without_its_package_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the plugin: installing fewstep again would not help."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "fewstep.literature.skips.freeu", raising=False)
    plugin = find_plugin("change", "freeu")
    assert plugin is not None
    with pytest.raises(ModuleNotFoundError, match="torch"):
        load_plugin(plugin)


@pytest.mark.parametrize("order", [("one", "two"), ("two", "one")])
@pytest.mark.parametrize("kind", ["solver", "grid", "change", "target", "guidance"])
def test_two_packages_with_one_name_are_refused_in_any_order(
    kind: str, order: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in order:
        install(tmp_path, monkeypatch, package, {f"{kind}.same": f"{package}:ok"}, "raise SystemExit('imported')")
    use = {
        "solver": lambda: parse_plan_name("same:2"),
        "grid": lambda: parse_plan_name("ddim:2@same"),
        "change": lambda: read_change("same"),
        "target": lambda: load_target("same"),
        "guidance": lambda: from_text("same:2"),
    }
    with pytest.raises(UserError, match=f"{kind} 'same' is ambiguous: .* of {order[1]} and of {order[0]}"):
        use[kind]()


def test_a_folder_that_fewstep_reads_is_no_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the plugin would not load."""
    install(tmp_path, monkeypatch, "greedy", {"source.all": "greedy:KIND"}, "raise SystemExit('imported')")
    write_policy: Callable[[Path], object] = pytest.importorskip("tests.robots.lerobot.policies").write_policy
    write_policy(tmp_path / "policy")
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    assert find_folder_kind(tmp_path / "policy") is LEROBOT and find_folder_kind(tmp_path / "pipeline") is PIPELINE
    (tmp_path / "other").mkdir()
    with refuses(("source.all of greedy", "does not load")):
        find_folder_kind(tmp_path / "other")


def test_a_folder_that_two_packages_read_is_refused(zz: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "second", {"source.marked_too": f"{zz}:KIND"})
    (tmp_path / "mark").touch()
    with pytest.raises(
        UserError, match=f"can be read by several plugins: plugin .* and plugin .*; uninstall second or {zz}"
    ):
        find_folder_kind(tmp_path)


def test_a_list_imports_no_plugin_and_survives_broken_ones(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = {"solver.late": "lister:late", "grid.own": "lister:own", "solver.bdia": "lister:b"}
    install(tmp_path, monkeypatch, "lister", entries, "raise SystemExit('imported')")
    assert main(["plan", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    found = [(each["kind"], each["name"], each["package"], each["is_refused"]) for each in listed["plugins"]]
    assert found == [
        ("solver", "bdia", "lister", True),
        ("solver", "late", "lister", False),
        ("grid", "own", "lister", False),
    ]
    assert {"bdia", "ddim"} <= {each["name"] for each in listed["solvers"]}
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["plan", "--list"]) == 0
    assert "lister: lister:b; refused: its name is not unique" in capsys.readouterr().out
    assert "lister" not in sys.modules and "same" not in target_names()


def test_without_packages_no_plugin_is_listed() -> None:
    assert plugin_listings() == () and len(solver_listings()) > 40


def test_the_default_grid_of_a_bundle_imports_no_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "gridder", {"grid.mine": "gridder:mine"}, "raise SystemExit('imported')")
    with refuses("plugin grid.mine of gridder", "ddim:2@mine"):
        parse_plan_name("ddim:2", "mine")
    assert is_plan_name("ddim:2@mine") and plugin_of_name("ddim(eta=1):2@mine(a=1)") is not None
    assert plugin_of_name("ddim:2@karras") is None and "gridder" not in sys.modules


def test_a_plan_of_a_bundle_imports_no_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "solving", {"solver.mine": "solving:mine"}, "raise SystemExit('imported')")
    check_no_plugin("bdia:2@karras")
    with refuses(("'mine:2'", "plugin solver.mine of solving")):
        check_no_plugin("mine:2")
    assert "solving" not in sys.modules
