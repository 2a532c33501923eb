"""Questions put to a model of a table by the names of its columns."""

import math

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro.infer import Importance, Trace_ELBO
from torch.distributions import MultivariateNormal

import pyro_vae as pv
from pyro_vae.data import DataError
from pyro_vae.data.columns import Columns

SCALE = 0.7


@pytest.fixture
def linear(double):
    """A linear VAE of a table, with latents of two dimensions, and p(z, x), which is Normal."""
    torch.manual_seed(0)
    nets = {"encoder": pv.nets.mlp(), "decoder": pv.nets.mlp()}
    columns = Columns(dict.fromkeys(("age", "height", "x"), "real"))
    vae = pv.VAE(columns, 2, likelihood=pv.likelihoods.Normal(scale=SCALE), **nets)
    layer = vae.p_x.net.layers[0]
    with torch.no_grad():
        layer.weight.copy_(torch.randn(3, 2))
        weight, loc = layer.weight.clone(), layer.bias.clone()
        vae.q_z.net.layers[0].weight.mul_(0.1)
    within = torch.cat([torch.eye(2), weight])
    covariance = within @ within.T
    covariance[2:, 2:] += SCALE**2 * torch.eye(3)
    return vae, MultivariateNormal(torch.cat([torch.zeros(2), loc]), covariance)


def given_age(joint, age):
    """Mean and covariance of (z, age, height, x) given age."""
    gain = joint.covariance_matrix[:, 2] / joint.covariance_matrix[2, 2]
    mean = joint.mean + gain * (age - joint.mean[2])
    return mean, joint.covariance_matrix - gain[:, None] * joint.covariance_matrix[2]


def test_pyro_conditions_on_columns(linear):
    """By name, in any of Pyro's algorithms: the posterior of z, and log p(age)."""
    vae, joint = linear
    age = torch.tensor([1.5])
    nothing = {"x": torch.full((1, 3), torch.nan)}
    conditioned = pyro.condition(vae.model, data={"age": age})
    mean, covariance = given_age(joint, age)
    log_p = torch.distributions.Normal(joint.mean[2], joint.variance[2].sqrt()).log_prob(age)
    with pyro.plate("particles", 40_000, dim=-2):
        trace = pyro.poutine.trace(conditioned).get_trace(nothing)
    trace.compute_log_prob()
    log_w, z = trace.nodes["x"]["log_prob"][:, 0], trace.nodes["z"]["value"][:, 0]
    assert (log_w.logsumexp(0) - math.log(len(z))).item() == pytest.approx(log_p.item(), abs=0.03)
    w = log_w.softmax(0)[:, None]
    found = (w * z).sum(0)
    torch.testing.assert_close(found, mean[:2], atol=0.03, rtol=0)
    torch.testing.assert_close((w * (z - found)).T @ (z - found), covariance[:2, :2], atol=0.03, rtol=0)
    drawn = pv.predict(vae, {"age": age}, 4000)
    torch.testing.assert_close(drawn["z"][:, 0].mean(0), mean[:2], atol=0.1, rtol=0)
    posterior = Importance(conditioned, num_samples=200).run(nothing)
    assert posterior.get_log_normalizer().item() == pytest.approx(log_p.item(), abs=0.3)
    loss = Trace_ELBO().loss(conditioned, vae.guide, {"height": [0.1, 0.2]})  # the guide sees it not
    assert np.isfinite(loss)


def test_conditioning_replaces_and_broadcasts(linear):
    vae, _ = linear
    x = torch.randn(4, 3)
    conditioned = pyro.condition(vae.model, data={"height": torch.tensor(0.5)})
    trace = pyro.poutine.trace(conditioned).get_trace(x)
    assert trace.nodes["x"]["value"].equal(torch.stack([x[:, 0], torch.full((4,), 0.5), x[:, 2]], 1))
    assert x[0, 1] != 0.5


def test_latents_come_before_columns_of_their_name(double):
    """Diamonds have columns x, y and z."""
    vae = pv.VAE(Columns(dict.fromkeys("xyz", "real")), 2, likelihood="auto", encoder=pv.nets.mlp())
    x, z = torch.randn(4, 3), torch.randn(4, 2)
    trace = pyro.poutine.trace(pyro.condition(vae.model, data={"z": z})).get_trace(x)
    assert trace.nodes["z"]["value"].equal(z)
    assert trace.nodes["x"]["value"].equal(x)
    assert vae.model({"x": x}).equal(x)
    assert vae.model({"y": [0.5, 1.0]}).shape == (2, 3)


LEVELS = ["low", "mid", "high"]


@pytest.fixture(scope="module")
def people():
    """A model of a table of all kinds of columns, and the table."""
    random = np.random.default_rng(0)
    size = 60
    frame = pd.DataFrame(
        {
            "age": random.normal(40, 10, size),
            "sex": random.choice(["female", "male"], size),
            "visits": random.negative_binomial(1, 0.2, size),
            "mood": pd.Categorical(random.choice(LEVELS, size), LEVELS, ordered=True),
            "smokes": random.random(size) < 0.3,
        },
        index=pd.Index([f"p{i}" for i in range(size)], name="person"),
    )
    table = pv.data.load(frame)
    vae = pv.VAE(table.event_shapes, 2, likelihood="auto", encoder=pv.nets.mlp(8), decoder=pv.nets.mlp(8))
    vae.initialize(table.train)
    return vae, frame


def test_a_frame_gives_a_frame(people):
    vae, whole = people
    frame = whole.head(4)[["sex", "age", "visits"]].astype({"visits": "float64"})
    frame.iloc[0, 0] = frame.iloc[1, 1] = frame.iloc[2, 2] = None
    drawn = pv.predict(vae, frame, 6)
    assert list(drawn.columns) == list(whole.columns)
    assert drawn.dtypes.equals(whole.dtypes)
    assert drawn.index.names == ["draw", "person"]
    assert drawn.index.tolist() == [(s, f"p{i}") for s in range(6) for i in range(4)]
    assert not drawn.isna().any().any()
    for name in frame:
        for person, value in frame[name].dropna().items():
            assert set(drawn.xs(person, level="person")[name]) == {value}, (name, person)
    assert drawn.xs("p1", level="person").age.nunique() == 6
    assert set(drawn.smokes) == {True, False}
    by_column = pv.predict(vae, {name: frame[name] for name in frame}, 6)
    assert drawn.attrs["effective_sample_size"] == by_column.effective_sample_size.tolist()
    for name in ("age", "visits", "smokes"):
        values = drawn[name].to_numpy(float).reshape(6, 4)
        np.testing.assert_allclose(by_column[name].numpy(), values, rtol=1e-6)
    assert (by_column["mood"].numpy() == drawn.mood.cat.codes.to_numpy().reshape(6, 4)).all()
    unnamed = pv.predict(vae, frame.reset_index(drop=True), 6)
    assert unnamed.index.names == ["draw", "row"]
    two = frame.set_axis(pd.MultiIndex.from_tuples([("u", 1), ("u", 2), ("v", 1), ("v", 2)]))
    assert pv.predict(vae, two, 2).index[-1] == (1, "v", 2)


def test_columns_by_name(people):
    vae, _ = people
    drawn = pv.predict(vae, {"age": [30.0, 60.0], "sex": np.nan, "mood": "high"}, 50)
    assert list(drawn) == ["age", "sex", "visits", "mood", "smokes", "z"]
    assert drawn["z"].shape == (50, 2, 2)
    assert all(drawn[name].shape == (50, 2) for name in vae.columns)
    assert drawn["age"].unique(dim=0).tolist() == [[30.0, 60.0]]
    assert (drawn["mood"] == 2).all()
    assert pv.predict(vae, {"sex": "male"}, 3)["sex"].tolist() == [[1.0]] * 3
    with pytest.raises(DataError, match="column sex has no category 'other'"):
        pv.predict(vae, {"sex": "other"})
    with pytest.raises(DataError, match="there is no column 'size'"):
        pv.predict(vae, pd.DataFrame({"size": [1]}))


def test_summaries_fit_the_kinds(people):
    vae, _ = people
    drawn = pv.predict(vae, {"age": np.nan}, 101)
    draws = {name: drawn[name][:, 0] for name in vae.columns}
    assert drawn.mean("age")[0] == pytest.approx(draws["age"].mean().item())
    assert drawn.quantile(0.5, "age")[0] == draws["age"].median()
    assert drawn.mean("smokes")[0] == pytest.approx(draws["smokes"].mean().item())
    for name in ("sex", "mood"):
        assert drawn.mean(name)[0] == draws[name].mode().values
    for q in (0.25, 0.5, 0.775):  # not 0.77, of which 100 times is 77 or less, as it is rounded
        for name in ("visits", "mood", "smokes"):
            assert drawn.quantile(q, name)[0] == draws[name].sort().values[int(q * 100)]
        assert drawn.quantile(q, "sex")[0] == draws["sex"].mode().values
    rows = pv.predict(vae, torch.full((1, 5), torch.nan), 101)
    together = torch.stack([drawn.quantile([0.2, 0.8], name) for name in vae.columns], -1)
    torch.testing.assert_close(rows.quantile([0.2, 0.8]), together)
    torch.testing.assert_close(rows.mean(), torch.stack([drawn.mean(name) for name in vae.columns], -1))


def test_what_is_given_is_not_inferred(people):
    _, frame = people
    table = pv.data.load(frame)
    nets = {"encoder": pv.nets.mlp(4), "decoder": pv.nets.mlp(4)}
    vae = pv.ConditionalVAE(table.event_shapes, given=["sex"], latent_dim=1, likelihood="auto", **nets)
    vae.initialize(table.train)
    made = vae.columns.decode(vae.generate(5, given={"sex": "male"})["x"])
    assert made.sex.tolist() == ["male"] * 5
    assert made.dtypes.equals(frame.dtypes)
    drawn = pv.predict(vae, frame.head(2).assign(age=np.nan), 3)
    assert (drawn.sex == list(frame.sex[:2]) * 3).all()
    assert not drawn.isna().any().any()
    missing = frame.head(2).assign(sex=["male", None])
    with pytest.raises(
        DataError, match="row 1 lacks sex, which the ConditionalVAE is given and cannot infer"
    ):
        pv.predict(vae, missing)


def test_levels_of_the_index_are_no_columns():
    """Of a table that has columns of their names, and of draws that are given again."""
    table = pv.data.load(pd.DataFrame({"row": np.linspace(-1, 1, 20), "draw": np.linspace(1, -1, 20) ** 3}))
    vae = pv.VAE(table.event_shapes, 1, likelihood="auto", encoder=pv.nets.mlp(4), decoder=pv.nets.mlp(4))
    vae.initialize(table.train)
    drawn = pv.predict(vae, pd.DataFrame({"row": [0.1, 0.2]}), 3)
    assert drawn.index.names == ["draw_", "row_"]
    assert drawn.groupby("row_")["row"].min().tolist() == [0.1, 0.2]
    assert list(drawn.reset_index()) == ["draw_", "row_", "row", "draw"]
    again = pv.predict(vae, drawn.drop(columns="draw"), 2)
    assert again.index.names == ["draw__", "draw_", "row_"]
