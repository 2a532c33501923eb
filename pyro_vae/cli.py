"""The command line ``pyro-vae``: every option of the Python functions, under the same name.

Exit codes: 0 done; 2 wrong usage, data or files; 3 the loss became NaN or infinite; 130 and 143 stopped
by SIGINT and SIGTERM (128 + n by signal n), 75 by --max-minutes, with all saved: call again; 4 training
again gave other bits; 1 a mistake in the package itself.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from pyro_vae import (
    arguments,
    card,
    checkpoint,
    comparison,
    data,
    drawn,
    evaluate,
    figures,
    models,
    registry,
    training,
)
from pyro_vae import course as notebooks
from pyro_vae.checkpoint import CheckpointError
from pyro_vae.checks import ConfigError
from pyro_vae.data import tables
from pyro_vae.distributed import ProcessError, joined
from pyro_vae.drawn import Part, keep, open_program, open_split, pictures
from pyro_vae.explore import explore, frozen
from pyro_vae.export import export
from pyro_vae.families import COUNTING, Auto, Family
from pyro_vae.filling import fill
from pyro_vae.likelihoods import as_likelihood
from pyro_vae.program import Program
from pyro_vae.report import report
from pyro_vae.svi import NonFiniteLossError
from pyro_vae.training import Settings

Format = Literal["text", "latex", "graph"]


@dataclass
class Wanted:
    """What ``train`` and ``compare`` are asked for: values of a file, and typed ones, which come first."""

    file: dict[str, Any]
    typed: dict[str, Any]
    trust: Sequence[str]

    def arguments(self, function: Callable[..., Any]) -> dict[str, Any]:
        """Those of a class or function; what is typed is trusted, and of a file's only what its user says."""
        file = {name: value for name, value in self.file.items() if name not in self.typed}
        return checkpoint.options(function, file, self.trust) | checkpoint.options(function, self.typed, "*")

    def settings(self) -> dict[str, Any]:
        """Those of ``pv.fit``."""
        return {
            name: getattr(Settings.from_plain({name: value}, trust), name)
            for group, trust in ((self.file, self.trust), (self.typed, "*"))
            for name, value in group.items()
            if name in Settings.documentation() and (group is self.typed or name not in self.typed)
        }

    def pop(self, name: str, default: Any = None) -> Any:
        """A value, which is then no longer there."""
        found = self.file.pop(name, default)
        return self.typed.pop(name, found)


def train(wanted: Wanted) -> None:
    """Trains a VAE or another model, evaluates it, and draws what it learnt.

    Any part is swapped by one option, written as in Python: --likelihood 'Normal(scale="shared")', or with
    its arguments as options: --likelihood Normal --likelihood.scale shared. --likelihood.help tells the
    names, --likelihood.help Normal the arguments. A part of your own goes by its import path:
    --encoder my_module.MyNet.

    --resume RUN goes on with a run; --resume auto --folder RUN, with the options of a new one, starts it or
    goes on with it: the same command until it is done.
    """
    resume = wanted.typed.pop("resume", None)
    if resume not in (None, "auto"):
        if wanted.file or not wanted.typed.keys() <= {*training.CHANGEABLE}:
            raise ConfigError(
                "--resume goes on with a run as it was, and takes no other option than "
                + ", ".join(f"--{name}" for name in training.CHANGEABLE)
            )
        run = training.resume(resume, trust=wanted.trust, **wanted.settings())
    else:
        folder = wanted.typed.pop("folder", None)
        if resume and not folder:
            raise ConfigError("--resume auto needs to know of which run: --folder runs/mine")
        model, options, settings, loaded = _assemble(wanted)
        torch.manual_seed(settings.get("seed", 0))
        try:
            program = model(**options)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(str(error)) from error
        with _folder(folder, loaded.name) as place:
            run = training.fit(program, loaded, **settings, folder=place, resume=resume or False)
    assert run.folder is not None
    with joined() as group:
        if group.rank:  # the first one evaluates and draws
            return
    name, part = run.data.held_out
    bound = evaluate.elbo(run.program, part, num_samples=100)
    print(f"{name}: {bound}", flush=True)
    estimate = evaluate.log_likelihood(run.program, part, num_samples=100)
    print(f"{name}: {estimate}")
    if isinstance(run.program, models.SemiSupervisedVAE) and (right := _right(run.program, part)):
        print(f"{name}: {right}")
    values = checkpoint.read_config(run.folder)
    card.write(run.folder, values, run.program, f"{name}: {bound}", f"{name}: {estimate}")
    keep(run.folder, "summary", figures.summary(run, bound, estimate))
    keep(run.folder, "training", figures.training_curves(run.history))
    for name, figure in pictures(run.program, part):
        keep(run.folder, name, figure)
    print(_next(run, estimate.log_likelihood - bound.elbo))


def _right(program: models.SemiSupervisedVAE, part: data.Split) -> str:
    """How many of the data with a label are classified so."""
    labels = part.labels
    known = torch.empty(0) if labels is None else (~labels.isnan()).nonzero()[:, 0]
    if labels is None or not len(known):
        return ""
    q = torch.cat([program.classify(part.batch(rows)["x"]) for rows in known.split(1000)])
    right = (q.argmax(1).cpu() == labels[known].cpu()).double().mean().item()
    return f"q(y|x) is right of {right:.1%} of {len(known)} data that have a label"


def compare(wanted: Wanted) -> None:
    """Trains the same model under several priors, likelihoods, guides or objectives: which fits?

    Parts are written as in Python: --priors Normal 'VampPrior(500)', --likelihoods 'Normal(scale="shared")'
    Laplace 'StudentT(df=4.0)', --objectives Trace_ELBO 'IWAE(5)'. Called again with the same --folder, it
    goes on where it was stopped.
    """
    parts: dict[str, Any] = {
        f"{kind}s": [registry.read(kind, text, "*") for text in wanted.typed.pop(f"{kind}s", [])]
        for kind in ("prior", "likelihood", "guide")
    }
    parts["objectives"] = [registry.read("loss", text, "*") for text in wanted.typed.pop("objectives", [])]
    folder, num_samples = wanted.typed.pop("folder", None), registry.plain(wanted.pop("num_samples", 100))
    registry.check("num_samples", num_samples, int)
    try:
        likelihoods = [as_likelihood(part) for part in parts["likelihoods"]]
        comparison.check_measures(likelihoods)
        model, options, settings, loaded = _assemble(wanted, *likelihoods[:1])
        options.pop("event_shape", None)
        result = comparison.compare(
            loaded, model=model, num_samples=num_samples, folder=folder, **parts, **options, **settings
        )
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, _OURS) else ConfigError(str(error)) from error
    with joined() as group:
        if not group.rank:
            print(f"\n{result}\n\n{result.folder / 'comparison.csv'}\n{result.folder / 'comparison.png'}")


def _assemble(
    wanted: Wanted, likelihood: Family | None = None
) -> tuple[type[Program], dict[str, Any], dict[str, Any], data.Data]:
    """The model, its options, those of the fit, and the data in the form that the likelihood is for."""
    trust = "*" if "model" in wanted.typed else wanted.trust
    model = registry.read("model", wanted.pop("model", "VAE"), trust)
    known = {*inspect.signature(model).parameters, *inspect.signature(data.load).parameters}
    known |= Settings.documentation().keys()
    wanted.file.pop("run", None)  # the number of the run whose configuration it was
    for name in (*wanted.typed, *wanted.file):
        if name not in known:
            raise ConfigError(f"{model.__name__} has no option {name}; {registry.nearest(name, known)}")
    options, settings = wanted.arguments(model), wanted.settings()
    if Path(str((wanted.file | wanted.typed).get("data"))).suffix in tables.SUFFIXES:
        options.setdefault("likelihood", Auto())
    chosen = options.get("likelihood") or inspect.signature(model).parameters["likelihood"].default
    family = likelihood or as_likelihood(chosen)
    binarize, levels = (wanted.pop(name, "auto") for name in arguments.FITTED)
    if binarize == "auto":
        binarize = "dynamic" if family.binary and registry.plain(levels) is not True else "none"
    if levels == "auto":
        levels = family.measure == COUNTING and not family.binary and binarize == "none"
    wanted.typed |= {"binarize": binarize, "levels": levels}
    loaded = data.load(**wanted.arguments(data.load))
    print(f"{loaded}; binarize: {binarize}; levels: {levels}", flush=True)
    if model is models.ConditionalVAE and "given" not in options:
        if not (number := _num_classes(loaded)):
            raise ConfigError(
                f"{model.__name__} needs to know what is given: --given, of a table a list of columns"
            )
        options["given"] = {"y": number}
    if (
        model is models.SemiSupervisedVAE
        and "num_classes" not in options
        and (number := _num_classes(loaded))
    ):
        if number == 1:
            only = (loaded.class_names or "0")[0]
            raise ConfigError(
                f"all labels are {only}; give some of another class, or say how many there are: "
                "--num-classes 2"
            )
        options["num_classes"] = number
    return model, {"event_shape": loaded.columns or loaded.event_shape} | options, settings, loaded


def _num_classes(loaded: data.Data) -> int:
    """How many classes labels have; 0 where there are none, or they are no whole numbers from 0."""
    if loaded.class_names or "y" not in loaded.train.event_shapes:
        return len(loaded.class_names or ())
    parts = (loaded.train, loaded.validation, loaded.test)
    ends = torch.tensor([split.range("y") for split in parts if len(split)])
    known = ends[~ends.isnan()].tolist() or [-1.0]
    most = max(known)
    return int(most) + 1 if min(known) >= 0 and most.is_integer() and most < len(loaded.train) else 0


def verify(run: Path, epochs: int | None = None, trust: Sequence[str] = ()) -> int:
    """Trains a run again, in a temporary folder, and tells whether the same bits come out, and if not, why.

    Args:
        run: folder of the run.
        epochs: how many of its first; by default all that it has done.
    """
    found = training.verify(run, epochs=epochs, trust=trust)
    with joined() as group:
        if not group.rank:
            print(f"{run}: {found}")
    return 0 if found.differs is None else 4


def explain(run: Path, format: Format = "text", trust: Sequence[str] = ()) -> None:
    """Prints a run's generative story: its densities, parameters and where they come from.

    Args:
        run: folder of the run.
        format: text; latex, the formulas alone; graph, the graphical model for Graphviz's dot.
    """
    print(open_program(run, trust).explain(format))


def evaluate_run(run: Path, num_samples: int = 1000, split: Part = "test", trust: Sequence[str] = ()) -> None:
    """ELBO and importance-weighted log-likelihood of a run, written to evaluation-SPLIT.json.

    Args:
        run: folder of the run.
        num_samples: importance samples per datum; the literature uses 5000.
        split: which data.
    """
    program, part = open_split(run, split, trust)
    bound = evaluate.elbo(program, part)
    print(f"{split}: {bound}", flush=True)
    estimate = evaluate.log_likelihood(program, part, num_samples=num_samples, progress=sys.stderr.isatty())
    print(f"{split}: {estimate}")
    if not math.isfinite(estimate.log_likelihood):
        raise NonFiniteLossError("the log-likelihood is not finite; the model is broken: train anew")
    result = asdict(bound) | {
        "log_likelihood": estimate.log_likelihood,
        "log_likelihood_standard_error": estimate.standard_error,
        "bits_per_dim": estimate.bits_per_dim,
        "active_units": evaluate.active_units(program, part),
        "num_samples": num_samples,
        "num_data": len(part),
        "measure": estimate.measure,
    }
    path = run / f"evaluation-{split}.json"
    checkpoint.write(path, json.dumps(result, indent=2).encode())
    print(path)


def report_run(
    run: Path,
    other: str | None = None,
    output: str | None = None,
    num_data: int = 500,
    num_samples: int = 1000,
    seed: int = 0,
    trust: Sequence[str] = (),
) -> None:
    """Writes one page of HTML on a run, or on two side by side, that opens without a network.

    How likely held-out data are; how far the bound is and whose fault that is; whether the encoder is
    calibrated and the model fits; what the latents do; which data are odd. Takes minutes.

    Args:
        run: folder of the run.
        other: folder of another run on the same data, beside it.
        output: the file to write, by default report.html in the folder of the run.
        num_data: held-out data that are looked at, at most.
        num_samples: importance samples per datum.
        seed: of the draws.
    """
    options: Any = {"num_data": num_data, "num_samples": num_samples, "seed": seed, "trust": trust}
    shown = sys.stderr.isatty()
    print(report(run, other, output=output or run / "report.html", progress=shown, **options))


def explore_run(
    run: Path,
    output: str | None = None,
    site: str | None = None,
    port: int = 0,
    browser: bool = True,
    trust: Sequence[str] = (),
) -> None:
    """Opens a page in the browser on what a run has learnt: the latent plane, a datum's posterior, learning.

    Drag a point and see what it decodes to; draw a datum, or make parts of it not known, and see q(z|x) move
    beside the true posterior. Of the folder of a comparison its runs are a menu. It ends when the page is
    closed.

    Args:
        run: folder of the run, or of a comparison.
        output: a file to write the map of the latent plane to, which opens without anything else, instead.
        site: of the latents that are shown, by default the highest level.
        port: of this machine to listen at, by default any that is free.
        browser: false only prints the address.
    """
    if output is None:
        explore(run, site=site, port=port, browser=browser, trust=trust)
        return
    path = Path(output)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"output={output!r} is a page of HTML, and named so: --output page.html")
    checkpoint.write(path, frozen(run, site=site, trust=trust).encode())
    print(path)


def predict(
    run: Path,
    data: str,
    output: str = "filled.csv",
    num_samples: int = 100,
    num_particles: int = 1000,
    hmc: int = 0,
    draws: bool = False,
    seed: int = 0,
    trust: Sequence[str] = (),
) -> None:
    """Fills the holes of a table, or of an array, by what a run's model infers from the rest of each row.

    Real numbers are filled with the mean of the draws, others with their median, categories with the most
    frequent, and the labels of a SemiSupervisedVAE with the likeliest of q(y|x). What is there stays as it
    is written, in columns that the model does not have, too; columns of the model that are not there come
    last.

    Args:
        run: folder of the run.
        data: a .csv or .parquet file with columns of the run's table, a .npy file of its x, or a .npz file
            of x, whose labels y are filled, or are added.
        output: file to write, of the same kind, and not there yet; by default filled.csv.
        num_samples: draws of each row, by default 100.
        num_particles: importance samples of each row, by default 1000.
        hmc: steps of Hamiltonian Monte Carlo that move the draws on, by default none.
        draws: true writes all of the draws, one table after the other, instead of a filled one.
        seed: of the draws.
    """
    options: dict[str, Any] = {"num_particles": num_particles, "hmc": hmc, "seed": seed}
    known = checkpoint.read_config(run)
    options |= {name: known[name] for name in ("labels", "binarize", "levels") if name in known}
    fill(open_program(run, trust), Path(data), Path(output), num_samples, draws=draws, **options)
    print(output)


def export_run(
    run: Path,
    output: str = "exported",
    parts: Sequence[str] = (),
    formats: Sequence[str] = (),
    trust: Sequence[str] = (),
) -> None:
    """Writes the encoder and the decoder of a run as ONNX and torch.export programs, with export.json.

    Each gives the parameters of its distribution by name, for data as they are: what they do to them before a
    network sees them is in the files, which need nothing of this package.

    Args:
        run: folder of the run.
        output: folder to write to, by default exported.
        parts: which of them, such as decoder; by default all.
        formats: onnx, which takes pip install 'pyro_vae[export]', pt2, or both, by default.
    """
    chosen: dict[str, Any] = ({"parts": parts} if parts else {}) | ({"formats": formats} if formats else {})
    try:
        print(export(checkpoint.load(run, trust=trust), output, **chosen))
    except ImportError as error:
        raise ConfigError(str(error)) from error


def course(folder: str = "course", language: str = "en", size: float = 1.0) -> None:
    """Copies the course into a folder, as notebooks that are ready to run.

    Args:
        folder: where to, by default course; a file that is there is not written over.
        language: en, or one that the course is translated into: zh-CN.
        size: fraction of every training and every chain: 0.1 for a quick look, with rougher numbers.
    """
    print(*notebooks.write(folder, language, registry.plain(size)), sep="\n")
    print(f"next: pip install 'pyro_vae[course]' && jupyter lab {folder}")


COMMANDS: dict[str, Callable[..., int | None]] = {
    "train": train,
    "compare": compare,
    "evaluate": evaluate_run,
    "report": report_run,
    "explore": explore_run,
    "predict": predict,
    "export": export_run,
    "verify": verify,
    "explain": explain,
    **drawn.COMMANDS,
    "course": course,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    sys.path.append(os.getcwd())  # where a part of one's own may be
    try:
        return _run(list(sys.argv[1:] if argv is None else argv)) or 0
    except BrokenPipeError:  # whoever reads what is printed has read enough, as head does
        return 0
    except (ConfigError, data.DataError, CheckpointError, OSError) as error:
        print(f"pyro-vae: {error}", file=sys.stderr)
        return 2
    except ProcessError as error:
        print(f"pyro-vae: {error}", file=sys.stderr)
        return 1
    except NonFiniteLossError as error:
        print(f"pyro-vae: {error}", file=sys.stderr)
        return 3
    except training.Interrupted as error:
        print(f"pyro-vae: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("pyro-vae: interrupted", file=sys.stderr)
        return 130
    finally:
        sys.path.pop()
        _flush()


def _flush() -> None:
    """Writes out what was printed, which Python's own end would else fail to where nobody reads it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: list[str]) -> int | None:
    if not argv or argv[0] in ("-h", "--help"):
        print(arguments.overview(COMMANDS))
        return 0
    command, *rest = argv
    if command not in COMMANDS:
        raise ConfigError(f"no command {command!r}; {registry.nearest(command, COMMANDS)}")
    function = COMMANDS[command]
    known = arguments.options(command, function)
    plain, dotted = arguments.separate(command, rest, known)
    for kind, own in dotted.items():
        if "help" in own:
            print(arguments.help_of(kind, own["help"]))
            return 0
    typed = {
        n: v
        for n, v in vars(arguments.make_parser(command, function, known).parse_args(plain)).items()
        if v is not None
    }
    trust = typed.pop("trust", [])
    if "given" in typed:
        typed["given"] = arguments.assigned(typed["given"])
    if "latent_dims" in typed:
        typed["latent_dims"] = [registry.plain(text) for text in typed["latent_dims"]]
    if command == "course":
        course(**typed)
        return 0
    if command in ("train", "compare"):
        path = Path(typed.pop("config")) if "config" in typed else None
        file = checkpoint.read_config(path.parent, path.name) if path else {}
        for kind, own in dotted.items():
            group = file if kind in file and kind not in typed else typed
            group[kind] = registry.options(group.get(kind) or arguments.default(kind), own)
        return function(Wanted(file, typed, trust))
    run = Path(typed.pop("run", None) or checkpoint.latest())
    values = checkpoint.options(function, typed)
    for name in ("num_samples", "num_steps", "num_data", "epochs"):
        if values.get(name, 1) < 1:
            raise ConfigError(f"--{name} {values[name]} must be positive")
    try:
        return function(run, trust=trust, **values)
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, _OURS) else ConfigError(str(error)) from error


_OURS = (ConfigError, data.DataError, CheckpointError)


def _next(run: training.Run, gap: float) -> str:
    """What to try next: a swap that may close a gap of more than a nat, else the report; to be pasted."""
    folder = shlex.quote(str(run.folder))
    if gap > 1 and isinstance(run.program, models.VAE) and repr(run.program.q_z.family) == "Normal()":
        return (
            f"next, as the ELBO is {gap:.1f} nats below log p(x): does another q(z|x) come closer?\n"
            f"pyro-vae train --config {folder}/{checkpoint.CONFIG} --guide FullRankNormal"
        )
    return f"next, one page on how far to trust it, in minutes:\npyro-vae report {folder}"


@contextlib.contextmanager
def _folder(given: str | None, name: str) -> Iterator[Path]:
    """The folder of a run, by default a new one, of which nothing is left where nothing was written."""
    with joined() as group:
        folder = group.first(lambda: Path(given) if given else checkpoint.new_folder(name))
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(OSError):  # which an empty folder does not raise
            folder.rmdir()
            folder.parent.rmdir()
        raise
