"""Fifty labels: what do rows without one teach a classifier?

Of scikit-learn's 1797 digits five of each class keep their label. A semi-supervised VAE (Kingma et al., 2014)
learns p(y) p(z) p(x|z, y) from all of them: where a label is not known, the ELBO is summed over the ten that
it may be. Expect about 0.95 of the other digits' classes to be right, and 0.81 of logistic regression, which
sees the fifty alone. The same model draws a digit that is asked for, and tells by log p(x, y) how well a
label fits.

    python examples/few_labels.py
"""

import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import pyro_vae as pv

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=80)
parser.add_argument("--each", type=int, default=5, help="labels of each class")
parser.add_argument("--seed", type=int, default=0)
given = parser.parse_args()

x, digit = load_digits(return_X_y=True)
x = (x / 16).reshape(-1, 1, 8, 8).astype("float32")  # pixels are of one unit, and stay so
random = np.random.default_rng(given.seed)
known = np.concatenate([random.permutation(np.flatnonzero(digit == k))[: given.each] for k in range(10)])
others = np.setdiff1d(np.arange(len(x)), known)
y = np.full(len(x), np.nan, "float32")  # not known
y[known] = digit[known]

data = pv.data.load({"x": x, "y": y}, validation=0.0, test=0.0)
torch.manual_seed(given.seed)
vae = pv.SemiSupervisedVAE(
    data.event_shape,
    num_classes=10,
    latent_dim=5,
    likelihood=pv.likelihoods.Normal(scale="shared"),
    classifier=pv.nets.mlp(64),
    encoder=pv.nets.mlp(64),
    decoder=pv.nets.mlp(64),
)
print(str(vae.explain()).split("The ELBO")[1].split("Parameters")[0])
pv.fit(vae, data, epochs=given.epochs, lr=3e-3, seed=given.seed)

pixels = x.reshape(len(x), -1)
alone = (
    LogisticRegression(max_iter=1000).fit(pixels[known], digit[known]).score(pixels[others], digit[others])
)
right = (vae.classify(x[others]).argmax(1).numpy() == digit[others]).mean()
print(f"right of those without a label: {right:.3f}, and of logistic regression on the others {alone:.3f}")

some = torch.from_numpy(x[others[:200]])
scores = {
    name: pv.evaluate.log_likelihood(vae, {"x": some, "y": torch.from_numpy(labels)}, num_samples=100)
    for name, labels in (("true", digit[others[:200]]), ("next", (digit[others[:200]] + 1) % 10))
}
for name, score in scores.items():
    print(f"with the {name} label, log p(x, y) is {score.log_likelihood:.1f} nats per datum")
three = vae.generate(5, given={"y": 3})["x"]
print(f"five draws of p(x|y=3) are classified as {vae.classify(three).argmax(1).tolist()}")
