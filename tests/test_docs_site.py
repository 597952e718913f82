"""The site: it builds without a warning, fetches nothing, and its reference is complete."""

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

import tidemill
from tidemill.cli.catalog import COMMANDS, NOUNS

ROOT = Path(__file__).parents[1]
METRIC_MAKERS = re.compile(r"(Counter|Gauge|Histogram|Summary)(MetricFamily)?|gauge")
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}

pytestmark = pytest.mark.soak


class Page(HTMLParser):
    """What a page has the browser fetch, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.headings: list[str] = []
        self.words: list[str] = []
        self._in_heading = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of what is fetched."""
        if (address := dict(attrs).get(FETCHED.get(tag, ""))) is not None:
            self.fetched.append(address)
        self._in_heading = tag in ("h1", "h2", "h3", "h4")
        if self._in_heading:
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        """Leave a heading, or the link to itself within it."""
        self._in_heading = False

    def handle_data(self, data: str) -> None:
        """Collect text."""
        self.words.append(data)
        if self._in_heading:
            self.headings[-1] += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    if importlib.util.find_spec("sphinx") is None:
        pytest.skip("Sphinx is not installed: make docs installs it")
    out = tmp_path_factory.mktemp("site")
    strict = ["--quiet", "--fail-on-warning", "--keep-going", "--fresh-env"]
    where = ["--doctree-dir", str(out / "trees"), "--builder", "html", "docs", str(out / "html")]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *strict, *where],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return out / "html"


def pages(site: Path) -> dict[str, Page]:
    """Return all pages of the site by their path in it."""
    return {
        str(path.relative_to(site)): Page(path.read_text(encoding="utf-8"))
        for path in sorted(site.rglob("*.html"))
    }


def test_no_page_asks_another_host_for_anything(site: Path) -> None:
    """The site is read where there is no network, and tells nobody that it is."""
    found = pages(site)
    assert "index.html" in found
    assert any(page.fetched for page in found.values()), "nothing was looked at"
    for name, page in found.items():
        assert [each for each in page.fetched if re.match(r"(\w+:)?//", each)] == [], name
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert re.findall(r"(?:url\(|@import)\s*['\"]?(?:\w+:)?//[^)\s]*", text) == [], sheet.name


def test_every_document_is_a_page(site: Path) -> None:
    """A document that nobody links to is not read."""
    documents = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    assert {str(path.with_suffix(".html")) for path in documents} <= pages(site).keys()


def test_every_command_has_its_section(site: Path) -> None:
    """A command without a page is found by those alone who know it."""
    headings = {
        each.rstrip("¶").strip() for each in pages(site)["reference/commands.html"].headings
    }
    expected = {f"tidemill {name}" for name in (*(each.name for each in COMMANDS), *NOUNS)}
    assert len(expected) > 20
    assert expected <= headings


def metrics_in_the_code() -> set[str]:
    """Return the metrics that any module makes, read from its text and not from a registry."""
    found = set()
    for folder in tidemill.__path__:
        for path in Path(folder).glob("**/*.py"):
            found |= set(_metrics(path))
        for link in Path(folder).iterdir():  # glob does not follow the links to the packages
            if link.is_symlink():
                found |= {name for path in link.resolve().rglob("*.py") for name in _metrics(path)}
    return found


def _metrics(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Name(id=maker), args=[ast.Constant(value=str(name)), _, *_]) if (
                METRIC_MAKERS.fullmatch(maker)
            ):
                yield name if name.startswith("tidemill_") else f"tidemill_{name}"


def test_every_metric_has_its_row(site: Path) -> None:
    """An alarm needs the name of a metric and its labels; the code is no place to look them up."""
    words = set(pages(site)["reference/metrics.html"].words)
    expected = metrics_in_the_code()
    assert len(expected) > 40
    endings = ("", "_total")
    assert {name for name in expected if not words & {name + end for end in endings}} == set()
