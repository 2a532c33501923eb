"""Whatever array is given, it is refused in one sentence, or every value arrives, each row once."""

import numpy as np
import pytest
import torch

from pyro_vae.data import DataError, load

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.extra import numpy as arrays  # noqa: E402

QUICK = settings(max_examples=60, deadline=None, derandomize=True, database=None)
SHAPES = arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=6)
DTYPES = st.one_of(
    arrays.boolean_dtypes(),
    arrays.integer_dtypes(endianness="="),
    arrays.integer_dtypes(endianness=">"),
    arrays.unsigned_integer_dtypes(),
    arrays.floating_dtypes(endianness="="),
    arrays.floating_dtypes(endianness=">"),
    arrays.complex_number_dtypes(),
    arrays.datetime64_dtypes(),
    arrays.unicode_string_dtypes(max_len=3),
)
LABELS = [
    st.integers(0, 9),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.booleans(),
    st.binary(max_size=2),
]
LABELS = st.one_of(
    *(st.lists(one, min_size=1, max_size=20) for one in LABELS),
    *(st.lists(st.one_of(one, st.none()), min_size=1, max_size=20) for one in LABELS),
    st.lists(st.one_of(*LABELS), min_size=1, max_size=20),
)


def rows(data):
    """The rows of all splits."""
    found = [
        split.batch(slice(None), torch.float64)["x"] for split in (data.train, data.validation, data.test)
    ]
    return np.concatenate([part.flatten(1).numpy() for part in found])


def loaded(x, **kwargs):
    """The data, or what is said against them: one sentence."""
    try:
        return load(x, **kwargs), ""
    except DataError as error:
        return None, str(error)


def in_order(x):
    """Rows sorted, NaN last."""
    keys = np.where(np.isnan(x), np.inf, x)
    return x[np.lexsort(keys.T[::-1])]


@QUICK
@given(arrays.arrays(DTYPES, SHAPES, fill=st.nothing()))
def test_every_value_arrives_once(x):
    expected = x
    if x.ndim == 4 and x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        expected = x.transpose(0, 3, 1, 2)
    data, told = loaded(x, levels=True)
    if told:
        assert "\n" not in told
        assert len(told) < 700
        real = x.dtype.kind in "biuf" and x.ndim > 1 and x.size
        assert not (real and (x.dtype.kind != "f" or np.all(np.isnan(x) | (abs(x.astype("f8")) < 1e38))))
        return
    expected = expected.reshape(len(x), -1).astype(np.float64)
    np.testing.assert_array_equal(in_order(rows(data)), in_order(expected))


@QUICK
@given(LABELS)
def test_labels_stay_with_their_rows(labels):
    x = np.arange(len(labels), dtype=float)[:, None]
    data, told = loaded(x, labels=labels)
    if told:
        assert "\n" not in told
        return
    for split in (data.train, data.validation, data.test):
        for row, found in zip(split[:][:, 0].tolist(), split.labels.tolist(), strict=True):
            wanted = labels[int(row)]
            if data.class_names is not None and found == found:
                assert data.class_names[int(found)] == str(wanted)
            elif found == found:
                assert found == pytest.approx(wanted, rel=1e-6)
            else:
                assert wanted is None or wanted != wanted


@QUICK
@given(
    st.integers(1, 60),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 2**32 - 1),
    st.integers(1, 10),
)
def test_splits_are_whole_and_disjoint(number, validation, test, seed, num_classes):
    y = np.random.default_rng(number).integers(0, num_classes, number)
    x = np.arange(number)[:, None]
    data, told = loaded(x, labels=y, validation=validation, test=test, split_seed=seed)
    if told:
        assert "nothing is left to train on" in told
        return
    splits = (data.train, data.validation, data.test)
    found = torch.cat([split[:][:, 0] for split in splits])
    assert sorted(found.tolist()) == list(range(number))
    assert all(y[int(row)] == label for s in splits for row, label in zip(s[:][:, 0], s.labels, strict=True))
