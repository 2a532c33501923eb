"""What holds of every objective: a new file in pyro_vae/objectives is tested by being there."""

import importlib
import inspect
import pkgutil
import warnings
from pathlib import Path

import pyro
import pytest
import torch
from cases import SMALL, batch_of, make
from pyro.infer import ELBO, SVI

import pyro_vae as pv
from pyro_vae import cli, registry
from pyro_vae.checks import ConfigError
from pyro_vae.objectives import PerDatum, purpose
from pyro_vae.objectives.schedules import Cyclical, Linear, Monotone, Schedule
from pyro_vae.svi import CompilationWarning

MODULES = [
    importlib.import_module(m.name)
    for m in pkgutil.iter_modules(pv.objectives.__path__, "pyro_vae.objectives.")
]
FOUND = {
    name: found
    for module in MODULES
    for name, found in vars(module).items()
    if inspect.isclass(found) and issubclass(found, ELBO) and found.__module__ == module.__name__
}
OBJECTIVES = {name: found for name, found in FOUND.items() if found is not PerDatum}
REQUIRED = {"num_data": 1455}
every = pytest.mark.parametrize("name", OBJECTIVES)


def make_objective(name, **options):
    parameters = inspect.signature(OBJECTIVES[name]).parameters
    return OBJECTIVES[name](
        **{key: value for key, value in (REQUIRED | options).items() if key in parameters}
    )


def test_all_are_found():
    assert len(OBJECTIVES) >= 11
    assert set(OBJECTIVES) <= set(pv.objectives.__all__)
    assert {name for name, loss in registry.names("loss").items() if issubclass(loss, PerDatum)} == set(
        OBJECTIVES
    )
    for loss in registry.names("loss").values():  # Pyro's too
        assert purpose(loss.__new__(loss))


@every
def test_says_what_it_is(name):
    told = inspect.getdoc(OBJECTIVES[name])
    assert len(purpose(make_objective(name))) < 110
    assert ".. math::" in told
    assert "Reference: " in told
    for parameter in inspect.signature(OBJECTIVES[name]).parameters:
        assert f"    {parameter}: " in told
    assert vars(OBJECTIVES[name]).keys() & {"loss", "loss_and_grads", "differentiable_loss", "draws"} == set()
    source = inspect.getsource(OBJECTIVES[name]).split('"""')[2]
    assert len(source.splitlines()) < 40


@every
def test_is_written_as_it_is_read(name):
    for objective in (make_objective(name), make_objective(name, num_particles=3, weight=2.5, alpha=0.1)):
        text = registry.write(objective)
        again = registry.read("loss", text)
        assert type(again) is type(objective)
        assert vars(again) == vars(objective)
        assert registry.write(again) == text
        assert registry.read("loss", text.lower().replace("()", "")).__class__ is type(objective)


@every
@pytest.mark.parametrize(
    "program", ["VAE", "HierarchicalVAE-top-down", "HierarchicalVAE-bottom-up", "VAE-table", "own"]
)
def test_trains_in_pyros_svi(name, program):
    """And leaves no history, and moves all parameters."""
    vae = make(program)
    batch = batch_of(vae, 8)
    batch["x"][0] = torch.nan
    vae.see_gaps(frozenset(["x"]))
    before = {n: p.detach().clone() for n, p in vae.named_parameters()}
    objective = make_objective(name, kl=0.1)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), objective)
    losses = [svi.step(batch) for _ in range(3)]
    assert all(isinstance(loss, float) for loss in losses)
    assert isinstance(svi.evaluate_loss(batch), float)
    moved = {n for n, p in vae.named_parameters() if not torch.equal(p, before[n])}
    assert moved == before.keys()
    assert all(p.isfinite().all() for p in vae.parameters())


def steps(name, program, compile, **options):
    vae = make(program)
    objective = make_objective(name, **options)
    optimizer = torch.optim.Adam(vae.parameters(), 1e-3)
    svi = pv.svi.SVI(vae.model, vae.guide, optimizer, objective, compile=compile)
    torch.manual_seed(3)
    return [svi.step(batch_of(vae, 8, seed)).item() for seed in range(4)], svi


@every
@pytest.mark.parametrize("program", ["VAE", "HierarchicalVAE-bottom-up"])
@pytest.mark.usefixtures("uncompiled")
def test_compiled_is_eager(name, program):
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompilationWarning)
        compiled, svi = steps(name, program, True)
    assert svi.engine.startswith("compiled")
    assert compiled == pytest.approx(steps(name, program, False)[0], rel=1e-4)


@pytest.mark.slow
@every
def test_compiled_is_eager_with_the_compiler(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompilationWarning)
        compiled, svi = steps(name, "VAE", True)
    assert svi.engine.startswith("compiled")
    assert compiled == pytest.approx(steps(name, "VAE", False)[0], rel=1e-4)


@every
def test_fits_and_is_kept(name, digits):
    """Trained, stopped and gone on with, and loaded: the loss is in the run's settings as its text."""
    text = registry.write(make_objective(name))
    runs = []
    for epochs in ((2,), (1, 2)):
        torch.manual_seed(0)
        vae = pv.VAE(digits.event_shape, 2, **SMALL)
        folder = f"run-{len(epochs)}"
        for number in epochs:
            settings = {"loss": text, "epochs": number, "batch_size": 200, "schedule": "constant"}
            if number == 2 and len(epochs) == 2:
                run = pv.resume(folder, data=digits, epochs=2, progress=False)
            else:
                run = pv.fit(vae, digits, **settings, folder=folder, progress=False)
        runs.append(run)
    for one, other in zip(*[run.program.parameters() for run in runs], strict=True):
        assert torch.equal(one, other)
    assert runs[0].history[-1]["elbo"] > runs[0].history[0]["elbo"]
    loaded = pv.load("run-1")
    for one, other in zip(loaded.parameters(), runs[0].program.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore::pyro_vae.program.DataWarning", "ignore:beta=Cyclical")  # so short a run
def test_on_the_command_line(capsys, undrawn):
    small = ["--epochs", "1", "--encoder", "mlp(8)", "--decoder", "mlp(8)", "--latent_dim", "2"]
    assert cli.main(["train", *small, "--loss", "DReG(3)", "--folder", "one"]) == 0
    assert "loss: DReG(num_particles=3)" in Path("one/config.yaml").read_text()
    free = ["--loss", "FreeBits", "--loss.nats", "0.5", "--beta", "Cyclical(period=10)"]
    assert cli.main(["train", *small, *free, "--folder", "two"]) == 0
    kept = Path("two/config.yaml").read_text()
    assert "FreeBits(nats=0.5)" in kept
    assert "Cyclical(period=10, rise=0.5, end=1.0)" in kept
    assert cli.main(["train", "--loss.help", "DReG"]) == 0
    assert "Doubly reparameterized" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="has none to weigh"):
        pv.training.Settings.from_plain({"loss": "DReG", "beta": "0.5"})


@every
def test_beta_is_honoured_or_refused(name):
    """In one sentence, before anything is done."""
    objective = make_objective(name)
    for settings in ({"beta": 0.5}, {"warmup_epochs": 2}, {"beta": "Linear(3)"}):
        if objective.weighs_kl:
            assert pv.training.Settings.from_plain({"loss": objective} | settings)
        else:
            with pytest.raises(ConfigError, match=rf"has none to weigh: leave {next(iter(settings))} out"):
                pv.training.Settings.from_plain({"loss": objective} | settings)


def test_what_is_there_is_kept():
    """Pyro's own take beta where they are ELBOs."""
    assert pv.training.Settings(beta=0.5).beta == 0.5
    with pytest.raises(ConfigError, match=r"loss=RenyiELBO\(\) has none"):
        pv.training.Settings(beta=0.5, loss=pyro.infer.RenyiELBO())


def test_schedules():
    found = {name for name, kind in registry.names("beta").items() if issubclass(kind, Schedule)}
    assert found == {"Linear", "Cyclical", "Monotone"}
    for schedule in (
        Linear(4),
        Linear(4, 2.0, 0.5),
        Cyclical(10),
        Cyclical(3, rise=1.0, end=4.0),
        Monotone(5),
    ):
        text = registry.write(schedule)
        assert text == repr(schedule)
        assert registry.read("beta", text) == schedule
        weights = [schedule(k / 8) for k in range(200)]
        assert min(weights) >= 0
        if not isinstance(schedule, Cyclical):
            assert weights in (sorted(weights), sorted(weights, reverse=True))
            assert (weights[0], weights[-1]) == (schedule.start, schedule.end)
        else:
            assert weights == pytest.approx([schedule(k / 8 + schedule.period) for k in range(200)])
            assert max(weights) == pytest.approx(schedule.end, rel=0.05)
    for wrong in (
        {"period": 0},
        {"period": 3, "rise": 0.0},
        {"period": 3, "rise": 1.5},
        {"period": 3, "end": -1.0},
    ):
        with pytest.raises(ConfigError, match=f"{[*wrong][-1]}="):
            Cyclical(**wrong)


@pytest.mark.parametrize(
    ("schedule", "epochs", "mend"),
    [
        (Cyclical(10), 20, None),
        (Cyclical(10), 17, None),  # it has risen
        (Cyclical(10), 23, 30),
        (Cyclical(10), 3, 10),
        (Cyclical(2.5, rise=1.0), 4, 5),
        (Linear(10), 10, None),
        (Linear(10), 4, 10),
        (Linear(10, start=2.0, end=0.5), 4, 10),
        (Monotone(9.5), 4, 10),
        (Monotone(9.5), 12, None),
    ],
)
def test_a_run_that_stops_on_the_way_is_told(schedule, epochs, mend):
    told = schedule.unfinished(epochs)
    assert bool(told) == (mend is not None)
    if mend is not None:
        last = schedule(epochs - 1e-9)
        assert f"is at {last:.2g} when {epochs} epochs end, and not at {schedule.end:g}" in told
        assert told.endswith(f"epochs={mend}")
        assert not schedule.unfinished(mend)
