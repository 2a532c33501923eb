"""A step at the speed of compiled code for any Pyro model: regression, a mixture, topics.

The three models are Pyro programs that know nothing of this package. Each is trained twice under one seed,
by Pyro's SVI and by ours, which takes its place as it is; both follow the same path, and the last column
tells how many times faster ours is once it is compiled (2 to 13 times on two cores: the smaller the
tensors, the more of a step was Pyro's Python). Expect losses, which are negative ELBOs, that agree to six
figures.

    python examples/any_pyro_model.py
"""

import argparse
import time

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal
from torch import nn

from pyro_vae.svi import SVI

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=300, help="steps of each model")
steps = parser.parse_args().epochs
torch.manual_seed(0)


# Bayesian regression, with a full-rank Normal guide made from the model.


def regression(x, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(10), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, scale), obs=y)


# A mixture of Normals, whose assignments are summed out.


@config_enumerate
def mixture(x):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("components", 3):
        locs = pyro.sample("locs", dist.Normal(0.0, 5.0))
    with pyro.plate("data", len(x)):
        component = pyro.sample("component", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(locs[component], 1.0), obs=x)


# Topics of documents: ProdLDA (Srivastava and Sutton, 2017), amortised by a network.

NUM_TOPICS, NUM_WORDS, DOCUMENT_LENGTH = 5, 200, 50


class Topics(nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(NUM_TOPICS, NUM_WORDS, bias=False)
        self.encoder = nn.Sequential(nn.Linear(NUM_WORDS, 64), nn.Softplus(), nn.Linear(64, 2 * NUM_TOPICS))

    def model(self, counts):
        pyro.module("decoder", self.decoder)
        with pyro.plate("documents", len(counts)):
            logits = pyro.sample("topics", dist.Normal(torch.zeros(NUM_TOPICS), 1.0).to_event(1))
            words = self.decoder(logits.softmax(-1)).softmax(-1)
            pyro.sample("words", dist.Multinomial(DOCUMENT_LENGTH, words), obs=counts)

    def guide(self, counts):
        pyro.module("encoder", self.encoder)
        with pyro.plate("documents", len(counts)):
            loc, log_scale = self.encoder(counts).chunk(2, -1)
            pyro.sample("topics", dist.Normal(loc, log_scale.exp()).to_event(1))


def make_regression():
    return regression, AutoMultivariateNormal(regression), Trace_ELBO()


def make_mixture():
    guide = AutoDelta(poutine.block(mixture, expose=["weights", "locs"]))
    return mixture, guide, TraceEnum_ELBO(max_plate_nesting=1)


def make_topics():
    topics = Topics()
    return topics.model, topics.guide, TraceMeanField_ELBO()


x = torch.randn(500, 10)
frequencies = dist.Dirichlet(0.1 * torch.ones(NUM_WORDS)).sample((300,))
problems = {
    "regression": (make_regression, [x, x.sum(-1) + 0.1 * torch.randn(500)]),
    "mixture": (make_mixture, [torch.cat([torch.randn(100) + center for center in (-6, 0, 6)])]),
    "topics": (make_topics, [dist.Multinomial(DOCUMENT_LENGTH, frequencies).sample()]),
}

print(f"{'':10} {'steps by':>14} {'loss -ELBO':>12} {'ms per step':>12} {'times faster':>13}")
for name, (make, data) in problems.items():
    eager = 0.0
    for kind, options in ((pyro.infer.SVI, {}), (SVI, {"compile": True})):
        pyro.clear_param_store()
        torch.manual_seed(1)
        model, guide, loss = make()
        svi = kind(model, guide, pyro.optim.Adam({"lr": 0.01}), loss, **options)
        for _ in range(2):  # the first makes what is learned, the second compiles
            svi.step(*data)
        began = time.perf_counter()
        for _ in range(steps):
            last = svi.step(*data)
        seconds = (time.perf_counter() - began) / steps
        eager = eager or seconds
        print(f"{name:10} {kind.__module__:>14} {last:12.3f} {1000 * seconds:12.2f} {eager / seconds:13.1f}")
