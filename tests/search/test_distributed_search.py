"""A search in two processes: the gradients of one, and the same alphas and weights in both."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from nni_nastc.config import dump_config
from nni_nastc.errors import ModelError
from nni_nastc.genotype import Genotype
from nni_nastc.search.runner import run_search
from tests.distributed_jobs import search_step, torchrun
from tests.toy import ToySet, history_of

JOBS = "tests.distributed_jobs"


@pytest.mark.slow
def test_two_processes_take_the_step_of_one(tmp_path):
    torchrun(JOBS, "search_step", tmp_path)
    search_step(tmp_path)
    for name in ("alphas", "weights"):
        alone = load_file(tmp_path / f"{name}_0_of_1")
        assert alone
        for rank in range(2):
            both = load_file(tmp_path / f"{name}_{rank}_of_2")
            assert both.keys() == alone.keys()
            for key, gradient in alone.items():
                difference = (both[key] - gradient).norm() / gradient.norm().clamp_min(1e-6)
                assert difference < 1e-5, f"{key} differs by {difference:.1e}"
    after = [load_file(tmp_path / f"after_{rank}_of_2") for rank in range(2)]
    for key, value in after[0].items():
        assert torch.equal(value, after[1][key]), f"{key} is not the same in both processes"


@pytest.mark.slow
def test_two_processes_search_and_resume(toy: ToySet, tmp_path):
    config = toy.search(tmp_path / "run", epochs=2, trainer={"accelerator": "cpu", "devices": 2})
    path = tmp_path / "search.yaml"
    path.write_text(dump_config(config))
    shown = torchrun("nni_nastc", "search", path)
    assert shown.stdout.count("wrote genotype.json") == 1, f"one process speaks: {shown.stdout}"
    genotype = Genotype.from_json(tmp_path / "run" / "genotype.json")
    assert {file.name for file in (tmp_path / "run").iterdir()} == {
        "alphas.png", "cell.png", "config.yaml", "environment.json", "genotype.json", "history.json", "history.png",
        "last.ckpt", "split.json",
    }  # fmt: skip
    assert len(history_of(tmp_path / "run")["epochs"]) == 2
    # As after a kill between the last epoch and the result.
    (tmp_path / "run" / "genotype.json").unlink()
    torchrun("nni_nastc", "search", path)
    assert Genotype.from_json(tmp_path / "run" / "genotype.json") == genotype
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    alphas = torch.tensor(json.loads((tmp_path / "run" / "history.json").read_text())["epochs"][-1]["alphas"])
    saved = [value for key, value in state["state_dict"].items() if "_arch_alpha" in key]
    assert any(torch.allclose(alphas[0], value, atol=1e-6) for value in saved)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ({"name": "Proxyless"}, "Proxyless runs on one device.*trainer.devices = 2"),
        ({"name": "TempDARTS", "order": 2}, "strategy.order = 2 runs on one device"),
    ],
)
def test_what_needs_one_device_says_so(toy: ToySet, tmp_path, strategy, message):
    trainer = {"accelerator": "cpu", "devices": 2}
    with pytest.raises(ModelError, match=message):
        run_search(toy.search(tmp_path / "run", strategy=strategy, trainer=trainer))
    assert not (tmp_path / "run").exists()


def test_norms_over_processes_need_gpus(toy: ToySet, tmp_path):
    with pytest.raises(ModelError, match=r"trainer\.sync_batchnorm is true, PyTorch has it on GPUs only"):
        run_search(toy.search(tmp_path / "run", trainer={"accelerator": "cpu", "sync_batchnorm": True}))
