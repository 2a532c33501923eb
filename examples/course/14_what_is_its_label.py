# %% [markdown]
# # 14. What is the label of an unlabelled digit?
#
# A label that nobody wrote down is a latent variable like any other, but one of few values: one can do with
# it what one cannot do with a continuous one, and *sum* over it. This chapter does so three times: with no
# labels at all, where classes become clusters; with clusters that leave room for handwriting; and with five
# labels of each digit, which give the clusters their names.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import logsigmoid

import pyro_vae as pv
from pyro_vae.evaluate.clusters import match

# Fraction of every number of steps: below 1, for a quick look, training is cut short and numbers differ.
SIZE = float(os.environ.get("COURSE_SIZE", 1))
torch.manual_seed(0)
Path("figures").mkdir(exist_ok=True)

# %% [markdown]
# ## A sum instead of draws
#
# Let $y$ be one of two classes, equally probable before anything is seen, and $x \mid y \sim \mathcal
# N(\mu_y, 1)$ with $\mu = (-1, 1)$. Then $p(x) = \sum_y p(y)\, p(x \mid y)$, and for any $q(y \mid x)$
#
# $$\log p(x) \ge \sum_y q(y \mid x) \log \frac{p(y)\, p(x \mid y)}{q(y \mid x)}.$$
#
# This is the ELBO, here without any noise, since all values of $y$ are in it. It is $\log p(x)$ where $q$ is
# the posterior, a logistic curve: $p(y = 1 \mid x) = 1 / (1 + e^{-2x})$. A classifier that is less sure than
# it should be loses some of it, and so does one that is too sure.

# %%
mu, x = torch.tensor([-1.0, 1.0]), torch.linspace(-3, 3, 121)
log_joint = torch.distributions.Normal(mu, 1.0).log_prob(x[:, None]) - torch.tensor(2.0).log()
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for slope, name in ((0.5, "less sure"), (2.0, "the posterior"), (6.0, "too sure")):
    log_q = torch.stack([logsigmoid(-slope * x), logsigmoid(slope * x)], 1)
    elbo = (log_q.exp() * (log_joint - log_q)).sum(1)
    left.plot(x, log_q[:, 1].exp(), label=name)
    right.plot(x, elbo - log_joint.logsumexp(1), label=name)
    print(f"x = 1, {name:13}: ELBO {elbo[80]:.4f}, log p(x) {log_joint.logsumexp(1)[80]:.4f}")
left.set(title="q(y = 1 | x)", xlabel="x")
right.set(title="ELBO - log p(x)", xlabel="x", ylabel="nats")
right.legend()
figure.savefig("figures/14_a_sum.png")

# %% [markdown]
# ## No labels: a choice among ten
#
# The same with digits: $z$ is one of ten, the decoder turns each of the ten into an image, and the encoder
# says how probable each is. `pv.fit` sums over them. The labels are not shown to it; afterwards clusters and
# classes are matched one to one, such that most digits agree. By chance one digit in ten would.

# %%
data = pv.data.load("digits", binarize="static")
x, digit = data.train[:], data.train.labels
nets = {"encoder": pv.nets.mlp(128), "decoder": pv.nets.mlp(128)}
epochs = max(2, round(60 * SIZE))
choice = pv.VAE(data.event_shape, latent_dim=10, prior=pv.priors.OneHotCategorical(10), **nets)
pv.fit(choice, data, epochs=epochs, lr=3e-3, progress=False)
print(pv.evaluate.elbo(choice, data.test))
print(f"one of ten: {pv.evaluate.clusters(choice, data.train)}")
figure = pv.figures.clusters(choice, data.train)
figure.savefig("figures/14_what_is_its_label.png")
figure

# %% [markdown]
# Look at the columns: a digit that is written in two ways may have two clusters, and two that look alike
# share one. Nothing says that a *cluster* is a *class*: ten prototypes have to explain slant and
# thickness, too, for there is no other latent.
#
# ## Clusters with handwriting
#
# So let each cluster be a Normal in a space of continuous latents, and the decoder see where in it a digit
# lies: $p(z) = \sum_k \pi_k\, \mathcal N(z; \mu_k, \sigma_k^2)$. Of a datum, the cluster is $p(k \mid z)$,
# averaged over $q(z \mid x)$. The ELBO is higher, and the clusters are the classes *less* often than those
# of ten prototypes, or of k-means: where a digit lies within a cluster can tell its class as well as which
# cluster it is, and nothing in the ELBO asks that it should not. A better density is not a better clustering.

# %%
torch.manual_seed(0)
mixture = pv.VAE(data.event_shape, latent_dim=6, prior=pv.priors.MixtureOfNormals(10), **nets)
pv.fit(mixture, data, epochs=epochs, lr=3e-3, progress=False)
print(pv.evaluate.elbo(mixture, data.test))
print(f"mixture: {pv.evaluate.clusters(mixture, data.train)}")
nearest = torch.from_numpy(KMeans(10, n_init=3, random_state=0).fit_predict(x.flatten(1).numpy())).long()
accuracy, nmi, *_ = match(nearest, digit.double(), 10)
print(f"k-means of pixels: accuracy {accuracy:.3f}, NMI {nmi:.3f}")

# %% [markdown]
# ## Five labels of each digit
#
# Now $y$, the class, and $z$, the handwriting, are two latents: $p(y)\, p(z)\, p(x \mid y, z)$. Of fifty
# digits $y$ is known, of the others it is summed over. What is known is NaN or not, and nothing else is to
# be said (Kingma, Mohamed, Rezende and Welling, 2014). Rows with a label are few, and `pv.fit` takes
# each several times in an epoch.

# %%
known = torch.cat([(digit == k).nonzero()[:5, 0] for k in range(10)])
y = torch.full((len(x),), torch.nan)
y[known] = digit[known].float()
some = pv.data.load({"x": x, "y": y}, validation=0.0, test=0.0)
torch.manual_seed(0)
vae = pv.SemiSupervisedVAE(data.event_shape, latent_dim=5, classifier=pv.nets.mlp(128), **nets)
pv.fit(vae, some, epochs=epochs, lr=3e-3, progress=False)
right = (vae.classify(data.test[:]).argmax(1) == data.test.labels).double().mean()
alone = LogisticRegression(max_iter=1000).fit(x[known].flatten(1).numpy(), digit[known].numpy())
pixels = data.test[:].flatten(1).numpy()
print(
    f"of held-out digits {right:.3f} are right; of logistic regression on the fifty "
    f"{alone.score(pixels, data.test.labels.numpy()):.3f}"
)

# %% [markdown]
# Three things that a classifier alone does not do. It knows how well *any* label fits, by $\log p(x, y)$; it
# draws the label from its posterior, with what else is missing (`pv.predict`); and it writes: each row below
# has the handwriting $z$ of one digit, each column a class.

# %%
for name, label in (("its own label", data.test.labels), ("the next one", (data.test.labels + 1) % 10)):
    told = pv.evaluate.log_likelihood(vae, {"x": data.test[:], "y": label}, num_samples=100)
    print(f"with {name} log p(x, y) is {told.log_likelihood:.1f} nats per datum")
figure = pv.figures.styles(vae, data.test)
figure.savefig("figures/14_styles.png")
figure

# %% [markdown]
# ## Exercises
#
# **1.** At $x = 1$, how much does the ELBO lose by $q(y = 1 \mid x) = 1 / (1 + e^{-x/2})$, and what is that?
#
# <details><summary>Solution</summary>
#
# It loses $\mathrm{KL}(q \| p) = 0.219$ nats, as any guide does.
#
# ```python
# p, q = torch.tensor(2.0).sigmoid(), torch.tensor(0.5).sigmoid()
# kl = q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
# assert abs(kl - 0.219) < 1e-3
# ```
#
# </details>
#
# **2.** The label of $x = 1$ is known to be 1. Which $q(y \mid x)$ makes the sum $\log p(x, y)$?
#
# <details><summary>Solution</summary>
#
# The one that is certain, whose entropy is 0: this is how a label that is known is treated.
#
# ```python
# q = torch.tensor([0.0, 1.0])
# elbo = (q * log_joint[80]).sum() - torch.xlogy(q, q).sum()
# assert elbo == log_joint[80, 1]
# ```
#
# </details>
