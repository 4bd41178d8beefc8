"""The page of a study while it is searched: read-only, on this machine, for its own page alone.

A page of any site can make a browser ask 127.0.0.1. What it cannot do is ask under a name that we
accept (`Host`, against DNS rebinding), from an origin of ours (`Origin`), or with the token.
"""

import hashlib
import hmac
import ipaddress
import socket
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from autopeft.dashboard.info import study_info
from autopeft.dashboard.page import encodable, payload_json, policy, render
from autopeft.errors import AutopeftError, ConfigError
from autopeft.study.folder import Study

LONGEST_WAIT_SECONDS = 30
SHARE_OF_TIME = 0.1
"""At most this part of the time goes into building snapshots; the search needs the processor."""

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Snapshot:
    """The study at one moment.

    Attributes:
        tag: changes whenever a file of the study does.
        page: the HTML.
        data: what the page asks for later.
    """

    tag: str
    page: bytes
    data: bytes


class Live:
    """A study that is read again when it has changed, by one reader at a time.

    Args:
        study: on disk.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._next = 0.0

    def now(self) -> Snapshot:
        """The newest snapshot; while a study changes fast, one that is a little older.

        Raises:
            DataError: the study cannot be read.
        """
        with self._lock:
            tag, start = self._tag(), time.monotonic()
            old = self._snapshot
            if old is not None and (old.tag == tag or start < self._next):
                return old
            info = [study_info(self._study)]
            data = payload_json(info, live=True).encode()
            self._snapshot = Snapshot(tag, render(info, live=True).encode(), data)
            end = time.monotonic()
            self._next = end + (end - start) * (1 / SHARE_OF_TIME - 1)
            return self._snapshot

    def _tag(self) -> str:
        """A hash of the names and times of what a snapshot is made of."""
        folder = self._study.folder
        told = []
        for path in (folder / "records", *folder.glob("*.json"), *folder.glob("*.y*ml")):
            if path.exists():
                state = path.stat()
                told.append(f"{path.name} {state.st_mtime_ns} {state.st_size}")
        return hashlib.sha256("\n".join(sorted(told)).encode()).hexdigest()[:32]


class Server(ThreadingHTTPServer):
    """Serves one study.

    Args:
        folder: of the study.
        host: where to listen; anything but a loopback address needs a token.
        port: where to listen, 0 for one that is free.
        token: what a reader has to send as `?token=`, or None.

    Raises:
        ConfigError: the address is not this machine's own and there is no token, or cannot be had.
        DataError: the folder is no study.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, folder: Path, *, host: str, port: int, token: str | None) -> None:
        if token is not None and len(token) < _SHORTEST_TOKEN:
            raise ConfigError(f"the token is shorter than {_SHORTEST_TOKEN} characters")
        if not _is_loopback(host) and token is None:
            raise ConfigError(
                f"--host {host} can be reached by others, who would see the study: give --token or "
                "AUTOPEFT_TOKEN as well, or use 127.0.0.1"
            )
        self.live = Live(Study(folder))
        self.live.now()
        self.token = token
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"cannot listen on {host}, port {port}: {error}") from error
        self.hosts = _hosts(host, self.server_address[1]) if _is_loopback(host) else None

    @property
    def url(self) -> str:
        """Where to look."""
        host, port = _bracketed(str(self.server_address[0])), self.server_address[1]
        query = f"?token={quote(self.token, safe='')}" if self.token else ""
        return f"http://{host}:{port}/{query}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a reader who goes away in the middle is no error of ours."""


_SHORTEST_TOKEN = 16


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _hosts(host: str, port: int) -> frozenset[str]:
    names = {_bracketed(host), "127.0.0.1", "localhost"}
    return frozenset({f"{name}:{port}" for name in names} | (names if port == 80 else set()))  # noqa: PLR2004


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version = "autopeft"
    sys_version = ""
    timeout = LONGEST_WAIT_SECONDS

    def do_GET(self) -> None:
        refusal = self._refusal()
        if refusal is not None:
            self._answer(refusal, b"refused\n", "text/plain; charset=utf-8")
            return
        path = urlsplit(self.path).path
        if path not in ("/", "/data.json"):
            self._answer(HTTPStatus.NOT_FOUND, b"there is / and /data.json\n", "text/plain")
            return
        try:
            snapshot = self.server.live.now()
        except AutopeftError as error:  # a file is being replaced, or was taken away
            self._fail(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
            return
        except Exception as error:  # noqa: BLE001 - it would end in a closed connection, untold
            told = f"the study cannot be shown: {type(error).__name__}: {error}"
            self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, told)
            return
        tag = {"ETag": f'"{snapshot.tag}"'}
        if path == "/":
            more = {"Content-Security-Policy": policy(live=True) + "; frame-ancestors 'none'"}
            self._answer(HTTPStatus.OK, snapshot.page, "text/html; charset=utf-8", more)
        elif self.headers.get("If-None-Match") == tag["ETag"]:
            self._answer(HTTPStatus.NOT_MODIFIED, b"", "application/json", tag)
        else:
            self._answer(HTTPStatus.OK, snapshot.data, "application/json", tag)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def _refusal(self) -> HTTPStatus | None:
        """Why this request gets nothing, or None."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if self.server.hosts is not None and host.lower() not in self.server.hosts:
            return HTTPStatus.MISDIRECTED_REQUEST
        if origin is not None and origin.lower() != f"http://{host.lower()}":
            return HTTPStatus.FORBIDDEN
        if self.server.token is not None:
            given = parse_qs(urlsplit(self.path).query).get("token", [""])[0]
            if not hmac.compare_digest(given.encode(), self.server.token.encode()):
                return HTTPStatus.FORBIDDEN
        return None

    def _fail(self, status: HTTPStatus, told: str) -> None:
        self._answer(status, f"{encodable(told)}\n".encode(), "text/plain; charset=utf-8")

    def _answer(
        self, status: HTTPStatus, body: bytes, kind: str, more: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, **(more or {})}.items():
            self.send_header(name, value)
        if status is not HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: the address of a request holds the token."""
