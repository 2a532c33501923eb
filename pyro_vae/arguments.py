"""What the commands of ``pyro-vae`` take: options by the names of the Python functions' arguments."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from pyro_vae import data, models, registry
from pyro_vae.checks import ConfigError
from pyro_vae.families import Of
from pyro_vae.program import Program
from pyro_vae.training import Settings

SEVERAL = (
    *("given", "latent_dims", "trust", "priors", "likelihoods", "guides", "objectives", "parts", "formats"),
)
"""Options that take several values."""
KINDS = (*registry.PARTS, "optimizer", "loss", "schedule")
"""Options that name a part, whose arguments are options too."""
FITTED = {
    "binarize": "draw x ~ Bernoulli(grey value): dynamic, anew each epoch; static, once; threshold: x > 0.5; "
    "none; auto: dynamic for a likelihood on {0, 1}, else none",
    "levels": "leave grey levels the whole numbers that they are, 0 to 255 (of digits, 0 to 16), instead of "
    "dividing them into [0, 1]; auto: for a likelihood of counts that is not on {0, 1}",
}
"""Options of ``pv.data.load`` that follow the likelihood, unless they are given."""


def separate(
    command: str, tokens: Sequence[str], known: Mapping[str, str]
) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Tokens for the parser, with underscores for dashes; and the arguments of parts, by part and name."""
    plain: list[str] = []
    dotted: dict[str, dict[str, str]] = {}
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--"):
            plain.append(token)
            continue
        option, equals, value = token[2:].partition("=")
        name, dot, argument = option.replace("-", "_").partition(".")
        if name not in known and name != "help":
            near = registry.nearest(f"--{name}", [f"--{other}" for other in known])
            raise ConfigError(f"{command} has no option {token}; {near} (pyro-vae {command} --help)")
        if not dot:
            plain.append(f"--{name}{equals}{value}")
            continue
        if name not in KINDS:
            raise ConfigError(f"--{name} is no part, and has no arguments of its own: {token}")
        alone = not rest or rest[0].startswith("--")
        if not equals and argument != "help" and alone:
            raise ConfigError(f"{token} needs a value")
        dotted.setdefault(name, {})[argument] = value if equals else "" if alone else rest.pop(0)
    return plain, dotted


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} ({self.prog} --help)")


def make_parser(
    command: str, function: Callable[..., Any], known: Mapping[str, str]
) -> argparse.ArgumentParser:
    """The parser of a command with these options."""
    parser = _Parser(
        prog=f"pyro-vae {command}",
        description=re.split(r"\n\s*Args:", inspect.getdoc(function) or "")[0],
        epilog="Options may be written with dashes (--data-dir) or underscores.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if "run" in inspect.signature(function).parameters:
        parser.add_argument("run", nargs="?", help="folder of the run; by default the latest")
    elif command == "course":
        parser.add_argument("folder", nargs="?", help=_documented(function)["folder"])
    for name, text in known.items():
        several: Any = {"nargs": "+"} if name in SEVERAL else {}
        parser.add_argument(f"--{name}", help=text.replace("%", "%%"), metavar=name.upper(), **several)
    return parser


def options(command: str, function: Callable[..., Any]) -> dict[str, str]:
    """The options of a command, each with what is told of it."""
    trust = "modules of your own that files may import from"
    if "run" in inspect.signature(function).parameters:
        return {n: t for n, t in _documented(function).items() if n != "run"} | {"trust": trust}
    if command not in ("train", "compare"):
        return {n: t for n, t in _documented(function).items() if n != "folder"}
    files = ".npy, .npz, .pt, .csv, .parquet or .h5ad file"
    known = {"data": f"{', '.join(data.SETS)}; or a {files}; or a folder of images"}
    known["labels"] = "of a table, or of cells, the name of the column of labels; empty cells are not known"
    known |= {n: t for n, t in _documented(data.load).items() if n not in known} | FITTED
    known["model"] = f"what is trained: {', '.join(models.__all__)}; VAE by default"
    for name in models.__all__[::-1]:
        known |= {n: t for n, t in _documented(getattr(models, name)).items() if n != "event_shape"}
    known["given"] = "what a ConditionalVAE is given: y=10 for ten classes, age=(1,) for a real value"
    known |= Settings.documentation()
    known |= {"folder": "of the run; by default a new one under runs/", "trust": trust}
    known["config"] = "a run's config.yaml, or one of your own"
    if command == "train":
        return known | {
            "resume": "go on with this run, as it was; or auto: go on in --folder, or start there"
        }
    lists = {f"{kind}s": f"{kind}s to compare" for kind in ("prior", "likelihood", "guide")}
    lists["objectives"] = "losses to compare"
    return lists | {"num_samples": "importance samples per datum; 100 by default"} | known


def _documented(function: Callable[..., Any]) -> dict[str, str]:
    """What a docstring tells of each argument."""
    _, _, told = (inspect.getdoc(function) or "").partition("Args:\n")
    found = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", re.split(r"\n\S", told)[0], re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text).replace("``", "") for name, text in found}


def default(kind: str) -> str:
    """The text of a part that was not chosen."""
    if kind in Settings.documentation():
        return str(Settings().to_plain()[kind])
    if kind in ("encoder", "decoder", "between", "classifier"):  # whose widths are then an option by name
        return "MLP(hidden_dims=[200, 200])" if kind == "between" else "MLP"
    owner: dict[str, type[Program]] = {"selection": models.SelectionVAE, "transition": models.SequentialVAE}
    model = owner.get(kind, models.HierarchicalVAE)
    return registry.write(inspect.signature(model).parameters[kind].default)


def help_of(kind: str, name: str) -> str:
    """The names of the parts of a kind; or what one of them takes."""
    known = registry.names(kind)
    if not name:
        return f"{kind}s: {', '.join(sorted(known))}"
    match = {other.lower(): other for other in known}.get(name.lower())
    if match is None:
        raise ConfigError(f"no {kind} is named {name!r}; {registry.nearest(name, known)}")
    part = known[match]
    told = inspect.getdoc(part) or ""
    if isinstance(part, Of):
        return f"{match}\n\n{told}\n\nEach is a number, network, shared or per_element."
    return f"{match}{inspect.signature(part)}\n\n{told}"


def overview(commands: Mapping[str, Callable[..., Any]]) -> str:
    """What there is to be asked."""
    told = {name: (inspect.getdoc(f) or "").split("\n")[0] for name, f in commands.items()}
    lines = [f"  {name:<12} {text}" for name, text in told.items()]
    return "\n".join(
        [
            "usage: pyro-vae COMMAND [RUN] [options]",
            "",
            "The variational autoencoder as a Pyro program. Without options, pyro-vae train learns",
            "scikit-learn's handwritten digits and draws what it learnt.",
            "",
            *lines,
            "",
            "pyro-vae COMMAND --help tells more. RUN is the folder of a run; by default the latest.",
        ]
    )


def assigned(texts: Sequence[str]) -> dict[str, Any]:
    """``["y=3", "age=(1,)"]`` as a mapping."""
    found = {}
    for text in texts:
        site, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--given {text} is no site and value; --given y=3, for example")
        found[site] = registry.plain(value)
    return found
