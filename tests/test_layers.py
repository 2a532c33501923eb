"""Each module imports only from rows above its own."""

import ast
from pathlib import Path

import pyro_vae

ROWS = [
    ["distributions", "nets", "data", "watch"],
    ["priors", "likelihoods", "guides", "compiler"],
    ["explain"],
    ["vae"],
    ["objectives", "config", "figures"],
    ["svi", "evaluate", "checkpoint"],
    ["training"],
    ["comparison", "sklearn"],
    ["cli"],
    ["__init__", "__main__"],
]
ROOT = Path(pyro_vae.__file__).parent


def test_every_module_has_a_row():
    assert {path.stem for path in ROOT.glob("*.py")} == {name for row in ROWS for name in row}


def test_imports_go_up():
    row_of = {name: i for i, row in enumerate(ROWS) for name in row}
    for path in ROOT.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            imported: list[str] = []
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyro_vae"):
                module = node.module.partition(".")[2]
                imported = [module] if module else [alias.name for alias in node.names]
            elif isinstance(node, ast.Import):
                imported = [a.name[9:] for a in node.names if a.name.startswith("pyro_vae.")]
            for name in imported:
                assert row_of[name] < row_of[path.stem], f"{path.stem} imports {name}"
