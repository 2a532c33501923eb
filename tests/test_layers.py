"""Each module imports only from rows above its own, or from its own row's package."""

import ast
import subprocess
import sys
from pathlib import Path

import pyro_vae

ROWS = [
    [
        *("bayesian", "bounded", "checks", "constraints", "distributions", "nets", "plain_yaml", "recurrent"),
        *("running", "data", "engine", "sleef", "losses", "traced", "svi"),
    ],
    ["families", "priors", "likelihoods", "guides"],
    ["seen", "conditional", "program"],
    ["models"],
    ["objectives", "registry"],
    ["refinement", "evaluate", "figures", "explain", "checkpoint", "card"],
    ["distributed", "training"],
    [
        *("comparison", "sklearn", "report", "explore", "filling", "drawn"),
        *("arguments", "export", "course", "arviz"),
    ],
    ["cli"],
    ["__init__", "__main__"],
]
WITHIN = {  # of the same row, in its order
    "distributions": {"constraints"},
    "data": {"constraints"},
    "engine": set(),
    "nets": {"bayesian", "recurrent"},
    "recurrent": {"distributions"},
    "svi": {"losses", "traced"},
    "traced": {"losses"},
    "priors": {"families"},
    "registry": {"objectives"},
    "likelihoods": {"families"},
    "guides": {"families"},
    "conditional": {"seen"},
    "program": {"conditional", "seen"},
    "evaluate": {"refinement"},
    "figures": {"evaluate", "refinement"},
    "explain": {"evaluate"},
    "checkpoint": {"explain"},
    "card": {"checkpoint"},
    "training": {"distributed"},
    "sklearn": {"comparison"},
    "report": {"explore"},
    "__main__": {"__init__"},
}
LAZY = {
    ("svi", "engine"),
    ("program", "explain"),
    ("program", "refinement"),
    ("program", "objectives"),
    ("evaluate", "engine"),
    ("evaluate", "svi"),
    ("checkpoint", "figures"),
}
"""Within a function, what may be imported though it lies below, or is heavy."""
ROOT = Path(pyro_vae.__file__).parent


def unit(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path):
    """Modules of this package that a file imports, each with whether it does so within a function."""
    tree = ast.parse(path.read_text())
    inner = {
        id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f) if n is not f
    }
    for node in ast.walk(tree):
        found: list[str] = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pyro_vae":
            rest = (node.module or "").split(".")[1:]
            found = rest[:1] or [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            found = [a.name.split(".")[1] for a in node.names if a.name.startswith("pyro_vae.")]
        for name in found:
            yield name, id(node) in inner


def test_every_module_has_a_row():
    there = {unit(path) for path in ROOT.rglob("*.py")}
    assert there == {name for row in ROWS for name in row}


def test_imports_go_up():
    row_of = {name: i for i, row in enumerate(ROWS) for name in row}
    wrong = []
    for path in ROOT.rglob("*.py"):
        own = unit(path)
        if own == "__init__":
            continue
        for name, lazy in imports(path):
            above = row_of.get(name, 99) < row_of[own]
            if not (name == own or above or name in WITHIN.get(own, ()) or (lazy and (own, name) in LAZY)):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_the_engine_knows_nothing_of_this_package():
    for path in (ROOT / "engine").glob("*.py"):
        assert {name for name, _ in imports(path)} <= {"engine"}, path.name


def test_importing_says_nothing():
    """And lists no families, which takes a second, nor imports what only some need."""
    code = """
import sys, pyro_vae
heavy = {"scipy.stats", "sklearn", "pandas", "torchvision", "onnx", "torch._dynamo", "torch._inductor"}
print(pyro_vae.families.univariate.offered.cache_info().currsize, *heavy & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("0", "")
