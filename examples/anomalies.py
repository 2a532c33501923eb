"""What is odd? Rows by log p(x), cells of a table by log p(x_j | rest); and where a likelihood is no score.

1. Digits: a VAE that never saw a class of digits is asked which images of the test set are of it. The score
   is -log p(x). Expect an area under the ROC curve near 0.8 for the class 0, and near 0.5, that of guessing,
   for the class 1: a likelihood says how well an image is coded and not how typical it is, and a model of all
   other digits codes the stroke of a one well. So it is of deep generative models of any kind, which may even
   prefer what they never saw (Nalisnick et al., 2019, "Do deep generative models know what they don't
   know?"): try a score on outliers that you know.
2. Penguins: in each row of the test set one value is exchanged for another row's. Each value by itself is as
   usual as before; what is odd is that it does not go with the rest. Expect an area above 0.8 for a score of
   cells, log p(x_j) - log p(x_j | rest), and less for the surprise -log p(x_j | rest) alone, which calls odd
   what is only rare, and compares densities on different measures.

    python examples/anomalies.py
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from palmerpenguins import load_penguins
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score, roc_curve

import pyro_vae as pv

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=300)
epochs = parser.parse_args().epochs
random = np.random.default_rng(0)
curves = {}

# 1. Rows: which digits are of the class that was left out?

images, digit = load_digits(return_X_y=True)
x = (images > 8).astype("float32")
test = random.random(len(x)) < 0.3
for left_out in (0, 1):
    data = pv.data.load(x[~test & (digit != left_out)], test=0.0)
    torch.manual_seed(0)
    vae = pv.VAE((64,), latent_dim=10, encoder=pv.nets.mlp(200), decoder=pv.nets.mlp(200))
    pv.fit(vae, data, epochs=epochs // 3 + 1, progress=False)
    score = -pv.evaluate.log_likelihood(vae, x[test], num_samples=100).per_datum.numpy()
    odd = digit[test] == left_out
    curves[f"images of {left_out}, never seen"] = odd, score
    seen, unseen = -score[~odd].mean(), -score[odd].mean()
    print(f"log p(x) of digits: {seen:.1f} of the classes seen, {unseen:.1f} of {left_out}")

# 2. Cells: which values of a table are in the wrong row?

penguins = load_penguins().dropna().drop(columns="year")
data = pv.data.load(penguins, validation=0.1, test=0.3)
torch.manual_seed(0)
vae = pv.VAE(data.event_shapes, likelihood="auto")
pv.fit(vae, data, epochs=epochs, patience=30, progress=False)
rows = data.test[:].clone()
column = torch.from_numpy(random.integers(rows.shape[1], size=len(rows)))
swapped = torch.zeros_like(rows, dtype=torch.bool)
for i, j in enumerate(column):
    others = data.test[:][:, j]
    different = others[others != rows[i, j]]
    rows[i, j] = different[random.integers(len(different))]
    swapped[i, j] = True
found = pv.evaluate.columns(vae, rows, num_samples=500)
odd = swapped.flatten().numpy()
surprise, gain = -found.per_datum, found.alone_per_datum - found.per_datum
curves["cells, by log p(x_j) - log p(x_j | rest)"] = odd, gain.flatten().numpy()
curves["cells, by -log p(x_j | rest) alone"] = odd, surprise.flatten().numpy()
worst = gain.argmax(1)
print(f"the oddest cell of a row is the one exchanged in {(worst == column).float().mean():.0%}, "
      f"and would be in {1 / rows.shape[1]:.0%} by chance")  # fmt: skip
frame = data.columns.decode(rows[:3]).round(2)
for i in range(3):
    name = list(frame)[worst[i]]
    print(f"row {i}: {name} = {frame[name][i]} is odd, exchanged was {list(frame)[column[i]]}")

plt.figure(figsize=(5, 4.5))
for name, (odd, score) in curves.items():
    area = roc_auc_score(odd, score)
    print(f"area under the ROC curve, {name}: {area:.2f}")
    plt.plot(*roc_curve(odd, score)[:2], label=f"{name}: {area:.2f}")
plt.plot([0, 1], [0, 1], "k:", linewidth=1)
plt.xlabel("share of what is usual that is called odd")
plt.ylabel("share of what is odd that is found")
plt.legend(fontsize=8, title="area under the curve")
plt.tight_layout()
Path("figures").mkdir(exist_ok=True)
plt.savefig("figures/anomalies.png", dpi=120)
