"""One page that says what a run has learnt, and how far its figures can be trusted."""

from pyro_vae.report.page import report

__all__ = ["report"]
