"""``python -m pyro_vae``, of which ``torchrun`` may start several processes: one command of them all."""

import contextlib
import os
import sys

from pyro_vae.checks import ConfigError
from pyro_vae.cli import main
from pyro_vae.distributed import ProcessError, joined

if __name__ == "__main__":
    try:
        with (
            joined() as group,
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere if group.rank else sys.stdout),  # the first tells of it
        ):
            sys.exit(main())
    except (ConfigError, ProcessError) as error:
        sys.exit(f"pyro-vae: {error}")
