import dataclasses
import itertools
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import PROGRAMS, batch_of, make
from matplotlib.figure import Figure

import pyro_vae as pv
from pyro_vae.evaluate.uniform import UniformRanks
from pyro_vae.program import DataWarning

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from linear import EXACT, PATTERN, _raw_scale, system

FAST = {"max_rows": 100_000}


# --- uniform ranks


@pytest.mark.parametrize(("size", "num_draws"), [(1, 1), (3, 2), (4, 3), (2, 6)])
def test_p_values_are_those_of_all_cases(size, num_draws):
    every = np.array(list(itertools.product(range(num_draws + 1), repeat=size))).T
    uniform = UniformRanks(size, num_draws)
    p = uniform.p_values(every)
    for value in np.unique(p.round(12)):
        assert np.mean(p <= value + 1e-9) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize(("size", "num_draws"), [(1000, 99), (100, 20)])
def test_p_values_and_bands_are_exact(size, num_draws):
    """Of 2000 columns the share below alpha is alpha, up to 4 standard errors; and the band is the test."""
    ranks = np.random.default_rng(0).integers(0, num_draws + 1, (size, 2000))
    uniform = UniformRanks(size, num_draws)
    p = uniform.p_values(ranks)
    for alpha in (0.01, 0.05, 0.5):
        assert np.mean(p <= alpha) == pytest.approx(alpha, abs=4 * (alpha * (1 - alpha) / 2000) ** 0.5)
    low, high = uniform.band(0.95)
    below = uniform.below(ranks)
    leaves = ((below < low[:, None]) | (below > high[:, None])).any(0)
    assert (leaves == (p <= 0.05)).all()


def test_p_values_of_what_is_far_off():
    uniform = UniformRanks(1000, 99)
    p = uniform.p_values(np.stack([np.zeros(1000, int), np.arange(1000) % 100], 1))
    assert 0 <= p[0] < 1e-100
    assert p[1] == 1


# --- the guide of a system whose posterior is known


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("missing", [False, True], ids=["whole", "missing"])
def test_scale_is_found_out(kind, missing):
    """More in benchmarks/calibration.py."""
    for wider in (1.0, 0.8, 1.25):
        s = system(kind, missing, exact=True, wider=wider)
        found = pv.evaluate.calibration(s.program, s.batch, **FAST)
        assert (found.p_value < 0.05) == (wider != 1.0), str(found)
        torch.testing.assert_close(
            found.scale[:-2], torch.full_like(found.scale[:-2], wider), atol=0.2, rtol=0
        )
        assert found.shift[:-2].abs().max() < 0.15
        assert bool((found.adjusted < 0.05).any()) == (wider != 1.0)


@pytest.mark.usefixtures("double")
def test_false_alarms_and_power_over_repeated_runs():
    """30 runs of 250 simulations: of 30 at 5 % no more than 5 are below 0.05, but in 1 of 100 tries."""
    for wider in (1.0, 0.8, 1.25):
        s = system("VAE", exact=True, wider=wider)
        options = FAST | {"num_simulations": 250 if wider == 1 else 1000, "num_samples": 49}
        alarms = sum(
            pv.evaluate.calibration(s.program, seed=i, **options).p_value < 0.05
            for i in range(30 if wider == 1 else 5)
        )
        assert alarms <= 5 if wider == 1 else alarms == 5


@pytest.mark.usefixtures("double")
def test_what_is_missing_is_copied():
    """A guide that is the posterior of what is seen is none of what is not."""
    s = system("VAE", missing=True, exact=True)
    assert s.batch["x"][:, ~PATTERN].isnan().all()
    assert pv.evaluate.calibration(s.program, s.batch, **FAST).p_value > 0.05
    told = str(pv.evaluate.calibration(s.program, s.batch, num_simulations=30))
    assert "(30 simulations, values missing as in the 6 data; " in told
    moved = system("VAE", missing=True)  # made for other gaps
    assert pv.evaluate.calibration(moved.program, moved.batch, **FAST).p_value < 1e-6


@pytest.mark.usefixtures("double")
def test_a_shift_is_found_out():
    s = system("VAE", exact=True)
    sd = s.q.stddev[0, 1]
    with torch.no_grad():
        s.program.q_z.net.layers[0].bias[1] -= 0.5 * sd
    found = pv.evaluate.calibration(s.program, **FAST)
    assert found.names == ("z[0]", "z[1]", "log p(x, z)", "distance")
    assert found.p_values[0] > 0.001 > found.p_values[1]
    assert found.shift[1].item() == pytest.approx(0.5, abs=0.1)
    assert "z[1]: p < 1e-6; the guide is about " in str(found)
    assert "z[1]" in found._repr_html_()


@pytest.mark.usefixtures("double")
def test_a_guide_that_does_not_look_is_found_out():
    """The prior as the guide has uniform ranks of each latent, and not of log p(x, z)."""
    s = system("VAE", exact=True)
    layer = s.program.q_z.net.layers[0]
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias[:2] = 0.0
        layer.bias[2:] = _raw_scale(s.program.q_z, torch.ones(2))
    found = pv.evaluate.calibration(s.program, **FAST)
    assert found.p_values[:2].min() > 0.01
    assert found.p_values[2] < 1e-6
    assert found.p_value < 1e-5


class Switch(pv.Program):
    """k of three classes and x from N(k, 1), whose posterior is in closed form; logits times ``factor``."""

    def __init__(self, factor):
        super().__init__()
        self.factor, self.event_shapes = factor, {"x": (1,)}
        self.loc = torch.nn.Parameter(torch.arange(3.0))

    def model(self, batch):
        with self.plate(batch):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
            self.sample("x", dist.Normal(self.loc[k][..., None], 1.0).to_event(1), batch)

    def guide(self, batch):
        logits = torch.tensor([0.5, 0.3, 0.2]).log() - 0.5 * (batch["x"] - self.loc).square()
        with self.plate(batch):
            pyro.sample("k", dist.Categorical(logits=self.factor * logits))


def test_ties_of_discrete_latents_are_broken_at_random():
    exact = pv.evaluate.calibration(Switch(1.0))
    assert exact.names[0] == "k"
    assert exact.p_value > 0.05
    assert pv.evaluate.calibration(Switch(2.0)).p_value < 1e-3


# --- every program


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program(name):
    program = make(name)
    batch = batch_of(program, 6)
    if not program.given_columns:
        batch["x"].flatten(1)[:3, 0] = torch.nan
    if name == "SelectionVAE":
        with pytest.raises(ValueError, match="whether a value is missing depends on it"):
            pv.evaluate.calibration(program, batch)
        return
    before = {key: value.clone() for key, value in program.state_dict().items()}
    modes, state = [m.training for m in program.modules()], torch.get_rng_state()
    options = {"num_simulations": 12, "num_samples": 7, "max_rows": 30}
    with pytest.warns(DataWarning, match="another density") if name == "CountVAE" else no_warning():
        found, again = (pv.evaluate.calibration(program, batch, **options) for _ in range(2))
    other = pv.evaluate.calibration(program, batch, seed=1, **options) if name != "CountVAE" else found
    assert found.ranks.shape == (12, len(found.names)) == (12, len(found.p_values))
    assert ((found.ranks >= 0) & (found.ranks <= 7)).all()
    assert torch.equal(found.ranks, again.ranks)
    assert name == "CountVAE" or not torch.equal(found.ranks, other.ranks)
    assert torch.equal(state, torch.get_rng_state())
    assert [m.training for m in program.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in program.state_dict().items())
    assert all(p.grad is None for p in program.parameters())


class no_warning:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def test_without_data_nothing_is_missing():
    assert pv.evaluate.calibration(make("ConditionalVAE"), num_simulations=10).names[:2] == ("z[0]", "z[1]")
    levels = pv.evaluate.calibration(make("HierarchicalVAE-bottom-up"), num_simulations=10)
    assert [name.split("[")[0] for name in levels.names[:-2]] == ["z2"] * 3 + ["z1"] * 4
    assert "(10 simulations, nothing missing; " in str(levels)
    with pytest.raises(pv.data.DataError, match="needs values of"):
        pv.evaluate.calibration(make("ConditionalVAE"), torch.zeros(4, 2, 3))


def test_that_gaps_are_not_copied_is_told():
    """Of a guide that was trained on them, as its networks' masks tell."""
    x = torch.randn(40, 3)
    x[::2, 1] = torch.nan
    vae = pv.VAE((3,), 2, likelihood=pv.likelihoods.Normal(), encoder=pv.nets.mlp(4), decoder=pv.nets.mlp(4))
    vae.initialize(pv.data.Split(x))
    with pytest.warns(DataWarning, match="values of x are missing, and of what is simulated nothing is"):
        pv.evaluate.calibration(vae, num_simulations=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pv.evaluate.calibration(vae, x, num_simulations=10)


def test_of_few_simulations_nothing_is_said_of_widths():
    vae = pv.VAE((3,), 2, likelihood=pv.likelihoods.Normal(), encoder=pv.nets.mlp(4), decoder=pv.nets.mlp(4))
    few, enough = (pv.evaluate.calibration(vae, num_simulations=n, num_samples=9) for n in (2, 20))
    few, enough = (dataclasses.replace(one, p_values=torch.tensor([0.01, 1, 1, 1])) for one in (few, enough))
    assert "times as wide" not in str(few)
    assert "width" not in few._repr_html_()
    assert "times as wide" in str(enough)
    assert "width" in enough._repr_html_()
    for wrong in ({"num_simulations": 1}, {"num_samples": 1}):
        with pytest.raises(pv.checks.ConfigError, match="=1 must be 2 or more"):
            pv.evaluate.calibration(vae, **wrong)


# --- figures


@pytest.mark.parametrize("latents", [1, 50])
def test_figure(latents):
    vae = pv.VAE((3,), latents, likelihood=pv.likelihoods.Normal(), encoder=pv.nets.mlp(4))
    found = pv.evaluate.calibration(vae, num_simulations=100, num_samples=19)
    figure = pv.figures.calibration(found)
    assert isinstance(figure, Figure)
    above, below = figure.subfigs
    assert sum(axes.axison for axes in above.axes) == min(4, latents + 2)
    curves = below.axes[0]
    assert len(curves.lines) == 1 + latents + 2
    worst = found.p_values.argsort()[: min(4, latents + 2)].tolist()
    assert {text.get_text() for text in curves.get_legend().get_texts()} == {found.names[i] for i in worst}
    low, high = UniformRanks(100, 19).band(1 - 0.05 / (latents + 2))
    off = [i for i in range(latents + 2) if found.p_values[i] * (latents + 2) <= 0.05]
    below_ = UniformRanks(100, 19).below(found.ranks.numpy())
    leaves = ((below_ < low[:, None]) | (below_ > high[:, None])).any(0)
    assert np.flatnonzero(leaves).tolist() == off


# --- sbi

ORACLE = """
import sys
import warnings
sys.path[:0] = {paths!r}
import torch
torch.set_default_dtype(torch.float64)
from linear import system
import importlib
calibration = importlib.import_module("pyro_vae.evaluate.calibration")
seen, points, plain, quantities = [], [], calibration._ranks, calibration._quantities
calibration._ranks = lambda *a: seen.append(a) or plain(*a)
calibration._quantities = lambda z, log_p, point: points.append(point) or quantities(z, log_p, point)
found = {{}}
for wider in (1.0, 0.8, 1.25):
    s = system("top_down", exact=True, wider=wider)
    seen.clear(), points.clear()
    result = calibration.calibration(s.program, num_samples=100, max_rows=10_000)
    truth, draws, point = (torch.cat(parts, dim) for parts, dim in (
        ([t for t, _ in seen], 0), ([d for _, d in seen], 1), (points[::2], 0)))
    found[wider] = result, truth, draws, point
from sbi.diagnostics.sbc import check_uniformity_frequentist, run_sbc
from sbi.diagnostics.tarp import check_tarp, run_tarp
class Stub:
    def __init__(self, draws): self.draws = draws
    def sample_batched(self, *_, **__): return self.draws
for wider, (result, truth, draws, point) in found.items():
    theta, stub = truth[:, :-2], Stub(draws[..., :-2])
    ranks, _ = run_sbc(theta, theta, stub, 100, show_progress_bar=False)
    assert torch.equal(ranks.long(), result.ranks[:, :-2])
    p = check_uniformity_frequentist(ranks, 100)
    assert (p.min() * p.numel() < 0.05) == (result.p_values[:-2].min() * p.numel() < 0.05) == (wider != 1)
    options = dict(references=point, num_posterior_samples=100, num_bins=30, z_score_theta=False)
    ecp, alpha = run_tarp(theta, theta, stub, show_progress_bar=False, **options)
    share = result.ranks[:, -1] / 100
    ours = torch.stack([(share < a - 1e-9).double().mean() for a in alpha[:-1]])
    assert (ours - ecp[:-1]).abs().max() < 0.02, (ours, ecp)  # of one rank, at the edge of a bin
    area, _ = check_tarp(ecp, alpha)
    print(wider, result.p_value, p.tolist(), area)
print("agreed")
"""


@pytest.mark.skipif(find_spec("sbi") is None, reason="sbi is not installed: pip install sbi")
def test_sbi_agrees():
    """In a process of its own, as importing sbi changes torch's distributions."""
    tests = Path(__file__).parents[1]
    code = ORACLE.format(paths=[str(tests), str(tests / "models")])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.rstrip().endswith("agreed"), done.stderr
