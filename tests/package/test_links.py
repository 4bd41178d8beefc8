"""Links between the project's texts lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path.relative_to(ROOT)
    for folder in (".", "docs", "docs/decisions", "benchmarks", "search_spaces", "trials")
    for path in (ROOT / folder).glob("*.md")
)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)")


def test_there_are_some():
    assert len(PAGES) > 50
    assert "docs/guide.md" in LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page):
    links = LINK.findall((ROOT / page).read_text(encoding="utf-8"))

    missing = [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]

    assert not missing
