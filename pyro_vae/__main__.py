"""``python -m pyro_vae``, of which ``torchrun`` may start several processes: one command of them all."""

import contextlib
import os
import sys

from pyro_vae.cli import main
from pyro_vae.distributed import ProcessError, joined

if __name__ == "__main__":
    several = False
    try:
        with (
            joined() as group,
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere if group.rank else sys.stdout),  # the first tells of it
        ):
            several = group.size > 1
            code = main()
    except ProcessError as error:
        print(f"pyro-vae: {error}", file=sys.stderr)
        code = 1
    if several:
        # All is written and closed. One of several processes was seen to abort at the interpreter's end, in a
        # thread of PyTorch's, which torchrun takes for a failure of all: so the interpreter does not end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
