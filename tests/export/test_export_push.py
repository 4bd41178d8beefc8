"""Pushing an export, to a server on this machine that speaks as much of the Hub as is needed."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
from huggingface_hub import constants

from autopeft.errors import DataError
from autopeft.export.push import push

TOKEN = "hf_" + "s3cr3t" * 5


class Hub(BaseHTTPRequestHandler):
    """Keeps what is committed; a repository `user/taken` belongs to somebody else."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        if "taken" in self.path or b"taken" in body:
            self.answer(403, {"error": "You don't have the rights"})
        elif self.path == "/api/repos/create":
            self.server.created = json.loads(body)
            self.answer(200, {"url": f"{self.server.url}/user/name"})
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        elif self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
            url = f"{self.server.url}/user/name/commit/abc"
            self.answer(200, {"commitUrl": url, "commitOid": "abc", "hookOutput": ""})
        else:
            self.answer(404, {})

    def do_GET(self):
        self.answer(200, {"id": "user/name", "sha": "abc", "siblings": []})

    def answer(self, status, data):
        text = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.seen, server.files = [], {}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    huggingface_hub.close_session()
    yield server
    huggingface_hub.close_session()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folder(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("---\ntags:\n- autopeft\n---\n\n# out\n", encoding="utf-8")
    (out / "adapter_model.safetensors").write_bytes(b"\0" * 100)
    return out


def test_a_folder_is_pushed_whole(hub, folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert push(folder, "user/name") == f"{hub.url}/user/name/commit/abc"
    assert hub.files == before
    assert hub.created.get("private") or hub.created.get("visibility") == "private"
    assert {token for _, token in hub.seen} == {f"Bearer {TOKEN}"}
    after = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before
    assert not any(TOKEN.encode() in data for data in after.values())


def test_a_refusal_leaves_the_folder(hub, folder):
    with pytest.raises(DataError, match=r"is there, but not pushed to user/taken: ") as refusal:
        push(folder, "user/taken")
    assert TOKEN not in str(refusal.value)
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("name", ["a/b/c", "../up", ""])
def test_a_name_that_no_repository_has_is_refused(hub, folder, name):
    with pytest.raises(DataError, match="not pushed"):
        push(folder, name)
    assert not hub.files
