"""The command line ``pyro-vae``, made from the signatures of the Python functions.

Exit codes: 0 done; 2 wrong usage, data or files; 3 the loss became NaN or infinite; 130 and 143 stopped
by SIGINT and SIGTERM, with all saved; 1 a mistake in the package itself.
"""

from __future__ import annotations

import inspect
import io
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_vae import checkpoint, comparison, config, data, evaluate, figures, training
from pyro_vae.explain import Format
from pyro_vae.likelihoods import COUNTING, Likelihood, as_likelihood
from pyro_vae.svi import NonFiniteLossError
from pyro_vae.vae import VAE

Part = Literal["train", "validation", "test"]


def train_parser() -> config.Parser:
    """Parser of ``train``: the arguments of ``data.load``, ``VAE`` and ``fit`` together."""
    parser = config.Parser(
        description="Trains a VAE, evaluates it, and draws it. Any part is swapped by one option, by its "
        "name: --likelihood Normal --likelihood.scale shared, --prior Laplace --prior.loc 0 --prior.scale 1, "
        "--encoder Conv, --optimizer AdamW; or by the import path of your own: --encoder my_module.MyNet.",
        epilog="Options may be written with dashes (--data-dir) or underscores.",
    )
    parser.add_argument("--config", action="config", help="a run's config.yaml, or one of your own")
    parser.add_argument("--resume", type=str, metavar="RUN", help="go on with this run, as it was")
    _add_arguments(parser)
    return parser


def compare_parser() -> config.Parser:
    """Parser of ``compare``: lists of parts, and the arguments of ``train``."""
    parser = config.Parser(
        description="Trains the same VAE under several priors, likelihoods or guides, and prints a table. "
        "Parts are written as in Python: --priors Normal 'VampPrior(500)', "
        "--likelihoods 'Normal(scale=\"shared\")' Laplace 'StudentT(df=4.0)'. Called again with the same "
        "--folder, it goes on where it was stopped.",
        epilog="Options may be written with dashes (--data-dir) or underscores.",
    )
    for kind in ("prior", "likelihood", "guide"):
        parser.add_argument(f"--{kind}s", type=str, nargs="+", default=[], help=f"{kind}s to compare")
    parser.add_argument("--num_samples", type=int, default=100, help="importance samples per datum")
    _add_arguments(parser)
    return parser


def _add_arguments(parser: config.Parser) -> None:
    parser.add_argument(
        "--data",
        type=str,
        default="digits",
        help=f"{', '.join(data.SETS)}; or a .npy, .npz or .pt file; or a folder of images",
    )
    parser.add_argument(
        "--binarize",
        type=Literal["auto", "dynamic", "static", "threshold", "none"],
        default="auto",
        help="draw x ~ Bernoulli(grey value): dynamic, anew each epoch; static, once; threshold: x > 0.5; "
        "none; auto: dynamic for a likelihood on {0, 1}, else none",
    )
    parser.add_argument(
        "--levels",
        type=Literal["auto"] | bool,
        default="auto",
        help="leave grey levels the whole numbers that they are, 0 to 255 (of digits, 0 to 16), instead of "
        "dividing them into [0, 1]; auto: for a likelihood of counts that is not on {0, 1}",
    )
    parser.add_signature(data.load, skip=["data", "labels", "binarize", "levels"])
    parser.add_signature(VAE, skip=["event_shape"])
    parser.add_signature(training.fit, skip=["vae", "data", "resume", "progress"])


def _read(arguments: dict[str, Any], likelihood: Likelihood) -> data.Data:
    """The data, in the form that the likelihood is for unless another was asked for."""
    binarize, levels = arguments.pop("binarize"), arguments.pop("levels")
    if binarize == "auto":
        binarize = "dynamic" if likelihood.binary and levels is not True else "none"
    if levels == "auto":
        counts = likelihood.measure == COUNTING and not likelihood.binary
        levels = counts and binarize == "none"
    loaded = data.load(binarize=binarize, levels=levels, **_pick(arguments, data.load))
    del arguments["data"]
    print(f"{loaded}; binarize: {binarize}; levels: {levels}", flush=True)
    training.check_seed(arguments["seed"])
    return loaded


def train(resume: str | None = None, **arguments: Any) -> None:
    """Trains a VAE, evaluates it, and draws it."""
    if resume:
        run = training.resume(resume)
    else:
        try:
            loaded = _read(arguments, as_likelihood(arguments["likelihood"]))
            torch.manual_seed(arguments["seed"])
            vae = VAE(loaded.event_shape, **_pick(arguments, VAE))
        except (TypeError, ValueError) as error:
            raise config.ConfigError(str(error)) from error
        run = training.fit(vae, loaded, **_pick(arguments, training.fit))
    name, part = run.data.held_out
    print(f"{name}: {evaluate.elbo(run.vae, part)}", flush=True)
    print(f"{name}: {evaluate.log_likelihood(run.vae, part, num_samples=100)}")
    _keep(run.folder, "training", figures.training_curves(run.history))
    sample(run.folder)
    _keep(run.folder, "reconstructions", figures.reconstructions(run.vae, part[:12]))
    _keep(run.folder, "latents", figures.latents(run.vae, part[:5000], _labels(part)))
    _keep(run.folder, "traversals", figures.traversals(run.vae, part[0]))
    if run.vae.latent_dim == 2:
        manifold(run.folder)
    print(f"pyro-vae evaluate {run.folder} --num-samples 5000  measures log p(x) as papers do")


def compare_parts(**arguments: Any) -> None:
    """Trains the same VAE under several priors, likelihoods or guides: which fits?"""
    lists: dict[str, Any] = {
        f"{kind}s": [config.parse(kind, text) for text in arguments.pop(f"{kind}s")]
        for kind in ("prior", "likelihood", "guide")
    }
    likelihoods = [as_likelihood(part) for part in lists["likelihoods"] or [arguments["likelihood"]]]
    try:
        comparison.check_measures(likelihoods)
        loaded = _read(arguments, likelihoods[0])
        shared = _pick(arguments, VAE) | _pick(arguments, training.fit) | lists
        result = comparison.compare(loaded, num_samples=arguments["num_samples"], **shared)
    except (TypeError, ValueError) as error:
        raise config.ConfigError(str(error)) from error
    print(f"\n{result}\n\n{result.folder / 'comparison.csv'}\n{result.folder / 'comparison.png'}")


def explain(run: Path, format: Format = "text") -> None:
    """Prints a run's generative story: its densities, parameters and where they come from.

    Args:
        run: folder of the run.
        format: text; latex, the formulas alone; graph, the graphical model for Graphviz's dot.
    """
    print(_vae(run).explain(format))


def evaluate_run(run: Path, num_samples: int = 1000, split: Part = "test") -> None:
    """ELBO and importance-weighted log-likelihood of a run, written to evaluation-SPLIT.json.

    Args:
        run: folder of the run.
        num_samples: importance samples per datum; the literature uses 5000.
        split: which data.
    """
    vae, loaded = _load(run)
    part = _split(loaded, split)
    bound = evaluate.elbo(vae, part)
    print(f"{split}: {bound}", flush=True)
    estimate = evaluate.log_likelihood(vae, part, num_samples=num_samples, progress=sys.stderr.isatty())
    print(f"{split}: {estimate}")
    if not math.isfinite(estimate.log_likelihood):
        raise NonFiniteLossError("the log-likelihood is not finite; the model is broken: train anew")
    result = asdict(bound) | {
        "log_likelihood": estimate.log_likelihood,
        "log_likelihood_standard_error": estimate.standard_error,
        "bits_per_dim": estimate.bits_per_dim,
        "active_units": evaluate.active_units(vae, part),
        "num_samples": num_samples,
        "num_data": len(part),
        "measure": estimate.measure,
    }
    path = run / f"evaluation-{split}.json"
    checkpoint.write(path, json.dumps(result, indent=2).encode())
    print(path)


def sample(run: Path, num_samples: int = 64, seed: int = 0) -> None:
    """Draws data generated by a run's model: figures/samples.png.

    Args:
        run: folder of the run.
        num_samples: how many.
        seed: of the draws.
    """
    _keep(run, "samples", figures.samples(_vae(run), num_samples, seed=seed))


def reconstruct(run: Path, num_data: int = 12, split: Part = "test") -> None:
    """Draws data beside their reconstructions: figures/reconstructions.png.

    Args:
        run: folder of the run.
        num_data: how many.
        split: which data.
    """
    vae, loaded = _load(run)
    _keep(run, "reconstructions", figures.reconstructions(vae, _split(loaded, split)[:num_data]))


def manifold(run: Path, num_steps: int = 15) -> None:
    """Draws the map of a 2-D latent plane: figures/manifold.png.

    Args:
        run: folder of the run.
        num_steps: pictures along a side.
    """
    try:
        figure = figures.manifold(_vae(run), num_steps)
    except ValueError as error:
        raise config.ConfigError(str(error)) from error
    _keep(run, "manifold", figure)


def latents(run: Path, split: Part = "test") -> None:
    """Draws where the data lie in latent space, coloured by class: figures/latents.png.

    Args:
        run: folder of the run.
        split: which data.
    """
    vae, loaded = _load(run)
    part = _split(loaded, split)
    _keep(run, "latents", figures.latents(vae, part[:5000], _labels(part)))


def traverse(run: Path, index: int = 0, num_steps: int = 11, split: Part = "test") -> None:
    """Draws one datum with each latent varied in turn: figures/traversals.png.

    Args:
        run: folder of the run.
        index: of the datum.
        num_steps: pictures per latent.
        split: which data.
    """
    vae, loaded = _load(run)
    _keep(run, "traversals", figures.traversals(vae, _datum(_split(loaded, split), index), num_steps))


def interpolate(run: Path, start: int = 0, end: int = 1, num_steps: int = 12, split: Part = "test") -> None:
    """Draws one datum turning into another: figures/interpolation.png.

    Args:
        run: folder of the run.
        start: index of the first datum.
        end: index of the last.
        num_steps: pictures in between.
        split: which data.
    """
    vae, loaded = _load(run)
    part = _split(loaded, split)
    _keep(run, "interpolation", figures.interpolation(vae, _datum(part, start), _datum(part, end), num_steps))


COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "compare": compare_parts,
    "evaluate": evaluate_run,
    "explain": explain,
    "sample": sample,
    "reconstruct": reconstruct,
    "manifold": manifold,
    "latents": latents,
    "traverse": traverse,
    "interpolate": interpolate,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    parser = config.Parser(
        prog="pyro-vae",
        description="The variational autoencoder as a Pyro program. Without options, pyro-vae train "
        "learns scikit-learn's handwritten digits and draws what it learnt.",
        epilog="pyro-vae COMMAND --help tells more. RUN is the folder of a run; by default the latest.",
    )
    commands = parser.add_subcommands()
    parsers = {"train": train_parser(), "compare": compare_parser()}
    for name, function in COMMANDS.items():
        if name not in parsers:
            parsers[name] = config.Parser(description=_summary(function))
            parsers[name].add_argument("run", nargs="?", type=str, help="folder of the run")
            parsers[name].add_signature(function, skip=["run"])
        commands.add_subcommand(name, parsers[name], help=_summary(function))
    try:
        given = _normalise(list(sys.argv[1:] if argv is None else argv), parsers)
        parsed = parser.parse_args(given)
        try:
            chosen = parser.instantiate(parsed)
        except (TypeError, ValueError) as error:
            raise config.ConfigError(str(error).splitlines()[0]) from error
        arguments = dict(vars(chosen[chosen.subcommand]))
        arguments.pop("config", None)
        for name in ("num_samples", "num_steps", "num_data"):
            if arguments.get(name, 1) < 1:
                raise config.ConfigError(f"--{name} {arguments[name]} must be positive")
        if "run" in arguments:
            arguments["run"] = Path(arguments["run"] or checkpoint.latest())
        COMMANDS[chosen.subcommand](**arguments)
    except (config.ConfigError, data.DataError, checkpoint.CheckpointError) as error:
        print(f"pyro-vae: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"pyro-vae: {error}", file=sys.stderr)
        return 2
    except NonFiniteLossError as error:
        print(f"pyro-vae: {error}", file=sys.stderr)
        return 3
    except training.Interrupted as error:
        print(f"pyro-vae: {error}", file=sys.stderr)
        return 128 + error.signum
    except KeyboardInterrupt:
        print("pyro-vae: interrupted", file=sys.stderr)
        return 130
    return 0


def _summary(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").split("\n")[0]


def _normalise(argv: list[str], parsers: dict[str, config.Parser]) -> list[str]:
    """Dashes in option names become underscores, short names of parts import paths."""
    if not argv or argv[0].startswith("-"):
        return argv
    command, *rest = argv
    if command not in parsers:
        raise config.ConfigError(f"no command {command!r}; {config.nearest(command, parsers)}")
    options = {o for action in parsers[command]._actions for o in action.option_strings}
    kind = None
    for i, token in enumerate(rest):
        if kind:
            rest[i], kind = config.resolve(kind, token), None
            config.check({"class_path": rest[i]})
        if not token.startswith("--"):
            continue
        option, equals, value = token.partition("=")
        option = "--" + option[2:].replace("-", "_")
        stem = option.split(".")[0]
        if stem not in options:
            near = config.nearest(stem, (o for o in options if o.startswith("--") and "." not in o))
            raise config.ConfigError(f"{command} has no option {token}; {near} (pyro-vae {command} --help)")
        if option == stem and stem[2:] in config.NAMESPACES:
            if equals:
                value = config.resolve(stem[2:], value)
                config.check({"class_path": value})
            else:
                kind = stem[2:]
        rest[i] = option + equals + value
        if option == "--config":
            path = Path(value or "".join(rest[i + 1 : i + 2]))
            config.check(checkpoint.read_config(path.parent, path.name))
        if option == "--resume" and len(rest) > 2 - bool(equals):
            raise config.ConfigError("--resume goes on with a run as it was, and takes no other option")
    return [command, *rest]


def _pick(arguments: dict[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    names = inspect.signature(function).parameters
    return {name: value for name, value in arguments.items() if name in names}


def _vae(run: Path) -> VAE:
    return checkpoint.load(run).to(training.find_device("auto"))


def _load(run: Path) -> tuple[VAE, data.Data]:
    """A run's model and data."""
    values = checkpoint.read_config(run)
    if values.get("data") is None:
        raise checkpoint.CheckpointError(
            f"{run} was trained on an array in memory, which the command line cannot load again; use "
            f"Python: vae = pv.load({str(run)!r})"
        )
    loaded = data.load(**config.build(data.load, values, skip=["labels"]))
    _, meta = checkpoint.load_tensors(run / checkpoint.CHECKPOINT)
    if meta.get("fingerprint") != loaded.fingerprint:
        raise data.DataError(
            f"the data in {values['data']} are not those that {run} was trained on, and their splits may "
            f"overlap with its training data; evaluate in Python: pv.evaluate.elbo(pv.load({str(run)!r}), x)"
        )
    return _vae(run), loaded


def _split(loaded: data.Data, name: Part) -> data.Split:
    split: data.Split = getattr(loaded, name)
    if not len(split):
        raise data.DataError(f"the {name} split is empty; look at another: --split train")
    return split


def _datum(split: data.Split, index: int) -> Tensor:
    if not 0 <= index < len(split):
        raise data.DataError(f"there is no datum {index}; give an index from 0 to {len(split) - 1}")
    return split[index]


def _labels(split: data.Split, number: int = 5000) -> Tensor | None:
    return None if split.labels is None else split.labels[:number]


def _keep(run: Path, name: str, figure: Figure) -> None:
    (run / "figures").mkdir(exist_ok=True)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    path = run / "figures" / f"{name}.png"
    checkpoint.write(path, picture.getvalue())
    print(path, flush=True)
