"""Valid inputs of each kind, and some that run ``canary.fire`` where they are unpickled or evaluated."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

import pyro_vae as pv


class Evil:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        import canary

        return canary.fire, ()


class Shell:
    """The same by the shell."""

    def __reduce__(self):
        import os

        return os.system, ("touch fired",)


def _written(write, *args, **kwargs) -> bytes:
    file = io.BytesIO()
    write(file, *args, **kwargs)
    return file.getvalue()


def npy() -> list[bytes]:
    random = np.random.default_rng(0)
    arrays = [
        random.normal(size=(20, 3)),
        np.asfortranarray(random.normal(size=(12, 4)).astype("f4")),
        random.integers(0, 256, (12, 5, 4), np.uint8),
        random.integers(-9, 9, (15, 2)).astype(">i2"),
        random.normal(size=(10, 2)).astype("f2"),
        np.array([[Evil()], [Shell()]], object),
    ]
    return [_written(np.save, x, allow_pickle=True) for x in arrays]


def npz() -> list[bytes]:
    random = np.random.default_rng(1)
    x, y = random.normal(size=(16, 3)), np.arange(16) % 3
    return [
        _written(np.savez, x=x, y=y),
        _written(
            np.savez_compressed, x=random.integers(0, 256, (12, 4, 4), np.uint8), y=np.array(["a", "b"] * 6)
        ),
        _written(np.savez, images=x, labels=y),
        _written(np.savez, x=x, w=x[:, :1], y=np.where(y, y, np.nan)),
        _written(np.savez, x=np.array([[Evil()], [Shell()]], object)),
        _zeros(2**28),
    ]


def _zeros(number: int) -> bytes:
    """An archive of some 2 MB, of zeros that take 8 bytes a number in memory."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "<f8", "fortran_order": False, "shape": (number // 8, 8)}
    )
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = pack.compress(head.getvalue()) + pack.flush(zlib.Z_FULL_FLUSH)
    block = pack.compress(bytes(2**22)) + pack.flush(zlib.Z_FULL_FLUSH)
    body = start + block * (8 * number // 2**22) + pack.flush()
    sizes, name = (len(body), len(head.getvalue()) + 8 * number, 5, 0), b"x.npy"
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 33, 0, *sizes) + name + body
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 33, 0, *sizes, 0, 0, 0, 0, 0) + name
    return local + entry + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(entry), len(local), 0)


def pt() -> list[bytes]:
    x, y = torch.linspace(0, 1, 48).reshape(16, 3), torch.arange(16) % 3

    def saved(value, **kwargs) -> bytes:
        return _written(lambda file: torch.save(value, file, **kwargs))

    return [
        saved(x),
        saved({"x": x, "y": y}),
        saved({"x": x.half(), "y": ["a", None, "b", "c"] * 4, "note": "text"}),
        saved(x, _use_new_zipfile_serialization=False),
        saved(torch.zeros(1).expand(2**20, 2**12)),
        saved(x.to_sparse()),
        saved(torch.empty(16, 3, device="meta")),
        saved(torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)),
        saved(x.to(torch.float8_e4m3fn)),
        saved({"x": x, "y": Evil()}),
        saved(Shell(), _use_new_zipfile_serialization=False),
    ]


def csv() -> list[bytes]:
    return [
        b"age,sex,visits,share\n"
        + b"".join(b"%d.5,%s,%d,0.%d\n" % (20 + i, (b"f", b"m")[i % 2], i * i % 7, i + 1) for i in range(9)),
        b'"a ""b""","c, d",e\n1,,x\n2,3.25,y\n,4.5,x\n' * 2 + b"5,6,y\n",
        b"\xef\xbb\xbfx;y\r\n1;2\r\n",
        b"x,flag,big\n1e308,True,123456789012\n-2e-308,False,\n0.1,,-7\n",
        b"a,b\n" + b"0,1\n" * 50_000,
        b"a\n=cmd|' /C touch fired'!A1\n=HYPERLINK(\"canary\")\n",
    ]


def parquet() -> list[bytes]:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet

    table = pd.DataFrame(
        {
            "real": [1.5, None, -2.25, 4.0] * 5,
            "text": ["a", "b", None, "c"] * 5,
            "kind": pd.Categorical(["x", "y", "x", "y"] * 5, ["x", "y", "z"], ordered=True),
            "whole": pd.array([1, None, 3, 2**40] * 5, "Int64"),
            "flag": [True, False] * 10,
        }
    )
    many = pa.table({"x": pa.array([0.5, 1.5] + [0.5] * 2**20)})
    nested = pa.table({"x": [[1, 2], [3]], "y": [{"a": 1}, {"a": 2}]})
    pickled = pa.table({"x": [pickle.dumps(Evil()), pickle.dumps(Shell())]})
    return [
        _written(table.to_parquet),
        _written(table[["real", "whole"]].to_parquet, compression=None),
        _written(lambda file: pa.parquet.write_table(many, file, compression="zstd")),
        _written(lambda file: pa.parquet.write_table(nested, file)),
        _written(lambda file: pa.parquet.write_table(pickled, file)),
    ]


def png() -> list[bytes]:
    random = np.random.default_rng(2)
    grey = random.integers(0, 256, (6, 5), np.uint8)
    colour = random.integers(0, 256, (6, 5, 3), np.uint8)
    images = [
        Image.fromarray(grey),
        Image.fromarray(colour),
        Image.fromarray(colour).convert("P"),
        Image.fromarray(grey).convert("1"),
        Image.fromarray(np.arange(30, dtype=np.uint16).reshape(6, 5)),
    ]
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 6\n(%pipe%touch fired) (w) file closefile\n"
    return [_written(image.save, "png") for image in images] + [_written(images[1].save, "gif"), script]


def ppm() -> list[bytes]:
    return [
        b"P5\n5 6\n255\n" + bytes(range(30)),
        b"P6 # a comment\n5 6 255\n" + bytes(range(90)),
        b"P2\n5 2\n15\n" + b"1 2 3 4 5\n" * 2,
        b"P3\n2 2\n255\n" + b"1 2 3 " * 4,
        b"P1\n3 2\n1 0 1\n0 1 0\n",
        b"P6\n2 2\n65535\n" + bytes(24),
    ]


def idx() -> list[bytes]:
    """Images and labels of MNIST's layout, in one text: ``mnist_parts`` tells them apart again."""
    images = b"\0\0\x08\3" + struct.pack(">3I", 12, 28, 28) + bytes(range(256)) * 36 + bytes(192)
    labels = b"\0\0\x08\1" + struct.pack(">I", 12) + bytes(range(10)) + b"\1\2"
    return [images + _BETWEEN + labels]


_BETWEEN = b"--labels--"


def mnist_parts(data: bytes) -> tuple[bytes, bytes]:
    images, _, labels = data.partition(_BETWEEN)
    return images, labels


TEXTS = [
    ("prior", "VampPrior(500)"),
    ("prior", "Fixed(Laplace([0.1, -2.5], 1.0).to_event(1))"),
    ("prior", "MixtureSameFamily(Categorical([0.3, 0.7]), Normal([[0.], [2.]], [[1.], [2.]]).to_event(1))"),
    ("prior", "Flow(transform='spline', num_transforms=4, hidden_dims=[64, 64])"),
    ("likelihood", 'Normal(scale="shared")'),
    ("likelihood", "StudentT(df=4.0)"),
    ("guide", "Laplace"),
    ("encoder", "mlp(40, 30, activation=Tanh)"),
    ("decoder", "Conv(channels=[8, 16], hidden_dim=5)"),
    ("optimizer", "SGD(momentum=0.9, nesterov=True)"),
    ("schedule", "MultiStepLR(milestones=[2, 3], gamma=0.1)"),
    ("loss", "TraceMeanField_ELBO(num_particles=3)"),
    ("model", "ConditionalVAE"),
    ("encoder", "canary.Net(width=3)"),
    ("prior", "Laplace(canary.fire(), 1.0)"),
    ("function", "canary.fire"),
    ("prior", "__import__('canary').fire()"),
    ("prior", "[c for c in ().__class__.__base__.__subclasses__()]"),
]


def text() -> list[bytes]:
    return [f"{kind}|{text}".encode() for kind, text in TEXTS]


def config() -> list[bytes]:
    run = _run()
    own = (run / "config.yaml").read_bytes()
    return [
        own,
        own,
        yaml.safe_dump(
            {"model": "VAE", "latent_dim": 2, "epochs": 3, "lr": 1e-3, "prior": "VampPrior(5)"}
        ).encode(),
        b"model: VAE\nlatent_dim: 2\nprior: !!python/object/apply:canary.fire []\n",
        b"model: !!python/object/apply:os.system ['touch fired']\n",
        b"model: canary.Net\nencoder: canary.fire()\nlr: canary.fire\n",
        b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nencoder: [*c, *c]\nepochs: 2\n",
    ]


def safetensors() -> list[bytes]:
    return [(_run() / "model.safetensors").read_bytes()]


def checkpoint() -> list[bytes]:
    return [(_run() / "checkpoint.safetensors").read_bytes()]


def _run() -> Path:
    """The folder of a run, made at the first call."""
    folder = Path("run")
    if not (folder / "model.safetensors").exists():
        x = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
        nets = {"encoder": pv.nets.mlp(4), "decoder": pv.nets.mlp(4)}
        vae = pv.VAE((3,), 2, likelihood=pv.likelihoods.Normal(scale="shared"), **nets)
        pv.fit(vae, pv.data.load(x), epochs=1, folder=folder, progress=False, compile=False, device="cpu")
    return folder


KINDS = {
    f.__name__: f for f in (npy, npz, pt, csv, parquet, png, ppm, idx, text, config, safetensors, checkpoint)
}
"""What makes the seeds of each kind, in a folder of its own."""
