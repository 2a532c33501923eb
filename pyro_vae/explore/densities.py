"""What the densities of a program are called on the page: p(x|z) of one, p(x|z, y) of another."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from pyro_vae.explain import explain
from pyro_vae.explore.switches import UNOBSERVED
from pyro_vae.figures.stories import density
from pyro_vae.program import Batch, Program

FEW = 2
"""Columns that are given and named one by one."""
STORY = re.compile(r' ~ p\((\w+)(?:\|(.*?))?\) = .*\n +site "\w+", (observed|latent)')
"""A site's name, what it depends on, and whether it is observed."""


def latent_weights(program: Program) -> list[str]:
    """Names of the sites of weights that are latent."""
    return [c.weights.site for c in program.bayesian if c.weights is not None]


def densities(program: Program, site: str, latents: Sequence[str], datum: Batch) -> dict[str, str]:
    """Names of the densities that are shown, as ``pv.explain`` finds what depends on what.

    Args:
        program: whose they are.
        site: of the latents that are shown.
        latents: all latent sites.
        datum: one, of all sites that the program has data of.

    Returns:
        ``decoder``, such as p(x|z, y), or p(x|z, w) where weights are latent; ``guide``, q(z|x, y);
        ``posterior``, p(z|x, y); ``prior``, p(z), of all latents; ``drawn``, p(z) or p(z|y), of those that
        are shown; ``evidence``, p(x|y); ``fit``, log p(x|z, y), of all that is observed; and as
        ``prior_unknown`` and ``fit_unknown`` the two where labels are not known, which are latents then.
    """
    columns, names = program.given_columns, [*datum]
    weights = {*latent_weights(program)}
    given = ", ".join(columns) if len(columns) <= FEW else "x_given"
    titles, seen, above, rest = {}, [], {}, [name for name in names if name != "x"]
    for name, parents, kind in STORY.findall(explain(program, batch=datum)):
        of = [parent for parent in parents.split(", ") if parent]
        of = [parent for parent in of if not (parent.endswith(UNOBSERVED) and parent in latents)]
        of = [parent for parent in of if parent not in weights] + ["w"] * bool(weights & {*of})
        if name in of:  # of counts the total is given
            rest.append("total")
        above[name] = [{"x_given": given, name: "total"}.get(parent, parent) for parent in of]
        titles[name] = density(name, *above[name])
        if kind == "observed":
            seen.append(name)
    rest = [name for name in rest if name not in titles] + [given] * bool(columns)
    labels = [name.removesuffix(UNOBSERVED) for name in latents if name.endswith(UNOBSERVED)]
    known = [name for name in latents if not name.endswith(UNOBSERVED)]
    fit = {name: f"log {titles[name]}" for name in seen}
    prior = titles[site] if known == [site] else density(", ".join(known))
    return {
        "decoder": titles["x"],
        "guide": "q" + density(site, *names)[1:],
        "posterior": density(site, *names),
        "prior": prior,
        "prior_unknown": density(", ".join([*labels, *known])) if labels else prior,
        "drawn": density(site, *_roots(site, above, {*latents})),
        "evidence": density(", ".join(seen), *rest),
        "fit": " + ".join(fit.values()),
        "fit_unknown": " + ".join(text for name, text in fit.items() if name not in labels),
    }


def _roots(site: str, above: Mapping[str, Sequence[str]], latents: Collection[str]) -> list[str]:
    """What a latent depends on in the end, through other latents."""
    found = [
        root
        for name in above.get(site, ())
        for root in (_roots(name, above, latents) if name in latents else [name])
    ]
    return [*dict.fromkeys(found)]
