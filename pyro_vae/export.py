"""Networks for others: ONNX and ``torch.export`` programs, and a JSON that tells what they compute."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import transforms

from pyro_vae import distributions
from pyro_vae.checkpoint import load
from pyro_vae.checks import checked
from pyro_vae.conditional import Conditional
from pyro_vae.constraints import domain
from pyro_vae.families import ByColumn
from pyro_vae.families.univariate import parameters
from pyro_vae.program import Program, sites
from pyro_vae.seen import Label, Latent, Real, Row, Seen

Format = Literal["onnx", "pt2"]
NAMES = {"q_z": "encoder", "p_x": "decoder"}
"""What the conditionals of a VAE are called in files; all others go by their own names."""
TOLERANCE = 1e-5
"""How far what a file computes may be from what the program does, relative to 1 + |value|."""
INLINE = 2**30
"""Bytes of weights above which those of an ONNX file are in a file beside it, ``encoder.onnx.data``."""
_ONNX = ("onnx", "onnxscript", "onnxruntime")
_PARAMETERS = {
    "Categorical": ("logits",),
    "Codes": ("log_shares", "codebook.vectors"),
    "Dirichlet": ("concentration",),
    "Discrete": ("logits",),
    "LowRankMultivariateNormal": ("loc", "cov_factor", "cov_diag"),
    "MarkovNormal": ("weight", "loc", "scale"),
    "MixtureOfDiagNormals": ("logits", "loc", "scale"),
    "MultivariateNormal": ("loc", "scale_tril"),
    "Nearest": ("codes", "nearest"),
    "TurningNormal": ("weight", "loc", "scale"),
    "Uniform": ("low", "high"),
}
"""Of distributions that are none of single numbers, or whose ends hang on each other."""
_MAPS = ("AffineTransform", "ExpTransform", "SigmoidTransform", "SoftplusTransform", "StickBreakingTransform")
"""Fixed ones, that are told by their names."""


class ExportError(ValueError):
    """Something has no form outside of this package, or a file does not compute what the program does."""


@checked
def export(
    program: Program | str | Path,
    folder: str | Path,
    *,
    parts: Sequence[str] | None = None,
    formats: Sequence[Format] = ("onnx", "pt2"),
) -> Path:
    r"""Writes a program's networks for use without this package, and ``export.json``, which tells of them.

    Of a VAE they are ``encoder``, from x to the parameters of q(z|x), and ``decoder``, from z to those of
    p(x|z); of other models each conditional that has parents. Each takes a batch of any size, and gives the
    parameters of the distribution under their names (``loc``, ``scale``, ``logits``, ...), on the scale that
    the family has them on, not as the network emits them. That inputs are standardised, that labels become
    one of K numbers, that what is missing is NaN: all of it is in the files. The prior, which has no network,
    is in ``export.json`` as numbers.

    Each file is run, and compared with the program. Nothing is written unless all is well; then files of the
    same names are replaced, and ``export.json`` last.

    Args:
        program: a program, or a run's folder.
        folder: where to write; made if it is not there.
        parts: which of them; by default all.
        formats: ``"onnx"``, which takes ``pip install 'pyro_vae[export]'``; ``"pt2"``, which
            ``torch.export.load`` reads.

    Returns:
        the path of ``export.json``.

    Raises:
        ExportError: a distribution has no parameters by name, as that of a flow; or a network's weights are
            latent; or the program's story makes something else of a network's distribution; or a file's
            results differ by more than 1e-5, relative to 1 + \|value\|.
        ImportError: what ONNX takes is not installed.
        ValueError: there is no such part.
    """
    program = program if isinstance(program, Program) else load(program)
    if "onnx" in formats and (lacking := [name for name in _ONNX if not importlib.util.find_spec(name)]):
        raise ImportError(
            f"ONNX takes {', '.join(lacking)}, which is not installed: pip install 'pyro_vae[export]', or "
            'leave it out, formats=["pt2"]'
        )
    program = copy.deepcopy(program).cpu()
    own = program.conditionals()
    there = {
        NAMES.get(name, name.replace(".", "_")): module
        for name, module in program.named_modules()
        if isinstance(module, Conditional) and module in own and module.parents
    }
    if not there:
        raise ExportError(
            f"this {type(program).__name__} has no pv.Conditional, whose distribution a network tells; write "
            "its networks with torch.onnx.export"
        )
    chosen = list(there) if parts is None else list(parts)
    if unknown := [name for name in chosen if name not in there]:
        raise ValueError(
            f"parts={unknown} are none of this {type(program).__name__}, which has {', '.join(there)}"
        )
    with program.evaluating():
        made = {name: _Part(program, name, there[name]) for name in chosen}
        errors = {name: why for name, part in made.items() if (why := part.refused())}
        if errors:
            name, why = next(iter(errors.items()))
            rest = [
                other for other in there if other not in errors and not made.get(other, made[name]).refused()
            ]
            raise ExportError(
                f"the {name} ({_title(there[name])}) cannot be exported: {why}"
                + (f"; leave it out, parts={rest}" if rest else "")
            )
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target, prefix=".export-") as made_here:
            place = Path(made_here)
            told: dict[str, Any] = {
                "pyro_vae": version("pyro_vae"),
                "program": type(program).__name__,
                "parts": {
                    name: {"files": part.write(place, formats)} | part.tell() for name, part in made.items()
                },
                "priors": {c.site: _numbers(c) for c in program.conditionals() if not c.parents},
                "columns": program.columns and program.columns.plain,
            }
            for part in told["parts"].values():
                for name in part["files"]:
                    (place / name).replace(target / name)
            written = place / "export.json"
            written.write_text(json.dumps(told, indent=2) + "\n")
            return written.replace(target / written.name)


class _Part(nn.Module):
    """One conditional of a program, from its parents to its distribution's parameters by name."""

    def __init__(self, program: Program, name: str, conditional: Conditional):
        super().__init__()
        self.name, self.conditional = name, conditional
        self._program = [program]  # not as a module within it
        self.columns = None
        if isinstance(conditional.family, ByColumn) and program.columns:
            names = list(program.columns)
            self.columns = [[names[number] for number in group] for group in conditional.family.columns]

    def forward(self, *parents: Tensor) -> dict[str, Tensor]:
        return named(self.conditional(*parents), self.columns)[1]

    def refused(self) -> str:
        """Why it cannot be exported, or nothing."""
        if self.conditional.weights is not None:
            return "the weights of its network are latent, and it is an average over draws of them"
        try:
            named(self.conditional(*self.inputs(2).values()))
        except ExportError as error:
            return str(error)
        return "" if self._as_it_is() else "the program's story draws from what it computes of it further"

    def _as_it_is(self) -> bool:
        """Whether the program draws the site from this very distribution, and from no other made of it."""
        c, program = self.conditional, self._program[0]
        inputs = {site: value for site, value in self.inputs(5).items() if site in program.event_shapes}
        batch = program.example(5) | inputs
        unknown = {site: torch.full((5,), torch.nan, dtype=program.dtype) for site in program.classes}
        for known in (batch, batch | {site: unknown[site] for site in unknown if site in batch}):
            guide = poutine.trace(program.guide).get_trace(known)
            model = poutine.trace(poutine.replay(program.model, trace=guide)).get_trace(known)
            for trace in (guide, model):
                drawn = dict(sites(trace))
                values = known | {name: site["value"] for name, site in drawn.items()}
                if c.site in drawn and values.keys() >= {*c.parents}:
                    _, own = named(c(*(values[name] for name in c.parents)))
                    with contextlib.suppress(ExportError):
                        _, there = named(drawn[c.site]["fn"])
                        if own.keys() == there.keys() and all(_close(own[key], there[key]) for key in own):
                            return True
        return False

    def inputs(self, number: int, gaps: bool = False) -> dict[str, Tensor]:
        """Values of its parents like those of data, with some missing."""
        generator = torch.Generator().manual_seed(number)
        program, found = self._program[0], {}
        example = program.example(number)
        for seen in self._seen():
            noise = torch.randn(number, *seen.event_shape, generator=generator).to(program.dtype)
            if isinstance(seen, Label):
                value = torch.arange(number).to(noise) % len(seen.classes)
            elif isinstance(seen, Row):
                value = example[seen.site] + (noise > 0).to(noise)
            elif isinstance(seen, Real):
                value = example.get(seen.site, seen.loc) + seen.scale * noise.abs()
            else:
                value = noise
            missing = (noise > 1) & gaps & (not isinstance(seen, Latent))
            found[seen.site] = torch.where(missing, torch.nan, value)
        return found

    def _seen(self) -> list[Seen]:
        return self.conditional.seen

    def tell(self) -> dict[str, Any]:
        """What it is, takes and gives, for JSON."""
        c, inputs = self.conditional, self.inputs(2)
        p = c(*inputs.values())
        what, values = named(p, self.columns)
        return {
            "site": c.site,
            "given": list(inputs),
            "inputs": {
                seen.site: {"shape": ["B", *seen.event_shape], "dtype": _dtype(inputs[seen.site])}
                | _tell(seen)
                for seen in self._seen()
            },
            "outputs": {
                name: {"shape": ["B", *v.shape[1:]], "dtype": _dtype(v)} for name, v in values.items()
            },
            "distribution": what,
            "event_shape": list(c.event_shape),
            "support": domain(c.support),
            "measure": c.family.measure,
        }

    def write(self, folder: Path, formats: Sequence[str]) -> list[str]:
        """Its files, each compared with it.

        Raises:
            ExportError: it cannot be recorded, or a file computes something else.
        """
        inputs, size = self.inputs(5, gaps=True), torch.export.Dim("B")
        try:
            with _quiet():
                shapes = (tuple({0: size} for _ in inputs),)
                recorded = torch.export.export(self, tuple(inputs.values()), dynamic_shapes=shapes)
        except Exception as error:  # whatever a network of one's own does that cannot be recorded
            why = str(error).strip().splitlines()[0]
            told = (
                "its network makes the size of a batch a number; take x.shape[0], not len(x) or int(...)"
                if why.startswith("Constraints violated")
                else f"{why}; its network must not ask for values in its forward"
            )
            title = f"the {self.name} ({_title(self.conditional)})"
            raise ExportError(f"torch.export cannot record {title}: {told}") from error
        recorded.graph_module.graph.eliminate_dead_code()  # what only densities take, which ONNX may lack
        outputs = list(self(*inputs.values()))
        files = []
        for kind in dict.fromkeys(formats):
            path = folder / f"{self.name}.{kind}"
            run = {"pt2": _write_pt2, "onnx": _write_onnx}[kind](recorded, path, list(inputs), outputs)
            for some in (inputs, self.inputs(1), self.inputs(12)):
                self._compare(path, self(*some.values()), run(some))
            files.append(path.name)
            beside = path.with_name(f"{path.name}.data")
            files += [beside.name] * beside.exists()
        return files

    def _compare(self, path: Path, own: dict[str, Tensor], there: dict[str, Tensor]) -> None:
        for name, value in own.items():
            if not _close(value, there[name]):
                raise ExportError(
                    f"{path.name} computes another {name} than the program, and nothing was written: "
                    f"{there[name].flatten()[:3].tolist()}, not {value.flatten()[:3].tolist()}"
                )


def named(p: Any, columns: Sequence[Sequence[str]] | None = None) -> tuple[Any, dict[str, Tensor]]:
    """What a distribution is, for JSON, and its parameters by name.

    Those of elements that are independent have the shape of the values; those of a table's rows are by
    column, ``"age.loc"``. Another distribution pushed through fixed maps is told as that one, with the maps.

    Args:
        p: a distribution.
        columns: of a table, the names of the columns of each part.

    Raises:
        ExportError: it has no parameters by name.
    """
    if isinstance(p, torch.distributions.Independent):
        return named(p.base_dist)
    if isinstance(p, distributions.Reshaped):
        return named(p.base)
    if isinstance(p, dist.ExpandedDistribution):
        return named(p.base_dist.expand(p.batch_shape))
    if isinstance(p, distributions.ByColumn):
        return _of_columns(p, columns)
    if isinstance(p, torch.distributions.TransformedDistribution) and not p.arg_constraints:
        through = [_map(step) for step in _steps(p.transforms)]
        what, values = named(p.base_dist)
        return {"of": what, "through": through}, values
    if isinstance(p, distributions.Driven):
        raise ExportError(
            "each step comes from a network of the one before, and it has no parameters by name"
        )
    name = type(p).__name__
    found: dict[str, Any]
    if name in _PARAMETERS:
        found = {key.rpartition(".")[2]: attrgetter(key)(p) for key in _PARAMETERS[name]}
    elif isinstance(p, distributions.DiscretizedLogisticMixture):
        found = {"logits": p.log_weights} | named(p.component)[1]
    elif isinstance(p, torch.distributions.MixtureSameFamily):
        what, values = named(p.component_distribution)
        return {"mixture": what}, {"logits": p.mixture_distribution.logits} | values
    else:
        try:
            found = {key: getattr(p, key) for key in parameters(type(p))}
        except (ValueError, AttributeError):
            raise ExportError(f"{name.strip('_')} has no parameters by name") from None
    tensors = {key: torch.as_tensor(value) for key, value in found.items()}
    return name, {key: t if t.dim() else t.expand(p.batch_shape) for key, t in tensors.items()}


def _of_columns(p: Any, columns: Sequence[Sequence[str]] | None) -> tuple[Any, dict[str, Tensor]]:
    told, values = {}, {}
    for part, group in zip(p.parts, columns or [index.tolist() for index in p.index], strict=True):
        what, own = named(part)
        for i, column in enumerate(group):
            told[column] = what
            for key, value in own.items():
                values[f"{column}.{key}"] = value.select(len(p.batch_shape), i)
    return {"columns": told}, values


def _steps(chain: Any) -> Iterator[Any]:
    """Maps one by one."""
    for step in chain:
        if isinstance(step, transforms.IndependentTransform):
            yield from _steps([step.base_transform])
        elif isinstance(step, transforms.ComposeTransform):
            yield from _steps(step.parts)
        else:
            yield step


def _map(step: Any) -> Any:
    name = type(step).__name__
    if name not in _MAPS:
        raise ExportError(
            f"it is drawn through a map whose own parameters come from a network ({name.strip('_')}), and is "
            "no distribution of parameters by name"
        )
    if name == "AffineTransform":
        return {name: {key: torch.as_tensor(getattr(step, key)).tolist() for key in ("loc", "scale")}}
    return name


def _numbers(c: Conditional) -> dict[str, Any]:
    """A distribution without parents as numbers, or why it has none."""
    try:
        what, values = named(c())
    except ExportError as error:
        return {"left out": str(error)}
    parameters = {name: value.tolist() for name, value in values.items()}
    return {"distribution": what, "parameters": parameters, "support": domain(c.support)}


def _tell(seen: Seen) -> dict[str, Any]:
    """What there is to know of values that go in."""
    if isinstance(seen, Label):
        return {"classes": len(seen.classes), "missing": "NaN"}
    if isinstance(seen, Row):
        return {"columns": "as they are listed here", "missing": "NaN"}
    return {} if isinstance(seen, Latent) else {"missing": "NaN"}


def _title(c: Conditional) -> str:
    return f"{c.site} given {', '.join(c.parents)}"


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(
        one, other.to(one), rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of the exporters, which are of their own insides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


Run = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def _write_pt2(recorded: Any, path: Path, inputs: list[str], outputs: list[str]) -> Run:
    with _quiet():
        torch.export.save(recorded, path)
        program = torch.export.load(path).module()
    return lambda values: program(*values.values())


def _write_onnx(recorded: Any, path: Path, inputs: list[str], outputs: list[str]) -> Run:
    import onnxruntime

    try:
        with _quiet():
            made: Any = torch.onnx.export(
                recorded, dynamo=True, input_names=inputs, output_names=outputs, verbose=False
            )
            weights = recorded.state_dict.values()
            made.save(path, external_data=sum(w.numel() * w.element_size() for w in weights) > INLINE)
    except Exception as error:  # whatever the exporter has no words for
        raise ExportError(
            f'{path.name} cannot be written, as ONNX lacks an operation of it; take formats=["pt2"]'
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as there are many kinds of it
        raise ExportError(
            f"onnxruntime cannot run {path.name}, {str(error).strip().splitlines()[0]}; it lacks operations "
            'in float64: export program.float(), or take formats=["pt2"]'
        ) from error

    def run(values: dict[str, Tensor]) -> dict[str, Tensor]:
        found = session.run(outputs, {name: value.numpy() for name, value in values.items()})
        return {name: torch.from_numpy(value) for name, value in zip(outputs, found, strict=True)}

    return run
