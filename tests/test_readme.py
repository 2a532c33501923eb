"""What the README says is what happens."""

import re
from pathlib import Path

import pytest

from pyro_vae import arguments, cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
NEWER = [f"docs/{name}.md" for name in ("sequences", "codes", "bayesian", "labels", "hierarchies", "export")]


@pytest.mark.filterwarnings("ignore:the effective sample")
@pytest.mark.filterwarnings("ignore:log p.x. of")  # of programs that were hardly trained
@pytest.mark.parametrize(
    "file",
    [
        pytest.param("README.md", marks=pytest.mark.slow),
        "docs/engine.md",
        "docs/sleef.md",
        "docs/streaming.md",
        *[p for p in NEWER if (ROOT / p).exists()],
        pytest.param("docs/evaluation.md", marks=pytest.mark.slow),
    ],
)
def test_python_blocks_run(file):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(), re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, file, "exec"), names)


def test_ci_runs_the_test_command():
    (command,) = re.findall(r"^pip install .*pytest.*$", README, re.MULTILINE)
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_options_exist():
    """Every option of every pyro-vae command in the README is one that the command has."""
    commands = re.findall(r"pyro-vae ([a-z]+)((?: [^`\n|&]+)?)", README)
    assert commands
    for command, rest in commands:
        assert command in cli.COMMANDS
        for option in set(re.findall(r"--([a-z-]+)", rest)) - {"help"}:
            assert option.replace("-", "_") in arguments.options(command, cli.COMMANDS[command]), (
                command,
                option,
            )


def test_pictures_exist():
    pictures = re.findall(r'(?:src="|!\[[^\]]*\]\()([^)"]+\.png)', README)
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).exists()
    assert sum((ROOT / picture).stat().st_size for picture in pictures) < 1_000_000
