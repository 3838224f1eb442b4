"""The pages are correct: links resolve, and every command and every python block runs as printed."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from fewstep.cli.main import main
from fewstep.cli.verbs import VERBS
from fewstep.plans.names import plugins
from tests.docs import docs_blocks, verbs_page
from tests.docs.docs_blocks import PAGES, Block, blocks, headings
from tests.docs.sentences import sentences
from tests.packages import module_files
from tests.robots.lerobot.policies import write_policy

ROOT = Path(__file__).parents[2]
LABELS = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
ALL = [block for page in PAGES for block in blocks(page)]
RUN = [page for page in PAGES if any(not block.mark for block in blocks(page))]
# of seconds each
LONG = {
    "changes", "cli", "compose", "compositions", "export", "judges", "networks", "plugins", "policies", "quantization",
    "restoration", "spec", "tokens", "your_model",
}  # fmt: skip
LONGEST = 31  # words of a sentence
FILE = re.compile(r"# (\w+\.py)\n")  # the first line of a block that is a file of the reader
ENTRY = re.compile(r'^"(\w+\.[\w-]+)" = "(.*)"$', re.MULTILINE)  # a line of pyproject.toml that adds a plugin
WIDTH = 100  # columns of a line of prose


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_anchors_are_headings(page: Path) -> None:
    for link, anchor in re.findall(r"\]\((?!https:)([^)#]*)#([^)]+)\)", page.read_text()):
        assert anchor in headings(page.parent / link if link else page), f"{link}#{anchor}"


def test_messages_name_pages_and_headings_that_exist() -> None:
    """As in "docs/export/diffusers.md, Recorded pipelines"."""
    ours = [file for file in module_files() if file.name != "engine_operations.py"]  # which names pages of a parser
    found = [
        (name(file), *match)
        for file in ours
        for match in re.findall(r"(docs/[\w/]+\.md)(?:, ([A-Z][a-z ]+))?", file.read_text())
    ]
    assert len(found) > 20
    for file, page, heading in found:
        assert (ROOT / page).exists(), f"{file}: {page}"
        anchor = heading.strip().lower().replace(" ", "-")
        assert any(each.startswith(anchor) for each in headings(ROOT / page)), f"{file}: {page}, {heading}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_verbs_and_options_in_commands_exist(page: Path) -> None:
    """Blocks that are not run here are checked too."""
    for block in blocks(page):
        others = [line for line in block.commands if block.kind == "sh" and shlex.split(line)[0] != "fewstep"]
        assert block.mark or not others, f"{page}:{block.line}: only fewstep runs here; mark the block: {others}"
        for line in block.commands if block.kind == "sh" else ():
            for command in re.split(r"&&|\|", line):
                words = shlex.split(command)
                if not words or words[0] != "fewstep" or words[1].startswith("-"):
                    continue
                assert words[1] in VERBS, line
                options = {word for word in words[2:] if re.match(r"--?[a-z]", word)}
                assert options <= verbs_page.flags(words[1]), line


@pytest.mark.parametrize("page", [page for page in PAGES if ROOT / "docs/examples" not in page.parents], ids=name)
def test_sentences_are_short(page: Path) -> None:
    found = list(sentences(page.read_text()))
    assert found
    long = [f"{name(page)}:{each.line}: {each.words} words: {each.text}" for each in found if each.words > LONGEST]
    assert not long, "\n".join(long)


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name not in ("measured", "lab")], ids=name)
def test_prose_is_wrapped(page: Path) -> None:
    """Tables, headings, code blocks and pages that benchmarks write may be wider."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    prose = (line for line in text.splitlines() if not line.startswith(("|", "#", "<!--", "    ")))
    assert [line for line in prose if len(line) > WIDTH] == []


def test_the_pages_show_every_verb() -> None:
    """The page that explains a verb has a command of it."""
    for verb in VERBS:
        page = verbs_page.ELSEWHERE.get(verb, "cli.md").partition("#")[0]
        shown = [command for block in blocks(ROOT / "docs" / page) for command in block.commands]
        assert any(command.startswith(f"fewstep {verb}") for command in shown), verb


def test_the_page_of_the_verbs_is_that_of_the_code() -> None:
    written = (ROOT / "docs/cli.md").read_text()
    assert verbs_page.fill_page(written) == written, "run python -m tests.docs.verbs_page"


def test_every_mark_says_why() -> None:
    assert all(block.mark in ("by hand", "not run") and len(block.reason) > 5 for block in ALL if block.mark)
    assert len([block for block in ALL if not block.mark]) > len(ALL) / 2


@pytest.fixture(scope="session")
def reader_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder: `bundle`, exported and calibrated; the examples of docs/export.md, docs/compose.md,
    docs/export/spec.md and docs/tokens.md; docs/examples/restoration.py; the policy of docs/policies.md.

    The denoiser is the example of docs/export.md with the classes and the size of Fashion-MNIST, so that commands for
    the shipped model run in a moment.
    """
    folder = tmp_path_factory.mktemp("reader")
    example = next(block.text for block in blocks(ROOT / "docs/export.md") if block.kind == "python")
    (folder / "shapes.py").write_text(example)
    for example_file in ("restoration.py", "lerobot_policy.py"):
        shutil.copy(ROOT / "docs/examples" / example_file, folder)
    causal = next(block.text for block in blocks(ROOT / "docs/compose.md") if "class Causal" in block.text)
    (folder / "causal.py").write_text(causal)
    seeing = next(block.text for block in blocks(ROOT / "docs/export/spec.md") if "class Seeing" in block.text)
    (folder / "seeing.py").write_text(seeing)
    speaker = next(block.text for block in blocks(ROOT / "docs/tokens.md") if block.kind == "python")
    (folder / "speaker.py").write_text(speaker)
    write_policy(folder / "pretrained_model", environment=2, down_dims=[16])
    model = re.sub(r"LABELS = \(.*\)", f"LABELS = {LABELS}", example).replace("(1, 8, 8)", "(1, 28, 28)")
    (folder / "model.py").write_text(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["export", "model.py:make", "-o", "bundle", "-q"]) == 0
        assert main(["calibrate", "bundle", "--trajectories", "8", "-q"]) == 0
    return folder


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] * (page.stem in LONG)) for page in RUN], ids=name
)
def test_what_is_printed_runs(
    page: Path, reader_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every block of a page in order, in one folder, python blocks in one session."""
    folder = tmp_path / "reader"
    shutil.copytree(reader_folder, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)  # blocks import the page's files, as a script in the folder does
    session: dict[str, object] = {"__name__": "session"}
    install(page, folder, monkeypatch)
    for block in blocks(page):
        if block.mark:
            continue
        if (named := FILE.match(block.text)) is not None:
            (folder / named[1]).write_text(block.text)
        elif block.kind == "python":
            exec(compile(block.text, f"{page}:{block.line}", "exec"), session)
        else:
            for line in block.commands:
                run(line, block, capsys)


def install(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the modules of a page under the entry points of its pyproject.toml."""
    files = set(re.findall(r"^# (\w+)\.py$", page.read_text(), re.MULTILINE))
    if entries := [
        (name, value) for name, value in ENTRY.findall(page.read_text()) if value.partition(":")[0] in files
    ]:
        info = folder / "reader-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Name: reader\nVersion: 1\n")
        (info / "entry_points.txt").write_text(
            "[fewstep.plugins]\n" + "".join(f"{name} = {value}\n" for name, value in entries)
        )
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setattr(plugins, "read_entry_points", plugins.read_entry_points.__wrapped__)


SEEN: set[str] = set()  # reports take long, and one command gives one report, on whatever page it stands


def run(line: str, block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line)
    if words[1] in ("report", "measure"):
        if line in SEEN:
            return
        SEEN.add(line)
    code = main(words[1:])
    said = capsys.readouterr().err
    assert code == 0, f"{block.page}:{block.line}: {line}: {said}"


def test_blocks_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Title\n\n    a picture\n    fewstep no\n\n    fewstep run b  # why\n    pip install \\\n      x\n\n"
        "<!-- not run: needs a GPU -->\n```python\nx = 1\n```\n\n```text\nfewstep no\n```\n"
    )
    first, second = docs_blocks.blocks(page)
    assert (first.kind, first.line, first.mark) == ("sh", 6, "")
    assert [" ".join(command.split()) for command in first.commands] == ["fewstep run b", "pip install x"]
    assert (second.kind, second.text, second.mark, second.reason) == ("python", "x = 1", "not run", "needs a GPU")


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("One. Two words! Are three words?", [1, 2, 3]),
        ("One sentence\ngoes on, and\nends here. `fewstep run b. --plan` is one word.", [7, 4]),
        ("**Bold.** [A link](https://a.b/c. d) is *two words*. It ends.", [1, 5, 2]),
        ("See `a.b`. onnxruntime 1.31 takes 0.5 s, e.g. here (as before). x goes on ... to the end.", [2, 9, 6]),
        ('Both, in (brackets. There) and "quoted." It goes.', [3, 3, 2]),
        ("A list has:\n\n- one item that\n  goes on\n- two. Parts\n  1. nested\n\nThe end.", [3, 5, 1, 1, 1, 2]),
        ("# A heading. With parts\n\nText - a + b.\n<!-- a\ncomment. -->\nMore.", [3, 1]),
        ("Text:\n\n    code. code\n\n    - code\n\nText.\n\n```sh\nno. text\n```\n\n| a. | table |\n", [1, 1]),
        ("- An item\n\n  goes on.\n\n      code here\n\nThe end.\n    It goes on.", [2, 2, 2, 3]),
        ("![an image. here](a.png)\n\nA colon: and a semicolon; end.", [6]),
        ("A span `over\ntwo lines` is one. ``a ` b`` too.", [5, 2]),
    ],
)
def test_sentences_are_found(page: str, expected: list[int]) -> None:
    assert [sentence.words for sentence in sentences(page)] == expected


def test_a_sentence_names_its_line() -> None:
    (_, last) = sentences("# Title\n\n<!-- two\nlines -->\nOne.\n\n```text\nno\n```\n\n- `a b` is\n  **last**.\n")
    assert (last.line, last.text, last.words) == (11, "`a b` is last.", 3)
