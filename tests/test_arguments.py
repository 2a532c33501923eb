"""A bad argument of a public function is refused at once, by name, with what was found and what would do."""

import functools
import math
import re
import traceback
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from cases import SMALL
from torch import nn

import pyro_vae as pv
from pyro_vae.sklearn import VAEEstimator
from pyro_vae.training import Settings

ROOT = Path(pv.__file__).parent
X = torch.rand(6, 4, generator=torch.Generator().manual_seed(1)).round()
Y = torch.arange(6) % 3
LEVELS = SMALL | {"between": pv.nets.mlp(7)}

COUNTS = [0, -1, 1.5, "3", None, True, math.nan, [3]]
SEEDS = [-1, 2**32, 1.5, "0", None, True, [1]]
PROGRAMS = [None, "vae", nn.Linear(4, 4), pv.VAE]
DATA = [None, "digits", 3, [[1, 0, 1, 0]], torch.rand(6, 5), torch.rand(4), {"y": Y}, {}, {"x": "text"}]
FACTORIES = [None, 3, "mlp", nn.Linear(4, 4), lambda in_shape, out_shape: None, lambda shape: nn.Identity()]
BOOLS = [1, "yes", None]
POINTS = [None, "z", [0.0, 0.0], torch.zeros(5, 3), torch.zeros(()), 0.0]
FRACTIONS = [-0.1, math.nan, "0.1", None, True, [0.1]]


@functools.cache
def vae():
    torch.manual_seed(1)
    return pv.VAE((4,), 2, **SMALL)


@functools.cache
def conditional():
    torch.manual_seed(1)
    return pv.ConditionalVAE((4,), given={"y": 3}, latent_dim=2, **SMALL)


@functools.cache
def hierarchical():
    torch.manual_seed(1)
    return pv.HierarchicalVAE((4,), (3, 2), **LEVELS)


@functools.cache
def data():
    return pv.data.load(torch.cat([X] * 5))


def fitted(**parameters):
    return VAEEstimator(**({"latent_dim": 2, "hidden_dims": (8,), "epochs": 1} | parameters)).fit(X.numpy())


@functools.cache
def estimator():
    return fitted()


MADE = (vae, conditional, hierarchical, data)


def call(function, /, **fine):
    """A call with fine arguments, made when they are needed, but for one."""
    return lambda **bad: function(
        **{
            name: value() if any(value is one for one in MADE) else value
            for name, value in (fine | bad).items()
        }
    )


PARTS = {
    "prior": [
        None,
        3,
        "Normal",
        dist.Normal,
        dist.Delta(torch.tensor(0.0)),
        dist.Normal(torch.zeros(3), 1.0),
        [1],
    ],
    "likelihood": [None, 3, "Bernoulli", dist.Normal(0.0, 1.0), nn.Linear, dist.MultivariateNormal],
    "guide": [None, 3, "Normal", dist.Normal(0.0, 1.0), dist.Bernoulli, pv.priors.Flow()],
    "encoder": FACTORIES,
    "decoder": FACTORIES,
}
SHAPES = [None, 4, "ab", (), (0,), (4.0,), (True,), (-1,), ("4",), [[4]], torch.tensor(4), {4}, (None,)]

MODELS = {
    "VAE": (
        call(pv.VAE, event_shape=(4,), latent_dim=2, **SMALL),
        {"event_shape": SHAPES, "latent_dim": COUNTS} | PARTS,
    ),
    "ConditionalVAE": (
        call(pv.ConditionalVAE, event_shape=(4,), latent_dim=2, **SMALL),
        {
            "event_shape": SHAPES[:5],
            "latent_dim": COUNTS[:4],
            "given": [
                None, 3, "y", {}, {"y": 0}, {"y": 2.5}, {"y": "3"}, {"y": True}, {"x": 3}, {"y": (0,)},
                {1: 3}, ["y"],
            ],
            "conditional_prior": BOOLS,
            "encoder": FACTORIES[:3],
            "prior": [*PARTS["prior"], pv.priors.VampPrior(3)],
        },
    ),
    "HierarchicalVAE": (
        call(pv.HierarchicalVAE, event_shape=(4,), latent_dims=(3, 2), **LEVELS),
        {
            "event_shape": SHAPES[:5],
            "latent_dims": [(), 3, None, "32", (0, 2), (2.5,), ("3",), (True,), torch.tensor(3), [[3]]],
            "skip": BOOLS, "inference": ["up", None, 1, ["bottom_up"]],
            "between": FACTORIES,
            "decoder": FACTORIES[:3],
            "prior": PARTS["prior"],
        },
    ),
}  # fmt: skip
PIECES = {
    "nets.mlp": (
        lambda hidden_dims=8, **bad: pv.nets.mlp(hidden_dims, **bad),
        {"hidden_dims": [0, -1, 1.5, "3", None, True, (8, 8)], "activation": [None, "ReLU", nn.ReLU(), 3]},
    ),
    "nets.conv": (
        lambda channels=8, **bad: pv.nets.conv(channels, **bad),
        {"channels": [0, 1.5, None, (8, 8)], "hidden_dim": [0, 1.5, None], "activation": [None, nn.ReLU()]},
    ),
    "priors.Normal": (pv.priors.Normal, {"learned": BOOLS}),
    "priors.Flow": (
        pv.priors.Flow,
        {"transform": [None, "spl"], "num_transforms": COUNTS, "hidden_dims": [None, 8, (0,), "8", (2.5,)]},
    ),
    "priors.MixtureOfNormals": (pv.priors.MixtureOfNormals, {"components": COUNTS}),
    "priors.VampPrior": (pv.priors.VampPrior, {"components": COUNTS}),
    "priors.LowRankNormal": (
        pv.priors.LowRankNormal, {"rank": COUNTS, "covariance": [None, "own", ["shared"]]},
    ),
    "priors.Fixed": (pv.priors.Fixed, {"distribution": [None, 3, "Normal", dist.Normal, pv.priors.Normal()]}),
    "guides.Flow": (
        pv.guides.Flow, {"transform": [None, "iaf"], "num_transforms": [0, 1.5], "context_dim": COUNTS},
    ),
    "guides.StudentT": (pv.guides.StudentT, {"df": [2.0, -1, "own", True, math.nan, math.inf]}),
    "likelihoods.Normal": (
        pv.likelihoods.Normal,
        {"scale": [0, -1.0, "own", True, [1.0], math.nan, math.inf, torch.ones(3)], "loc": [math.nan]},
    ),
    "likelihoods.Gamma": (pv.likelihoods.Gamma, {"rate": [0.0, "own", math.nan, math.inf, {}]}),
    "likelihoods.Binomial": (pv.likelihoods.Binomial, {"total_count": [None, "network", -1, 1.5, math.nan]}),
    "likelihoods.Categorical": (pv.likelihoods.Categorical, {"levels": [*COUNTS, 1]}),
    "likelihoods.DiscretizedLogistic": (
        pv.likelihoods.DiscretizedLogistic, {"levels": [*COUNTS, 1], "scale": [0.0, math.nan]},
    ),
    "likelihoods.DiscretizedLogisticMixture": (
        pv.likelihoods.DiscretizedLogisticMixture, {"levels": [*COUNTS, 1], "components": COUNTS},
    ),
}  # fmt: skip
SETTINGS = {
    "epochs": [0, -1, 1.5, "many", None, True, math.inf, [3]],
    "batch_size": [0, -1, 1.5, "many", None, True, math.nan],
    "lr": [0.0, -1.0, math.nan, math.inf, "fast", None, True, [0.1], torch.tensor(0.1)],
    "optimizer": [
        None, 3, "Adm", pyro.optim.Adam({"lr": 1e-3}), torch.optim.LBFGS, torch.optim.Optimizer, nn.Linear,
        torch.optim.Adam([torch.zeros(1)]), functools.partial(torch.optim.Adam, lr=1.0), lambda: None, len,
    ],
    "schedule": [None, 3, "cosin", torch.optim.lr_scheduler.LRScheduler, nn.Linear, lambda: None],
    "loss": [None, 3, "elbo", nn.MSELoss(), pyro.infer.ELBO, pyro.infer.JitTrace_ELBO(), len],
    "beta": [-1.0, math.nan, math.inf, "one", None, True, [1.0]],
    "warmup_epochs": [-1, 1.5, None, True, "few"],
    "clip_norm": [0.0, -1.0, math.nan, "big", True, math.inf],
    "patience": [0, -1, 1.5, True, "some"],
    "compile": [1, 0, "yes", None],
    "precision": ["float16", None, 32, torch.bfloat16],
    "device": [0, None, "gpu", "cuda:99", torch.device("cpu"), ""],
    "deterministic": [1, "yes", None],
    "seed": [seed for seed in SEEDS if seed != "0"],  # which stands for 0
    "save_every": [0, 1.5, True, "often"],
    "keep": [-1, 1.5, None],
    "max_minutes": [0.0, -1, math.nan, "long"],
    "callback": [3, "print", [print]],
    "folder": [3, True, ["run"]],
    "resume": ["yes", 1, None],
    "progress": ["yes", None, 2],
    "program": PROGRAMS,
    "data": [None, "digits", X, {"x": X}],
}  # fmt: skip
GIVEN = [3, "y", {"w": 1}, {"y": 7}, {"y": "a"}, {"y": 1.5}, {"y": None}, {"y": [0, 1, 2]}, {3: 1}]
USES = {
    "fit": (call(pv.fit, program=vae, data=data, epochs=1, progress=False), SETTINGS),
    "elbo": (
        call(pv.evaluate.elbo, program=vae, data=X),
        {"program": PROGRAMS, "data": DATA, "num_samples": COUNTS, "batch_size": COUNTS, "seed": SEEDS},
    ),
    "log_likelihood": (
        call(pv.evaluate.log_likelihood, program=vae, data=X, num_samples=2),
        {
            "program": PROGRAMS, "data": DATA, "num_samples": COUNTS, "max_rows": COUNTS, "seed": SEEDS[:3],
            "compile": [1, "yes", None], "progress": BOOLS,
        },
    ),
    "active_units": (
        call(pv.evaluate.active_units, program=vae, data=X, num_samples=3),
        {
            "program": PROGRAMS, "data": DATA, "num_samples": [1, *COUNTS], "seed": SEEDS[:3],
            "threshold": FRACTIONS,
        },
    ),
    "check": (call(pv.evaluate.check, program=vae, data=None), {"program": PROGRAMS[:2], "data": [None, X]}),
    "Batched": (
        call(pv.evaluate.Batched, function=torch.sin), {"function": [None, 3], "batch_size": COUNTS},
    ),
    "log_weights": (
        call(pv.objectives.log_weights, program=vae, batch=X),
        {"program": PROGRAMS, "batch": DATA, "num_particles": COUNTS},
    ),
    "importance_weighted_bound": (pv.objectives.importance_weighted_bound, {"log_w": [None, 3, [1.0, 2.0]]}),
    "scale_latents": (pv.objectives.scale_latents, {"beta": [None, "1", [1.0]]}),
    "explain": (
        lambda **bad: vae().explain(**bad), {"format": ["pdf", None, 3], "batch": [3, "x", {"x": X[:, :3]}]},
    ),
    "generate": (
        lambda **bad: conditional().generate(**({"num_samples": 2} | bad)),
        {"num_samples": COUNTS, "given": GIVEN, "seed": SEEDS},
    ),
    "vae.encode": (lambda **bad: vae().encode(**bad), {"x": [*DATA[:4], X[:, :3], torch.zeros(())]}),
    "vae.decode": (lambda **bad: vae().decode(**bad), {"z": POINTS}),
    "conditional.decode": (
        lambda y, **bad: conditional().decode(torch.zeros(2, 2), y),
        {"y": [None, 1.5, "a", torch.tensor([0, 7]), torch.tensor([-1, 0]), [0, 1]]},
    ),
    "conditional.encode": (lambda y: conditional().encode(X, y), {"y": [None, 9, Y + 1]}),
    "conditional.prior": (
        lambda y: pv.ConditionalVAE((4,), latent_dim=2, conditional_prior=True, **SMALL).prior(y),
        {"y": [None, 99, torch.tensor([10])]},
    ),
    "model": (lambda **bad: vae().model(**bad), {"batch": [*DATA[:6], *DATA[7:]]}),
    "guide": (lambda **bad: vae().guide(**bad), {"batch": DATA}),
    "conditional.model": (
        lambda **bad: conditional().model(**bad),
        {"batch": [X, {"x": X}, {"x": X, "y": Y[:3]}, {"x": X, "y": [0]}, {"x": X, "y": Y.reshape(6, 1)}]},
    ),
    "figures.samples": (
        call(pv.figures.samples, program=conditional),
        {"program": PROGRAMS, "num_samples": COUNTS, "given": GIVEN, "site": ["w", None], "seed": SEEDS[:3]},
    ),
    "figures.reconstructions": (
        call(pv.figures.reconstructions, program=vae, data=X),
        {"program": PROGRAMS, "data": DATA, "site": ["w", None, 3]},
    ),
    "figures.comparison": (
        lambda **bad: pv.figures.comparison(**({"programs": {"a": vae()}, "data": X} | bad)),
        {
            "programs": [None, {}, [1], {"a": None}, nn.Linear(1, 1)], "data": DATA[:4], "site": ["w"],
            "seed": SEEDS[:3],
        },
    ),
    "figures.styles": (
        call(pv.figures.styles, program=conditional, data={"x": X, "y": Y}, num_data=2),
        {
            "program": [*PROGRAMS, vae], "data": [X, None], "num_data": COUNTS, "site": ["w", None],
            "class_names": [3, ["a"], "abc", [1, 2, 3]],
        },
    ),
    "figures.interpolation": (
        call(pv.figures.interpolation, program=vae, start=X[0], end=X[1]),
        {
            "program": PROGRAMS, "start": [None, X, X[0, :3], "x"], "end": [None, X], "num_steps": COUNTS,
        },
    ),
    "figures.summary": (pv.figures.summary, {"run": [None, 3, "runs/mine"]}),
    "figures.traversals": (
        call(pv.figures.traversals, program=vae, datum=X[0]),
        {
            "program": PROGRAMS, "datum": [None, X], "num_steps": COUNTS, "max_rows": COUNTS,
            "site": ["w", 3, "x"],
        },
    ),
    "figures.manifold": (
        call(pv.figures.manifold, program=vae),
        {"program": [*PROGRAMS, hierarchical, conditional], "num_steps": COUNTS, "given": [3, {"w": 1}]},
    ),
    "figures.latents": (
        call(pv.figures.latents, program=vae, data=X),
        {
            "program": PROGRAMS, "data": DATA[:4], "labels": [3, "y", torch.zeros(3), Y.numpy()[:2], [0]],
            "site": ["w", 3, "x"],
        },
    ),
    "figures.levels": (
        call(pv.figures.levels, program=hierarchical),
        {"program": [*PROGRAMS, vae], "num_samples": COUNTS, "site": ["w", None], "given": [3, {"w": 1}],
         "seed": SEEDS[:3]},
    ),
    "figures.kl_by_level": (pv.figures.kl_by_level, {"history": [None, [], 3, [{"epoch": 1, "kl": 2.0}]]}),
    "figures.training_curves": (
        pv.figures.training_curves, {"history": [None, [], 3, "run", [{}], [{"epoch": 1}], [1, 2]]},
    ),
    "figures.grid": (
        lambda **bad: pv.figures.grid(**({"rows": [X], "title": "t"} | bad)),
        {"rows": [None, [], 3, [None], [[1, 2]], [torch.tensor(3.0)], [X, torch.rand(2, 3)]],
         "labels": [3], "columns": [3]},
    ),
}  # fmt: skip
ALIKE = SEEDS[:3]
LABELS = [3, "y", torch.zeros(3), [0]]
EVALUATORS = {
    "ais": (
        call(pv.evaluate.ais, program=vae, data=X, num_temperatures=3, num_chains=2),
        {
            "program": PROGRAMS, "data": DATA, "num_temperatures": [1, *COUNTS], "num_chains": COUNTS,
            "leapfrogs": COUNTS[:3], "start": ["posterior", None, 1], "max_rows": COUNTS[:3],
            "compile": [1, None], "seed": ALIKE, "progress": BOOLS,
        },
    ),
    "sandwich": (
        call(pv.evaluate.sandwich, program=vae, num_data=2, num_temperatures=3, num_chains=2),
        {
            "program": PROGRAMS, "num_data": COUNTS, "num_temperatures": [1, *COUNTS[:3]],
            "num_chains": COUNTS[:3], "start": ["posterior"], "seed": ALIKE,
        },
    ),
    "inference_gap": (
        call(pv.evaluate.inference_gap, program=vae, data=X, num_steps=2, num_samples=2),
        {
            "program": PROGRAMS, "data": DATA, "num_steps": COUNTS, "num_samples": COUNTS[:3],
            "max_rows": COUNTS[:3], "seed": ALIKE, "progress": BOOLS,
        },
    ),
    "calibration": (
        call(pv.evaluate.calibration, program=vae, num_simulations=5, num_samples=3),
        {
            "program": PROGRAMS, "data": DATA[1:], "num_simulations": COUNTS, "num_samples": COUNTS[:3],
            "max_rows": COUNTS[:3], "seed": ALIKE, "progress": BOOLS,
        },
    ),
    "predictive_check": (
        call(pv.evaluate.predictive_check, program=vae, data=X, num_replications=2),
        {
            "program": PROGRAMS, "data": [*DATA, X[:1]],
            "statistics": [
                3, [torch.max], torch.max, {"a": 3}, {"a": None}, {"a": lambda x: "text"}, {"a": lambda x: x},
            ],
            "features": [3, "inception", lambda x: x.sum(), lambda x: None],
            "num_replications": COUNTS, "max_rows": COUNTS[:3], "seed": ALIKE,
        },
    ),
    "intervals": (
        call(pv.evaluate.intervals, program=vae, data=X, num_rows=2, num_samples=2, num_particles=2),
        {
            "program": PROGRAMS, "data": DATA, "num_rows": COUNTS, "num_samples": COUNTS[:3],
            "num_particles": COUNTS[:3], "hmc": [-1, 1.5, "1"], "seed": ALIKE,
        },
    ),
    "anatomy": (
        call(pv.evaluate.anatomy, program=vae, data=X, num_aggregate=5),
        {
            "program": PROGRAMS, "data": DATA, "labels": [*LABELS, X[:, 0] / 0], "num_samples": [1, *COUNTS],
            "num_aggregate": [1, *COUNTS[:3]], "batch_size": COUNTS[:3], "seed": ALIKE, "progress": BOOLS,
        },
    ),
    "rate_distortion": (
        lambda **bad: pv.evaluate.rate_distortion(**({"programs": {"a": vae()}, "data": X} | bad)),
        {
            "programs": [None, {}, [1], {"a": None}], "data": DATA[:4], "num_samples": COUNTS[:3],
            "batch_size": COUNTS[:3], "seed": ALIKE,
        },
    ),
    "disentanglement": (
        lambda **bad: pv.evaluate.disentanglement(**({"codes": X, "factors": X} | bad)),
        {
            "codes": [None, 3, X[:, :1], X[0]], "factors": [None, 3, Y, {"y": Y[:3]}, {}, {"y": None}],
            "seed": ALIKE,
        },
    ),
    "figures.anatomy": (pv.figures.anatomy, {"result": [None, 3, "a"]}),
    "figures.rate_distortion": (pv.figures.rate_distortion, {"result": [None, 3, {}]}),
    "figures.calibration": (pv.figures.calibration, {"result": [None, 3, {}]}),
    "figures.predictive_check": (pv.figures.predictive_check, {"result": [None, 3, {}]}),
    "figures.posteriors": (
        call(pv.figures.posteriors, program=vae, data=X[:2]), {"program": PROGRAMS, "data": DATA[:4]},
    ),
    "figures.tsne": (
        call(pv.figures.tsne, program=vae, data=X),
        {"program": PROGRAMS, "data": DATA[:4], "labels": LABELS, "site": ["w", 3, "x"], "seed": ALIKE},
    ),
    "report": (
        call(pv.report, run="never", output="never.html"),
        {"run": [None, 3, vae, "never"], "output": [None, 3, "report.pdf"], "num_data": COUNTS[:3]},
    ),
    "compare": (
        call(pv.compare, data=data, objectives=["IWAE", "Trace_ELBO"], latent_dim=2, progress=False),
        {
            "data": [None, X],
            "objectives": [["Trace_ELBO"] * 2, ["nope", "IWAE"], [3, 4], ["IWAE(0)", "IWAE"], [None, "IWAE"]],
        },
    ),
}  # fmt: skip
OBJECTIVES = {
    "BetaTC": (
        call(pv.objectives.BetaTC, num_data=6), {"num_data": COUNTS, "beta": [-1.0, math.nan, "6", None]},
    ),
    "Chi": (pv.objectives.Chi, {"n": [1.0, 0.5, math.nan, "2", None], "num_particles": COUNTS}),
    "FreeBits": (
        pv.objectives.FreeBits,
        {"nats": [-1.0, math.nan, "1", None], "by": ["units", None, 1], "num_particles": COUNTS[:3]},
    ),
    "IWAE": (pv.objectives.IWAE, {"num_particles": COUNTS}),
    "MMD": (
        pv.objectives.MMD,
        {"weight": [-1.0, math.nan, math.inf, None], "kl": [-1.0, "0"], "num_particles": COUNTS[:3]},
    ),
    "RLOO": (pv.objectives.RLOO, {"num_particles": [1, *COUNTS[:3]]}),
    "VIMCO": (pv.objectives.VIMCO, {"num_particles": [1, *COUNTS[:3]]}),
    "Renyi": (
        pv.objectives.Renyi,
        {"alpha": [math.nan, math.inf, -math.inf, "1", None, True], "num_particles": COUNTS[:3]},
    ),
    "Thermodynamic": (
        pv.objectives.Thermodynamic,
        {
            "num_particles": [1, *COUNTS[:3]], "num_steps": COUNTS[:3], "first": [0.0, 1.0, math.nan, None],
        },
    ),
    "WakeSleep": (pv.objectives.WakeSleep, {"num_particles": [1, *COUNTS[:3]]}),
}  # fmt: skip
ESTIMATOR = {
    "VAEEstimator": (
        fitted,
        {
            "latent_dim": COUNTS, "conditional": ["yes", None, 2], "prior": [None, 3, "Norml", dist.Normal],
            "likelihood": [None, 3, "Norml", len], "guide": [None, 3, "Norml"],
            "hidden_dims": [None, 8, (0,), "8", (1.5,), ("8",)], "encoder": [3, "mpl(8)", nn.Linear(4, 4)],
            "decoder": [3, "mlp(0)"], "event_shape": [3, (5,), (2.0, 2.0), "4", (0,), (-1, -4)],
            "epochs": [0, 1.5, "many", None], "batch_size": [0, None], "lr": [0.0, "fast"], "beta": [-1.0],
            "warmup_epochs": [-1], "clip_norm": [0.0], "device": ["gpu"], "num_samples": COUNTS,
            "random_state": [1.5, "a"], "verbose": ["yes", 1.5],
        },
    ),
    "VAEEstimator.sample": (
        lambda **bad: estimator().sample(**bad),
        {"n_samples": COUNTS, "given": [1, "y"]},
    ),
}  # fmt: skip
TABLE = MODELS | PIECES | USES | EVALUATORS | OBJECTIVES | ESTIMATOR
CASES = [
    pytest.param(name, function, argument, value, id=f"{name}-{argument}-{number}")
    for name, (function, arguments) in TABLE.items()
    for argument, values in arguments.items()
    for number, value in enumerate(values)
]


CALLED = {
    "encoder": "network of z",
    "decoder": "network of x",
    "between": "network of z1",
    "program": "VAE|map",
    "prior": "prior",
    "likelihood": "parameter",
    "guide": "z",
    "given": "y",
    "objectives": "variants|loss",
} | dict.fromkeys(("data", "batch", "start", "end", "datum"), "x|y|one datum")
"""Other words for an argument, where it is refused for what it does to a part or a site."""


def found(value):
    """What a message may say of a value: itself as written, its type, or of a part its name."""
    value = value() if any(value is one for one in MADE) else value
    told = [str(value)[:12], repr(value)[:12], type(value).__name__, getattr(value, "__name__", "")]
    if isinstance(value, functools.partial):
        told.append(value.func.__name__)
    if isinstance(value, dist.Bernoulli):
        told.append("Boolean")
    if isinstance(value, torch.Tensor):
        told += [str(list(value.shape)), str(tuple(value.shape[1:])), " x"]
        told += [f"={end:g} " for end in value.aminmax()]
    told += [" y", "z2 has"] if isinstance(value, pv.Program) else []
    pairs = value.items() if isinstance(value, dict) else ()
    for key, item in [*pairs, *([("", item) for item in value] if isinstance(value, list | tuple) else [])]:
        told += [str(key), *found(item)]
    if value is None or (isinstance(value, dict) and not value):
        told += ["none", "needs a number"]
    return [text for text in told if text]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "function", "argument", "value"), CASES)
def test_a_bad_argument_is_named(name, function, argument, value):
    with pytest.raises((TypeError, ValueError)) as caught:
        function(**{argument: value})
    message = str(caught.value)
    assert "\n" not in message, "one sentence"
    names = rf"\b({argument.removesuffix('s')}|{CALLED.get(argument, argument)})"
    assert re.search(names, message), f"names {argument}: {message}"
    assert any(text in message for text in found(value)), f"tells what was found, {value!r}: {message}"
    last = Path(traceback.extract_tb(caught.value.__traceback__)[-1].filename)
    assert last.is_relative_to(ROOT), f"is refused by this package, not in {last}: {message}"


def test_there_are_many():
    assert len(CASES) > 300


def test_numbers_of_numpy_will_do():
    parts = {"encoder": pv.nets.mlp(np.int64(8)), "prior": pv.priors.MixtureOfNormals(np.int64(2))}
    made = pv.VAE((np.int64(4),), latent_dim=np.int64(2), **parts)
    pv.evaluate.elbo(made, X, num_samples=np.int64(2), batch_size=np.int32(3), seed=np.int64(1))
    made.generate(np.int64(2), seed=np.uint8(3))
    assert type(Settings(epochs=np.int64(3)).epochs) is int
