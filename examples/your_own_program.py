"""A program of your own: images and their labels, with one latent for what is written and one for how.

Two latents, two observed sites, thirty lines of Pyro. Being a `pv.Program` is all that it takes: it is
trained in compiled steps, evaluated, kept, loaded and explained like every model of this package.

    content ~ Normal(0, I), style ~ Normal(0, I), y | content ~ Categorical, x | content, style ~ Bernoulli

The guide sees the image alone, and so reads a digit that nobody has labelled. A value that is NaN is not
observed: without its labels the same program gives log p(x), and the difference is log p(y|x).

Expect: log p(x, y) -23.1 and log p(x) -22.5 nats per digit, so that log p(y|x) is -0.6, where a guess has
-2.3; 84 % of the test digits read as labelled; a minute on two cores, most of it compiling.

    python examples/your_own_program.py
"""

import argparse
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_vae as pv


class ContentAndStyle(pv.Program):
    def __init__(self, content_dim=6, style_dim=6):
        super().__init__()
        self.dims = [content_dim, style_dim]
        self.read = pv.nets.mlp(100)((content_dim,), (10,))  # or any nn.Module
        self.decoder = pv.nets.mlp(200)((sum(self.dims),), (1, 8, 8))
        self.encoder = pv.nets.mlp(200)((1, 8, 8), (2 * sum(self.dims),))

    def model(self, batch):
        zeros = torch.zeros(sum(self.dims), device=self.device).split(self.dims)
        with self.plate(batch):
            content = pyro.sample("content", dist.Normal(zeros[0], 1.0).to_event(1))
            style = pyro.sample("style", dist.Normal(zeros[1], 1.0).to_event(1))
            self.sample("y", dist.Categorical(logits=self.read(content)), batch)
            self.sample("x", dist.Bernoulli(logits=self.decode(content, style)).to_event(3), batch)

    def guide(self, batch):
        loc, raw = (half.split(self.dims, -1) for half in self.encoder(batch["x"]).chunk(2, -1))
        with self.plate(batch):
            for i, name in enumerate(("content", "style")):
                pyro.sample(name, dist.Normal(loc[i], nn.functional.softplus(raw[i])).to_event(1))

    def decode(self, content, style):
        return self.decoder(torch.cat([content, style], -1))


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=150)
args = parser.parse_args()
digits = pv.data.load("digits", binarize="dynamic")  # sites x and y
torch.manual_seed(0)
program = ContentAndStyle()
folder = pv.checkpoint.new_folder("content-and-style")
settings = {"epochs": args.epochs, "warmup_epochs": args.epochs // 3, "lr": 5e-3, "compile": True}
pv.fit(program, digits, folder=folder, **settings)
program = pv.load(folder, program=ContentAndStyle())  # as it was trained
print(program.explain())

print("test", pv.evaluate.elbo(program, digits.test))
both = digits.test.batch(slice(None))
unlabelled = both | {"y": torch.full((len(digits.test),), torch.nan)}
log_p = [pv.evaluate.log_likelihood(program, batch).log_likelihood for batch in (both, unlabelled)]
print(f"log p(x, y) = {log_p[0]:.2f}, log p(x) = {log_p[1]:.2f}, log p(y|x) = {log_p[0] - log_p[1]:.2f} nats")
with program.evaluating():
    content, style = program.encoder(both["x"]).chunk(2, -1)[0].split(program.dims, -1)
    right = program.read(content).argmax(-1) == both["y"]
    some = [int((both["y"] == label).nonzero()[0]) for label in range(10)]
    rows = [program.decode(content[some], style[i].expand(10, -1)).sigmoid() for i in some]
print(f"read as labelled: {right.float().mean():.1%} of the test digits")
Path("figures").mkdir(exist_ok=True)
title = "The content of each digit 0 to 9 (across) in the style of each (down)"
figure = pv.figures.grid([both["x"][some], *rows], title, ["digits", *map(str, range(10))])
figure.savefig("figures/your_own_program.png")
