import functools
import math
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pyro.infer
import pyro.optim
import pytest
import torch
import yaml
from torch.optim import lr_scheduler

import pyro_vae as pv
from pyro_vae.checks import ConfigError
from pyro_vae.training import Settings, find_device


def rate(epoch):
    return 0.1 / (1 + epoch)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs=0 must be positive"),
        ({"epochs": 2.5}, r"epochs=2\.5 must be a whole number"),
        ({"epochs": True}, "epochs=True must be a whole number"),
        ({"epochs": "many"}, "epochs='many' must be a whole number"),
        ({"epochs": None}, "epochs=None must be a whole number"),
        ({"epoch": 3}, "no option 'epoch'; did you mean epochs"),
        ({"batch_size": -1}, "batch_size=-1 must be positive"),
        ({"lr": -1.0}, r"lr=-1\.0 must be positive"),
        ({"lr": math.nan}, "lr=nan must be positive"),
        ({"lr": "fast"}, "lr='fast' must be a number or a function"),
        ({"lr": None}, "lr=None must be a number or a function"),
        ({"schedule": "cosin"}, "did you mean cosine"),
        ({"schedule": "CosineAnealingLR(T_max=3)"}, "did you mean CosineAnnealing"),
        ({"schedule": 3}, "schedule=3 must be"),
        ({"schedule": lr_scheduler.ChainedScheduler}, "ChainedScheduler is no schedule"),
        ({"patience": 0}, "patience=0 must be positive"),
        ({"patience": 1.5}, r"patience=1\.5 must be a whole number or None"),
        ({"clip_norm": -1.0}, r"clip_norm=-1\.0 must be positive"),
        ({"warmup_epochs": -2}, "warmup_epochs=-2 must be a whole number from 0 up"),
        ({"beta": -1.0}, r"beta=-1\.0 must be a number from 0 up"),
        ({"beta": math.nan}, "beta=nan must be"),
        ({"seed": -1}, "seed=-1 must be from 0 up"),
        ({"seed": 2**32}, "must be from 0 up"),
        ({"compile": "yes"}, "compile='yes' must be True or False or 'auto'"),
        ({"precision": "float16"}, "must be 'float32' or 'bf16'"),
        ({"device": 0}, "device=0 must be a text"),
        ({"loss": "Renyi_ELBO"}, "did you mean RenyiELBO"),
        ({"loss": torch.nn.MSELoss()}, "does not fit here"),
        ({"loss": pyro.infer.JitTrace_ELBO()}, "does not fit here"),
        ({"optimizer": "Adm"}, "did you mean Adam"),
        ({"optimizer": torch.optim.LBFGS}, "does not fit here"),
        ({"optimizer": pyro.optim.Adam({"lr": 1e-3})}, "must be a class"),
        ({"optimizer": functools.partial(torch.optim.Adam, lr=1e-3)}, "give it to fit"),
        ({"lr": rate, "schedule": "linear"}, "leave schedule out"),
        ({"beta": rate, "warmup_epochs": 3}, "leave warmup_epochs out"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_mistakes_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        Settings.from_plain(values, trust="*")


def test_mistakes_are_named_before_anything_is_done(make_vae, digits, tmp_path):
    vae = make_vae()
    with pytest.raises(ConfigError, match="epochs"):
        pv.fit(vae, digits, epochs=2.5, folder="run")
    assert not list(tmp_path.iterdir())
    assert not vae.initialized


def test_optimizers_that_have_been_made():
    made = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(ConfigError, match=r"optimizer=Adam .* must be"):
        Settings(optimizer=made)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"epochs": 3, "lr": 1e-5, "clip_norm": 10.0, "patience": 3, "compile": True, "precision": "bf16"},
        {"optimizer": functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True)},
        {"loss": pyro.infer.RenyiELBO(alpha=0.5, num_particles=3)},
        {"schedule": "burda", "warmup_epochs": 3, "beta": 4.0},
        {"schedule": functools.partial(lr_scheduler.StepLR, step_size=2)},
        {"lr": rate, "beta": rate},
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_to_plain_values_and_back(values):
    settings = Settings(**values)
    plain = yaml.safe_load(yaml.safe_dump(settings.to_plain()))
    again = Settings.from_plain(plain, trust=["test_settings"])
    assert again.to_plain() == plain == settings.to_plain()


def test_texts_stand_for_values():
    """As they are typed in a shell, or by hand in YAML, where 1e-3 is a text."""
    typed = {"epochs": "3", "lr": "1e-3", "patience": "null", "compile": "true", "clip_norm": "inf"}
    typed |= {"optimizer": "sgd", "loss": "trace_elbo", "schedule": "constant", "device": "cpu"}
    del typed["clip_norm"]
    settings = Settings.from_plain(typed)
    assert (settings.epochs, settings.lr, settings.patience, settings.compile) == (3, 1e-3, None, True)
    assert settings.optimizer is torch.optim.SGD
    assert isinstance(settings.loss, pyro.infer.Trace_ELBO)


def test_numbers_of_numpy():
    settings = Settings(epochs=np.int64(3), lr=np.float32(0.5))
    assert yaml.safe_dump(settings.to_plain())
    assert (type(settings.epochs), type(settings.lr)) == (int, float)


def test_a_loss_by_its_class():
    assert isinstance(Settings(loss=pyro.infer.TraceMeanField_ELBO).loss, pyro.infer.TraceMeanField_ELBO)


def test_are_frozen_and_told():
    with pytest.raises(FrozenInstanceError):
        Settings().epochs = 3
    documentation = Settings.documentation()
    assert documentation.keys() == {option.name for option in fields(Settings)}
    assert all(len(sentence) > 10 for sentence in documentation.values())


def test_device():
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match=r"device='gpu'.*device='cpu' can"):
        find_device("gpu")
