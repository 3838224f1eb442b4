"""The part of a local hub that takes uploads: repositories, git LFS, and commits."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.export.sources.hub_server import COMMIT, Answer

TOKEN = "hf_own"  # may write everywhere except to the organization `foreign`
STORED_AS_LFS = (".onnx", ".data", ".safetensors", ".npy")


@dataclass
class Uploads:
    """Repositories below a folder, by ORG/NAME. Blobs are files that arrived and may not be part of a commit.

    sent: the digests of the LFS files that were sent. full: the hub refuses LFS files after this number of them.
    """

    root: Path
    models: dict[str, Path] = field(default_factory=dict)
    address: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    full: int | None = None
    private: dict[str, bool] = field(default_factory=dict)

    def answer(self, path: str, token: str, body: bytes) -> Answer:
        """Answer a request that writes."""
        if path.startswith("lfs/"):
            return self._store(path.removeprefix("lfs/"), body)
        if token != TOKEN:
            return 401, {"error": "Invalid username or password."}
        if path.endswith("/commit/main"):
            return self._commit(path.removeprefix("api/models/").removesuffix("/commit/main"), body)
        document = json.loads(body)
        if path == "api/repos/create":
            return self._create(document)
        if path == "api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.endswith("/preupload/main"):
            return 200, {"files": [_mode(file["path"]) for file in document["files"]]}
        assert path.endswith(".git/info/lfs/objects/batch"), path
        return 200, {"transfer": "basic", "objects": [self._batch_entry(entry) for entry in document["objects"]]}

    def _create(self, document: Mapping[str, str]) -> Answer:
        if document.get("organization") == "foreign":
            return 403, {"error": "You don't have the rights to create a model under the namespace foreign"}
        name = f"{document['organization']}/{document['name']}"
        if name in self.models:
            return 409, {"url": f"{self.address}/{name}", "error": "You already created this model repo"}
        self.private[name] = document.get("visibility") == "private"
        self.models[name] = self.root / name
        self.models[name].mkdir(parents=True)
        (self.models[name] / ".gitattributes").touch()
        return 200, {"url": f"{self.address}/{name}"}

    def _batch_entry(self, entry: Mapping[str, str]) -> dict[str, object]:
        upload = {"upload": {"href": f"{self.address}/lfs/{entry['oid']}"}}
        return {**entry, **({} if entry["oid"] in self.blobs else {"actions": upload})}

    def _store(self, digest: str, body: bytes) -> Answer:
        if self.full is not None and len(self.sent) >= self.full:
            return 507, {"error": "no space"}
        assert hashlib.sha256(body).hexdigest() == digest
        self.sent.append(digest)
        self.blobs[digest] = body
        return 200, {}

    def _commit(self, name: str, body: bytes) -> Answer:
        folder = self.models[name]
        for operation in map(json.loads, body.splitlines()):
            value = operation["value"]
            if operation["key"] == "header" and value.get("parentCommit") != COMMIT:
                return 412, {"error": "the branch has another commit"}
            if operation["key"] == "deletedFile":
                (folder / value["path"]).unlink()
            elif operation["key"] != "header":
                is_lfs = operation["key"] == "lfsFile"
                (folder / value["path"]).parent.mkdir(parents=True, exist_ok=True)
                (folder / value["path"]).write_bytes(
                    self.blobs[value["oid"]] if is_lfs else base64.b64decode(value["content"])
                )
        return 200, {"commitUrl": f"{self.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT}


def _mode(path: str) -> dict[str, object]:
    mode = "lfs" if Path(path).suffix in STORED_AS_LFS else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False}
