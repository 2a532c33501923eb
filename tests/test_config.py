import functools

import pyro.distributions as dist
import pyro.infer
import pytest
import torch
import yaml
from torch import nn

import pyro_vae as pv
from pyro_vae import config
from pyro_vae.config import ConfigError

SKIP = ["vae", "data", "folder", "resume", "progress"]


class Net(nn.Module):
    def __init__(self, in_shape, out_shape, width: int = 3):
        super().__init__()
        self.width = width


def net_function(in_shape, out_shape) -> nn.Module:
    return nn.Linear(in_shape[0], out_shape[0])


def round_trip(function, skip, **parts):
    described = {name: config.describe(part) for name, part in parts.items()}
    described = yaml.safe_load(yaml.safe_dump(described))
    built = config.build(function, described, skip)
    again = {name: config.describe(built[name]) for name in parts}
    assert again == described
    return built


@pytest.mark.parametrize(
    "net",
    [pv.nets.mlp(3, 4), pv.nets.mlp(), pv.nets.conv(8, hidden_dim=5), pv.nets.mlp(3, activation=nn.Tanh)],
)
def test_nets(net):
    shapes = ((1, 4, 4), (6,))
    built = round_trip(pv.VAE, ["event_shape"], encoder=net)["encoder"]
    assert repr(built(*shapes)) == repr(net(*shapes))


@pytest.mark.parametrize(("net", "width"), [(Net, 3), (functools.partial(Net, width=9), 9)])
def test_own_nets(net, width):
    assert round_trip(pv.VAE, ["event_shape"], encoder=net)["encoder"]((1,), (1,)).width == width


@pytest.mark.parametrize("net", [net_function, lambda i, o: nn.Linear(i[0], o[0])])
def test_functions_are_not_rebuilt(net):
    """A configuration may come from somebody else: only classes of known kinds are made from it."""
    with pytest.raises(ConfigError, match=r"net_function|lambda"):
        config.build(pv.VAE, {"encoder": config.describe(net)}, ["event_shape"])


@pytest.mark.parametrize(
    "optimizer", [torch.optim.Adam, torch.optim.RMSprop, functools.partial(torch.optim.SGD, momentum=0.9)]
)
def test_optimizers(optimizer):
    built = round_trip(pv.fit, SKIP, optimizer=optimizer)["optimizer"]
    p = [nn.Parameter(torch.zeros(3))]
    made, expected = built(p, 0.1), optimizer(p, 0.1)
    assert type(made) is type(expected)
    one, other = made.param_groups[0], expected.param_groups[0]
    assert {k: v for k, v in one.items() if k != "params"} == {
        k: v for k, v in other.items() if k != "params"
    }


@pytest.mark.parametrize(
    "loss",
    [
        pyro.infer.Trace_ELBO(),
        pyro.infer.TraceMeanField_ELBO(num_particles=3),
        pyro.infer.RenyiELBO(alpha=0.5, num_particles=4, vectorize_particles=True),
    ],
)
def test_losses(loss):
    built = round_trip(pv.fit, SKIP, loss=loss)["loss"]
    assert type(built) is type(loss)
    assert vars(built) == vars(loss)


@pytest.mark.parametrize("keyword", ["probs", "logits"])
def test_probs_and_logits_are_told_apart(keyword):
    p = dist.Bernoulli(**{keyword: torch.tensor(0.3)})
    _ = p.probs, p.logits
    assert list(config.describe(p)["init_args"]) == [keyword]


def test_matrices_that_were_computed_are_told_apart():
    p = dist.MultivariateNormal(torch.zeros(2), torch.tensor([[2.0, 0.5], [0.5, 1.0]]))
    _ = p.precision_matrix, p.scale_tril
    built = config.build(pv.VAE, {"prior": config.describe(p)}, ["event_shape"])["prior"]
    torch.testing.assert_close(built.covariance_matrix, p.covariance_matrix)


def test_short_names():
    assert config.resolve("likelihood", "Normal") == "pyro_vae.likelihoods.Normal"
    assert config.resolve("prior", "Normal") == "pyro_vae.priors.Normal"
    assert config.resolve("prior", "Laplace") == "pyro.distributions.Laplace"
    assert config.resolve("optimizer", "adamw") == "torch.optim.AdamW"
    assert config.resolve("encoder", "conv") == "pyro_vae.nets.Conv"
    assert config.resolve("encoder", "mine.Net") == "mine.Net"
    with pytest.raises(ConfigError, match="did you mean RenyiELBO"):
        config.resolve("loss", "Renyi_ELBO")
    built = config.build(pv.VAE, {"likelihood": "Bernoulli", "latent_dim": 3}, ["event_shape"])
    assert isinstance(built["likelihood"], pv.likelihoods.Bernoulli)
    assert built["latent_dim"] == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"latent_dim": "many"}, "latent_dim"),
        ({"prior": {"class_path": "nowhere.Prior"}}, "nowhere"),
        ({"prior": {"class_path": "pyro_vae.priors.Nothing"}}, "Nothing"),
        ({"prior": {"class_path": "torch.nn.Linear"}}, "prior"),
        (
            {"likelihood": {"class_path": "pyro_vae.likelihoods.Normal", "init_args": {"scale": "big"}}},
            "scale",
        ),
        ({"encoder": {"class_path": "os.getcwd"}}, "is not made"),
        ({"prior": {"class_path": "os.system", "init_args": {"command": "true"}}}, "is not made"),
        ({"prior": {"init_args": {"loc": {"class_path": "os.system"}}}}, "is not made"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(ConfigError, match=message):
        config.build(pv.VAE, values, ["event_shape"])
