"""The server: read-only, for this machine's own pages, new trials without a restart."""

import json
import shutil
import threading
from http.client import HTTPConnection

import pytest
from synthetic_study import make_study

from autopeft.dashboard.page import policy
from autopeft.dashboard.serve import Live, Server
from autopeft.errors import ConfigError, DataError
from autopeft.study.folder import Study

TOKEN = "sixteen-or-more-letters"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("made") / "study", 6).folder


@pytest.fixture
def serving(made):
    """Start a server on a free port; ask it by method, path and headers."""
    servers = []

    def start(token=None, folder=made):
        server = Server(folder, host="127.0.0.1", port=0, token=token)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        port = server.server_address[1]

        def ask(path="/", method="GET", **headers):
            connection = HTTPConnection("127.0.0.1", port, timeout=60)
            named = {"Host": f"127.0.0.1:{port}"} | {
                name.replace("_", "-"): value.replace("PORT", str(port))
                for name, value in headers.items()
            }
            connection.putrequest(method, path, skip_host=True)
            for name, value in named.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            return answer, body

        return ask

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_page_and_data(serving, made):
    ask = serving()
    answer, body = ask("/")
    assert answer.status == 200
    assert b"<title>study" in body
    assert answer.headers["Content-Security-Policy"].startswith(policy(live=True))
    assert "connect-src 'self'" in answer.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    answer, body = ask("/data.json")
    data = json.loads(body)
    assert data["live"] is True
    assert data["studies"][0]["columns"]["trial"] == [0, 1, 2, 3, 4, 5]
    again, nothing = ask("/data.json", If_None_Match=answer.headers["ETag"])
    assert (again.status, nothing) == (304, b"")


@pytest.mark.parametrize(
    "host", ["example.org", "example.org:PORT", "127.0.0.1:1", "", "127.0.0.1"]
)
def test_forged_host_is_refused(serving, host):
    for path in ("/", "/data.json"):
        answer, body = serving()(path, Host=host)
        assert (answer.status, body) == (421, b"refused\n")


@pytest.mark.parametrize("host", ["localhost:PORT", "LOCALHOST:PORT", "127.0.0.1:PORT"])
def test_own_names_are_served(serving, host):
    assert serving()("/", Host=host)[0].status == 200


@pytest.mark.parametrize(
    "origin", ["http://example.org", "null", "https://127.0.0.1:PORT", "http://127.0.0.1:1", ""]
)
def test_forged_origin_is_refused(serving, origin):
    answer, body = serving()("/data.json", Origin=origin)
    assert (answer.status, body) == (403, b"refused\n")


def test_own_origin_is_served(serving):
    assert serving()("/data.json", Origin="http://127.0.0.1:PORT")[0].status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed(serving, method):
    assert serving()("/", method)[0].status == 501


def test_head_has_no_body(serving):
    answer, body = serving()("/", "HEAD")
    assert (answer.status, body) == (200, b"")


@pytest.mark.parametrize(
    "path", ["/records.jsonl", "/../manifest.json", "//etc/passwd", "/data.json/"]
)
def test_no_file_is_served(serving, path):
    assert serving()(path)[0].status == 404


def test_token_is_asked_for(serving):
    ask = serving(TOKEN)
    for path in ("/", "/?token=", f"/?token={TOKEN}x", f"/?token=x&token={TOKEN}", "/data.json"):
        assert ask(path)[0].status == 403
    assert ask(f"/?token={TOKEN}")[0].status == 200
    assert ask(f"/data.json?token={TOKEN}")[0].status == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org", ""])
def test_another_address_needs_a_token(made, host):
    with pytest.raises(ConfigError, match="can be reached by others"):
        Server(made, host=host, port=0, token=None)


def test_short_token_is_refused(made):
    with pytest.raises(ConfigError, match="shorter than 16"):
        Server(made, host="0.0.0.0", port=0, token="secret")


def test_any_name_leads_to_an_address_with_a_token(made):
    with Server(made, host="0.0.0.0", port=0, token=TOKEN) as server:
        assert server.hosts is None
        assert server.url.endswith(f"/?token={TOKEN}")


def test_port_that_is_taken(made, serving):
    with Server(made, host="127.0.0.1", port=0, token=None) as server:
        port = server.server_address[1]
        with pytest.raises(ConfigError, match=f"port {port}"):
            Server(made, host="127.0.0.1", port=port, token=None)


def test_folder_that_is_no_study(tmp_path):
    with pytest.raises(DataError, match="not the folder of a study"):
        Server(tmp_path, host="127.0.0.1", port=0, token=None)


def test_new_trials_come_with_the_next_question(serving, tmp_path):
    folder = make_study(tmp_path / "study", 4).folder
    live = Live(Study(folder))
    first = live.now()
    assert live.now() is first
    make_study(folder, 8)
    live._next = 0.0  # the time that a snapshot has to rest has passed
    second = live.now()
    assert second.tag != first.tag
    assert len(json.loads(second.data)["studies"][0]["columns"]["trial"]) == 8


def test_snapshots_rest_between_changes(tmp_path):
    folder = make_study(tmp_path / "study", 4).folder
    live = Live(Study(folder))
    first = live.now()
    make_study(folder, 8)
    assert live.now() is first


def test_study_that_was_taken_away(serving, tmp_path, monkeypatch):
    folder = make_study(tmp_path / "study", 4).folder
    live = Live(Study(folder))
    live.now()
    shutil.rmtree(folder)
    live._next = 0.0
    with pytest.raises(DataError, match="is not a folder"):
        live.now()
    ask = serving()

    def gone(_):
        raise DataError(f"{folder} is not a folder")

    monkeypatch.setattr(Live, "now", gone)
    answer, body = ask("/data.json")
    assert answer.status == 503
    assert b"is not a folder" in body


def test_study_that_cannot_be_shown(serving, monkeypatch):
    ask = serving()

    def broken(_):
        raise OverflowError("too \ud800 large")

    monkeypatch.setattr(Live, "now", broken)
    answer, body = ask("/data.json")
    assert answer.status == 500
    assert body == b"the study cannot be shown: OverflowError: too \\ud800 large\n"
