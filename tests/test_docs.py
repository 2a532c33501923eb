"""The pages: each block of code runs, each link leads somewhere, and they build without a warning."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_vae as pv

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [DOCS / "index.md", *sorted((DOCS / "howto").glob("*.md"))]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:log p.x. of", "ignore:.*effective sample size is below")  # hardly trained
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run(page):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert blocks
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)


def test_links_lead_somewhere():
    pages = [*DOCS.glob("*.md"), *DOCS.glob("howto/*.md"), ROOT / "llms.txt", ROOT / "CONTRIBUTING.md"]
    for page in pages:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), (page.name, link)


def test_names_in_the_reference_exist():
    for page in (DOCS / "reference").glob("*.md"):
        for name in re.findall(r":: (pyro_vae[\w.]+)", page.read_text()):
            found = pv
            for part in name.split(".")[1:]:
                found = getattr(sys.modules.get(f"pyro_vae.{part}"), part, None) or getattr(found, part)
            assert found is not None


@pytest.mark.slow
def test_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx_book_theme", reason="pip install '.[docs]'")
    pytest.importorskip("myst_nb", reason="pip install '.[docs]'")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(DOCS), str(tmp_path / "html")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
