"""Training: settings, a loop over any program, and parts with one job each."""

from pyro_vae.training.devices import find_device
from pyro_vae.training.loop import fit
from pyro_vae.training.reopen import reopen
from pyro_vae.training.resume import CHANGEABLE, resume
from pyro_vae.training.run import Run
from pyro_vae.training.settings import Settings
from pyro_vae.training.signals import Interrupted
from pyro_vae.training.verify import Verification, verify

__all__ = [
    "CHANGEABLE",
    "Interrupted",
    "Run",
    "Settings",
    "Verification",
    "find_device",
    "fit",
    "reopen",
    "resume",
    "verify",
]
