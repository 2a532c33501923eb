"""Training: settings, a loop over any program, and parts with one job each."""

from pyro_vae.training.loop import Run, fit, resume
from pyro_vae.training.settings import Settings, find_device
from pyro_vae.training.signals import Interrupted

__all__ = ["Interrupted", "Run", "Settings", "find_device", "fit", "resume"]
