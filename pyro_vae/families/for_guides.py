"""What only guides have: maps that see what the encoder emits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pyro_vae.checks import Count, check
from pyro_vae.families.flow import ConditionedFlow

Maps = Literal[
    "affine_autoregressive",
    "spline_autoregressive",
    "spline",
    "affine_coupling",
    "planar",
    "radial",
    "householder",
]


class Flow(ConditionedFlow):
    r"""A Normal pushed through invertible maps, all conditioned on features h(x) of the encoder.

    .. math:: z = T_L(\cdots T_1(\epsilon; h) \cdots; h), \qquad \epsilon \sim \mathcal N(\mu(x), \sigma(x)^2)

    Args:
        transform: the kind of map: ``affine_autoregressive`` (IAF), ``spline_autoregressive``, ``spline``,
            ``affine_coupling`` (RealNVP), ``planar``, ``radial``, ``householder``.
        num_transforms: L.
        hidden_dims: of the networks within the maps.
        context_dim: number of features h(x).

    Planar and radial maps have no inverse in closed form: such a guide has a density only at its own draws.
    Steps with splines are not compiled.

    Reference: Rezende and Mohamed, 2015, "Variational inference with normalizing flows"; Kingma et al.,
    2016, "Improved variational inference with inverse autoregressive flow"; Tomczak and Welling, 2016,
    "Improving variational auto-encoders using Householder flow"; Durkan et al., 2019, "Neural spline flows".
    """

    maps = Maps

    def __init__(
        self,
        transform: Maps = "affine_autoregressive",
        num_transforms: int = 2,
        hidden_dims: Sequence[int] = (64, 64),
        context_dim: int = 32,
    ):
        super().__init__(transform, num_transforms, hidden_dims)
        self.context_dim = check("context_dim", context_dim, Count)
