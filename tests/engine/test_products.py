"""Which library multiplies: measured once, kept, and the same product either way."""

import json

import pytest
import torch

from pyro_vae.engine import Compiled, private, products


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(private, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(products, "_answers", {})
    return tmp_path / "cache"


@pytest.fixture
def asked(monkeypatch):
    """What was measured, where oneDNN always wins."""
    found = []
    monkeypatch.setattr(products, "_measure", lambda a, b: found.append((a, b)) or True)
    return found


A, B = torch.randn(64, 48), torch.randn(32, 48)


def test_each_product_is_measured_once_and_remembered(folder, asked, monkeypatch):
    for _ in range(2):
        assert products.onednn_is_faster(A, B.t())
    monkeypatch.setattr(products, "_answers", {})  # another process
    assert products.onednn_is_faster(A, B.t())
    assert len(asked) == 1
    assert asked[0][1].stride() == B.t().stride()
    assert products.onednn_is_faster(A, torch.randn(48, 32))
    assert len(asked) == 2


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 3}', "[" * 100_000, '{"a": {"b": "true"}}'])
def test_a_file_that_was_not_written_so_is_written_anew(folder, asked, text):
    folder.mkdir()
    (folder / "pyro_vae_products.json").write_text(text)
    assert products.onednn_is_faster(A, B.t())
    (answers,) = (
        v for k, v in json.loads((folder / "pyro_vae_products.json").read_text()).items() if k != "a"
    )
    assert list(answers.values()) == [True]


def test_where_nothing_can_be_kept_it_is_measured_in_each_process(tmp_path, asked, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(private, "cache_folder", lambda: tmp_path / "file" / "cache")
    monkeypatch.setattr(products, "_answers", {})
    assert products.onednn_is_faster(A, B.t())


@pytest.mark.skipif(not private.onednn(), reason="PyTorch was built without oneDNN")
def test_the_product_is_the_same(folder, asked, monkeypatch):
    monkeypatch.setattr(products, "SMALLEST", 0)
    pairs = [(A, B.t()), (A.t().contiguous().t(), B.t().contiguous()), (torch.randn(1, 48), B.t())]
    for a, b in pairs:
        (found,) = Compiled(lambda a, b: [a @ b], [a, b])(a, b)
        torch.testing.assert_close(found, a @ b)
    assert len(asked) == len(pairs)


def test_what_is_measured_is_what_is_asked_for():
    assert products._measure(A, B.t()) in (True, False)
    assert products.processor()
