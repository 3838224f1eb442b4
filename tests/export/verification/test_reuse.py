"""A verification is reused for the same graphs only, and only if it is at least as full."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from fewstep.export.verification import reuse
from fewstep.export.verification.points import Scope
from fewstep.export.verification.verify import Verification
from fewstep.graph.files.commit import Writer
from fewstep.plans.errors import UserError

FILE = "verification.json"


@dataclass
class StoredFiles:
    """The files of a replaced bundle."""

    path: Path
    manifest: Any

    def read(self, name: str) -> bytes:
        if not (self.path / name).exists():
            raise UserError(f"{name} is missing", "export again")
        return (self.path / name).read_bytes()


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    opened = StoredFiles(tmp_path, SimpleNamespace(verification=FILE))
    return cast(Writer, SimpleNamespace(bundle=tmp_path, opened=opened))


def store(writer: Writer, scope: Scope) -> Verification:
    made = Verification(1e-4, (), scope=scope, verified="abc")
    (Path(writer.bundle) / FILE).write_bytes(msgspec.json.encode(made))
    return made


@pytest.mark.parametrize(("stored", "asked"), [("full", "full"), ("full", "quick"), ("quick", "quick")])
def test_a_verification_of_the_same_graphs_is_reused(stored: Scope, asked: Scope, writer: Writer) -> None:
    made = store(writer, stored)
    assert reuse.reusable_verification(writer, "abc", asked) == made


def test_a_verification_of_other_graphs_is_not_reused(writer: Writer) -> None:
    store(writer, "full")
    assert reuse.reusable_verification(writer, "abd", "quick") is None


def test_a_quick_verification_is_no_full_one(writer: Writer) -> None:
    store(writer, "quick")
    assert reuse.reusable_verification(writer, "abc", "full") is None


def test_a_damaged_verification_is_replaced(writer: Writer) -> None:
    (Path(writer.bundle) / FILE).write_bytes(b"{")
    assert reuse.reusable_verification(writer, "abc", "quick") is None


def test_a_missing_verification_is_replaced(writer: Writer) -> None:
    assert reuse.reusable_verification(writer, "abc", "quick") is None
