"""RandomOneShot: paths, and the best of some cells."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from nni_nastc.genotype import Genotype
from nni_nastc.nn.network import build_network
from nni_nastc.search.judging import draw_cells, judge
from nni_nastc.search.paths import refresh_statistics
from nni_nastc.search.random_one_shot import RandomModule, RandomOneShot, SampledCell
from nni_nastc.space.network import NasTCSpace
from tests.helpers import fill
from tests.nni_toys import ToyVideos, inherited, toy_evaluator, toy_search, toy_space


def searched(*, train: bool = False) -> tuple[RandomModule, NasTCSpace]:
    space = toy_space()
    return toy_search(RandomOneShot(), space, train=train), space


def batches(numbers: list[list[int]]) -> list[dict]:
    videos = ToyVideos()
    return [{key: torch.stack([videos[n][key] for n in group]) for key in videos[0]} for group in numbers]


def test_drawn_cells_are_valid_and_cover_the_space():
    module, space = searched()
    cells = [module.path() for _ in range(300)]
    for genotype in cells:
        assert all(first[1] != second[1] for first, second in genotype.nodes)
    assert set(Counter(name for genotype in cells for name in genotype.operations)) == set(space.operations)
    pairs = Counter(tuple(sorted(source for _, source in genotype.nodes[3])) for genotype in cells)
    assert len(pairs) == 10
    assert min(pairs.values()) > 10, pairs


def test_zero_is_never_drawn():
    module = toy_search(RandomOneShot(), toy_space(operations=("zero", "identity")), train=False)
    assert set(module.path().operations) == {"identity"}


def test_all_layers_take_the_same_path():
    module, space = searched()
    genotype = module.path()
    cells = [m for m in module.modules() if isinstance(m, SampledCell)]
    assert [Genotype.from_nni(cell._sampled) for cell in cells] == [genotype] * 2


def test_a_path_computes_what_its_frozen_network_computes():
    module, space = searched()
    fill(space)
    genotype = module.path()
    frozen = inherited(space, genotype, by_edge=True)
    features = batches([[0, 1]])[0]["features"]
    with torch.no_grad():
        assert torch.allclose(space.eval()(features), frozen.eval()(features), atol=1e-5)


def test_training_changes_weights_of_drawn_paths_only(monkeypatch):
    space, taken = toy_space(), []
    resample = RandomModule.resample

    def spy(self):
        taken.append(Genotype.from_nni(sample := resample(self)))
        return sample

    monkeypatch.setattr(RandomModule, "resample", spy)
    strategy = RandomOneShot()
    strategy.mutate_model(space)
    before = {name: p.clone() for name, p in space.named_parameters()}
    strategy.mutate_evaluator(toy_evaluator()).evaluate(space)
    assert len(taken) == 2
    moved = {name for name, p in space.named_parameters() if not torch.equal(p, before[name])}
    used = {(node, source, name) for g in taken for node, pairs in enumerate(g.nodes) for name, source in pairs}
    for name, _ in space.named_parameters():
        parts = name.split(".")
        if "ops" in parts:
            at = parts.index("ops")
            edge = (int(parts[at + 1]), int(parts[at + 2]), parts[at + 3])
            assert (name in moved) <= (edge in used), name
    assert any("sep_conv_3" in name for name in moved)


def test_statistics_are_those_of_torchs_own_update():
    """`update_bn` of PyTorch, which walks through whole networks in training mode, gives the same without dropout."""
    torch.manual_seed(0)
    networks = [build_network(Genotype.random(0), num_classes=3, num_layers=2, in_channels=16) for _ in range(2)]
    for network in networks:
        fill(network)
    data = batches([[0, 1, 2], [3, 4, 5], [6]])
    refresh_statistics(networks[0], data, torch.device("cpu"))
    for module in networks[1].modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    update_bn([batch["features"] for batch in data[:2]], networks[1])
    ours, theirs = networks[0].state_dict(), networks[1].state_dict()
    assert any("running_mean" in name for name in ours)
    for name, tensor in theirs.items():
        assert torch.allclose(ours[name], tensor, atol=1e-6), name


def test_the_best_of_the_judged_cells():
    """Scores and order against networks built from each genotype, with weights copied out of the supernet."""
    module, space = searched(train=True)
    cells = draw_cells(module, 8)
    calibration, validation = batches([[6, 7, 0], [1, 2, 3]]), batches([[0, 1, 2], [3, 4, 5]])
    judged = judge(
        module,
        cells,
        task="single-label",
        calibration=calibration,
        validation=validation,
        device=torch.device("cpu"),
    )
    expected = {}
    for genotype in cells:
        frozen = inherited(space, genotype, by_edge=True)
        for dropout in (m for m in frozen.modules() if isinstance(m, nn.Dropout)):
            dropout.p = 0.0
        update_bn([batch["features"] for batch in calibration], frozen)
        with torch.no_grad():
            logits = torch.cat([frozen.eval()(batch["features"]) for batch in validation])
        target = torch.cat([batch["target"] for batch in validation])
        expected[genotype] = (
            np.mean((logits.argmax(-1) == target).numpy()),
            nn.functional.cross_entropy(logits, target).item(),
        )
    assert len(expected) == 8
    for cell in judged:
        assert (cell.score, cell.loss) == pytest.approx(expected[cell.genotype], abs=1e-4)
    assert judged[0].genotype == min(expected, key=lambda g: (-expected[g][0], expected[g][1]))
    assert judged[0].score > judged[-1].score


def test_drawn_cells_differ_and_end_where_there_are_no_more(monkeypatch):
    module, _ = searched()
    assert len(set(draw_cells(module, 16))) == 16
    same, mirrored = Genotype.random(0), Genotype(nodes=tuple(node[::-1] for node in Genotype.random(0).nodes))
    drawn = iter([same, mirrored, Genotype.random(1)] + [same] * 100)
    monkeypatch.setattr(module, "path", lambda: next(drawn))
    assert draw_cells(module, 3) == [same, Genotype.random(1)]
