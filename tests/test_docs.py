"""The pages: each block of code runs, each link leads somewhere, they build, and search finds the answers."""

import http.server
import re
import shutil
import subprocess
import sys
import threading
from functools import cache, partial
from itertools import count
from pathlib import Path
from urllib.parse import quote

import pytest

import pyro_vae as pv

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
QUESTIONS = sorted(path for path in (DOCS / "howto").glob("*.md") if path.stem != "index")
PAGES = [
    *(
        ROOT / name
        for name in ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "CHANGELOG.md", "llms.txt")
    ),
    *(path for path in DOCS.rglob("*.md") if not {"chapters", "_build"} & set(path.relative_to(DOCS).parts)),
    *(ROOT / "examples").rglob("*.md"),
    *(ROOT / "examples").rglob("*.py"),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:log p.x. of", "ignore:.*effective sample size is below")  # hardly trained
@pytest.mark.parametrize("page", [DOCS / "index.md", *QUESTIONS], ids=lambda page: page.stem)
def test_blocks_run(page, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)


def test_there_are_answers_on_one_screen():
    assert len(QUESTIONS) >= 25
    for page in QUESTIONS:
        assert len(page.read_text().splitlines()) <= 50, f"{page.name}: one screen"


@cache
def anchors(path):
    """Those of a page's headings, as the hub and the pages name them, and those set by hand."""
    text = re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)
    found = set(re.findall(r'<a (?:id|name)="([^"]+)"', text))
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        found.add(next(name for i in count() if (name := f"{slug}-{i}" if i else slug) not in found))
    return found


def broken(page, text):
    """Links to files that are not there, and to headings that they do not have."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    links = re.findall(r'\]\((?!https?:|mailto:)([^)\s]+)\)|(?:src|href)="(?!https?:)([^"]+)"', text)
    for link in map("".join, links):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists():
            yield f"{page.name}: {link} is not there"
        elif anchor and anchor not in anchors(target):
            yield f"{page.name}: {link}: there is no such heading"


def test_links_lead_somewhere():
    wrong = []
    for page in PAGES:
        text = page.read_text("utf-8")
        if page.suffix == ".py":  # what its cells of text say
            text = "\n".join(re.findall("^# ?(.*)$", text, re.MULTILINE))
        wrong += broken(page, text)
    assert not wrong


def test_a_broken_link_is_found():
    page = DOCS / "glossary.md"
    assert not list(broken(page, "[a](engine.md#how-it-works) [b](#glossary) `[c](d)`"))
    assert (
        len(list(broken(page, "[a](engine.md#how-it-fails) [b](nowhere.md) <img src='x'> [c](#none)"))) == 3
    )


def test_names_in_the_reference_exist():
    for page in (DOCS / "reference").glob("*.md"):
        for name in re.findall(r":: (pyro_vae[\w.]+)", page.read_text()):
            found = pv
            for part in name.split(".")[1:]:
                found = getattr(sys.modules.get(f"pyro_vae.{part}"), part, None) or getattr(found, part)
            assert found is not None


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages, built; which runs the chapters that have not been run since they changed."""
    for module in ("sphinx_book_theme", "myst_nb", "sphinx-mathjax-offline"):
        pytest.importorskip(module, reason="pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(DOCS), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.slow
def test_site_shows_what_chapters_print_and_draw(site):
    for chapter in (ROOT / "examples" / "course").glob("[0-9]*.py"):
        for language in ("en", "zh-CN"):
            page = (site / "chapters" / language / f"{chapter.stem}.html").read_text("utf-8")
            assert 'class="output' in page, chapter.stem
            shown = re.findall(r'<img alt="[^"]*" src="\.\./\.\./_images/\w+\.png"', page)
            assert len(shown) >= chapter.read_text("utf-8").count(".savefig("), chapter.stem
            assert "Traceback" not in page


@pytest.mark.slow
def test_site_needs_no_network(site):
    for page in site.rglob("*.html"):
        fetched = re.findall(
            r'<(?:script|img|iframe)[^>]+src="https?:[^"]*|<link[^>]+rel="(?:stylesheet|preload)"[^>]+href="https?:[^"]*',
            page.read_text("utf-8"),
        )
        assert not fetched, page


@pytest.fixture(scope="module")
def browser():
    selenium = pytest.importorskip("selenium.webdriver", reason="pip install selenium")
    if not shutil.which("chromedriver"):
        pytest.skip("needs chromedriver, and Chromium")
    options = selenium.ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(option)
    found = selenium.Chrome(options, selenium.ChromeService(shutil.which("chromedriver")))
    yield found
    found.quit()


@pytest.fixture(scope="module")
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_site_finds_each_answer_by_the_words_of_its_question(address, browser):
    from selenium.webdriver.support.ui import WebDriverWait

    missed = []
    for page in QUESTIONS:
        question = page.read_text().splitlines()[0].removeprefix("# ")
        browser.get(f"{address}/search.html?q={quote(question)}")
        WebDriverWait(browser, 60).until(
            lambda there: (
                there.find_elements("css selector", "#search-results p.search-summary")
                and "earching" not in there.find_element("css selector", "#search-results h2").text
            )
        )
        found = [
            link.get_attribute("href").split("/")[-1].split(".")[0]
            for link in browser.find_elements("css selector", "#search-results ul.search > li > a")
        ]
        if page.stem not in found[:3]:
            missed.append((question, found[:3]))
    assert not missed


@pytest.mark.slow
def test_site_draws_formulas(address, browser):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(f"{address}/how_it_works.html")
    drawn = WebDriverWait(browser, 60).until(
        lambda there: there.find_elements("css selector", "mjx-container")
    )
    assert len(drawn) >= 2
    assert not browser.find_elements("css selector", "mjx-merror")
