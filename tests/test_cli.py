import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import pyro_vae as pv
from pyro_vae.cli import main

UNDRAWN = pytest.mark.usefixtures("undrawn")
SMALL = ["--epochs", "2", "--encoder.hidden_dims", "[8]", "--decoder.hidden_dims", "[8]"]


def train(*options):
    assert main(["train", "--folder", "run", *SMALL, *options]) == 0
    return pv.load("run")


@pytest.fixture
def output(capsys):
    def read():
        captured = capsys.readouterr()
        return captured.out + captured.err

    return read


def fails(code, output, *argv):
    """The command's exit code and its one line of explanation."""
    try:
        got = main(list(argv))
    except SystemExit as exit:
        got = exit.code
    text = output()
    assert got == code, text
    assert "Traceback" not in text
    return text


def test_alone(output):
    """All that the first command leaves."""
    assert main(["train", "--epochs", "2"]) == 0
    (run,) = os.scandir("runs")
    assert run.name.startswith("digits-")
    pictures = {"summary", "samples", "reconstructions", "latents", "traversals", "training"}
    assert {p.name for p in os.scandir(f"{run.path}/figures")} == {f"{name}.png" for name in pictures}
    text = output()
    assert "digits: 1455 training, 162 validation, 180 test data of shape (1, 8, 8)" in text
    assert "test: ELBO -" in text
    assert "nats per datum" in text
    written = [line for line in text.splitlines() if line.endswith(".png")]
    assert written[0] == os.path.join(run.path, "figures/summary.png")
    assert text.splitlines()[-1] == f"pyro-vae report {run.path}"  # to be pasted as it stands


@UNDRAWN
class TestTrain:
    def test_a_gap_is_worth_another_guide(self, output, monkeypatch):
        """And the command that is told works."""
        estimate = pv.evaluate.log_likelihood

        def more(*args, **options):
            found = estimate(*args, **options)
            return dataclasses.replace(found, log_likelihood=found.log_likelihood + 5)

        monkeypatch.setattr(pv.evaluate, "log_likelihood", more)
        train()
        *_, why, told = output().splitlines()
        command = told.split()
        assert why.startswith("next, as the ELBO is ")
        assert command == ["pyro-vae", "train", "--config", "run/config.yaml", "--guide", "FullRankNormal"]
        assert main([*command[1:], "--folder", "other", "--epochs", "1"]) == 0
        assert output().splitlines()[-1] == "pyro-vae report other"

    def test_plane_has_a_map(self):
        train("--latent-dim", "2")
        assert os.path.exists("run/figures/manifold.png")

    def test_swaps(self):
        vae = train("--likelihood", "Normal", "--likelihood.scale", "shared")
        assert repr(vae.p_x.family) == "Normal(scale='shared')"
        assert yaml.safe_load(Path("run/config.yaml").read_text())["binarize"] == "none"

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (["--likelihood", "Normal", "--likelihood.scale", "0.1"], {"likelihood": "Normal(scale=0.1)"}),
            (["--likelihood", 'Normal(scale="shared")'], {"likelihood": "Normal(scale='shared')"}),
            (["--likelihood=PseudoBernoulli", "--binarize=none"], {"likelihood": "PseudoBernoulli()"}),
            (
                ["--prior", "Laplace", "--prior.loc", "0", "--prior.scale", "1"],
                {"prior": "Laplace(loc=0.0, scale=1.0)"},
            ),
            (["--prior", "StudentT(df=5)"], {"prior": "StudentT(df=5.0, loc=0.0, scale=1.0)"}),
            (
                ["--encoder", "Conv", "--encoder.channels", "[4]", "--decoder", "conv(4)"],
                {"encoder": "Conv(channels=[4])", "decoder": "conv(4)"},
            ),
            (["--encoder.activation", "Tanh"], {"encoder": "MLP(activation=Tanh)"}),
            (
                ["--optimizer", "SGD", "--optimizer.momentum", "0.9", "--lr", "2e-3"],
                {"lr": 0.002, "optimizer": "SGD(momentum=0.9)"},
            ),
            (
                ["--loss", "RenyiELBO", "--loss.alpha", "0", "--loss.num_particles", "3"],
                {"loss": "RenyiELBO(num_particles=3)"},
            ),
            (
                ["--schedule", "constant", "--warmup-epochs", "1", "--clip-norm", "10", "--patience", "1"],
                {"schedule": "constant", "warmup_epochs": 1, "clip_norm": 10.0, "patience": 1},
            ),
            (["--schedule", "StepLR(step_size=1)"], {"schedule": "StepLR(step_size=1)"}),
            (
                ["--model", "ConditionalVAE", "--conditional-prior", "true"],
                {"model": "ConditionalVAE", "given": {"y": 10}, "conditional_prior": True},
            ),
            (
                ["--model", "HierarchicalVAE", "--latent-dims", "5", "3", "2", "--between", "mlp(8)"],
                {"latent_dims": [5, 3, 2], "between": "mlp(8)", "inference": "bottom_up"},
            ),
        ],
        ids=lambda value: value[0] if isinstance(value, list) else "",
    )
    def test_options(self, options, expected):
        small = SMALL if not any(o.startswith("--encoder") for o in options) else ["--epochs", "2"]
        assert main(["train", "--folder", "run", *small, *options]) == 0
        values = yaml.safe_load(Path("run/config.yaml").read_text())
        assert {name: values[name] for name in expected} == expected
        again = pv.load("run")
        assert {n: values[n] for n in values} == values | pv.checkpoint.describe(again)

    def test_own_parts(self, tmp_path, monkeypatch, output):
        (tmp_path / "mine_for_cli.py").write_text(
            textwrap.dedent(
                """
                import pyro.distributions as dist
                from torch import nn
                import pyro_vae as pv

                class Net(nn.Module):
                    def __init__(self, in_shape, out_shape, width: int = 4):
                        super().__init__()
                        layers = nn.Linear(64, width), nn.Linear(width, *out_shape)
                        self.net = nn.Sequential(nn.Flatten(), *layers)

                    def forward(self, x):
                        return self.net(x)

                class Laplace(pv.families.Univariate):
                    '''A likelihood of one's own: the family, and where its parameters come from.'''

                    def __init__(self, scale: float = 0.2):
                        super().__init__(dist.Laplace, scale=scale)
                        self.scale = scale

                    def arguments(self):
                        return {"scale": self.scale}
                """
            )
        )
        monkeypatch.syspath_prepend(tmp_path)
        options = ["--encoder", "mine_for_cli.Net", "--encoder.width", "7"]
        options += ["--likelihood", "mine_for_cli.Laplace(scale=0.5)"]
        assert main(["train", "--folder", "run", "--epochs", "2", *options]) == 0
        assert "is not trusted" in fails(2, output, "sample", "run")
        assert "is not trusted" in fails(2, output, "train", "--config", "run/config.yaml")
        assert main(["sample", "run", "--trust", "mine_for_cli"]) == 0
        vae = pv.load("run", trust=["mine_for_cli"])
        assert vae.q_z.net.net[1].out_features == 7
        assert repr(vae.p_x.family) == "Laplace(scale=0.5)"

    @pytest.mark.slow
    def test_mnist_directory(self, mnist_dir, monkeypatch):
        step = pv.svi.SVI.step
        monkeypatch.setattr(
            pv.svi.SVI, "step", lambda self, batch, beta: step(self, {"x": batch["x"][:2]}, beta)
        )
        train("--data", "mnist", "--data-dir", str(mnist_dir), "--batch_size=10000", "--test", "0.2")
        assert yaml.safe_load(Path("run/config.yaml").read_text())["data_dir"] == str(mnist_dir.resolve())

    def test_file_of_ones_own(self):
        np.save("mine.npy", np.random.default_rng(0).normal(size=(300, 6)))
        vae = train("--data", "mine.npy", "--likelihood", "Normal")
        assert vae.event_shape == (6,)

    def test_configuration_file(self):
        train("--seed", "3", "--latent-dim", "4")
        assert main(["train", "--config", "run/config.yaml", "--folder", "again"]) == 0
        one, other = pv.load("run"), pv.load("again")
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
        one, other = (pv.checkpoint.read_config(Path(name)) for name in ("run", "again"))
        assert one.pop("run") != other.pop("run")
        assert one == other

    def test_what_is_typed_comes_before_the_file(self):
        train("--prior", "Laplace(0.0, 1.0)", "--latent-dim", "4")
        again = [
            "train",
            "--config",
            "run/config.yaml",
            "--folder",
            "again",
            "--prior.scale",
            "2",
            "--lr",
            "0.01",
        ]
        assert main(again) == 0
        values = yaml.safe_load(Path("again/config.yaml").read_text())
        assert (values["latent_dim"], values["lr"]) == (4, 0.01)
        assert values["prior"] == "Laplace(loc=0.0, scale=2.0)"

    def test_help(self, capsys):
        with pytest.raises(SystemExit) as exit:
            main(["train", "--help"])
        assert exit.value.code == 0
        text = capsys.readouterr().out
        assert "KL warm-up" in text
        for option in ("--likelihood", "--given", "--latent_dims", "--trust", "--epochs"):
            assert option in text
        for argv, message in [
            (["train", "--likelihood.help"], "DiscretizedLogistic"),
            (["train", "--likelihood.help", "StudentT"], "df, loc, scale"),
            (["train", "--prior.help=VampPrior"], "components"),
            (["--help"], "interpolate"),
        ]:
            assert main(argv) == 0
            assert message in capsys.readouterr().out


@UNDRAWN
class TestErrors:
    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["trian"], "did you mean train?"),
            (["train", "--epoch", "3"], "did you mean --epochs"),
            (["train", "--likelihood", "Normall"], "did you mean Normal"),
            (["train", "--prior", "laplas"], "did you mean Laplace"),
            (["train", "--optimizer", "Adamm"], "did you mean Adam"),
            (["train", "--data", "minst"], "did you mean 'mnist'"),
            (["train", "--epochs", "many"], "epochs"),
            (["train", "--epochs", "0"], "epochs=0 must be positive"),
            (["train", "--likelihood", "Bernoulli", "--binarize", "none"], "binarize"),
            (["train", "--likelihood", "Normal", "--likelihood.scale", "big"], "scale"),
            (["train", "--prior", "Poisson", "--prior.rate", "2.0"], "cannot follow a prior over"),
            (["train", "--guide", "Gamma"], "dist.Gamma with dist.Gamma"),
            (["train", "--guide", "VonMises"], "not reparameterised"),
            (["train", "--likelihood", "Pareto"], "moves with its parameter scale"),
            (["train", "--model", "ConditionalVAE", "--given", "y"], "--given y=3"),
            (["train", "--model", "ConditionalVAE", "--given", "y=5"], "classes from 0 to 9"),
            (["train", "--given", "y=10"], "VAE has no option given"),
            (["train", "--model", "ConditionalVEA"], "did you mean ConditionalVAE"),
            (["train", "--likelihood.help", "Nomal"], "did you mean Normal"),
            (["train", "--likelihood", "Binomial"], "total_count"),
            (["train", "--likelihood", "Beta"], "squeezed, 0.001 + 0.998 * x"),
            (["train", "--likelihood", "Poisson", "--levels", "false"], "--levels true"),
            (["train", "--likelihood", "StudentT", "--likelihood.df", "-1"], "does not satisfy"),
            (["compare"], "two or more"),
            (["compare", "--priors", "Normal", "Normal"], "different variants"),
            (["compare", "--priors", "Normal", "Vamp(3)"], "did you mean VampPrior"),
            (["compare", "--priors", "Normal", "VampPrior(x"], "no name and no call"),
            (["compare", "--priors", "Normal", "VampPrior(clusters=3)"], "clusters"),
            (["compare", "--guides", "Normal", "__import__('os').getcwd()"], "guide"),
            (["compare", "--likelihoods", "Normal", "Poisson"], "different measures are not compared"),
            (["explain", "nowhere"], "nowhere"),
            (["train", "--encoder", "nowhere.Net"], "nowhere"),
            (["train", "--data", "nothing.npy"], "nothing.npy"),
            (["train", "--resume", "nowhere"], "nowhere"),
            (["train", "--config", "nowhere.yaml"], "nowhere.yaml"),
            (["train", "--device", "abacus"], "abacus"),
            (["train", "--resume", "nowhere", "--lr", "3"], "no other option than --epochs"),
            (["train", "--resume", "auto"], "--folder"),
            (["train", "--seed", "-1"], "seed=-1"),
            (["train", "--optimizer", "LBFGS"], "no optimizer is named LBFGS"),
            (["train", "--optimizer", "SGD", "--optimizer.momentum", "-1"], "momentum"),
            (["train", "--encoder", "os.getcwd"], "os.getcwd"),
            (["evaluate", "nowhere", "--num-samples", "0"], "must be positive"),
            (["sample"], "pyro-vae train"),
            (["evaluate", "nowhere"], "nowhere"),
        ],
        ids=" ".join,
    )
    def test_are_explained(self, output, argv, message):
        assert message in fails(2, output, *argv)
        assert not os.path.exists("runs")

    def test_after_training(self, output):
        train()
        assert "from 0 to 179" in fails(2, output, "traverse", "run", "--index", "999")
        assert "latent_dim=2" in fails(2, output, "manifold", "run")
        assert "holds a run already" in fails(2, output, "train", "--folder", "run")

    @pytest.mark.filterwarnings("ignore:Encountered NaN")
    def test_divergence_is_3(self, output):
        options = ["--optimizer", "SGD", "--lr", "1e30", "--schedule", "constant"]
        assert "not finite" in fails(3, output, "train", "--folder", "run", *options)


def test_commands_on_a_run(output):
    train("--latent-dim", "2")
    output()
    for command, picture in [
        ("summary", "summary"),
        ("sample", "samples"),
        ("reconstruct", "reconstructions"),
        ("manifold", "manifold"),
        ("latents", "latents"),
        ("traverse", "traversals"),
        ("interpolate", "interpolation"),
    ]:
        path = f"run/figures/{picture}.png"
        if os.path.exists(path):
            os.remove(path)
        assert main([command, "run"]) == 0
        assert output().strip() == path
        assert os.path.getsize(path) > 1000
    for format, start in (("svg", b"<?xml"), ("pdf", b"%PDF")):
        assert main(["manifold", "run", "--format", format]) == 0
        assert output().strip() == f"run/figures/manifold.{format}"
        assert Path(f"run/figures/manifold.{format}").read_bytes().startswith(start)
    assert "format='bmp'" in fails(2, output, "manifold", "run", "--format", "bmp")


def test_commands_on_conditions_and_levels(output):
    assert main(["train", "--folder", "run", *SMALL, "--model", "ConditionalVAE"]) == 0
    assert main(["train", "--folder", "deep", *SMALL, "--model", "HierarchicalVAE"]) == 0
    output()
    assert main(["sample", "run", "--given", "y=3"]) == 0
    assert "classes from 0 to 9" in fails(2, output, "sample", "run", "--given", "y=13")
    assert "'w' is no site" in fails(2, output, "sample", "run", "--given", "w=1")
    assert main(["styles", "run"]) == main(["levels", "deep"]) == main(["explain", "deep"]) == 0
    text = output()
    assert "run/figures/styles.png" in text
    assert "deep/figures/levels.png" in text
    assert "z1_n | z2_n" in text


@UNDRAWN
def test_evaluate(output):
    vae = train()
    assert main(["evaluate", "run", "--num-samples", "50"]) == 0
    result = json.loads(Path("run/evaluation-test.json").read_text())
    data = pv.data.load("digits", binarize="dynamic")
    expected = pv.evaluate.log_likelihood(vae, data.test, num_samples=50)
    assert result["log_likelihood"] == expected.log_likelihood
    assert result["elbo"] == pv.evaluate.elbo(vae, data.test).elbo
    assert result["num_data"] == 180
    assert main(["evaluate", "run", "--split", "validation", "--num-samples", "5"]) == 0
    assert json.loads(Path("run/evaluation-validation.json").read_text())["num_data"] == 162


@UNDRAWN
def test_data_that_changed_are_not_evaluated(output):
    x = np.random.default_rng(0).normal(size=(300, 6))
    np.save("mine.npy", x)
    train("--data", "mine.npy", "--likelihood", "Normal")
    np.save("mine.npy", np.concatenate([x[:50], x]))
    assert "not those that run was trained on" in fails(2, output, "evaluate", "run")
    np.save("mine.npy", x)
    assert main(["evaluate", "run", "--num-samples", "5"]) == 0


@UNDRAWN
def test_empty_splits_are_named(output):
    np.save("mine.npy", np.random.default_rng(0).normal(size=(30, 6)))
    train("--data", "mine.npy", "--likelihood", "Normal", "--test", "0")
    for command in ("reconstruct", "traverse", "evaluate", "latents"):
        assert "--split train" in fails(2, output, command, "run")


@UNDRAWN
def test_latest_run_is_the_default(output):
    assert main(["train", "--folder", "runs/one", *SMALL]) == 0
    output()
    assert main(["sample"]) == 0
    assert output().strip() == "runs/one/figures/samples.png"


@UNDRAWN
def test_resume(monkeypatch, output):
    step, count = pv.svi.SVI.step, 0

    def patched(self, *args):
        nonlocal count
        count += 1
        if count == 15:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(pv.svi.SVI, "step", patched)
        assert main(["train", "--folder", "run", *SMALL]) == 130
    assert "pyro-vae train --resume run" in output()
    assert main(["train", "--resume", "run"]) == 0
    train("--folder", "whole")
    one, other = pv.load("run"), pv.load("whole")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("signum", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_signals_to_the_process(signum, code):
    command = [sys.executable, "-m", "pyro_vae", "train", "--folder", "run", "--epochs", "5000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not os.path.exists("run/checkpoint.safetensors") and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "pyro-vae train --resume run" in errors
    assert "Traceback" not in errors
    pv.load("run")


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"]])
def test_a_reader_that_has_read_enough_is_no_mistake(argv):
    """As head is; the pipe is closed before anything was written."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "pyro_vae", *argv]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@UNDRAWN
@pytest.mark.filterwarnings("ignore:the effective sample size", "ignore:log p.x. of")
def test_a_table_with_holes(output):
    """Trained without being told of its kinds, in another process known again, its holes filled."""
    pandas = pytest.importorskip("pandas")
    random = np.random.default_rng(0)
    table = pandas.DataFrame(
        {
            "height": random.normal(170, 10, 60).round(1),
            "sex": random.choice(["female", "male"], 60),
            "visits": random.poisson(2, 60) * 5,
            "ill": random.random(60) < 0.5,
        }
    ).astype({"ill": object})
    table = table.mask(random.random(table.shape) < 0.2)
    table.to_csv("t.csv", index=False)
    program = train("--data", "t.csv")
    assert list(program.columns) == list(table.columns)
    assert "visits: count" in output()
    assert main(["predict", "run", "--data", "t.csv", "--output", "filled.csv", "--num-samples", "20"]) == 0
    before, after = pandas.read_csv("t.csv"), pandas.read_csv("filled.csv")
    assert not after.isna().any().any()
    known = before.notna()
    for name in before.columns:
        given = known[name].to_numpy()
        assert after[name][given].astype(str).tolist() == before[name][given].astype(str).tolist()
    assert set(after["sex"]) == {"female", "male"}
    assert main(["predict", "run", "--data", "t.csv", "--output", "all.csv", "--draws", "true"]) == 0
    assert len(pandas.read_csv("all.csv")) == 100 * 60
    fails(2, output, "predict", "run", "--data", "t.csv", "--output", "filled.npy")
    before.rename(columns=str.upper).to_csv("other.csv", index=False)
    told = fails(2, output, "predict", "run", "--data", "other.csv", "--output", "other-filled.csv")
    assert "no column 'HEIGHT'" in told


@UNDRAWN
@pytest.mark.filterwarnings("ignore:the effective sample size", "ignore:log p.x. of")
def test_what_is_there_stays_as_it_is_written(capsys):
    """Columns that the model does not have, too; what is filled in has the digits of single precision."""
    pandas = pytest.importorskip("pandas")
    random = np.random.default_rng(0)
    heights, sexes = random.normal(170, 10, 60), random.choice(["f", "m"], 60)
    pandas.DataFrame({"height": heights, "sex": sexes, "size": heights / 100}).to_csv("t.csv", index=False)
    train("--data", "t.csv")
    before = "row,id,height,sex\n1,NA,160.500,f\n2,007,,m\n3,,1.7e2,\n"
    Path("holes.csv").write_text(before)
    arguments = ["predict", "run", "--data", "holes.csv", "--num-samples", "3", "--output"]
    capsys.readouterr()
    assert main([*arguments, "one.csv"]) == 0
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "row, id: no column of the model, left as it is; size: not there, and filled in each row" in told
    header, *lines = [line.split(",") for line in Path("one.csv").read_text().splitlines()]
    assert header == ["row", "id", "height", "sex", "size"]
    kept = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 3), (2, 0), (2, 1), (2, 2)]
    asked = [line.split(",") for line in before.splitlines()[1:]]
    assert all(lines[i][j] == asked[i][j] for i, j in kept)
    for text in (lines[1][2], lines[0][4]):
        assert text == str(np.float32(text))
    assert lines[2][3] in ("f", "m")
    assert main([*arguments, "one.csv"]) == 2
    assert "output=one.csv is there already" in capsys.readouterr().err
    assert main([*arguments, "all.csv", "--draws", "true"]) == 0
    header, *drawn = [line.split(",") for line in Path("all.csv").read_text().splitlines()]
    assert header == ["draw", "row_", "row", "id", "height", "sex", "size"]
    assert [line[:2] for line in drawn] == [[str(s), str(i)] for s in range(3) for i in range(3)]
    assert all(drawn[3 * s + i][2 + j] == asked[i][j] for s in range(3) for i, j in kept)
    assert len({drawn[3 * s + 1][4] for s in range(3)}) == 3
