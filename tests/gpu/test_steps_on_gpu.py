"""Steps on a GPU: those of Pyro, eager, and replayed as one CUDA graph, are the same steps."""

import copy
import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from plain import Autoencoder, B, assert_same, batches, take
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch.optim import lr_scheduler

from pyro_vae.svi import SVI, NonFiniteLossError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch can use"),
]


def on_gpu(*xs):
    return [x.cuda() for x in xs]


def adam(parameters, cls=torch.optim.Adam, **options):
    return cls(parameters, torch.tensor(1e-2, device="cuda"), fused=True, capturable=True, **options)


def test_step_for_step_with_pyro():
    """Eager, ours has Pyro's numbers; replayed, the same to rounding."""
    losses, modules, xs = {}, {}, on_gpu(*batches())
    for way in ("Pyro", "eager", "CUDA graph"):
        pyro.clear_param_store()
        module = modules[way] = Autoencoder().cuda()
        if way == "Pyro":
            optim = pyro.optim.Adam({"lr": 1e-2})
            svi = pyro.infer.SVI(module.model, module.guide, optim, Trace_ELBO())
        else:
            compile = way == "CUDA graph"
            svi = SVI(module.model, module.guide, adam(module.parameters()), Trace_ELBO(), compile=compile)
        torch.manual_seed(0)
        losses[way] = [float(svi.step(x)) for x in xs * 3]
        if way != "Pyro":
            svi.check()
            assert svi.engine == f"{way}, float32"
    assert losses["eager"] == pytest.approx(losses["Pyro"], rel=1e-5)
    assert losses["CUDA graph"] == pytest.approx(losses["Pyro"], rel=1e-4)
    assert_same(modules["eager"], modules["Pyro"], 1e-4)
    assert_same(modules["CUDA graph"], modules["Pyro"], 1e-3)


@pytest.mark.parametrize(
    ("optimizer", "options", "made"),
    [
        (adam, {"clip_norm": 0.5}, {}),
        (functools.partial(adam, cls=torch.optim.AdamW, weight_decay=0.1), {}, {}),
        (functools.partial(adam, amsgrad=True), {"reduction": "mean"}, {}),
        (adam, {"precision": "bf16"}, {}),
        (adam, {"loss": RenyiELBO(alpha=0.0, num_particles=3, vectorize_particles=True)}, {}),
        (adam, {"loss": TraceMeanField_ELBO()}, {}),
        (adam, {}, {"dropout": 0.3}),
    ],
    ids=["clipped", "AdamW", "amsgrad", "bf16", "Renyi", "mean field", "dropout"],
)
def test_replayed_is_eager(uncompiled, optimizer, options, made):
    """With a learning rate that a scheduler changes, and a second shape; the noise is the same."""
    xs, modules = on_gpu(*batches(*[B, B, B, 7] * 4)), []
    options = dict(options)
    loss = options.pop("loss", Trace_ELBO())
    for compile in (True, False):
        pyro.clear_param_store()
        module = Autoencoder(**made).cuda()
        optim = optimizer(module.parameters())
        scheduler = lr_scheduler.ExponentialLR(optim, 0.8)
        kept = copy.copy(loss)  # it keeps what it guesses of the plates, and draws for the guess
        svi = SVI(module.model, module.guide, optim, kept, compile=compile, **options)
        torch.manual_seed(0)
        for x in xs:
            take(svi, x)
            scheduler.step()
        assert svi.engine.startswith("CUDA graph" if compile else "eager")
        assert svi.num_compilations == (2 if compile else 0)
        modules.append(module)
    assert_same(*modules, 5e-2 if options.get("precision") else 1e-4)


def test_nothing_waits_for_a_step(uncompiled):
    """It is replayed, not recorded again, and the host does not wait."""
    module = Autoencoder().cuda()
    svi = SVI(module.model, module.guide, adam(module.parameters()), Trace_ELBO(), compile=True)
    xs = on_gpu(*batches())
    take(svi, *xs)
    (step,) = svi._steps._made
    recorded = step.replays[1]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for x in xs[:4]:  # up to the next check against the eager step
            svi.step(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    svi.check()
    assert step.replays == {1: recorded}


@pytest.mark.parametrize("number", [3, 8])
def test_several_at_once(uncompiled, number):
    """Draw and give what single steps do, to the bit, with a learning rate for each; and wait for nothing."""
    xs, states = torch.stack(on_gpu(*batches(*[B] * 24))), []
    rates = [1e-2 / (1 + i) for i in range(24)]
    for several in (1, number):
        pyro.clear_param_store()
        module = Autoencoder().cuda()
        svi = SVI(module.model, module.guide, adam(module.parameters()), Trace_ELBO(), compile=True)
        torch.manual_seed(0)
        take(svi, *xs[:12])
        losses = [svi.steps(rates[:several], xs[:several])]
        torch.cuda.set_sync_debug_mode("error")
        try:
            losses += [
                svi.steps(rates[i : i + several], xs[i : i + several]) for i in range(several, 24, several)
            ]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        svi.check()
        assert set(svi._steps._made[0].replays) == {1, several}
        states.append([torch.cat(losses), *module.state_dict().values(), torch.cuda.get_rng_state()])
    torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_failed_step_of_several(uncompiled):
    """It is explained by the noise that it had."""
    module = Autoencoder(likelihood=lambda raw: dist.Normal(raw, 1.0)).cuda()
    optim = adam(module.parameters())
    svi = SVI(module.model, module.guide, optim, Trace_ELBO(), compile=True)
    xs = torch.stack(on_gpu(*batches()))
    take(svi, *xs)
    before = copy.deepcopy([module.state_dict(), optim.state_dict()])
    bad = xs.clone()
    bad[0, 3, 18] = math.inf
    with pytest.raises(NonFiniteLossError, match="in step 7: the value at site 'z' of the guide"):
        take_several(svi, bad[:3])
    torch.testing.assert_close([module.state_dict(), optim.state_dict()], before, rtol=0, atol=0)
    take_several(svi, xs[:3])
    assert svi.num_steps == 9


def take_several(svi, xs):
    svi.steps(None, xs)
    svi.check()


@pytest.mark.parametrize("optimizer", ["SGD", "pyro"])
def test_what_cannot_be_recorded_is_compiled(uncompiled, optimizer):
    module, xs = Autoencoder().cuda(), on_gpu(*batches())
    optim = (
        torch.optim.SGD(module.parameters(), 1e-3) if optimizer == "SGD" else pyro.optim.Adam({"lr": 1e-3})
    )
    svi = SVI(module.model, module.guide, optim, Trace_ELBO(), compile=True)
    take(svi, *xs)
    assert svi.engine == "compiled, float32"


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_failed_step_is_named_and_not_taken(uncompiled):
    """It is looked for later, and neither it nor those after it are taken."""
    module = Autoencoder(likelihood=lambda raw: dist.Normal(raw, 1.0)).cuda()
    optim = adam(module.parameters())
    svi = SVI(module.model, module.guide, optim, Trace_ELBO(), compile=True)
    xs = on_gpu(*batches())
    take(svi, *xs)
    assert svi.engine == "CUDA graph, float32"
    before = copy.deepcopy([module.state_dict(), optim.state_dict()])
    bad = xs[0].clone()
    bad[3, 18] = math.inf
    with pytest.raises(NonFiniteLossError, match="in step 7: the value at site 'z' of the guide"):
        take(svi, bad, *xs)
    torch.testing.assert_close([module.state_dict(), optim.state_dict()], before, rtol=0, atol=0)
    assert svi.num_steps == 6
    take(svi, *xs)
    assert svi.num_steps == 12


def test_the_same_seed_gives_the_same_bits():
    states = []
    for _ in range(2):
        pyro.clear_param_store()
        module = Autoencoder().cuda()
        svi = SVI(module.model, module.guide, adam(module.parameters()), Trace_ELBO(), compile=True)
        torch.manual_seed(0)
        take(svi, *on_gpu(*batches()) * 3)
        states.append(module.state_dict())
    torch.testing.assert_close(*states, rtol=0, atol=0)
