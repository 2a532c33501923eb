"""Do the programs of Pyro's own examples and tutorials compile, and is the compiled step the eager one?

    python benchmarks/pyro_examples.py --pyro DIR [--mnist DIR] [--folder DIR] [NAME ...]

runs each of them twice, in fresh processes and under one seed: once with ``pyro.infer.SVI``, and once with
``pyro_vae.svi.SVI(..., compile=True)`` in its place, and compares the losses step by step. It prints a table:

- *compiled*: the last steps were compiled, and every loss is within 1e-3 of Pyro's, relative to it;
- *eager*: some step could not be compiled, and why; every loss is equal too;
- *different*: by how much;
- *fails*: with our SVI, though not with Pyro's; *not run*: with either, a package is missing, say.

A program goes on until its SVIs have taken ``--steps`` steps each, 12 by default: the first is eager, and the
second and the eleventh are compared with the eager one. Times are medians of single steps; sizes are small,
and so they say what Pyro's handlers cost rather than how fast a network is.

Data that are downloaded are replaced by random ones of the same kind, as the column "data" says. MNIST is
looked for in ``--mnist``, in torchvision's layout, and random if it is not given. Where an example is run
with ``--jit``, its program reads no values, as torch.jit needs it; the objective is the one without ``Jit``,
which draws the same random numbers. With ``--folder``, what was run is kept there and not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

TOLERANCE = 1e-3
TIMEOUT = 900  # seconds for one run


# The data that examples would download


def mnist(root: Path | None) -> None:
    """The first 12,000 images of MNIST from the folder, or as many of noise."""
    import torch
    import torchvision
    from pyro.contrib.examples import util

    class MNIST(torchvision.datasets.MNIST):
        raw_folder = str(root / "MNIST/raw") if root else ""  # of subclasses too

        def __init__(self, root_: Any = None, train: bool = True, transform: Any = None, **_: Any):
            if root is not None:
                super().__init__(str(root), train=train, transform=transform)
                self.data, self.targets = self.data[:12_000], self.targets[:12_000]
                return
            torch.utils.data.Dataset.__init__(self)
            self.transform, self.target_transform = transform, None
            generator = torch.Generator().manual_seed(0)
            self.data = torch.randint(256, (12_000, 28, 28), generator=generator, dtype=torch.uint8)
            self.targets = torch.arange(12_000) % 10

    util.MNIST = torchvision.datasets.MNIST = MNIST


def multi_mnist() -> None:
    import numpy as np
    from pyro.contrib.examples import multi_mnist

    def load(_: str) -> tuple[Any, Any]:
        images = np.random.RandomState(0).randint(0, 256, (256, 50, 50)).astype(np.uint8)
        return images, np.array([[0] * (i % 3) for i in range(len(images))], dtype=object)

    multi_mnist.load = load


def chorales() -> None:
    """Sequences of up to 10 chords, rather than 129."""
    import torch
    from pyro.contrib.examples import polyphonic_data_loader

    def load(_: Any) -> Any:
        generator = torch.Generator().manual_seed(0)

        def split(size: int) -> dict[str, Any]:
            lengths = torch.randint(4, 11, (size,), generator=generator)
            lengths[::4] = 10
            sequences = torch.rand(size, 10, 88, generator=generator).lt(0.1).float()
            sequences[:, :, :4] = 1.0
            return {
                "sequence_lengths": lengths,
                "sequences": sequences * (torch.arange(10) < lengths[:, None])[..., None],
            }

        return {"train": split(40), "valid": split(8), "test": split(8)}

    polyphonic_data_loader.load_data = load


def faces() -> None:
    import numpy as np
    from pyro.contrib.examples import util

    np.savetxt("faces_training.csv", np.random.RandomState(0).poisson(8.0, (40, 4096)), delimiter=",")
    util.get_data_directory = lambda *_: "."


def bart() -> None:
    import torch
    from pyro.contrib.examples import bart

    def load() -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        counts = torch.poisson(torch.full((2 * 24 * 365, 4, 4), 5.0), generator=generator)
        stations = ["EMBR", "OAKL", "SFIA", "12TH"]
        return {"stations": stations, "counts": counts, "start_date": "2011-01-01 00:00:00"}

    bart.load_bart_od = load


def tables() -> None:
    """What ``pandas.read_csv`` reads: ruggedness and wealth of 170 countries, and sunspots."""
    import numpy as np
    import pandas as pd

    def read(source: str, **_: Any) -> Any:
        random = np.random.RandomState(0)
        if "rugged" in source:
            africa, rugged = random.randint(0, 2, 170), random.gamma(1.5, 1.0, 170)
            wealth = np.exp(9 - 1.8 * africa + (0.4 * africa - 0.2) * rugged + random.normal(0, 1, 170))
            columns = {"country": [f"c{i}" for i in range(170)], "cont_africa": africa}
            return pd.DataFrame({**columns, "rugged": rugged, "rgdppc_2000": wealth})
        return pd.DataFrame({"time": np.arange(300.0), "sunspot.year": random.gamma(2.0, 40.0, 300)})

    pd.read_csv = read


def strains() -> None:
    import datetime

    import numpy as np
    import torch
    from pyro.contrib.examples import nextstrain

    def load() -> dict[str, Any]:
        generator = torch.Generator().manual_seed(0)
        counts = torch.poisson(3 * torch.rand(27, 40, 30, generator=generator), generator=generator)
        places = ["USA / Massachusetts", "USA / New York", "USA / California", "Spain", "England"]
        places = [place.replace("USA", "North America / USA") for place in places]
        lineages = ["B.1.1.7", "B.1.617.2", "BA.1", "BA.2", "AY.4", "Q.1"]
        return {
            "counts": counts,
            "sequence_counts": counts,
            "features": torch.rand(30, 5, generator=generator).lt(0.3).float(),
            "mutations": [f"S:N{i}Y" for i in range(5)],
            "lineages": np.array(lineages + [f"B.{i}" for i in range(24)]),
            "locations": np.array(places + [f"Place {i}" for i in range(35)]),
            "start_date": datetime.datetime(2020, 12, 1),
            "time_step_days": 14,
        }

    nextstrain.load_nextstrain_counts = load


def finance() -> None:
    import numpy as np
    import pandas as pd
    from pyro.contrib.examples import finance

    walk = np.exp(np.random.RandomState(0).normal(0, 0.01, 200).cumsum())
    finance.load_snp500 = lambda: pd.DataFrame({"Date": np.arange(200), "Close": 100 * walk})


def newsgroups() -> None:
    import numpy as np
    import sklearn.datasets

    words = [f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(100)]
    random = np.random.RandomState(0)
    documents = [" ".join(random.choice(words, 60)) for _ in range(128)]
    sklearn.datasets.fetch_20newsgroups = lambda **_: {"data": documents}


# The examples


@dataclass(frozen=True)
class Example:
    """A script or a notebook of Pyro's repository.

    Args:
        path: in its folder examples, or tutorial/source.
        arguments: of its command line.
        data: puts random data in the place of a download.
        svis: how many SVIs are looked at before the program is stopped.
    """

    path: str
    arguments: str = ""
    data: Callable[[], None] | None = None
    svis: int = 1


def _hmm(number: str, more: str = "") -> Example:
    return Example("hmm.py", f"-m {number} -d 4 -nn 8 -t 6 {more}", chorales)


def _cjs(number: int, more: str = "") -> Example:
    return Example("capture_recapture/cjs.py", f"-m {number} {more}")


EXAMPLES: dict[str, Example] = {
    "vae": Example("vae/vae.py"),
    "vae_comparison": Example("vae/vae_comparison.py", "--skip_eval"),
    "ss_vae": Example("vae/ss_vae_M2.py", "-n 1 -enum parallel -sup 500 -bs 100 -zd 20 -hl 100"),
    "ss_vae, auxiliary": Example(
        "vae/ss_vae_M2.py", "-n 1 --aux-loss -alm 46 -enum parallel -sup 500 -bs 100 -zd 20 -hl 100", svis=2
    ),
    "ss_vae, sequential": Example(
        "vae/ss_vae_M2.py", "-n 1 -enum sequential -sup 500 -bs 100 -zd 20 -hl 100"
    ),
    "ss_vae, sampled": Example("vae/ss_vae_M2.py", "-n 1 -sup 500 -bs 100 -zd 20 -hl 100"),
    "cvae": Example("cvae/main.py", "-nq 1 -n 1"),
    "dmm": Example("dmm.py", "-n 9 -mbs 20", chorales),
    "dmm, IAF": Example("dmm.py", "-n 9 -mbs 20 -iafs 1", chorales),
    "dmm, TMC": Example("dmm.py", "-n 9 -mbs 20 --tmc --tmc-num-samples 2", chorales),
    "air": Example("air/main.py", "-n 99 -b 4 --seed 0 --progress-every 0", multi_mnist),
    "air, annealed": Example("air/main.py", "-n 99 -b 4 --seed 0 --anneal-prior exp", multi_mnist),
    "lda": Example("lda.py", "-t 3 -w 64 -d 50 -wd 16 -b 8 -l 16"),
    "scanvi": Example("scanvi/scanvi.py", "-d mock -n 99"),
    "sparse_gamma_def": Example("sparse_gamma_def.py", "-n 99 --guide custom", faces),
    "sparse_gamma_def, auto": Example("sparse_gamma_def.py", "-n 99 --guide auto", faces),
    "sparse_gamma_def, easy": Example("sparse_gamma_def.py", "-n 99 --guide easy", faces),
    **{f"hmm {i}": _hmm(i) for i in ("0", "1", "2", "3", "4", "5", "6", "7")},
    **{f"hmm {i}, --jit": _hmm(i, "--jit") for i in ("0", "1", "2", "3", "4", "5", "6", "7")},
    "hmm 6, Raftery": _hmm("6", "-rp --jit"),
    "hmm 1, TMC": _hmm("1", "--tmc --tmc-num-samples 2"),
    **{f"cjs {i}": _cjs(i) for i in range(1, 6)},
    "cjs 2, TMC": _cjs(2, "--tmc --tmc-num-samples 2"),
    "eight_schools": Example("eight_schools/svi.py"),
    "toy_mixture": Example("toy_mixture_model_discrete_enumeration.py", "-n 99 -o 200"),
    "neutra": Example("neutra.py", "-n 99"),
    "minipyro, pyro": Example("minipyro.py", "-b pyro"),
    "autoname, mixture": Example("contrib/autoname/mixture.py"),
    "autoname, scoping_mixture": Example("contrib/autoname/scoping_mixture.py"),
    "autoname, tree_data": Example("contrib/autoname/tree_data.py"),
    "cevae": Example("contrib/cevae/synthetic.py", "--num-data 200 -n 9 --hidden-dim 20"),
    "sir": Example("contrib/epidemiology/sir.py", "--svi -ss 99 -sp 4 -np 64 -p 100 -d 8 -f 2 --nojit"),
    "sir, overdispersed": Example(
        "contrib/epidemiology/sir.py", "--svi -ss 99 -sp 4 -np 64 -p 100 -d 8 -f 2 --nojit -o 0.1"
    ),
    "regional": Example(
        "contrib/epidemiology/regional.py", "--svi -ss 99 -sp 4 -np 64 -p 100 -d 8 -f 2 --nojit"
    ),
    "ProfileHMM": Example("contrib/mue/ProfileHMM.py", "--test --small -e 99 --no-plots --no-save"),
    "FactorMuE": Example("contrib/mue/FactorMuE.py", "--test --small -e 99 --no-plots --no-save"),
    "bart": Example("contrib/forecast/bart.py", "--train-window 336 --test-window 48 -n 99", bart),
    "bart, DCT": Example("contrib/forecast/bart.py", "--train-window 336 --test-window 48 -n 99 --dct", bart),
    "ab_test": Example("contrib/oed/ab_test.py", "-n 99 --num-bo-steps 1"),
    "svi_part_i": Example("svi_part_i.ipynb"),
    "svi_part_iii": Example("svi_part_iii.ipynb", svis=2),
    "intro_part_ii": Example("intro_part_ii.ipynb"),
    "intro_long": Example("intro_long.ipynb", data=tables, svis=3),
    "bayesian_regression": Example("bayesian_regression.ipynb", data=tables),
    "bayesian_regression_ii": Example("bayesian_regression_ii.ipynb", data=tables, svis=2),
    "boosting_bbvi": Example("boosting_bbvi.ipynb", svis=2),
    "custom_objectives": Example("custom_objectives.ipynb"),
    "dirichlet_process": Example("dirichlet_process_mixture.ipynb", data=tables, svis=2),
    "easyguide": Example("easyguide.ipynb"),
    "ekf": Example("ekf.ipynb"),
    "forecasting_i": Example("forecasting_i.ipynb", data=bart, svis=3),
    "forecasting_dlm": Example("forecasting_dlm.ipynb", svis=2),
    "gmm": Example("gmm.ipynb", svis=101),
    "logistic-growth": Example("logistic-growth.ipynb", data=strains, svis=3),
    "mle_map": Example("mle_map.ipynb", svis=2),
    "modules": Example("modules.ipynb"),
    "predictive_deterministic": Example("predictive_deterministic.ipynb", svis=2),
    "prodlda": Example("prodlda.ipynb", data=newsgroups),
    "stable": Example("stable.ipynb", data=finance, svis=2),
    "svi_flow_guide": Example("svi_flow_guide.ipynb"),
    "tracking_1d": Example("tracking_1d.ipynb"),
    "vae_flow_prior": Example("vae_flow_prior.ipynb"),
    "workflow": Example("workflow.ipynb", data=strains, svis=2),
    "working_memory": Example("working_memory.ipynb"),
}
"""All that use ``pyro.infer.SVI`` on a CPU, but for demonstrations of torch.jit, horovod and lightning."""


# One run


class Enough(BaseException):
    """The SVIs have taken their steps."""


class StandIn:
    """In the place of ``pyro.infer.SVI``: one of either kind, whose steps are noted, and then not taken."""

    make: Callable[..., Any]
    most: int
    svis: int
    all: list[StandIn] = []  # noqa: RUF012
    lines: list[str] = []  # noqa: RUF012

    def __init__(self, model: Any, guide: Any, optim: Any, loss: Any, *args: Any, **kwargs: Any):
        self.own = StandIn.make(model, guide, optim, loss, *args, **kwargs)
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self.engines: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)

    def step(self, *args: Any, **kwargs: Any) -> float:
        if not self.losses:
            StandIn.all.append(self)
        if len(self.losses) < StandIn.most:
            began = time.perf_counter()
            loss = float(self.own.step(*args, **kwargs))
            self.seconds.append(time.perf_counter() - began)
            self.losses.append(loss)
            self.engines.append(getattr(self.own, "engine", "pyro"))
        if sum(len(svi.losses) >= StandIn.most for svi in StandIn.all) >= StandIn.svis:
            raise Enough
        return self.losses[-1]


class Stub(types.ModuleType):
    """A package that draws or downloads, and is not needed for a step."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return mock.MagicMock()


def run(example: Example, args: argparse.Namespace, engine: str) -> dict[str, Any]:
    """Runs it here, in a folder that is its own, and says what its steps were."""
    for name in ("visdom", "wget", "seaborn", "corner", "wordcloud"):
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = Stub(name)
    import matplotlib
    import pyro
    import pyro.infer

    from pyro_vae.engine import private
    from pyro_vae.svi import SVI

    matplotlib.use("Agg")
    of_pyro = pyro.infer.SVI
    for kind in ("Trace_ELBO", "TraceGraph_ELBO", "TraceEnum_ELBO", "TraceMeanField_ELBO"):
        setattr(pyro.infer, f"Jit{kind}", getattr(pyro.infer, kind))
    if engine == "pyro":
        StandIn.make = of_pyro
    else:
        if args.uncompiled:
            private.inductor = lambda graph, inputs: graph

        def make(model: Any, guide: Any, optim: Any, loss: Any, *_: Any, **__: Any) -> Any:
            return SVI(model, guide, optim, loss, compile=True, log=StandIn.lines.append)

        StandIn.make = make
    StandIn.most, StandIn.svis = args.steps, example.svis
    mnist(args.mnist)
    if example.data:
        example.data()
    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is of_pyro:
                setattr(module, name, StandIn)
    match = re.search(r'version_prefix = "(.*)"', (args.pyro / "pyro/__init__.py").read_text())
    pyro.__version__ = match[1] if match else pyro.__version__  # which examples insist on
    pyro.set_rng_seed(0)
    error = None
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            _execute(example, args.pyro)
    except Enough:
        pass
    except BaseException as raised:
        traceback.print_exc()
        error = f"{type(raised).__name__}: {raised}".partition("\n")[0]
    return {
        "error": error,
        "losses": [svi.losses for svi in StandIn.all],
        "seconds": [svi.seconds for svi in StandIn.all],
        "engines": [svi.engines for svi in StandIn.all],
        "lines": StandIn.lines,
    }


def _execute(example: Example, pyro_folder: Path) -> None:
    if not example.path.endswith(".ipynb"):
        path = pyro_folder / "examples" / example.path
        sys.argv = [str(path), *example.arguments.split()]
        sys.path[0] = str(path.parent)
        runpy.run_path(str(path), run_name="__main__")
        return
    cells = json.loads((pyro_folder / "tutorial/source" / example.path).read_text())["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    lines = ["" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines()]
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    exec(compile("\n".join(lines), example.path, "exec"), module.__dict__)


# The table


def measure(name: str, args: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """Runs the example with either SVI, each in a process of its own."""
    found = {}
    for engine in ("pyro", "compiled"):
        path = folder / f"{name.replace('/', '-').replace(' ', '_')}-{engine}.json"
        if not path.exists():
            command = [sys.executable, __file__, name, "--pyro", str(args.pyro), "--run", engine, str(path)]
            command += ["--steps", str(args.steps)] + ["--uncompiled"] * args.uncompiled
            command += ["--mnist", str(args.mnist)] if args.mnist else []
            with tempfile.TemporaryDirectory() as scratch, open(path.with_suffix(".log"), "w") as log:
                environment = {**os.environ, "MPLCONFIGDIR": scratch}
                try:
                    subprocess.run(command, cwd=scratch, timeout=TIMEOUT, stderr=log, env=environment)
                except subprocess.TimeoutExpired:
                    path.write_text(json.dumps({"error": f"takes longer than {TIMEOUT} s"}))
            if not path.exists():
                path.write_text(json.dumps({"error": "the process died"}))
        found[engine] = {
            "losses": [],
            "seconds": [],
            "engines": [],
            "lines": [],
            **json.loads(path.read_text()),
        }
    return found


def compare(found: dict[str, dict[str, Any]]) -> tuple[str, list[str]]:
    """The verdict, and the cells of a row after the name's."""
    pyro, ours = found["pyro"], found["compiled"]
    if pyro["error"] or not any(pyro["losses"]):
        reason = pyro["error"] or "it takes no step"
        return "not run", ["", f"not run ({_short(reason)})", "", "", ""]
    steps = sum(map(len, ours["losses"]))
    distance = _distance(pyro["losses"], ours["losses"])
    refusals = [line.partition("not compiled: ")[2] for line in ours["lines"] if "not compiled" in line]
    compiles = [float(match[1]) for line in ours["lines"] if (match := re.search(r"in ([\d.]+) s$", line))]
    if ours["error"]:
        verdict, text = "fails", f"fails ({_short(ours['error'])})"
    elif not distance <= TOLERANCE:
        verdict, text = "different", f"different (by {distance:.1g})"
    elif refusals:
        verdict, text = "eager", f"eager ({_short(refusals[0])})"
    elif not all(engines[-1].startswith("compiled") for engines in ours["engines"]):
        verdict, text = "eager", "eager (of an unknown reason)"
    else:
        verdict, text = "compiled", f"compiled, equal (to {distance:.0e})"
    taken = [s for seconds in ours["seconds"] for i, s in enumerate(seconds, 1) if i > 2 and i != 11]
    before = [s for seconds in pyro["seconds"] for s in seconds[1:]]
    ms = [f"{1e3 * statistics.median(values):.1f}" if values else "" for values in (before, taken)]
    return verdict, [str(steps), text, f"{len(compiles)} in {sum(compiles):.0f}" if compiles else "", *ms]


def _distance(pyro: list[list[float]], ours: list[list[float]]) -> float:
    if [len(losses) for losses in pyro] != [len(losses) for losses in ours]:
        return float("inf")
    pairs = [pair for a, b in zip(pyro, ours, strict=True) for pair in zip(a, b, strict=True)]
    return max(
        (0.0 if a == b or a != a != b != b else abs(a - b) / max(abs(a), 1.0) for a, b in pairs), default=0.0
    )


def _short(text: str) -> str:
    text = text.replace("|", "/").replace("\n", " ")
    return text if len(text) < 160 else text[:157] + "..."


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="those to run; all if none")
    parser.add_argument("--pyro", type=Path, required=True, help="a checkout of github.com/pyro-ppl/pyro")
    parser.add_argument("--mnist", type=Path, help="a folder with MNIST, as torchvision has it")
    parser.add_argument("--folder", type=Path, help="where results are kept; those there are not run again")
    parser.add_argument("--steps", type=int, default=12, help="of each SVI")
    parser.add_argument(
        "--uncompiled",
        action="store_true",
        help="run what was recorded as it is, which is quick and as right",
    )
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)  # one run, and the file for its result
    args = parser.parse_args()
    args.pyro, args.mnist = args.pyro.resolve(), args.mnist and args.mnist.resolve()
    unknown = set(args.names) - EXAMPLES.keys()
    if unknown:
        parser.error(f"no such examples: {', '.join(sorted(unknown))}; there are: {', '.join(EXAMPLES)}")
    if args.run:
        engine, path = args.run
        result = run(EXAMPLES[args.names[0]], args, engine)
        Path(path).write_text(json.dumps(result))
        sys.stdout.flush()
        os._exit(0)
    header = ["example", "data", "steps", "step", "compilations, s", "ms, Pyro", "ms, compiled"]
    rows, verdicts = [header, ["---"] * 2 + ["---:", "---"] + ["---:"] * 3], []
    with contextlib.ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        for name in args.names or EXAMPLES:
            print(name, file=sys.stderr, flush=True)
            verdict, cells = compare(measure(name, args, folder.resolve()))
            verdicts.append(verdict)
            rows.append([name, "random" if EXAMPLES[name].data else "", *cells])
            print("   ", *cells, file=sys.stderr, flush=True)
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    ran = [verdict for verdict in verdicts if verdict != "not run"]
    print(f"\n{ran.count('compiled')} of {len(ran)} compiled and equal, {ran.count('eager')} eager, ", end="")
    print(
        f"{ran.count('different')} different, {ran.count('fails')} fail; {len(verdicts) - len(ran)} not run."
    )


if __name__ == "__main__":
    main()
