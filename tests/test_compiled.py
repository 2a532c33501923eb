"""VAEs, compiled: with all kinds of parts, and in runs of fit."""

import pyro.distributions as dist
import pytest
import torch
from plain import assert_same, make_svi, train
from pyro import poutine

import pyro_vae as pv
from pyro_vae.training import Interrupted


def images(*sizes):
    generator = torch.Generator().manual_seed(5)
    return [torch.bernoulli(torch.rand(size, 1, 8, 8, generator=generator)) for size in sizes or [32] * 6]


@pytest.mark.parametrize(
    "parts",
    [
        {"prior": dist.StudentT(3.0, 0.0, 1.0), "likelihood": pv.likelihoods.Normal(scale="per_element")},
        {"prior": pv.priors.VampPrior(5), "guide": pv.guides.FullRankNormal()},
        {"prior": dist.Dirichlet(torch.ones(2)), "guide": pv.guides.MixtureOfNormals(2)},
        {"prior": pv.priors.Flow(num_transforms=2), "guide": pv.guides.Flow("planar")},
        {"likelihood": pv.likelihoods.DiscretizedLogisticMixture(2, levels=3), "guide": dist.StudentT},
        {"encoder": pv.nets.conv(4, hidden_dim=16), "decoder": pv.nets.conv(4, hidden_dim=16)},
    ],
    ids=["student", "vamp", "mixture", "flow", "levels", "conv"],
)
def test_parts(make_vae, parts):
    compiled, one, other = train(lambda: make_vae(**parts), images())
    assert compiled.engine == "compiled, float32"
    assert_same(one, other, 1e-4)


@pytest.mark.parametrize("compile", [True, False])
def test_densities_are_in_float32(make_vae, compile):
    vae, x = make_vae(), images(32)[0]
    svi = make_svi(vae, precision="bf16", compile=compile)
    for _ in range(2):
        assert svi.step(x).dtype == torch.float32
    assert svi.engine == f"{'compiled' if compile else 'eager'}, bf16"
    with torch.autocast("cpu", torch.bfloat16):
        guide = poutine.trace(vae.guide).get_trace(x)
        model = poutine.trace(poutine.replay(vae.model, trace=guide)).get_trace(x)
        model.compute_log_prob()
    values = [guide.nodes["z"]["value"], model.nodes["z"]["value"]]
    values += [model.nodes[name]["log_prob"] for name in ("z", "x")]
    assert {value.dtype for value in values} == {torch.float32}


def test_one_compilation_for_a_run(make_vae, digits, capsys, uncompiled):
    """With schedules of the KL and the learning rate; the smaller last batch is taken eagerly."""
    pv.fit(make_vae(), digits, epochs=4, batch_size=500, warmup_epochs=3, compile=True)
    assert len(digits.train) % 500
    out = capsys.readouterr().out
    assert out.count("compiled the step for arguments of shape") == 1
    assert "compiled, float32" in out


def test_fit_is_the_same_run(make_vae, digits):
    options = {"epochs": 3, "batch_size": 300, "warmup_epochs": 2, "clip_norm": 5.0, "progress": False}
    runs = [pv.fit(make_vae(), digits, compile=compile, **options) for compile in (True, False)]
    assert_same(runs[0].program, runs[1].program, 1e-4)
    for one, other in zip(runs[0].history, runs[1].history, strict=True):
        for name in ("loss", "kl", "reconstruction", "validation_elbo"):
            assert one[name] == pytest.approx(other[name], rel=1e-4)


def test_compiled_run_resumes_bitwise(make_vae, digits):
    options = {"epochs": 3, "batch_size": 400, "compile": True, "lr": 1e-2, "progress": False}
    whole = pv.fit(make_vae(), digits, **options)
    step, count = pv.svi.SVI.step, 0

    def interrupt(self, *args):
        nonlocal count
        count += 1
        if count == 6:
            raise KeyboardInterrupt
        return step(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pv.svi.SVI, "step", interrupt)
        with pytest.raises((Interrupted, KeyboardInterrupt)):
            pv.fit(make_vae(), digits, folder="parts", **options)
    resumed = pv.fit(make_vae(), digits, folder="parts", resume=True, **options)
    for a, b in zip(whole.program.state_dict().values(), resumed.program.state_dict().values(), strict=True):
        assert torch.equal(a, b)
