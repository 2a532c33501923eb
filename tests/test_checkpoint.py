import contextlib
import errno
import math
import os
import random
import shutil
import sys
import time
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch
import yaml
from runs import FIT, same
from torch import nn

import pyro_vae as pv
from pyro_vae import checkpoint
from pyro_vae.checkpoint import CheckpointError
from pyro_vae.checks import ConfigError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    torch.manual_seed(1)
    nets = {"encoder": pv.nets.mlp(16), "decoder": pv.nets.mlp(16)}
    data = pv.data.load("digits", binarize="dynamic")
    folder = tmp_path_factory.mktemp("whole") / "run"
    return pv.fit(pv.VAE(data.event_shape, 2, **nets), data, **FIT, folder=folder).folder


class TestFiles:
    @pytest.fixture
    def run(self, whole):
        return Path(shutil.copytree(whole, "run"))

    def test_configuration_rebuilds_the_run(self, make_vae, digits, run):
        values = yaml.safe_load((run / "config.yaml").read_text())
        assert values["data"] == "digits"
        assert values["binarize"] == "dynamic"
        assert values["epochs"] == 4
        vae = pv.load(run)
        assert vae.latent_dim == 2
        assert vae.options["encoder"] == pv.nets.mlp(16)
        x = digits.test[:]
        assert pv.evaluate.elbo(vae, x) == pv.evaluate.elbo(pv.load("run"), x)

    def test_no_temporary_files_are_left(self, run):
        assert not [p for p in run.rglob("*") if "tmp" in p.name]

    def test_unfinished_run_loads_from_its_checkpoint(self, run):
        finished = pv.load(run).state_dict()
        (run / "model.safetensors").unlink()
        assert same(pv.load(run).state_dict(), finished)

    @pytest.mark.parametrize("name", ["model.safetensors", "checkpoint.safetensors"])
    @pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "foreign", "pickle"])
    def test_damaged_files(self, run, name, damage):
        path = run / name
        if name.startswith("checkpoint"):
            (run / "model.safetensors").unlink()
        content = path.read_bytes()
        if damage == "truncated":
            path.write_bytes(content[: len(content) // 2])
        elif damage == "garbage":
            path.write_bytes(b"\x00\xff" * 500)
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "foreign":
            import safetensors.torch

            safetensors.torch.save_file({"weight": torch.zeros(3)}, path)
        else:
            torch.save({"weight": torch.zeros(3)}, path)
        with pytest.raises(CheckpointError, match=name) as caught:
            pv.load(run)
        assert (
            "did not write it" in str(caught.value) if damage == "foreign" else "damaged" in str(caught.value)
        )
        if name.startswith("checkpoint"):
            with pytest.raises(CheckpointError):
                pv.resume(run)

    def test_tied_weights(self, digits):
        class Tied(nn.Module):
            def __init__(self, in_shape, out_shape):
                super().__init__()
                self.a, self.b = nn.Linear(2, 64), nn.Linear(2, 64)
                self.b.weight = self.a.weight

            def forward(self, z):
                return (self.a(z) + self.b(-z).tanh()).reshape(*z.shape[:-1], 1, 8, 8)

        vae = pv.VAE(digits.event_shape, 2, decoder=Tied)
        pv.fit(vae, digits, **FIT, folder="tied")
        again = pv.load("tied", program=pv.VAE(digits.event_shape, 2, decoder=Tied))
        assert same(again.state_dict(), vae.state_dict())

    def test_runs_started_at_once_have_folders_of_their_own(self):
        assert len({checkpoint.new_folder("x") for _ in range(5)}) == 5

    def test_history_is_never_behind_the_checkpoint(self, make_vae, digits, monkeypatch):
        original, written = checkpoint.write, []

        def patched(path, content):
            written.append(path.name)
            original(path, content)

        monkeypatch.setattr(checkpoint, "write", patched)
        pv.fit(make_vae(), digits, **FIT, folder="other")
        names = ["history.csv", "checkpoint.safetensors"]
        first = ["start.safetensors", "checkpoint.safetensors", "config.yaml"]
        assert written == [*first, *names * 4, "model.safetensors", "README.md"]

    def test_missing_files(self, run):
        with pytest.raises(CheckpointError, match="not the folder of a run"):
            pv.load("nowhere")
        (run / "model.safetensors").unlink()
        (run / "checkpoint.safetensors").unlink()
        with pytest.raises(CheckpointError, match="there is no"):
            pv.load(run)

    def test_weights_of_another_model(self, run):
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(text.replace("mlp(16)", "mlp(17)"))
        with pytest.raises(CheckpointError, match=r"trained with encoder='mlp\(16\)', and the config.yaml"):
            pv.load(run)

    @pytest.mark.parametrize("text", ["[1, 2", "just words", "\xff\xfe"])
    def test_damaged_configuration(self, run, text):
        (run / "config.yaml").write_bytes(text.encode("latin-1"))
        with pytest.raises(CheckpointError, match=r"config\.yaml"):
            pv.load(run)

    def test_failed_write_keeps_the_old_file(self, run, monkeypatch):
        path = run / "model.safetensors"
        before = path.read_bytes()

        def full(fd):
            raise OSError(errno.ENOSPC, "no space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"no space.*what was there before is untouched.*model.safetensors"):
            checkpoint.write(path, b"half")
        assert path.read_bytes() == before
        assert not list(run.glob(".*tmp"))

    def test_latest(self, make_vae, digits):
        for name in ("a", "b"):
            pv.fit(make_vae(), digits, **FIT, folder=f"runs/{name}")
        os.utime("runs/a/checkpoint.safetensors", (2e9, 2e9))
        assert checkpoint.latest().name == "a"
        with pytest.raises(CheckpointError, match="pyro-vae train"):
            checkpoint.latest("nowhere")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    torch.manual_seed(1)
    nets = {"encoder": pv.nets.mlp(4), "decoder": pv.nets.mlp(4)}
    data = pv.data.load("digits", binarize="dynamic")
    folder = tmp_path_factory.mktemp("source") / "run"
    return pv.fit(pv.VAE(data.event_shape, 2, **nets), data, **FIT | {"epochs": 1}, folder=folder).folder


class TestWhatFilesSay:
    """Nothing is taken for granted: each value is there, of its kind, and as it was written."""

    @pytest.fixture
    def run(self, source):
        return Path(shutil.copytree(source, "run"))

    @pytest.mark.parametrize("name", ["model.safetensors", "checkpoint.safetensors"])
    def test_a_flipped_bit_is_noticed(self, run, name):
        content = (run / name).read_bytes()
        if name.startswith("checkpoint"):
            (run / "model.safetensors").unlink()
        for i in range(24):  # of the header, and of tensors
            at = random.Random(i).randrange(200) if i < 8 else random.Random(i).randrange(len(content))
            flipped = bytearray(content)
            flipped[at] ^= 1 << i % 8
            (run / name).write_bytes(flipped)
            with pytest.raises(CheckpointError, match=name):
                pv.load(run)
            if name.startswith("checkpoint"):
                with pytest.raises(CheckpointError, match=name):
                    pv.resume(run, progress=False)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("num_steps", ...),
            ("optimizer", ...),
            ("fingerprint", 3),
            ("dtype", "x"),
            ("event_shapes", {"x": [10**9, 10**9]}),
            ("event_shapes", []),
            ("gaps", None),
            ("run", None),
            ("config", []),
            ("epoch", -1),
            ("epoch", 10**4000),
            ("epoch", 7),
            ("batch", 2),
            ("history", [[]]),
            ("history", [{"epoch": "x"}]),
            ("sums", ["x"]),
            ("seconds", None),
            ("finished", 1),
            ("planned", []),
            ("optimizer", {"scalars": {}, "param_groups": []}),
        ],
        ids=str,
    )
    def test_of_a_checkpoint(self, run, name, value):
        path = run / "checkpoint.safetensors"
        tensors, meta = checkpoint.load_tensors(path)
        meta = {k: v for k, v in meta.items() if k != name} | ({} if value is ... else {name: value})
        checkpoint.save_tensors(path, tensors, meta)
        with pytest.raises(CheckpointError, match=r"run/checkpoint.safetensors is (damaged|of run)"):
            pv.resume(run, progress=False)

    @pytest.mark.parametrize("name", ["rng.cpu", "model."])
    def test_of_its_tensors(self, run, name):
        path = run / "checkpoint.safetensors"
        tensors, meta = checkpoint.load_tensors(path)
        name = next(other for other in tensors if other.startswith(name))
        checkpoint.save_tensors(path, {k: v for k, v in tensors.items() if k != name}, meta)
        with pytest.raises(CheckpointError, match=r"run/checkpoint.safetensors"):
            pv.resume(run, progress=False)

    @pytest.mark.parametrize(
        "forge",
        [
            lambda value: {"exp_avg": value[:1]},
            lambda value: {"exp_avg": ...},
            lambda value: {"exp_avg": ..., "average": value},
            lambda value: {"exp_avg": value * math.nan},
            lambda value: {"exp_avg": value.long()},
            lambda value: {"step": torch.zeros(2)},
        ],
        ids=["shape", "missing", "name", "NaN", "dtype", "step"],
    )
    def test_of_its_optimizer(self, run, forge):
        path = run / "checkpoint.safetensors"
        tensors, meta = checkpoint.load_tensors(path)
        name = next(n for n in tensors if n.endswith(".exp_avg") and tensors[n].dim() == 2)
        own = name.removesuffix("exp_avg")
        tensors |= {own + key: value for key, value in forge(tensors[name]).items()}
        checkpoint.save_tensors(path, {n: v for n, v in tensors.items() if v is not ...}, meta)
        with pytest.raises(CheckpointError, match=rf"safetensors is damaged: .*{own[:-1]}.* is not what was"):
            pv.resume(run, progress=False)

    @pytest.mark.parametrize(
        ("name", "value"), [("betas", "x"), ("betas", [0.9]), ("eps", None), ("lr", math.nan), ("amsgrad", 3)]
    )
    def test_of_its_optimizers_groups(self, run, name, value):
        path = run / "checkpoint.safetensors"
        tensors, meta = checkpoint.load_tensors(path)
        meta["optimizer"]["param_groups"][0][name] = value
        checkpoint.save_tensors(path, tensors, meta)
        with pytest.raises(CheckpointError, match=rf"is damaged: .*optimizer.{name} is not what was written"):
            pv.resume(run, progress=False)

    @pytest.mark.parametrize(
        "forged",
        [
            {"latent_dim": 10**7},
            {"decoder": f"mlp({10**18})"},
            {"prior": f"VampPrior({10**6})"},
            {"prior": f"Flow('spline', num_transforms={10**9})"},
            {"encoder": f"mlp({', '.join(['1000'] * 1000)})"},
        ],
        ids=lambda forged: f"{forged}"[:30],
    )
    def test_that_is_too_large_for_its_weights(self, run, digits, forged):
        """With a right digest; nothing of that size is made."""
        values = checkpoint.read_config(run) | forged
        for name in ("model.safetensors", "checkpoint.safetensors"):
            tensors, meta = checkpoint.load_tensors(run / name)
            checkpoint.save_tensors(run / name, tensors, meta | {"config": meta["config"] | forged})
        checkpoint.write_config(run, values)
        for act in (pv.load, lambda run: pv.resume(run, data=digits, progress=False)):
            with pytest.raises(CheckpointError, match=r"config.yaml in run describes a program far larger"):
                act(run)

    @pytest.mark.parametrize("text", ["[]", "3", "[" * 100_000, "1" * 5000, '{"class": NaN}'], ids=len)
    def test_of_its_metadata(self, run, text, monkeypatch):
        tensors, _ = checkpoint.load_tensors(run / "model.safetensors")
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.json, "dumps", lambda value: text)
            checkpoint.save_tensors(run / "model.safetensors", tensors, {})
        with pytest.raises(CheckpointError, match=r"model.safetensors is damaged"):
            pv.load(run)

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("[" * 100_000, "cannot be read"),
            ("a: &a [*a]", "anchors"),
            ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "anchors"),
            (f"epochs: {'1' * 5000}", "cannot be read"),
            (f"epochs: {'1' * 4000}", "too large"),
            ("epochs: 1\nepochs: 2", "given twice"),
            ("x: " + "y" * 10**7, "more than"),
            ("1: 2", "no names with values"),
            ("", "no names with values"),
        ],
        ids=lambda value: value[:20],
    )
    def test_of_a_configuration(self, run, text, told):
        (run / "config.yaml").write_text(text)
        began = time.monotonic()
        with pytest.raises(CheckpointError, match=rf"run/config.yaml .*{told}"):
            pv.load(run)
        assert time.monotonic() - began < 10

    def test_of_a_configuration_that_was_changed(self, run):
        """Of the same shapes, and another model; or another training."""
        text = (run / "config.yaml").read_text()
        for old, new, act in (
            ("guide: Normal()", "guide: Laplace", pv.load),
            ("lr: 0.001", "lr: 0.1", lambda run: pv.resume(run, progress=False)),
        ):
            assert old in text
            (run / "config.yaml").write_text(text.replace(old, new))
            with pytest.raises(CheckpointError, match=r"was trained with .*put back what it said"):
                act(run)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
    def test_what_is_no_file(self, run):
        for name in ("model.safetensors", "config.yaml"):
            (run / name).unlink()
            os.mkfifo(run / name)
            with pytest.raises(CheckpointError, match=rf"{name} is damaged: it is no file"):
                pv.load(run)


class Mine(pv.VAE):
    """A model of one's own, with the constructor of another."""


class TestWhatIsOnesOwn:
    def test_is_built_where_it_is_trusted(self, digits):
        torch.manual_seed(0)
        run = pv.fit(Mine(digits.event_shape, 2, encoder=pv.nets.mlp(8)), digits, **FIT, folder="run")
        with pytest.raises(
            ConfigError, match=r'trust=\["test_checkpoint"\].*pv.load\(.run., program=program\)'
        ):
            pv.load("run")
        for again in (
            pv.load("run", trust=["test_checkpoint"]),
            pv.load("run", program=Mine(digits.event_shape, 2, encoder=pv.nets.mlp(8))),
        ):
            assert type(again) is Mine
            assert same(again.state_dict(), run.program.state_dict())

    def test_a_fixed_prior_is_noticed(self, make_vae, digits):
        """Weights that were learned under another prior of the same shape are refused."""
        pv.fit(make_vae(prior=dist.Laplace(0.0, 1.0)), digits, **FIT, folder="run")
        with pytest.raises(CheckpointError, match="is a run with prior='Laplace"):
            pv.load("run", program=make_vae(prior=dist.Laplace(0.0, 2.0)))
        one, other = (make_vae(prior=dist.Laplace(0.0, scale)) for scale in (1.0, 2.0))
        with pytest.raises(CheckpointError, match="of another model"):
            pv.checkpoint.load_state(other, one.state_dict(), Path("run"))


ATTACKS = [
    {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "owned"]}},
    "{class_path: subprocess.Popen, init_args: {args: [touch, owned]}}",
    "subprocess.Popen(args=['touch', 'owned'])",
    "os.system('touch owned')",
    "os.system",
    "their_module.Net",
    "their_module.run()",
    "their_module",
    "__import__('their_module')",
    "__import__('os').system('touch owned')",
    "Laplace(loc=their_module.run(), scale=1.0)",
    "Laplace(loc=__import__('os').system('touch owned'), scale=1.0)",
    "mlp(3, activation=their_module.Net)",
    "mlp(3, activation={'class_path': 'their_module.run'})",
    "StudentT(df='their_module.run()', scale={'class_path': 'subprocess.Popen'})",
    "SGD(momentum=their_module.run())",
    "LambdaLR(lr_lambda=their_module.run)",
    "LambdaLR(lr_lambda='their_module.run')",
    "(lambda: __import__('their_module'))()",
    "Fixed(" * 400 + ")" * 400,
    "[" * 3000,
    ["their_module.run()"],
    {"x": "their_module.run()", "y": ["os.system('touch owned')"]},
    3,
]


class TestAStrangersConfiguration:
    """Whatever it says, nothing is imported and nothing is run."""

    @pytest.fixture
    def run(self, source, tmp_path, monkeypatch):
        (tmp_path / "their_module.py").write_text(
            "from pathlib import Path\n"
            "Path('owned').touch()\n"
            "def run(*args, **kwargs): Path('owned').touch()\n"
            "class Net:\n"
            "    def __init__(self, *args, **kwargs): run()\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        return Path(shutil.copytree(source, "run"))

    def attack(self, run, name, attack, make):
        before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
        values = yaml.safe_load((run / "config.yaml").read_text())
        (run / "config.yaml").write_text(yaml.safe_dump(values | {name: attack}))
        for path in (run / "checkpoint.safetensors", run / "model.safetensors"):  # which say the same
            tensors, meta = checkpoint.load_tensors(path)
            meta["config"][name] = attack
            checkpoint.save_tensors(path, tensors, meta)
        try:
            return make(run)
        finally:
            for path, content in before.items():
                path.write_bytes(content)
            assert not os.path.exists("owned"), (name, attack)
            assert "their_module" not in sys.modules

    @pytest.mark.parametrize("name", ["model", "prior", "likelihood", "guide", "encoder", "decoder"])
    def test_parts_of_the_model(self, run, name):
        for attack in ATTACKS:
            with pytest.raises(ConfigError, match=name):
                self.attack(run, name, attack, pv.load)

    @pytest.mark.parametrize("name", ["optimizer", "schedule", "loss", "lr", "beta"])
    def test_parts_of_the_settings(self, run, name):
        for attack in ATTACKS[:-1]:
            with pytest.raises(ConfigError, match=name):
                self.attack(run, name, attack, lambda run: pv.resume(run, progress=False))

    @pytest.mark.slow
    def test_every_field(self, run):
        for name in yaml.safe_load((run / "config.yaml").read_text()):
            for attack in [*ATTACKS[:4], *ATTACKS[-2:]]:
                with contextlib.suppress(ConfigError, CheckpointError, pv.data.DataError):
                    self.attack(run, name, attack, lambda run: pv.resume(run, progress=False))

    def test_of_yaml_itself(self, run):
        for text in (
            "model: !!python/object/apply:os.system ['touch owned']",
            "!!python/object/new:subprocess.Popen [[touch, owned]]",
            "model: !!python/name:their_module.run",
            "[" * 20_000,
            "a: &a [x, x]\nb: &b [*a, *a]\nmodel: *b\n",
            "model: *nothing",
        ):
            (run / "config.yaml").write_text(text)
            with pytest.raises((ConfigError, CheckpointError)):
                pv.load(run)
        assert not os.path.exists("owned")
