"""Several processes train the model that one would: shares, sums, noise, interruptions, errors, restarts."""

import contextlib
import datetime
import math
import multiprocessing
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import pyro_vae as pv
from pyro_vae import distributed
from pyro_vae.checkpoint import CheckpointError, digest
from pyro_vae.checks import ConfigError
from pyro_vae.cli import main
from pyro_vae.distributed import ALONE, Group, ProcessError, joined, noise_seed
from pyro_vae.svi import SVI, NonFiniteLossError
from pyro_vae.training import Interrupted
from pyro_vae.training.signals import collected

B = 26
FIT = {"epochs": 2, "batch_size": B, "lr": 1e-2, "clip_norm": 3.0, "progress": False}
SMALL = ["--epochs", "2", "--encoder.hidden_dims", "[8]", "--decoder.hidden_dims", "[8]"]


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def together(function, size=2):
    """What a function of the rank returns, or the error that it raises, in each of so many processes."""
    context = multiprocessing.get_context("fork")
    results, port = context.SimpleQueue(), free_port()

    def child(rank):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size}
        os.environ.update({name: str(value) for name, value in names.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        torch.set_num_threads(1)
        try:
            found = function(rank)
        except BaseException as error:
            found = error
        try:
            results.put((rank, pickle.dumps(found)))
        except Exception:
            results.put((rank, pickle.dumps(RuntimeError(repr(found)))))

    processes = [context.Process(target=child, args=(rank,)) for rank in range(size)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks where there are threads
        for process in processes:
            process.start()
    found = {rank: pickle.loads(told) for rank, told in (results.get() for _ in processes)}
    for process in processes:
        process.join()
    return [found[rank] for rank in range(size)]


class SideBySide(TorchDispatchMode):
    """Draws for B data are those of two processes, the rows of one after the rows of the other."""

    def __init__(self, group_size, number, step, seed=0):
        super().__init__()
        self.number = number
        self.parts = [Group(rank, group_size).share(number) for rank in range(group_size)]
        weights = [Group(rank, group_size).weight(number) for rank in range(group_size)]
        self.states = []
        for rank in range(group_size):
            torch.manual_seed(noise_seed(seed, step, rank))
            self.states.append(torch.get_rng_state())
        self.ranks = [rank for rank in range(group_size) if weights[rank]]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        drawn = []
        for rank in self.ranks:
            part = self.parts[rank]
            torch.set_rng_state(self.states[rank])
            drawn.append(func(*(self.narrowed(arg, part) for arg in args), **(kwargs or {})))
            self.states[rank] = torch.get_rng_state()
        if func._schema.is_mutable:
            return args[0]
        dim = next(d for d in range(drawn[0].dim()) if sum(x.shape[d] for x in drawn) == self.number)
        return torch.cat(drawn, dim)

    def narrowed(self, arg, part):
        if isinstance(arg, torch.Tensor) and self.number in arg.shape:
            return arg.narrow(arg.shape.index(self.number), part.start, part.stop - part.start)
        if isinstance(arg, list | tuple):
            return [part.stop - part.start if size == self.number else size for size in arg]
        return arg


def numbers(rows=2 * B + 1 + 9, columns=5, gaps=False):
    """Training data for two batches and one datum more, and a few for validation."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(rows, 1, generator=generator) + 0.4 * torch.randn(rows, columns, generator=generator)
    if gaps:
        x[torch.rand(x.shape, generator=generator) < 0.2] = math.nan
    return x.double()


def loaded(gaps=False):
    return pv.data.load(numbers(gaps=gaps), validation=0.145, test=0.0)


def make(kind):
    torch.manual_seed(1)
    parts = {
        "encoder": pv.nets.mlp(8),
        "decoder": pv.nets.mlp(8),
        "likelihood": pv.likelihoods.Normal(scale="shared"),
    }
    if kind == "hierarchy":
        return pv.HierarchicalVAE((5,), latent_dims=(3, 2), **parts).double()
    return pv.VAE((5,), 2, **parts).double()


@pytest.fixture(scope="module", autouse=True)
def _warm():
    """What the first run in a process takes time for, which children then have."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    pv.fit(make("plain").float(), pv.data.load(numbers().float()), **FIT | {"epochs": 1}, compile=False)
    yield
    torch.set_num_threads(before)


class TestTheSameRun:
    @pytest.mark.usefixtures("double", "uncompiled")
    @pytest.mark.parametrize("compile", [False, True])
    @pytest.mark.parametrize("kind", ["plain", "hierarchy", "gaps"])
    def test_as_one_process_with_the_noise_of_both(self, kind, compile, monkeypatch):
        """To rounding, with a last batch of one datum, of which one process has none."""
        data = loaded(gaps=kind == "gaps")
        assert len(data.train) == 2 * B + 1
        step, count = SVI.step, []

        def side_by_side(svi, batch, beta):
            count.append(1)
            number = len(batch["x"])
            with torch.random.fork_rng([]):
                noise = SideBySide(2, number, len(count) - 1)
                with noise:
                    return step(svi, batch, beta)

        with monkeypatch.context() as patch:
            patch.setattr(SVI, "step", side_by_side)
            whole = pv.fit(make(kind), data, **FIT, compile=False)
        assert len(count) == 6

        def job(rank):
            used = []
            SVI.step = lambda svi, *args: used.append(svi) or step(svi, *args)
            run = pv.fit(make(kind), data, **FIT, compile=compile)
            assert used[-1].engine == ("compiled, float32" if compile else "eager, float32")
            return run.history, {name: value.numpy() for name, value in run.program.state_dict().items()}

        (history, weights), (other_history, other_weights) = together(job)
        for name, value in whole.program.state_dict().items():
            assert np.array_equal(weights[name], other_weights[name]), name
            np.testing.assert_allclose(weights[name], value.numpy(), rtol=1e-8, atol=1e-10)
        for row, other, single in zip(history, other_history, whole.history, strict=True):
            assert row | {"seconds": 0} == other | {"seconds": 0}
            for name in ("loss", "elbo", "reconstruction", "kl"):
                assert row[name] == pytest.approx(single[name], rel=1e-9)
            assert row["validation_elbo"] == pytest.approx(single["validation_elbo"], abs=1.0)

    @pytest.mark.usefixtures("double")
    @pytest.mark.parametrize("kind", ["conditional", "few labels", "sequence", "table", "discrete"])
    def test_of_each_model_as_one_process_where_nothing_is_drawn(self, kind, monkeypatch):
        """Three processes, of batches of 26, 26 and 1; each draw is the mean of what it is of."""
        x, nets = numbers(), {"encoder": pv.nets.mlp(8), "decoder": pv.nets.mlp(8)}
        y, normal = (x[:, 0] > 0).double(), {"likelihood": pv.likelihoods.Normal(scale="shared")}
        if kind == "conditional":
            data, model = {"x": x, "y": y.long()}, pv.ConditionalVAE
            options = {"event_shape": (5,), "given": {"y": 2}, "latent_dim": 2, **normal, **nets}
        elif kind == "few labels":
            data, model = (
                {"x": x, "y": y.masked_fill(torch.arange(len(x)) % 5 > 0, math.nan)},
                pv.SemiSupervisedVAE,
            )
            options = {"event_shape": (5,), "num_classes": 2, "latent_dim": 2, **normal, **nets}
            options["radius"] = 0.0  # whose direction starts at a draw
        elif kind == "sequence":
            steps = x.cumsum(1)[..., None].clone()
            steps[::3, 3:] = math.nan
            data, model, options = steps, pv.SequentialVAE, {"event_shape": (5, 1), "latent_dim": 2, **normal}
        elif kind == "table":
            data = pd.DataFrame(numbers(gaps=True).numpy(), columns=list("abcde"))
            data["k"] = np.where(y > 0, "u", None)
            data.loc[::4, "k"] = "v"
            model = pv.VAE
            options = {
                "event_shape": pv.data.load(data).columns,
                "latent_dim": 2,
                "likelihood": "auto",
                **nets,
            }
        else:
            prior = pv.priors.OneHotCategorical(4)
            data, model, options = (
                x,
                pv.VAE,
                {"event_shape": (5,), "latent_dim": 4, "prior": prior, **normal, **nets},
            )
        data = pv.data.load(data, validation=0.145, test=0.0)
        assert len(data.train) == 2 * B + 1
        nothing = lambda shape, dtype, device: torch.zeros(shape, dtype=dtype, device=device)  # noqa: E731
        monkeypatch.setattr("torch.distributions.normal._standard_normal", nothing)
        monkeypatch.setattr("torch.normal", lambda mean, std: mean)
        randn = torch.randn
        monkeypatch.setattr("torch.randn", lambda *shape, **options: 0 * randn(*shape, **options))

        def job(rank=0):
            torch.manual_seed(1)
            run = pv.fit(model(**options).double(), data, **FIT, compile=False)
            return run.history, {name: value.numpy() for name, value in run.program.state_dict().items()}

        history, weights = job()
        for own_history, own in together(job, 3):
            for name, value in weights.items():
                np.testing.assert_allclose(own[name], value, rtol=1e-8, atol=1e-10)
            for row, single in zip(own_history, history, strict=True):
                for name in single.keys() - {"seconds"}:
                    assert row[name] == pytest.approx(single[name], rel=1e-5), name  # the loss is a float32

    def test_noise_is_another_in_each_process_and_step(self):
        seeds = {noise_seed(seed, step, rank) for seed in (0, 1) for step in range(50) for rank in range(4)}
        assert len(seeds) == 400

    @pytest.mark.parametrize("number", [1, 2, 3, 7, 128])
    def test_shares_are_all_data_once(self, number):
        groups = [Group(rank, 3) for rank in range(3)]
        rows = [list(range(number))[g.share(number)] for g in groups]
        assert [row for g, own in zip(groups, rows, strict=True) if g.weight(number) for row in own] == list(
            range(number)
        )
        assert sum(g.weight(number) for g in groups) == pytest.approx(1)
        assert all(rows)
        assert (ALONE.share(number), ALONE.weight(number)) == (slice(0, number), 1)


def tiny(rank=0, **options):
    """A small run in float32, kept in the folder run."""
    data = pv.data.load(numbers().float())
    options = {"folder": "run", "resume": "auto", "epochs": 3, "compile": False} | options
    run = pv.fit(make("plain").float(), data, **FIT | options)
    return digest(run.program.state_dict())


def interrupted(rank, step, who=1, signum=signal.SIGTERM, **options):
    """The run, of which one process is sent a signal in a step."""
    original, count = SVI.step, []

    def patched(svi, *args):
        count.append(1)
        if len(count) == step and rank == who:
            os.kill(os.getpid(), signum)
        return original(svi, *args)

    SVI.step = patched
    try:
        return tiny(rank, **options)
    except Interrupted as error:
        return error.code, str(error)


class TestInterruptions:
    def test_all_end_at_the_same_step_and_go_on_with_the_same_bits(self):
        (whole, same) = together(lambda rank: tiny(rank, folder="whole"))
        assert whole == same
        found = together(lambda rank: interrupted(rank, 2))
        assert found[0] == found[1]
        assert found[0][0] == 143
        assert "after 2 batches, and saved" in found[0][1]
        assert together(tiny) == [whole, whole]
        log = Path("run/log.txt").read_text()
        assert "2 processes, each on its share of every 26 data" in log
        assert log.count("epoch 3/3") == 1
        assert "Interrupted: stopped in epoch 1, after 2 batches" in log

    def test_after_the_limit_of_time(self):
        found = together(lambda rank: interrupted(rank, 0, max_minutes=1e-9 if rank else None))
        assert [code for code, _ in found] == [75, 75]
        assert "after 1 batches, and saved" in found[0][1]

    @pytest.mark.parametrize("sizes", [(2, 1), (1, 2), (2, 3)], ids=str)
    def test_going_on_with_another_number(self, sizes):
        before, after = sizes
        together(lambda rank: interrupted(rank, 3, who=0), before)
        ends = together(tiny, after)
        assert isinstance(ends[0], str)
        assert len(set(ends)) == 1
        log = Path("run/log.txt").read_text()
        assert f"{before} processes before, now {after}: from epoch 2 on the noise is another" in log

    @pytest.mark.parametrize("by_torchrun", [False, True])
    def test_a_signal_sent_twice(self, by_torchrun, monkeypatch):
        """As by a cluster to all processes, and by torchrun, which has it too and passes it on."""
        monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
        if by_torchrun:
            monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
        as_ever = []
        before = signal.signal(signal.SIGTERM, lambda *_: as_ever.append(1))
        try:
            with collected() as stops:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)
                assert stops
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            signal.signal(signal.SIGTERM, before)
        assert len(as_ever) == (1 if by_torchrun else 2)

    def test_patience_and_callbacks_are_those_of_all(self):
        def job(rank):
            called = []
            tiny(rank, callback=lambda epoch, *_: called.append(epoch) or epoch == 2, patience=5)
            return called

        assert together(job) == [[1, 2], []]
        assert "stopped by the callback after epoch 2" in Path("run/log.txt").read_text()


class TestWhatElseIsTrained:
    def test_a_run_is_verified_by_as_many(self):
        def verified(rank=0):
            data, program = pv.data.load(numbers().float()), make("plain").float()
            return pv.training.verify("run", program=program, data=data, progress=False)

        together(lambda rank: tiny(epochs=2))
        one, other = together(verified)
        assert one == other
        assert (one.differs, one.epochs, one.stamps) == (None, 2, {})
        alone = verified()
        assert (alone.differs, alone.stamps) == (1, {"processes": ("2", "1")})

    @pytest.mark.filterwarnings("ignore:log p.x. of")
    def test_variants_are_compared(self):
        def compared(rank):
            nets = {"encoder": pv.nets.mlp(4), "decoder": pv.nets.mlp(4)}
            options = FIT | {"epochs": 1, "latent_dim": 2, "compile": False, "num_samples": 3}
            likelihoods = [pv.likelihoods.Normal(scale="shared"), "Laplace"]
            data = pv.data.load(numbers().float())
            found = pv.compare(data, likelihoods=likelihoods, **nets, **options)
            return str(found), str(found.folder), [digest(p.state_dict()) for p in found.programs.values()]

        one, other = together(compared)
        assert one == other
        assert {"comparison.csv", "comparison.png"} <= set(os.listdir(one[1]))
        assert len(os.listdir("runs")) == 1


class Broken(pv.Program):
    """Of which one process computes NaN from some step on."""

    def __init__(self, rank, step):
        super().__init__()
        torch.manual_seed(0)
        self.line = torch.nn.Linear(5, 5)
        self.rank, self.step, self.taken = rank, step, 0

    def model(self, batch):
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(torch.zeros(5), 1.0).to_event(1))
            self.taken += self.training
            loc = self.line(z) * (math.nan if self.rank == 1 and self.taken >= self.step else 1.0)
            self.sample("x", dist.Normal(loc, 1.0).to_event(1), batch)

    def guide(self, batch):
        with self.plate(batch):
            pyro.sample("z", dist.Normal(self.line(batch["x"]), 1.0).to_event(1))


class TestFailures:
    @pytest.mark.filterwarnings("ignore:Encountered NaN")
    @pytest.mark.parametrize("step", [1, 2, 3])
    def test_nan_in_one_process_is_an_error_in_all_and_no_step(self, step):
        data = pv.data.load(numbers().float())

        def job(rank):
            program, weights = Broken(rank, step), []
            update = SVI._update

            def counted(svi, result):
                update(svi, result)
                weights.append(digest(program.state_dict()))

            SVI._update = counted
            with pytest.raises(NonFiniteLossError) as error:
                pv.fit(program, data, **FIT, compile=False)
            return weights, digest(program.state_dict()), str(error.value)

        (one, now, text), (other, also, same) = together(job)
        assert len(one) == step - 1
        assert one == other
        assert now == also
        assert one[-1:] in ([], [now])
        assert text == same
        assert "site 'x' of the model" in text

    def test_of_the_folder_are_told_to_all(self):
        tiny()
        found = together(lambda rank: tiny(resume=False))
        assert [type(error) for error in found] == [CheckpointError, CheckpointError]
        assert "holds a run already" in str(found[1])

    def test_of_one_process_end_the_others(self):
        def job(rank):
            if rank == 1:
                original, count = SVI.step, []

                def step(svi, *args):
                    count.append(1)
                    if len(count) == 3:
                        raise OSError("the disk of process 1 is gone")
                    return original(svi, *args)

                SVI.step = step
            try:
                return tiny(rank)
            except Exception as error:
                if rank == 1:
                    time.sleep(1.0)  # whether it lives on or not
                return error

        began = time.monotonic()
        one, other = together(job)
        assert isinstance(other, OSError)
        assert isinstance(one, ProcessError)
        assert "another process of the run has ended" in str(one)
        assert time.monotonic() - began < 60
        assert "ProcessError" in Path("run/log.txt").read_text()

    def test_one_may_come_to_the_next_run_before_the_others_have_left_the_last(self):
        def job(rank):
            for _ in range(3):
                with joined():
                    time.sleep(0.5 * (1 - rank))
            with joined() as group:
                return group.gather(rank)

        assert together(job) == [[0, 1], [0, 1]]

    def test_the_first_may_take_its_time(self, monkeypatch):
        """As it does over data of a TB, while one that hangs in a step does not."""
        monkeypatch.setattr(distributed, "TIMEOUT", datetime.timedelta(seconds=2))

        def job(rank):
            with joined(), joined() as group:
                found = group.first(lambda: time.sleep(4) or "seen")
            with joined() as group:
                time.sleep(5 * rank)
                try:
                    return found, group.gather(rank)
                except ProcessError as error:
                    return found, str(error)

        (one, other), (also, _) = together(job)
        assert one == also == "seen"
        assert "does not answer" in other

    @pytest.mark.parametrize(
        "names",
        [
            {"WORLD_SIZE": "2"},
            {"WORLD_SIZE": "two", "RANK": "0"},
            {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
            {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1"},
        ],
        ids=str,
    )
    def test_an_environment_that_tells_half(self, names, monkeypatch):
        for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in names.items():
            monkeypatch.setenv(name, value)
        with (
            pytest.raises(ConfigError, match=r"the environment has WORLD_SIZE=.*; .* unset WORLD_SIZE"),
            joined(),
        ):
            pass

    def test_on_the_command_line_another_that_ends_is_a_sentence(self, monkeypatch, capsys):
        def fit(*args, **options):
            raise ProcessError("another process of the run has ended")

        monkeypatch.setattr(pv.training, "fit", fit)
        assert main(["train", *SMALL]) == 1
        assert capsys.readouterr().err == "pyro-vae: another process of the run has ended\n"

    def test_weights_that_differ_are_noticed(self):
        def job(rank):
            def spoil(epoch, metrics, program):
                with torch.no_grad():
                    next(program.parameters()).add_(1e-3)

            try:
                return tiny(rank, callback=spoil)
            except ProcessError as error:
                return str(error)

        one, other = together(job)
        assert one == other
        assert "the weights after epoch 2 of process 1 are not those of process 0" in one

    def test_other_data_or_programs_are_refused(self):
        def job(rank):
            data = pv.data.load(numbers().float() + (rank == 1))
            return pv.fit(make("plain").float(), data, **FIT)

        assert all("the data of process 1 are not" in str(error) for error in together(job))

    def test_latents_outside_of_the_plate_are_refused(self):
        class Global(Broken):
            def model(self, batch):
                pyro.sample("w", dist.Normal(0.0, 1.0))
                super().model(batch)

            def guide(self, batch):
                pyro.sample("w", dist.Normal(0.0, 1.0))
                super().guide(batch)

        data = pv.data.load(numbers().float())
        found = together(lambda rank: pv.fit(Global(0, 9), data, **FIT))
        assert all(
            isinstance(error, ConfigError) and "site 'w' lies outside" in str(error) for error in found
        )


class TestShares:
    def test_of_a_file_each_process_reads_its_rows_alone(self):
        np.save("x.npy", numbers().float().numpy())
        data = pv.data.load("x.npy", stream=True, validation=0.2, test=0.0)

        def job(rank):
            (source,) = data.train.sources.values()
            read, rows = type(source.values).read, []
            type(source.values).read = lambda values, some: rows.extend(map(int, some)) or read(values, some)
            pv.fit(make("plain").float(), data, **FIT | {"epochs": 1}, compile=False)
            return [row for row in rows if row in source.rows]

        first, other = together(job)
        assert set(first) == set(data.train.sources["x"].rows)  # which looks at all of them before
        assert len(other) == len(data.train) // 2 + 1  # and the first, by which the KL is told of

    @pytest.mark.filterwarnings("ignore:log p.x. of")
    def test_of_the_likelihood(self):
        data = pv.data.load(numbers().float(), validation=0.3)
        vae = make("plain").float()
        pv.fit(vae, data, **FIT | {"epochs": 1})
        found = together(lambda rank: distributed.log_likelihood(vae, data.validation, num_samples=20))
        assert found[0].log_likelihood == found[1].log_likelihood
        assert torch.equal(found[0].per_datum, found[1].per_datum)
        whole = pv.evaluate.log_likelihood(vae, data.validation, num_samples=2000)
        assert len(found[0].per_datum) == len(data.validation)
        assert found[0].log_likelihood == pytest.approx(whole.log_likelihood, abs=0.5)
        alone = distributed.log_likelihood(vae, data.validation, num_samples=20)
        own = pv.evaluate.log_likelihood(vae, data.validation, num_samples=20)
        assert alone.log_likelihood == pytest.approx(own.log_likelihood)
        data.validation = distributed.part(data.validation, slice(0, 2))
        found = together(lambda rank: distributed.log_likelihood(vae, data.validation, num_samples=20), 3)
        for each in found:
            assert torch.equal(each.per_datum, found[0].per_datum)
            assert len(each.per_datum) == len(each.pareto_k) == 2
            assert each.log_likelihood == each.per_datum.mean().item()


@pytest.mark.parametrize("environment", [{}, {"RANK": "0", "WORLD_SIZE": "1"}], ids=str)
def test_a_single_process_is_as_ever(environment):
    """No group is made, and nothing of one is called."""
    calls = ("init_process_group", "all_reduce", "broadcast", "all_gather_object", "broadcast_object_list")

    def job(rank):
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            os.environ.pop(name)
        os.environ.update(environment)
        for name in calls:
            setattr(torch.distributed, name, None)
        return tiny(folder="other")

    assert together(job, 1) == [tiny()]


def workers(parent):
    """Processes that a torchrun has started, by their rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                rank = re.search(rb"\0RANK=(\d+)\0", b"\0" + (folder / "environ").read_bytes())
                if rank:
                    found[int(rank[1])] = int(folder.name)
    return found


def wait_for(text, process, seconds=300):
    """Until the run's log says so."""
    end, log = time.monotonic() + seconds, Path("run/log.txt")
    while not (log.exists() and text in log.read_text()):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.02)


def environment(folder="."):
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    own = {name: value for name, value in os.environ.items() if name not in names}
    path = f"{Path(folder).resolve()}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return own | {"OMP_NUM_THREADS": "1", "PATH": path}


ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


THREADS = """
import os, torch
from pyro_vae.distributed import joined
with joined() as group:
    import torch._dynamo  # as the compiler does, in the midst of training
    assert group.gather(group.rank) == [0, 1]
    assert group.first(lambda: 7) == 7
names = {open(f"/proc/self/task/{each}/comm").read().strip() for each in os.listdir("/proc/self/task")}
assert not any("gloo" in name for name in names), names
"""


@ONLY_LINUX
def test_threads_end_with_the_group():
    """Those left to the interpreter's end could abort the process there, with all its work done."""
    Path("threads.py").write_text(THREADS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, "threads.py"], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@ONLY_LINUX
@pytest.mark.slow
def test_a_killed_process_is_started_again_and_goes_on():
    """torchrun ends the others, and starts all anew; what comes out has the bits of what was left alone."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    train = ["-m", "pyro_vae", "train", "--resume", "auto", *SMALL, "--epochs", "40"]
    run = [*command, "--max-restarts", "1", *train, "--folder", "run"]
    with subprocess.Popen(run, env=environment(), stdout=subprocess.PIPE, text=True) as started:
        wait_for("epoch 3/40", started)
        os.kill(workers(started.pid)[1], signal.SIGKILL)
        out, _ = started.communicate(timeout=600)
    assert started.returncode == 0
    log = Path("run/log.txt").read_text()
    assert log.count("2 processes, each on its share") == 2
    assert out.count("run/figures/samples.png") == 1  # the first tells of it
    done = subprocess.run([*command, *train, "--folder", "whole"], env=environment(), capture_output=True)
    assert done.returncode == 0
    assert digest(pv.load("run").state_dict()) == digest(pv.load("whole").state_dict())


@ONLY_LINUX
@pytest.mark.slow
def test_the_script_for_slurm_is_queued_again_until_the_run_is_done():
    """With stand-ins for its commands, on one machine; stopped by its signal, and by a limit of time."""
    bin = Path("bin")
    bin.mkdir()
    (bin / "srun").write_text('#!/bin/bash\nexec "$@"\n')
    (bin / "scontrol").write_text('#!/bin/bash\n[[ $1 = show ]] && echo 127.0.0.1 || echo "$@" >> requeued\n')
    for path in bin.iterdir():
        path.chmod(0o755)
    script = Path(__file__).parents[2] / "examples" / "slurm.sh"
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "a", "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "2"}
    options = [*SMALL, "--epochs", "30"]

    def start(*more):
        own = environment(bin) | slurm | {"PORT": free_port()}
        return subprocess.Popen(["bash", script, "run", *options, *more], env=own)

    with start() as job:
        wait_for("epoch 2/30", job)
        job.send_signal(signal.SIGUSR1)
        assert job.wait(300) == 0
    assert Path("requeued").read_text() == "requeue 7\n"
    with start("--max-minutes", "1e-9") as job:
        assert job.wait(300) == 0
    assert Path("requeued").read_text() == "requeue 7\nrequeue 7\n"
    assert not Path("run/model.safetensors").exists()
    with start() as job:
        assert job.wait(600) == 0
    assert Path("requeued").read_text() == "requeue 7\nrequeue 7\n"
    assert len(pv.training.reopen("run").history) == 30
