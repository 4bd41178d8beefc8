"""The page in a browser while the study that it shows goes on."""

import threading
from contextlib import contextmanager

import pytest
from in_browser import keys, see_everything, selected, until
from synthetic_study import make_study

from autopeft.dashboard import serve
from autopeft.dashboard.serve import Server

pytestmark = pytest.mark.browser


@contextmanager
def served(folder):
    """A server that spares no time for the search."""
    with (
        pytest.MonkeyPatch.context() as patch,
        Server(folder, host="127.0.0.1", port=0, token=None) as server,
    ):
        patch.setattr(serve, "SHARE_OF_TIME", 1.0)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.url
        server.shutdown()


def test_server_brings_new_trials_without_a_reload(browser, view, tmp_path):
    folder = make_study(tmp_path / "study", 8).folder
    with served(folder) as url:
        run = view(url)
        run("window.same = true; all('#table tbody tr')[4].click()")
        chosen = selected(run)["details"]
        assert run("return all('#table tbody tr').length") == 8
        make_study(folder, 20)
        until(browser, "all('#table tbody tr').length === 20")
        assert run("return window.same")
        assert selected(run)["details"] == chosen
        assert run("return one('#live').textContent") == "live"
        green = run("return getComputedStyle(one('#live')).color")
    until(browser, "one('#live').textContent.startsWith('the server is gone')")
    assert run("return getComputedStyle(one('#live')).color") != green


def test_new_trials_leave_the_reader_in_place(browser, view, tmp_path):
    folder = make_study(tmp_path / "study", 80).folder
    with served(folder) as url:
        run = view(url)
        see_everything(browser, run)
        run(
            """
            for (const _ of [1, 2]) one('#pager [data-focus="Next"]').click();
            const open = one("#more details");
            open.open = one("#facts details").open = true;
            window.kept = [open, one("#details h2"), one("#filter"), ...all("#more .plot")];
            one("#filter").focus();
            """
        )
        until(browser, "one('#more details tbody tr')")
        make_study(folder, 84)
        until(browser, "one('#pager').textContent.includes('of 84')")
        assert run("return one('#pager').textContent").startswith("Previous51 to 75 of 84")
        assert run("return window.kept.every((node) => node.isConnected)")
        assert run("return one('#more details').open")
        assert run("return one('#facts details').open")
        assert run("return one('#more details tbody tr').textContent")
        assert run("return document.activeElement.id") == "filter"


FOCUSED = (
    '#table button[data-key="params"]',
    '#trials input[value="dominated"]',
    "#pager select",
    "#csv",
    "#details .command button",
    '#heat [data-mode="front"]',
    "#more summary",
    "#facts summary",
)


def test_new_trials_leave_the_focus(browser, view, tmp_path):
    folder = make_study(tmp_path / "study", 30).folder
    focus = "const node = one(arguments[0]); node.focus(); return node.textContent"
    with served(folder) as url:
        run = view(url)
        for count, place in enumerate(FOCUSED, 31):
            told = run(focus, place)
            make_study(folder, count)
            until(browser, f"one('#pager').textContent.includes('of {count}')")
            assert run("return document.activeElement === one(arguments[0])", place), place
            assert run("return document.activeElement.textContent") == told


def test_new_trials_leave_the_keyboard_on_its_row(browser, view, tmp_path):
    folder = make_study(tmp_path / "study", 60).folder
    with served(folder) as url:
        run = view(url)
        run("one('#table tr[data-row]').focus()")
        keys(browser, "END")
        trial = selected(run)["table"]
        make_study(folder, 90)
        until(browser, "one('#pager').textContent.includes('of 90')")
        assert run("return document.activeElement.querySelector('td').textContent") == trial
        assert selected(run)["table"] == trial
