"""A model hub on this machine that answers huggingface_hub's requests for folders."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote

import pytest

Answer = tuple[int, object]  # the status, and the content of the JSON
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve(
    models: dict[str, Path],
    gated: str = "",
    answer_upload: Callable[[str, str, bytes], Answer] | None = None,
    private: Mapping[str, bool] = MappingProxyType({}),
) -> Iterator[tuple[str, list[str]]]:
    """Serve a hub with these folders under ORG/NAME. Return its address, and the files that were fetched from it.

    gated: a name that the hub refuses to everyone. answer_upload: answers a POST or PUT request to a path with a body,
    from the token of its sender. private: whether a model is visible to its owners only.
    """
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_POST(self) -> None:
            assert answer_upload is not None
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, content = answer_upload(unquote(self.path.partition("?")[0]).strip("/"), token, body)
            self._send(json.dumps(content).encode(), with_body=True, status=status)

        do_PUT = do_POST

        def log_message(self, *_: object) -> None:
            """Log nothing, since the tests read `fetched`."""

        def _answer(self, with_body: bool) -> None:
            path = unquote(self.path.partition("?")[0]).strip("/")
            if gated and gated in path:
                return self._send(b"{}", with_body, status=403, code="GatedRepo")
            if "/revision/" in path and not path.endswith(("/main", COMMIT)):
                return self._send(b"{}", with_body, status=404, code="RevisionNotFound")
            for name, folder in models.items():
                if path.startswith(f"api/models/{name}"):
                    return self._send(_describe(name, folder, path, private.get(name, False)), with_body)
                if path.startswith(f"{name}/resolve/"):
                    file = path.removeprefix(f"{name}/resolve/").partition("/")[2]
                    if with_body:
                        fetched.append(file)
                    return self._send((folder / file).read_bytes(), with_body, file)
            return self._send(b'{"error": "Repository not found"}', with_body, status=404, code="RepoNotFound")

        def _send(self, content: bytes, with_body: bool, file: str = "", status: int = 200, code: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Type", "application/octet-stream" if file else "application/json")
            if code:
                self.send_header("X-Error-Code", code)
            self.end_headers()
            if with_body:
                self.wfile.write(content)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", fetched
        server.shutdown()


def use_hub(monkeypatch: pytest.MonkeyPatch, address: str, cache: Path) -> None:
    """Let huggingface_hub use the hub at an address, with a cache. Its settings are read when it is imported, so they
    are replaced."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars

    monkeypatch.setenv("HF_ENDPOINT", address)
    settings = {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        "HF_HUB_CACHE": str(cache),
        "HF_TOKEN_PATH": str(cache / "token"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
    }
    disable_progress_bars()  # as `push` does where stderr is not a terminal
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)


def _describe(name: str, folder: Path, path: str, is_private: bool) -> bytes:
    """Return the answer to a request for a model, or for its files."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    names = [file.relative_to(folder).as_posix() for file in files]
    if "/tree/" in path:
        tree = [
            {"type": "file", "oid": "0", "path": each, "size": file.stat().st_size}
            for each, file in zip(names, files, strict=True)
        ]
        return json.dumps(tree).encode()
    known = {"id": name, "sha": COMMIT, "private": is_private, "gated": False, "disabled": False, "tags": []}
    return json.dumps({**known, "siblings": [{"rfilename": each} for each in names]}).encode()
