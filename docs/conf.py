"""The documentation as pages: ``sphinx-build -W -q docs docs/_build``, with ``pip install -e '.[docs]'``.

The chapters of the course are run, two at a time, at a tenth of their size, or at what COURSE_SIZE says, and
not at all at 0. Those that docs/chapters has with the same code are not run again: delete that folder to have
them so. External links: ``sphinx-build -b linkcheck docs docs/_build/linkcheck``, where there is a network.
"""

import os
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version as installed
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from pyro_vae import course

CHAPTERS = Path(__file__).parent / "chapters"
SIZE = float(os.environ.pop("COURSE_SIZE", 0.1))
ENVIRONMENT = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "OMP_NUM_THREADS": "1"}


def code(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def keep(notebook, language, name):
    page = CHAPTERS / language / name
    page.parent.mkdir(parents=True, exist_ok=True)
    text = nbformat.writes(notebook)
    if not page.exists() or page.read_text("utf-8") != text:
        page.with_suffix(".new").write_text(text, "utf-8")
        page.with_suffix(".new").replace(page)


def run(path):
    """A chapter with the outputs that are there, of the same code, or else with new ones."""
    notebook, page = nbformat.read(path, 4), CHAPTERS / "en" / path.name
    there = nbformat.read(page, 4) if page.exists() else None
    if there and [cell["source"] for cell in code(there)] == [cell["source"] for cell in code(notebook)]:
        for cell, other in zip(code(notebook), code(there), strict=True):
            cell["outputs"] = other["outputs"]
    elif SIZE:
        client = NotebookClient(
            notebook,
            timeout=1800,
            startup_timeout=600,
            extra_arguments=["--IPKernelApp.log_level=40"],
            resources={"metadata": {"path": path.parent}},
        )
        client.execute(env=os.environ | ENVIRONMENT)
    keep(notebook, "en", path.name)
    return notebook


def write_chapters():
    """As pages in each language, with the same outputs; index.md has them in its contents."""
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
        paths = course.write(f"{scratch}/en", "en", SIZE or 1.0)
        Path(scratch, "en", "matplotlibrc").write_text("figure.dpi: 120\n")
        for notebook, path in zip(pool.map(run, paths), paths, strict=True):
            for language in course.languages()[1:]:
                folder = Path(scratch, language)
                if not folder.exists():
                    course.write(folder, language, SIZE or 1.0)
                other = nbformat.read(folder / path.name, 4)
                for cell, ran in zip(code(other), code(notebook), strict=True):
                    cell["outputs"] = ran["outputs"]
                keep(other, language, path.name)


write_chapters()

project = "pyro_vae"
author = "The pyro_vae authors"
release = version = installed("pyro_vae")
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # MathJax and its fonts as files of the pages
    "myst_nb",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
html_theme = "sphinx_book_theme"
html_title = "pyro_vae"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_theme_options = {"use_fullscreen_button": False, "use_download_button": False}

myst_enable_extensions = ["dollarmath", "deflist", "html_image"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # chapters are run above, and blocks of pages by the tests
nb_output_stderr = "remove"
nb_merge_streams = True

autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": False}
autodoc_typehints = "none"  # signatures name types already
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Settings", "params_style")]

linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_workers = 4
linkcheck_anchors_ignore_for_url = [r"https://github\.com/"]  # made in the browser

# Pages of the repository that are no part of the documentation are where they are on the hub.
suppress_warnings = ["myst.xref_missing", "ref.python", "myst.header"]


def link_to_the_pages(app, name, source):
    """Here chapters are pages; in the repository, where there are none, links to them are to scripts."""
    source[0] = re.sub(r"\.\./examples/course/(\w+)\.py", r"/chapters/en/\1.ipynb", source[0])


def setup(app):
    app.connect("source-read", link_to_the_pages)
