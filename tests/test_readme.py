"""What the README says is what happens."""

import re
from pathlib import Path

import pytest

from pyro_vae import arguments, cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))]
TEXT = {page: (ROOT / page).read_text() for page in PAGES}
SLOW = {"README.md", "docs/evaluation.md", "docs/parts.md", "docs/structures.md", "docs/tables.md"}


@pytest.mark.filterwarnings("ignore:log p.x. of", "ignore:the effective sample size")  # hardly trained
@pytest.mark.parametrize(
    "file",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else [])
        for page in PAGES
        if "```python" in TEXT[page] and page != "docs/index.md"  # which test_docs has
    ],
)
def test_python_blocks_run(file):
    blocks = re.findall(r"```python\n(.*?)```", TEXT[file], re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, file, "exec"), names)


def test_ci_runs_the_test_command():
    (command,) = re.findall(r"^pip install .*pytest.*$", README, re.MULTILINE)
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_options_exist():
    """Every option of every pyro-vae command in the README and the pages is one that the command has."""
    commands = re.findall(r"pyro-vae ([a-z]+)((?: [^`\n|&]+)?)", "\n".join(TEXT.values()))
    assert commands
    for command, rest in commands:
        assert command in cli.COMMANDS
        for option in set(re.findall(r"--([a-z-]+)", rest)) - {"help"}:
            assert option.replace("-", "_") in arguments.options(command, cli.COMMANDS[command]), (
                command,
                option,
            )


def test_pictures_exist():
    found = set()
    for page, text in TEXT.items():
        for picture in re.findall(r'(?:src="|!\[[^\]]*\]\()([^)"]+\.png)', text):
            found.add(((ROOT / page).parent / picture).resolve())
    assert found
    assert all(picture.exists() for picture in found)
    assert sum(picture.stat().st_size for picture in found) < 1_300_000


def test_the_readme_is_short():
    assert len(README.splitlines()) < 150
