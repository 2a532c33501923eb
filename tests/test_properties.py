"""Any VAE that can be built trains, is kept and measured; any other is refused as it is built.

    EXAMPLES=2000 pytest tests/test_properties.py --hypothesis-show-statistics

tries more than the few of every day, and tells how many were refused.
"""

import math
import os
import tempfile
import traceback
from pathlib import Path

import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from cases import NUMBERS, OWN_SUPPORT, PRIORS

import pyro_vae as pv

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

ROOT = Path(pv.__file__).parent
FEW = {"LowRankNormal": {"rank": 1}, "MixtureOfNormals": {"components": 2}, "VampPrior": {"components": 3}}
FEW |= {"Flow": {"num_transforms": 1, "hidden_dims": [4]}, "Fixed": {"distribution": dist.Normal(1.0, 2.0)}}

priors = st.one_of(
    st.sampled_from(dir(pv.priors)).map(lambda name: getattr(pv.priors, name)(**FEW.get(name, {}))),
    st.sampled_from(sorted(PRIORS)).map(PRIORS.get),
)
likelihoods = st.sampled_from(sorted({*dir(pv.likelihoods)} - {"Auto", "ByColumn"})).map(
    lambda name: getattr(pv.likelihoods, name)(**NUMBERS.get(name, {}))
)
guides = st.one_of(  # over the reals, which go with each prior; and all
    st.sampled_from(sorted({*dir(pv.guides)} - {*OWN_SUPPORT})), st.sampled_from(dir(pv.guides))
).map(lambda name: getattr(pv.guides, name)(**FEW.get(name, {})))
mlps = st.lists(st.integers(1, 9), max_size=2).map(lambda widths: pv.nets.mlp(*widths))
nets = st.one_of(mlps, mlps, mlps, st.just(pv.nets.conv(2, hidden_dim=4)))
vaes = st.fixed_dictionaries(
    {
        "event_shape": st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
        "latent_dim": st.integers(1, 3),
        "prior": priors,
        "likelihood": likelihoods,
        "guide": guides,
        "encoder": nets,
        "decoder": nets,
    }
)
fits = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 30),
        "loss": st.sampled_from([pyro.infer.Trace_ELBO, pyro.infer.TraceMeanField_ELBO]),
        "optimizer": st.sampled_from([torch.optim.Adam, torch.optim.SGD]),
        "schedule": st.sampled_from(["constant", "cosine", "linear"]),
        "warmup_epochs": st.integers(0, 2),
        "clip_norm": st.sampled_from([None, 1.0]),
        "seed": st.integers(0, 2**32 - 1),
    }
)


def refuse(error):
    """A refusal is of this package, and one sentence."""
    last = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    assert last.is_relative_to(ROOT), f"{last}: {error}"
    assert "\n" not in str(error)


@pytest.mark.filterwarnings("ignore")
@settings(
    max_examples=int(os.environ.get("EXAMPLES", 30)),
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # to make a failure small takes minutes, and these are small
    suppress_health_check=[*HealthCheck],
)
@given(
    parts=vaes, options=fits, dtype=st.sampled_from([torch.float32, torch.float64]), seed=st.integers(0, 9)
)
def test_what_is_built_trains_and_is_kept(parts, options, dtype, seed):
    torch.manual_seed(seed)
    try:
        vae = pv.VAE(**parts)
    except (TypeError, ValueError) as error:
        refuse(error)
        event("refused as it was built")
        return
    vae.to(dtype)
    x = vae.generate(24, seed=seed)["x"]
    assert x.dtype == dtype
    assert x.shape == (24, *parts["event_shape"])
    try:
        data = pv.data.load(x)
        with tempfile.TemporaryDirectory() as folder:
            run = pv.fit(vae, data, epochs=1, lr=1e-4, device="cpu", folder=folder, progress=False, **options)
            loaded = pv.load(folder)
    except pv.data.DataError as error:  # draws may lie at the very end of the support
        refuse(error)
        event("data refused")
        return
    event("trained")
    assert math.isfinite(run.history[0]["elbo"])
    before, after = (pv.evaluate.elbo(program, data.test, num_samples=2) for program in (vae, loaded))
    assert repr(before) == repr(after)
    assert {p.dtype for p in loaded.parameters()} == {dtype}


@pytest.mark.parametrize("prior", [dist.Gumbel(0.0, 1.0), dist.Gumbel(torch.zeros(()), torch.ones(()))])
def test_a_prior_of_numbers_is_that_of_tensors(prior):
    """Which some keep as they were given, and which are read again as tensors."""
    vae, again = (
        pv.VAE((3,), 2, prior=p) for p in (prior, pv.registry.read("prior", pv.registry.write(prior)))
    )
    assert vae.state_dict().keys() == again.state_dict().keys()
