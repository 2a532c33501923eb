"""What only some systems have is not needed: a stand-in for Windows, on which nothing has been tried."""

import subprocess
import sys

ELSEWHERE = """
import importlib, os, pkgutil, signal, sys, types
import matplotlib.pyplot, pyro, sklearn, torch, torchvision, tqdm, yaml  # which know what system this is
assert not any(name.startswith("pyro_vae") for name in sys.modules)
locks = []
sys.platform = "win32"
sys.modules |= dict.fromkeys(("fcntl", "resource", "pwd", "grp", "termios"))  # importing them fails
sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=lambda *a: locks.append(a))
del os.fork, os.register_at_fork, os.sysconf, os.O_DIRECTORY, os.O_NOFOLLOW, signal.SIGUSR1

import pyro_vae as pv
for module in pkgutil.walk_packages(pv.__path__, "pyro_vae."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

data = pv.data.load(torch.randn(60, 4))
vae = pv.VAE((4,), 1, likelihood=pv.likelihoods.Normal())
pv.fit(vae, data, epochs=2, folder="run", compile=False, progress=False, device="cpu")
pv.resume("run", data=data, epochs=3, progress=False)
assert pv.verify("run", data=data, progress=False).differs is None
assert len(pv.load("run").generate(2)) == 2
assert locks
"""


def test_what_only_some_systems_have_is_not_needed():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", ELSEWHERE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
