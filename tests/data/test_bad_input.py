import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae.data import DataError, load


class TestBadInput:
    """Each ends in one clear sentence with the mend."""

    def refuses(self, message, *args, **kwargs):
        with pytest.raises(DataError, match=message) as caught:
            load(*args, **kwargs)
        assert "\n" not in str(caught.value)

    def test_unknown_name(self):
        self.refuses("did you mean 'fashion-mnist'.*Known names: digits", "fashion_mnist")
        self.refuses("no data set or file named 'nowhere.npy'", "nowhere.npy")

    def test_unknown_suffix(self, tmp_path):
        (tmp_path / "x.tsv").write_text("1,2")
        self.refuses("np.save", "x.tsv")

    @pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt"])
    def test_damaged(self, tmp_path, suffix):
        (tmp_path / f"x{suffix}").write_bytes(b"\x93NUMPY garbage")
        self.refuses("cannot be read", f"x{suffix}")
        (tmp_path / f"x{suffix}").write_bytes(b"")
        self.refuses("cannot be read", f"x{suffix}")

    def test_pickles_are_not_loaded(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return (open, (str(tmp_path / "owned"), "w"))

        np.save("x.npy", np.array([Evil()], dtype=object))
        self.refuses("without unpickling", "x.npy")
        np.savez("x.npz", x=np.array([Evil()], dtype=object))
        self.refuses("without unpickling", "x.npz")
        torch.save(Evil(), "x.pt")
        self.refuses("without unpickling", "x.pt")
        assert not (tmp_path / "owned").exists()

    def test_images_of_no_known_scale(self, tmp_path):
        (tmp_path / "deep").mkdir()
        Image.fromarray(np.arange(25, dtype=np.int32).reshape(5, 5)).save("deep/a.tif")
        self.refuses("more than 8 bits", "deep")

    def test_streamed_files_are_checked_too(self):
        np.save("x.npy", np.array([["a", "b"]]))
        self.refuses("not real numbers", "x.npy", stream=True)

    def test_empty(self):
        self.refuses("is empty", np.zeros((0, 3)))
        self.refuses("is empty", np.zeros((3, 0)))
        self.refuses("is a single number", np.float64(3.0))

    def test_one_dimensional(self):
        self.refuses(r"x\[:, None\]", np.zeros(5))

    def test_ragged(self):
        self.refuses("ragged|different shapes", [[1.0, 2.0], [3.0]])

    def test_not_numbers(self):
        self.refuses("not real numbers", np.array([["a", "b"]]))
        self.refuses("not real numbers", np.array([[1j]]))

    @pytest.mark.parametrize("value", [-np.inf, np.inf])
    @pytest.mark.parametrize("stream", [False, True])
    def test_infinite(self, value, stream):
        x = np.zeros((2000, 3))
        x[0] = np.nan
        x[1500, 1] = value
        np.save("x.npy", x)
        message = "x.npy holds infinite values, first in row 1500"
        if stream:  # it is not read before it is used
            data = load("x.npy", stream=True)
            with pytest.raises(DataError, match=message):
                _ = [split.gaps for split in (data.train, data.validation, data.test)]
        else:
            self.refuses(message, "x.npy")
        self.refuses(
            "site 'w' of array holds infinite values, first in row 1500", {"x": np.zeros((2000, 1)), "w": x}
        )

    def test_sites_of_another_length(self):
        self.refuses(r"10 data but labels of shape \(9,\).*10 of them", np.zeros((10, 2)), labels=np.zeros(9))
        self.refuses(r"site 'w' of shape \(3, 2\)", {"x": np.zeros((10, 2)), "w": np.zeros((3, 2))})
        self.refuses(r"site 'w' of shape \(\)", {"x": np.zeros((10, 2)), "w": 3.0})
        np.savez("x.npz", x_train=np.zeros((10, 2)), x_test=np.zeros((3, 2)))
        self.refuses("site 'x_test'", "x.npz")

    def test_mappings(self):
        self.refuses("names of sites", {})
        self.refuses("names of sites", {0: np.zeros((3, 2))})
        self.refuses("values of site 'w' hold <U1", {"x": np.zeros((2, 2)), "w": ["a", "b"]})
        self.refuses("twice", {"x": np.zeros((3, 2)), "y": [0, 1, 1]}, labels=[0, 1, 1])
        self.refuses("twice", "digits", labels=[0] * 1797)

    @pytest.mark.parametrize("data", [None, object(), 3, {"x": None}])
    def test_what_is_no_data(self, data):
        self.refuses("are of type|is a single number", data)

    def test_labels(self):
        x = np.zeros((3, 2))
        self.refuses(r"shape \(3, 2\)", x, labels=x)
        self.refuses("from 0, but the least is -1", x, labels=[0, 1, -1])
        self.refuses("hashable", x, labels=[[0], [1], [2]])
        for labels in ("abc", 3):
            self.refuses("one label per datum", x, labels=labels)
        self.refuses("site 'y' of array holds infinite", x, labels=[0.5, np.inf, 1.0])

    def test_folders(self, tmp_path):
        (tmp_path / "empty").mkdir()
        self.refuses("holds no images", "empty")
        (tmp_path / "mixed").mkdir()
        Image.new("L", (5, 5)).save("mixed/a.png")
        Image.new("L", (6, 5)).save("mixed/b.png")
        self.refuses("one size", "mixed")
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
        self.refuses("no readable image", "broken")

    @pytest.mark.parametrize("value", [False, None, "dyn", ["static"]])
    def test_binarize(self, value):
        self.refuses("is none of 'dynamic'", "digits", binarize=value)

    @pytest.mark.parametrize("value", [-1, 2**32, 1.0, "0", True])
    def test_split_seed(self, value):
        self.refuses("split_seed=.* must be", "digits", split_seed=value)

    def test_nothing_left_to_train_on(self):
        self.refuses("nothing is left", np.zeros((1, 2)), validation=0.6, test=0.6)

    @pytest.mark.parametrize("name", ["validation", "test"])
    @pytest.mark.parametrize("value", [1.5, -0.1, np.nan, "0.1", True, None])
    def test_fractions(self, name, value):
        self.refuses(f"{name}=.* is no fraction", np.zeros((5, 2)), **{name: value})

    def test_choices(self):
        self.refuses("levels='yes' is neither", "digits", levels="yes")
        self.refuses("stream=1 is neither", "digits", stream=1)
        self.refuses("give one of them", "digits", levels=True, binarize="static")

    def test_arrays_without_names(self):
        np.savez("x.npz", np.zeros((3, 2)), np.zeros(3))
        self.refuses('none of them "x"', "x.npz")

    def test_pt_without_arrays(self):
        torch.save({"a": "text"}, "x.pt")
        self.refuses("holds no arrays", "x.pt")
        torch.save(3, "x.pt")
        self.refuses("holds no arrays", "x.pt")
