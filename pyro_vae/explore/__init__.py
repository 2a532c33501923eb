"""A page in the browser on what a program has learnt, served by this machine to itself, or frozen."""

from pyro_vae.explore.page import explore, frozen

__all__ = ["explore", "frozen"]
