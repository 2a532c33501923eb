"""What training gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pyro_vae.data import Data
from pyro_vae.program import Program


@dataclass(repr=False)
class Run:
    """A finished run.

    Attributes:
        program: the trained model.
        data: what it was trained on.
        history: one row per epoch, as in history.csv.
        folder: where it is kept; None if it is not.
    """

    program: Program
    data: Data
    history: list[dict[str, float]]
    folder: Path | None = None

    def __repr__(self) -> str:
        last = ", ".join(f"{name} {value}" for name, value in self._last().items())
        kept = f", kept in {self.folder}" if self.folder else ""
        return f"Run({type(self.program).__name__} on {self.data.name}: {last}{kept})"

    def _repr_html_(self) -> str:
        cells = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in self._last().items())
        kept = f"<p>kept in {self.folder}</p>" if self.folder else ""
        return f"<p><b>{type(self.program).__name__}</b> on {self.data.name}</p><table>{cells}</table>{kept}"

    def _last(self) -> dict[str, str]:
        row = self.history[-1] if self.history else {}
        told = ("epoch", "elbo", "reconstruction", "kl", "validation_elbo")
        return {name: f"{row[name]:.{0 if name == 'epoch' else 2}f}" for name in told if name in row}
