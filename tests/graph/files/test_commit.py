"""Commits: what a writer adds to a bundle, removes from it and leaves alone."""

import errno
import hashlib
import shutil
from pathlib import Path

import msgspec
import pytest

from fewstep.graph.files.commit import open_for_update, refuse_in_bundle
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Body, EngineEntry, Manifest
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import entry, manifest_of, small, value
from tests.refusals import refuses


def manifest(file: str) -> Manifest:
    body = entry(file, small([value("x", "batch", 1, 2, 2)], [value("output", "batch", 1, 2, 2)], []))
    return manifest_of({"float32": Body.from_graph(body, "float32", "portable")}, x_shape=(1, 2, 2))


def write(bundle: Path, content: bytes) -> Manifest:
    with open_for_update(bundle, must_exist=False) as writer:
        file = writer.add(content, folder="graphs", name="body", suffix=".onnx")
        return writer.commit(manifest(file))


def content_of(bundle: Path) -> bytes:
    """Return the body of a bundle, after all checks of reading."""
    opened = open_bundle(bundle)
    return opened.read(opened.manifest.bodies["float32"].graph.file)


def files_of(bundle: Path) -> list[str]:
    return sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file())


def test_a_commit_names_its_files_by_content_and_removes_those_of_the_commit_before(tmp_path: Path) -> None:
    first = write(tmp_path / "b", b"one")
    second = write(tmp_path / "b", b"two")
    (file,) = second.files
    assert file == f"graphs/body-{hashlib.sha256(b'two').hexdigest()[:12]}.onnx"
    assert files_of(tmp_path / "b") == [file, "manifest.json"]
    assert file not in first.files and content_of(tmp_path / "b") == b"two"


def test_a_failure_before_the_commit_leaves_the_old_bundle_or_none(tmp_path: Path) -> None:
    write(tmp_path / "old", b"one")
    (tmp_path / "empty").mkdir()
    for bundle in (tmp_path / "old", tmp_path / "new" / "folder" / "bundle", tmp_path / "empty"):
        with pytest.raises(RuntimeError), open_for_update(bundle, must_exist=False) as writer:
            writer.add(b"one", folder="graphs", name="body", suffix=".onnx")  # the same file as the old bundle's
            writer.add(b"two", folder="graphs", name="body", suffix=".onnx")
            raise RuntimeError
    assert content_of(tmp_path / "old") == b"one" and len(files_of(tmp_path / "old")) == 2
    assert not (tmp_path / "new").exists()
    assert not list((tmp_path / "empty").iterdir())  # it was there, and stays


NO_BUNDLE = "is not empty and is not a bundle; give a new folder"
OTHERS = dict.fromkeys(("notes.txt", "unet/model.safetensors", "graphs/body.onnx", ".git/HEAD"), NO_BUNDLE)


@pytest.mark.parametrize(
    "file, message", [*OTHERS.items(), ("manifest.json", r"manifest\.json that is not a bundle's manifest")]
)
def test_a_folder_of_something_else_is_not_written_into(tmp_path: Path, file: str, message: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text('{"name": "a web application"}')
    with pytest.raises(UserError, match=f"{tmp_path}.* {message}"):
        write(tmp_path, b"one")
    assert files_of(tmp_path) == [file]


def test_what_a_writer_left_that_was_killed_at_once_is_a_place_for_a_bundle(tmp_path: Path) -> None:
    (tmp_path / ".fewstep-scratch").mkdir()
    (tmp_path / ".fewstep-scratch" / "body.onnx").write_bytes(b"half")
    (tmp_path / ".fewstep-lock").touch()
    for folder in ("report", "graphs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "graphs" / f"body-{hashlib.sha256(b'old').hexdigest()[:12]}.onnx").write_bytes(b"old")
    write(tmp_path, b"one")
    assert content_of(tmp_path) == b"one" and len(files_of(tmp_path)) == 2


def test_a_link_to_a_removed_file_goes_with_it(tmp_path: Path) -> None:
    (first,) = write(tmp_path / "b", b"one").files
    address, other = tmp_path / "b" / "graphs" / "latest.onnx", tmp_path / "b" / "graphs" / "mine.onnx"
    address.symlink_to(Path(first).name)
    other.symlink_to("nowhere.onnx")  # not ours, and so left alone
    write(tmp_path / "b", b"one")
    assert address.is_symlink()
    write(tmp_path / "b", b"two")
    assert not address.is_symlink() and other.is_symlink()


def test_the_copy_of_a_page_goes_with_it(tmp_path: Path) -> None:
    """Archives and some systems copy a bundle without links, so that report/index.html is a file."""
    bundle = tmp_path / "b"
    with open_for_update(bundle, must_exist=False) as writer:
        file = writer.add(b"one", folder="graphs", name="body", suffix=".onnx")
        page = writer.add(b"page", folder="report", name="index", suffix=".html")
        writer.commit(msgspec.structs.replace(manifest(file), report=page))
    for copy in ("index.html", "notes.html"):
        (bundle / "report" / copy).write_bytes(b"page")
    write(bundle, b"one")
    assert [path.name for path in (bundle / "report").iterdir()] == ["notes.html"]  # not ours


def test_only_what_a_writer_wrote_is_ever_removed(tmp_path: Path) -> None:
    """Names may look like those of `add`: a time of day has twelve digits. And a bundle may be in another one's
    folder.
    """
    write(tmp_path, b"zero")
    write(tmp_path / "runs" / "b", b"other")
    kept = ("log-202611200941.txt", "graphs/log-202611200941.txt")
    for name in kept:
        (tmp_path / name).write_text("mine")
    write(tmp_path, b"one")
    write(tmp_path, b"two")
    assert set(kept) <= set(files_of(tmp_path)) and content_of(tmp_path / "runs" / "b") == b"other"


def test_a_damaged_bundle_is_written_over(tmp_path: Path) -> None:
    write(tmp_path, b"one")
    path = tmp_path / "manifest.json"
    path.write_bytes(path.read_bytes()[:-9])
    write(tmp_path, b"two")
    assert content_of(tmp_path) == b"two" and len(files_of(tmp_path)) == 2


def test_a_manifest_that_nobody_could_read_is_not_committed(tmp_path: Path) -> None:
    write(tmp_path, b"one")
    with pytest.raises(UserError, match="x_shape"), open_for_update(tmp_path, must_exist=True) as writer:
        file = writer.add(b"two", folder="graphs", name="body", suffix=".onnx")
        writer.commit(msgspec.structs.replace(manifest(file), x_shape=(1, 0, 2)))
    assert content_of(tmp_path) == b"one" and len(files_of(tmp_path)) == 2


def test_a_manifest_that_is_too_large_to_be_read_is_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, b"one")
    size = (tmp_path / "manifest.json").stat().st_size
    monkeypatch.setattr("fewstep.runtime.bundle.reading.MANIFEST_LIMIT", size)
    with pytest.raises(UserError, match="is larger than"), open_for_update(tmp_path, must_exist=True) as writer:
        assert writer.manifest is not None
        writer.commit(msgspec.structs.replace(writer.manifest, name="n" * (size + 1)))
    assert content_of(tmp_path) == b"one" and len(files_of(tmp_path)) == 2


def test_a_disk_without_locks_is_not_blamed_on_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fewstep.graph.files.commit._lock_descriptor", no_locks)
    with pytest.raises(UserError, match="No locks available"):
        write(tmp_path, b"one")


def test_a_file_of_a_bundle_is_no_place_for_another(tiny_bundle: Path, tmp_path: Path) -> None:
    body = tiny_bundle / open_bundle(tiny_bundle).manifest.bodies["float32"].graph.file
    link = tmp_path / "link.onnx"
    link.symlink_to(body)
    for path in (body, link, tiny_bundle / "manifest.json"):
        with refuses("file of the bundle", "write elsewhere"):
            refuse_in_bundle(path)
    for path in (tiny_bundle / "grid.png", tiny_bundle / "graphs/new.onnx", tmp_path / "manifest.json"):
        refuse_in_bundle(path)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    write(tmp_path / "b", b"one")
    with open_for_update(tmp_path / "b", must_exist=True) as writer:
        with pytest.raises(UserError, match="another process"), open_for_update(tmp_path / "b", must_exist=True):
            pass
        writer.commit(msgspec.structs.replace(manifest(next(iter(writer.manifest.files))), files=writer.manifest.files))
    assert content_of(tmp_path / "b") == b"one"


def test_what_cannot_be_a_bundle_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for path, must_exist in ((tmp_path / "file", False), (tmp_path / "empty", True), (tmp_path / "none", True)):
        with pytest.raises(UserError), open_for_update(path, must_exist):
            pass
    assert not (tmp_path / "none").exists()


def test_files_that_a_bundle_has_lost_are_named_at_the_start_and_its_reports_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_for_update(tmp_path, must_exist=False) as writer:
        graph = writer.add(b"one", folder="graphs", name="body", suffix=".onnx")
        engine = writer.add(b"engine", folder="engines", name="engine", suffix=".engine")
        page = writer.add(b"page", folder="report", name="index", suffix=".html")
        entry = EngineEntry(engine, engine, "float32", "tensorrt-rtx", "sm89", "key")
        whole = writer.commit(
            msgspec.structs.replace(manifest(graph), report=page, verification=page, engines=(entry,))
        )
    shutil.rmtree(tmp_path / "report")
    with open_for_update(tmp_path, must_exist=True) as writer:
        left = writer.commit(whole)
        assert left.report is left.verification is None and page in caplog.text
    shutil.rmtree(tmp_path / "engines")
    with pytest.raises(UserError, match=f"{engine} is missing.*fewstep build"), open_for_update(tmp_path, True):
        raise AssertionError("the work begins")
    with open_for_update(tmp_path, must_exist=True, verb="build") as writer:
        assert writer.commit(msgspec.structs.replace(whole, engines=())).files.keys() == {graph}
    (tmp_path / graph).unlink()
    with pytest.raises(UserError, match=f"{graph} is missing"), open_for_update(tmp_path, True, verb="calibrate"):
        raise AssertionError("the work begins")
