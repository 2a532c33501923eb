"""What only priors have: parameters of their own, and maps that see nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

from pyro_vae.checks import checked
from pyro_vae.families import named
from pyro_vae.families.flow import OwnFlow
from pyro_vae.families.parameter import Source

Maps = Literal[
    "affine_coupling", "spline_coupling", "affine_autoregressive", "spline_autoregressive", "spline"
]


class Normal(named.Normal):
    r"""The Normal, :math:`p(z) = \prod_d \mathcal N(z_d; \mu_d, \sigma_d^2)`, by default the standard one.

    Args:
        learned: whether the means and scales are learned, from 0 and 1 on.
    """

    @checked
    def __init__(self, learned: bool = False) -> None:
        loc, scale = cast(tuple[Source, Source], ("per_element",) * 2 if learned else (0.0, 1.0))
        super().__init__(loc, scale)
        self.learned = learned

    def arguments(self) -> dict[str, Any]:
        return {"learned": True} if self.learned else {}


class Flow(OwnFlow):
    r"""The standard Normal pushed through learned invertible maps: :math:`z = T_L(\cdots T_1(\epsilon))`.

    Args:
        transform: the kind of map: ``affine_coupling`` (RealNVP), ``spline_coupling``,
            ``affine_autoregressive`` (MAF), ``spline_autoregressive``, or ``spline``, which takes each
            dimension by itself. Autoregressive maps are quick to evaluate, and slow (D passes) to draw from;
            steps with splines are not compiled.
        num_transforms: L.
        hidden_dims: of the networks within the maps.

    Reference: Dinh, Sohl-Dickstein and Bengio, 2017, "Density estimation using Real NVP"; Papamakarios,
    Pavlakou and Murray, 2017, "Masked autoregressive flow for density estimation"; Durkan et al., 2019,
    "Neural spline flows".
    """

    maps = Maps

    def __init__(
        self,
        transform: Maps = "affine_coupling",
        num_transforms: int = 4,
        hidden_dims: Sequence[int] = (64, 64),
    ):
        super().__init__(transform, num_transforms, hidden_dims)
