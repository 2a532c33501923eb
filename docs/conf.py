"""The documentation as pages: ``sphinx-build -W -q docs docs/_build``, with ``pip install -e '.[docs]'``."""

import shutil
from importlib.metadata import version as installed
from pathlib import Path

from pyro_vae import course

for language in course.languages():  # as pages, made anew: index.md has them in its contents
    folder = Path(__file__).parent / "chapters" / language
    shutil.rmtree(folder, ignore_errors=True)
    course.write(folder, language)

project = "pyro_vae"
author = "The pyro_vae authors"
release = version = installed("pyro_vae")
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "myst_nb"]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
html_theme = "sphinx_book_theme"
html_title = "pyro_vae"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_theme_options = {"use_fullscreen_button": False, "use_download_button": False}

myst_enable_extensions = ["dollarmath", "deflist", "html_image"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # blocks of pages are run by the tests

autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": False}
autodoc_typehints = "none"  # signatures name types already
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Settings", "params_style")]

# Pages of the repository that are no part of the documentation are where they are on the hub.
suppress_warnings = ["myst.xref_missing", "ref.python", "myst.header"]
