"""The two stories of a program in mathematics, as a teacher would write them on the board."""

from __future__ import annotations

import contextlib
import functools
import math
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import pyro
import torch
from pyro import poutine
from pyro.distributions import ExpandedDistribution, MaskedDistribution
from pyro.infer.inspect import TrackProvenance
from pyro.ops.provenance import get_provenance, track_provenance
from torch import Tensor
from torch.distributions import Distribution, Independent

from pyro_vae.checks import checked
from pyro_vae.conditional import Conditional
from pyro_vae.constraints import bounds, domain, support
from pyro_vae.data.columns import Columns
from pyro_vae.families import COUNTING, LEBESGUE, ByColumn
from pyro_vae.families.named import Normal
from pyro_vae.objectives import in_closed_form
from pyro_vae.objectives.elbo import latents
from pyro_vae.program import Batch, Program, sites
from pyro_vae.running import as_written

Format = Literal["text", "latex", "graph"]

_CLOSED = "reported in closed form; Trace_ELBO trains on draws, TraceMeanField_ELBO on the closed form"
_SUMMED = "summed over all values of the latent, in training too: by TraceEnum_ELBO, pv.fit's loss here"
_LETTERS = {
    "b": "offsets from the data's statistics",
    "r": "learned numbers",
    "u": "units, each column's own, of the data's statistics",
}
_GIVEN = "_given"
"""Behind the name of a site, of those of its columns that are given."""
_LOG = r"\log "
_MID = r" \mid "


class Explanation(str):
    """What ``explain`` returns: a str, which a notebook shows as a block, as mathematics or as a picture."""

    kind: Format

    def __repr__(self) -> str:
        return str(self)

    def _repr_markdown_(self) -> str | None:
        return f"$$\n{self}\n$$" if self.kind == "latex" else f"```text\n{self}\n```"

    def _repr_latex_(self) -> str | None:
        return f"$$\n{self}\n$$" if self.kind == "latex" else None

    def _repr_svg_(self) -> str | None:
        if self.kind != "graph" or not shutil.which("dot"):
            return None
        return subprocess.run(["dot", "-Tsvg"], input=self, capture_output=True, text=True, check=True).stdout


@dataclass
class Site:
    """One density of a story.

    Attributes:
        name: of the site.
        letter: ``"p"``, of the model, or ``"q"``, of the guide.
        parents: sites that it depends on.
        distribution: as the program gave it.
        conditional: what made it, if one did.
        parameters: how each comes about.
        observed: whether data are its values.
        plates: that it lies in, from the outermost.
        shared: sites of the story outside the plate "data", which are one for all data.
        made_of: where the program computes it from several conditionals, what they are.
    """

    name: str
    letter: str
    parents: list[str]
    distribution: Any
    conditional: Conditional | None
    parameters: dict[str, str]
    observed: bool
    plates: list[str]
    shared: set[str]
    made_of: list[str]

    @property
    def title(self) -> str:
        """Such as ``p(x|z)``."""
        return f"{self.letter}({'|'.join(filter(None, [self.name, ', '.join(self.parents)]))})"

    @property
    def family(self) -> str:
        """What its family is called."""
        made_by = self.conditional
        return made_by.family.name if made_by is not None else type(_base(self.distribution)).__name__

    @property
    def measure(self) -> str:
        """What its density is a density of."""
        if self.conditional is not None:
            return self.conditional.family.measure
        return COUNTING if support(self.distribution).is_discrete else LEBESGUE


@checked
def explain(
    program: Program, format: Format = "text", batch: Mapping[str, Tensor] | None = None
) -> Explanation:
    """The stories that a program tells: densities, supports, parameters and where they come from, the ELBO.

    They are read from traces of its model and guide, and so of any program.

    Args:
        program: whose stories are told.
        format: ``"text"``, for a terminal; ``"latex"``, the formulas alone, an ``aligned`` environment;
            ``"graph"``, the graphical model in Graphviz's language, by ``pyro.render_model``.
        batch: values of the shapes that the program takes; by default they are made of the shapes that it
            was trained on, or built for.

    Raises:
        ValueError: there is no such format, or no batch, and the shapes of the data are not known yet.
    """
    with program.evaluating(), as_written():
        given = program.example(100) if batch is None else program.place(batch)
        program.num_data(given)  # which refuses other shapes in one line, as Pyro's traces do not
        given = {name: v.nan_to_num(0.0) if v.is_floating_point() else v for name, v in given.items()}
        raws: dict[str, Conditional] = {}
        model = _read(program, poutine.uncondition(program.model), given, "p", raws, {})
        data = given | {site.name: site.distribution.sample() for site in model if site.observed}
        if format == "graph":
            told = _graph(program, data, model)
        else:
            titles = {site.conditional: site.title for site in model if site.conditional is not None}
            guide = _read(program, program.guide, data, "q", raws, titles)
            if format == "latex":
                told = _latex(model, guide)
            else:
                told = "\n".join(_text(program, data, model, guide, list(raws)))
    explanation = Explanation(told)
    explanation.kind = format
    return explanation


def _read(
    program: Program,
    story: Callable[[Any], Any],
    batch: Batch,
    letter: str,
    raws: dict[str, Conditional],
    titles: Mapping[Conditional, str],
) -> list[Site]:
    """The densities of a story in its order.

    Which conditional made a density is seen from its being the same; what depends on what from marks (Pyro's
    provenance) that values carry when the story is told again. Some distributions cannot draw marked values.
    """
    with _watching(program) as calls:
        trace = poutine.trace(story).get_trace(batch)
    found = dict(sites(trace))
    marking: Any = TrackProvenance
    with _watching(program) as marked_calls, poutine.trace() as messenger, marking():
        seen = {name: track_provenance(value, frozenset({name})) for name, value in batch.items()}
        poutine.replay(story, trace=trace)(seen)
    marked = {name: site["fn"] for name, site in sites(messenger.trace)}
    order = [*found, *batch]

    def parents(distribution: Distribution, site: str) -> list[str]:
        """Of which the site itself is the columns of a row that are given."""
        own = sorted(_marks(distribution, set()), key=order.index)
        return [f"{site}{_GIVEN}" if name == site and program.given_columns else name for name in own]

    def raw(conditional: Conditional, of: list[str]) -> str:
        """What the network's output is called, such as f(z); another one of the same parents has a prime."""
        name = f"{'f' if letter == 'p' else 'h'}({', '.join(of)})"
        while raws.setdefault(name, conditional) is not conditional:
            name = name.replace("(", "'(", 1)
        return name

    shared = {n for n, s in found.items() if all(f.name != "data" for f in s["cond_indep_stack"])}
    read = []
    for name, site in found.items():
        fn, of = site["fn"], parents(marked[name], name)
        made = [(c, p) for c, p in calls if c.site == name]
        conditional = next((c for c, p in reversed(made) if _same(p, fn, site["value"])), None)
        made_of: list[str] = []
        if conditional is None:
            how = _parameters(marked[name], of)
            distinct = {c: parents(p, name) for c, p in marked_calls if c.site == name}
            made_of = [titles.get(c) or f"{c.family.name}({raw(c, of)})" for c, of in distinct.items()]
        elif conditional.parents:
            how = conditional.family.describe(raw(conditional, of))
        else:
            how = {k: v.replace("()", "") for k, v in conditional.family.describe("r()").items()}
        observed = bool(site["is_observed"] or site["infer"].get("was_observed"))
        plates = [frame.name for frame in site["cond_indep_stack"]][::-1]
        read.append(Site(name, letter, of, fn, conditional, how, observed, plates, shared, made_of))
    return read


@contextlib.contextmanager
def _watching(program: Program) -> Iterator[list[tuple[Conditional, Distribution]]]:
    """What conditionals return within it, and their families before a push onto another support."""
    calls: list[tuple[Conditional, Distribution]] = []
    hooks = [
        module.register_forward_hook(lambda _, __, output, c=c: calls.append((c, output)))
        for c in program.conditionals()
        for module in (c, c.family)
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _same(one: Distribution, other: Distribution, value: Tensor) -> bool:
    try:
        return torch.allclose(one.log_prob(value), other.log_prob(value), equal_nan=True)
    except Exception:  # whatever a density raises at values of another shape or support
        return False


def _marks(value: Any, seen: set[int]) -> frozenset[str]:
    """The marks of all tensors that a distribution holds."""
    if isinstance(value, Tensor):
        return get_provenance(value)
    if id(value) in seen:
        return frozenset()
    seen.add(id(value))
    if isinstance(value, functools.partial):
        held: Any = [*value.args, *value.keywords.values()]
    elif isinstance(value, list | tuple):
        held = value
    elif isinstance(value, Distribution | torch.distributions.Transform):
        held = vars(value).values()
    else:
        return frozenset()
    return frozenset[str]().union(*(_marks(item, seen) for item in held))


def _base(distribution: Any) -> Any:
    while isinstance(distribution, Independent | ExpandedDistribution | MaskedDistribution):
        distribution = distribution.base_dist
    return distribution


def _parameters(distribution: Distribution, parents: list[str]) -> dict[str, str]:
    """The parameters of a distribution of the program's own: numbers, or that the program computes them."""
    base, told = _base(distribution), dict[str, str]()
    axis = len(distribution.batch_shape) - 1  # of the data
    for name in vars(base):
        # Of logits and probs the first is what it was made with.
        if name not in getattr(base, "arg_constraints", {}) or {name, *told} >= {"logits", "probs"}:
            continue
        value = torch.as_tensor(getattr(base, name))
        marks = [parent for parent in parents if parent in get_provenance(value)]
        # Pyro expands parameters together, so that the mark of one is on all.
        if marks and value.dim() > axis >= 0 and not (value == value.narrow(axis, 0, 1)).all():
            told[name] = f"as the program computes it from {', '.join(marks)}"
        else:
            low, high = (end.item() for end in value.aminmax())
            told[name] = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
    return told


def _text(
    program: Program, data: Batch, model: list[Site], guide: list[Site], raws: list[str]
) -> Iterator[str]:
    yield 'The model: for each datum n = 1, ..., N (plate "data")'
    yield ""
    classes = program.classes
    for name, value in data.items():
        if name not in {site.name for site in model}:
            shape = f"shape {_shape(tuple(value.shape[1:]))}"
            what = f"one of {classes[name]} classes" if name in classes else shape
            yield f"  {name}_n is given"
            yield f'      "{name}" of the data, {what}'
    if program.given_columns and program.columns is not None:
        kinds = [f"{name} ({program.columns.of[name].text})" for name in program.given_columns]
        yield f"  x{_GIVEN}_n are given"
        yield f"      columns {', '.join(kinds)}"
    for site in model:
        yield from _told(site, program.columns)
    yield from ("", "The guide", "")
    for site in guide:
        yield from _told(site, program.columns)
    yield ""
    told = " ".join(how for site in (*model, *guide) for how in site.parameters.values())
    where = [f"{', '.join(raws)} {'are' if len(raws) > 1 else 'is'} what networks emit"] * bool(raws)
    where += [f"{r} are {what}" for r, what in _LETTERS.items() if re.search(rf"\b{r}(_\d+)?\b", told)]
    yield f"where {', '.join([*where, 'learned values are those of now'])}."
    yield ""
    yield "The ELBO, in nats per datum, where beta = 1"
    yield f"  E_q[{' + '.join(f'log {site.title}' for site in model if site.observed)}]"
    p, q = {site.name: site for site in model}, {site.name: site for site in guide}
    reported: dict[str, list[str]] = {}
    weights = [cast(Conditional, c.weights).site for c in program.bayesian]
    for name, (is_kl, how) in _latents(program, data).items():
        # Where the guide goes another way than the model, it is no KL between two conditionals.
        share = " / N" * (name in weights)
        yield (
            f"  - beta KL({q[name].title} || {p[name].title}){share}"
            if is_kl
            else f"  - beta E_q[log {q[name].title} - log {p[name].title}]{share}"
        )
        reported.setdefault(how, []).append(name)
    for how, names in reported.items():
        yield f"  KL{' of ' * (len(q) > 1)}{', '.join(names) * (len(q) > 1)}: {how}"
    yield from (f"  {note}" for note in program.notes)
    observed = [site for site in model if site.observed]
    for site in observed:
        yield f"  log {site.title} is w.r.t. {site.measure}"
    if len({site.measure for site in observed}) > 1:
        yield "  their sum is of a mixed measure: it compares only with that of the same sites and measures"
    for site in observed:
        named = f"{site.name}: " if len(observed) > 1 else ""
        yield from (f"  {named}{line}" for line in _equivalent_loss(site))
    yield ""
    yield "Parameters"
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in program.named_children()}
    own = sum(p.numel() for p in program.parameters(recurse=False))
    width = max(12, 2 + max(map(len, counts), default=0))
    for name, count in (counts | {"(its own)": own}).items():
        if count:
            yield f"  {name:<{width}}{count:>12,}"
    yield f"  {'total':<{width}}{sum(p.numel() for p in program.parameters()):>12,}"


def _told(site: Site, columns: Columns | None) -> Iterator[str]:
    name, *parents = (s if s in site.shared else f"{s}_n" for s in (site.name, *site.parents))
    left = " | ".join([name, ", ".join(parents)])
    where = domain(support(site.distribution))
    yield f"  {left.removesuffix(' | ')} ~ {site.title} = {site.family}({', '.join(site.parameters)})"
    within = [f'plate "{plate}"' for plate in site.plates if plate != "data"]
    within += ["one for all data"] * (site.name in site.shared)
    shape = _shape(tuple(site.distribution.event_shape))
    kind = ["observed" if site.observed else "latent", *within, f"shape {shape}", f"values in {where}"]
    yield f'      site "{site.name}", {", ".join(kind)}'
    family = site.conditional.family if site.conditional is not None else None
    if isinstance(family, ByColumn):
        yield from _columns(family, site, columns)
    else:
        yield from (f"      {parameter} = {how}" for parameter, how in site.parameters.items())
    if family is not None and family.note:
        yield f"      {family.note}"
    if site.made_of:
        yield f"      computed from {' and '.join(site.made_of)}"
    if site.conditional is not None and site.conditional.pushed:
        by = "softplus" if "inf]" in where else "stick-breaking" if where == "the simplex" else "sigmoid"
        yield f"      pushed onto the prior's support, {where}, by {by}"


def _columns(family: ByColumn, site: Site, columns: Columns | None) -> Iterator[str]:
    """Which columns of a table are of which family, and why."""
    for group, (kind, how) in zip(family.columns, site.parameters.items(), strict=True):
        named = [str(j) for j in group]
        if columns is not None:
            pairs = list(columns.of.items())
            named = [f"{pairs[j][0]} ({pairs[j][1].text})" for j in group]
        more = f" and {len(named) - 8} more" if len(named) > 8 else ""
        yield f"      {', '.join(named[:8])}{more}: {kind}"
        yield f"          {how}"


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "() (a number)"


def _latents(program: Program, data: Batch) -> dict[str, tuple[bool, str]]:
    """Of each latent, whether its part of the ELBO is a KL given its parents, and how it is computed."""
    guide = poutine.trace(program.guide).get_trace(data)
    model = poutine.trace(poutine.replay(program.model, guide)).get_trace(data)
    closed = in_closed_form(model, guide)
    drawn = {True: _CLOSED, False: "estimated from draws, as log q - log p"}
    return {
        name: (after, _SUMMED if (guide.nodes[name]["infer"] or {}).get("enumerate") else drawn[closed[name]])
        for name, _, _, _, after in latents(model, guide)
    }


def _equivalent_loss(site: Site) -> Iterator[str]:
    """What the Normal's log-density is in terms of the squared error of tutorials."""
    family = site.conditional.family if site.conditional is not None else None
    if not isinstance(family, Normal):
        return
    (scale,) = (p for p in family.parameters_.values() if p.role == "scale")
    if scale.source == "network":
        yield "sigma differs from element to element: no squared error with one beta is the same"
        return
    sigma, highest = (end.item() for end in scale.value.aminmax())
    if sigma == highest:
        n = math.prod(family.event_shape)
        yield (
            f"sigma = {sigma:.4g}: the same as the sum of squared errors + beta KL with beta = 2 sigma^2 = "
            f"{2 * sigma**2:.4g},"
        )
        yield f"or as their mean over {n} elements with beta = 2 sigma^2 / {n} = {2 * sigma**2 / n:.4g}"


def _graph(program: Program, data: Batch, model: list[Site]) -> str:
    drawn = poutine.trace(program.model).get_trace(data)  # before Pyro marks what would be drawn from
    story = poutine.replay(program.model, trace=drawn)
    graph: Any = pyro.render_model(story, model_args=(data,), render_distributions=True)
    named = {site.name for site in model}
    for site in model:  # what is given is no site, but a parent
        for parent in site.parents:
            if parent not in named:
                graph.node(parent, shape="box", style="filled", fillcolor="gray")
                graph.edge(parent, site.name)
    return str(graph.source)


def _latex(model: list[Site], guide: list[Site]) -> str:
    rows = [_row(site) for site in (*model, *guide)]
    observed = " + ".join(rf"\log {_title(site)}" for site in model if site.observed)
    latent = [site for site in model if not site.observed]
    kl = rf"\mathrm{{KL}}({_title(guide[0])} \,\|\, {_title(latent[0])})" if guide and latent else "0"
    if len(guide) > 1 or len(latent) > 1:
        plus = " + ".join(rf"\log {_title(site)}" for site in guide)
        kl = rf"\mathbb E_q[{plus}{''.join(rf' - {_LOG}{_title(site)}' for site in latent)}]"
    body = " \\\\\n".join([*rows, rf"\mathcal L &= \mathbb E_q[{observed}] - {kl}"])
    return f"\\begin{{aligned}}\n{body}\n\\end{{aligned}}"


def _row(site: Site) -> str:
    fn = site.distribution
    index = {name: "" if name in site.shared else "n" for name in (site.name, *site.parents)}
    name, *parents = (_symbol(*item) for item in index.items())
    value, product = name, ""
    if isinstance(fn, Independent) and fn.event_shape:
        each = "i" if site.observed else "d"
        value = _symbol(site.name, index[site.name] + each)
        product = rf"\prod_{{{each}=1}}^{{{math.prod(fn.event_shape)}}} "
    arguments = ", ".join(
        rf"\mathrm{{{name}}}({', '.join(map(_symbol, site.parents))})" if "the program" in how else _tex(how)
        for name, how in site.parameters.items()
    )
    density = rf"{product}\mathrm{{{site.family}}}\!\left({value};\, {arguments}\right)"
    where = "" if bounds(support(fn)) is None else rf", \quad {value} \in {_set(fn)}"
    return rf"{_MID.join(filter(None, [name, ', '.join(parents)]))} &\sim {density}{where}"


def _title(site: Site) -> str:
    sides = [_symbol(site.name), ", ".join(map(_symbol, site.parents))]
    return f"{site.letter}({_MID.join(filter(None, sides))})"


def _symbol(name: str, index: str = "") -> str:
    """A site in LaTeX: z1 of datum n is ``z_{1,n}``."""
    letters, number = re.fullmatch(r"(.*?)(\d*)", name).groups()  # type: ignore[union-attr]
    letters = letters.replace("_", r"\_")
    below = ",".join(filter(None, [number, index]))
    letters = letters if len(letters) == 1 else rf"\mathrm{{{letters}}}"
    return letters if not below else f"{letters}_{below}" if len(below) == 1 else f"{letters}_{{{below}}}"


def _set(distribution: Distribution) -> str:
    text = domain(support(distribution))
    if text == "the reals":
        return r"\mathbb R"
    text = text.replace("inf", r"\infty").replace("{", r"\{").replace("}", r"\}")
    return re.sub(r"whole numbers in \[(.*), (.*)\]", r"\\{\1, \\dots, \2\\}", text)


def _tex(how: str) -> str:
    """An expression such as ``0.2 (0.001 + softplus(f_1(z1) + b_1))`` in LaTeX."""
    if re.search(r"[a-z]{2,} [a-z]{2,}", how):
        return rf"\text{{{how.replace('_', chr(92) + '_')}}}"
    how = re.sub(r"\b(softplus|sigmoid|tanh|Normal)\b", r"\\mathrm{\1}", how)
    how = re.sub(r"([fghbc]'*)_(\w+)", r"\1_{\2}", how)
    how = re.sub(r"\b([a-z])(\d+)\b", r"\1_{\2}", how)
    how = re.sub(rf"\b(\w+{_GIVEN})\b", lambda found: _symbol(found[1]), how)
    return re.sub(r"\b(\d(?:\.\d+)?)e([+-]?)0*(\d+)", r"\1 \\cdot 10^{\2\3}", how).replace("10^{+", "10^{")
