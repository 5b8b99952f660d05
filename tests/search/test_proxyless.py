"""Proxyless: the derived cell, the shares of the history, what a step computes."""

from __future__ import annotations

from itertools import permutations, product

import pytest
import torch

from nni_nastc.errors import GenotypeError
from nni_nastc.genotype import EDGES, Genotype
from nni_nastc.search.proxyless import Proxyless, ProxylessModule
from nni_nastc.space.network import NasTCSpace
from tests.helpers import fill
from tests.nni_toys import ToyVideos, inherited, toy_evaluator, toy_search, toy_space


def searched(*, train: bool = False, **options) -> tuple[ProxylessModule, NasTCSpace]:
    space = toy_space()
    return toy_search(Proxyless(**options), space, train=train), space


def set_alphas(module: ProxylessModule, seed: int) -> dict[str, torch.Tensor]:
    """Give every choice its own alphas; return their probabilities by label."""
    generator = torch.Generator().manual_seed(seed)
    alphas = {m.label: m._arch_alpha for m in module.supernet_modules()}
    for alpha in alphas.values():
        alpha.data = torch.randn(alpha.shape, generator=generator) * 2
    return {label: alpha.detach().softmax(-1) for label, alpha in alphas.items()}


def test_choices_are_shared_by_the_layers():
    module, _ = searched()
    assert len(module.arch_parameters()) == 16
    assert len({m.label for m in module.supernet_modules()}) == 16


@pytest.mark.parametrize("seed", range(5))
def test_the_derived_cell_is_the_most_probable_of_all_valid_ones(seed):
    module, space = searched()
    chances = set_alphas(module, seed)
    names = space.operations
    for node, pairs in enumerate(Genotype.from_nni(module.export()).nodes):
        slots = [(chances[f"nas_temp/input_{node + 2}_{k}"], chances[f"nas_temp/op_{node + 2}_{k}"]) for k in (0, 1)]

        def chance(cell, slots=slots):
            chances = zip(slots, cell, strict=True)
            return torch.tensor([p[source] * q[names.index(name)] for (p, q), (name, source) in chances]).prod()

        cells = [
            tuple(zip(chosen, sources, strict=True))
            for sources in permutations(range(node + 2), 2)
            for chosen in product(names, repeat=2)
        ]
        assert pairs == max(cells, key=chance)


def test_export_is_the_same_each_time():
    module, _ = searched(train=True)
    assert len({Genotype.from_nni(module.export()) for _ in range(5)}) == 1


def test_both_slots_at_one_predecessor_are_parted():
    module, _ = searched()
    set_alphas(module, 0)
    for m in module.supernet_modules():
        if "/input_5_" in m.label:
            m._arch_alpha.data = torch.tensor([0.0, 0.0, 5.0, 1.0 if m.label.endswith("_1") else 0.0, 0.0])
    assert [source for _, source in module.path().nodes[3]] == [2, 3]


def test_zero_is_never_derived():
    space = toy_space(operations=("zero", "identity"))
    module = toy_search(Proxyless(), space, train=False)
    for m in module.supernet_modules():
        if "/op_" in m.label:
            m._arch_alpha.data = torch.tensor([9.0, 0.0])
    assert set(module.path().operations) == {"identity"}


def test_alphas_that_are_no_numbers_give_no_cell():
    module, _ = searched()
    next(iter(module.supernet_modules()))._arch_alpha.data[0] = torch.nan
    with pytest.raises(GenotypeError, match="NaN or infinite"):
        module.path()


def test_shares_of_the_history():
    """Each slot goes to one edge and operation: a node's shares add up to one."""
    module, _ = searched()
    chances = set_alphas(module, 1)
    shares = module.alphas().exp()
    assert shares.shape == (14, 4)
    assert torch.allclose(shares.sum(-1), torch.ones(14, dtype=torch.float64))
    for node in range(4):
        rows = [row for row, edge in enumerate(EDGES) if edge[0] == node]
        assert shares[rows, :-1].sum().item() == pytest.approx(1)
    drawn = [chances[f"nas_temp/input_4_{k}"][2] * chances[f"nas_temp/op_4_{k}"][1] for k in (0, 1)]
    assert shares[EDGES.index((2, 2)), 1].item() == pytest.approx(sum(drawn).item() / 2)


def test_a_weight_step_computes_one_path_and_an_alpha_step_all(monkeypatch):
    module, space = searched()
    computed = []
    for cell in (layer.cell for layer in space.layers):
        for slots in cell.ops:
            for layer in slots:
                for name in space.operations:
                    layer[name].register_forward_hook(lambda *_: computed.append(1))
    counts = []
    for step in ("_alpha_step", "_weight_step"):
        original = getattr(ProxylessModule, step)

        def spy(self, *args, original=original):
            computed.clear()
            result = original(self, *args)
            counts.append(len(computed))
            return result

        monkeypatch.setattr(ProxylessModule, step, spy)
    strategy = Proxyless()
    evaluator = strategy.mutate_evaluator(toy_evaluator())
    evaluator.evaluate(space)
    one_path = 2 * 4 * 2  # layers, nodes, slots
    assert counts == [3 * one_path, one_path] * 2


def test_a_path_computes_what_its_frozen_network_computes():
    module, space = searched()
    fill(space)
    genotype = Genotype.random(3, space.operations)
    module.take(genotype)
    frozen = inherited(space, genotype, by_edge=False)
    features = torch.stack([ToyVideos()[n]["features"] for n in range(2)])
    with torch.no_grad():
        assert torch.allclose(space.eval()(features), frozen.eval()(features), atol=1e-5)
