"""What the pages say of trackers of experiments, where they are installed: every block is run."""

import csv
import re
from pathlib import Path

import pytest

HOWTO = Path(__file__).resolve().parents[1] / "docs" / "howto"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the trackers' own


def run(page):
    names: dict[str, object] = {"__name__": "__main__"}
    for block in re.findall(r"```py(?:thon)?\n(.*?)```", (HOWTO / page).read_text(), re.DOTALL):
        exec(compile(block, page, "exec"), names)
    with open("runs/tracked/history.csv", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_mlflow(tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="pip install mlflow")
    history = run("track_with_mlflow.md")
    (found,) = mlflow.search_runs(output_format="list")
    assert found.data.params["latent_dim"] == "2"
    for name in ("elbo", "validation_elbo"):
        told = mlflow.MlflowClient().get_metric_history(found.info.run_id, name)
        assert [(one.step, one.value) for one in told] == [(row["epoch"], row[name]) for row in history]
    assert {"README.md", "config.yaml", "model.safetensors"} <= {
        one.path for one in mlflow.artifacts.list_artifacts(run_id=found.info.run_id)
    }


def test_wandb(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    pytest.importorskip("wandb", reason="pip install wandb")
    history = run("track_with_wandb.md")
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    text = file.read_bytes()
    assert b"validation_elbo" in text
    assert len(history) == 2
