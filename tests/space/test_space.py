"""The NNI model space, the supernet, and their agreement with the fixed network."""

from __future__ import annotations

import itertools

import pytest
import torch
from nni.mutable import Categorical, CategoricalMultiple

from nni_nastc.errors import GenotypeError, ModelError
from nni_nastc.genotype import EDGES, NUM_INPUTS, SEARCHED_OPERATIONS, Genotype
from nni_nastc.nn.network import build_network
from nni_nastc.search.supernet import TempDartsCell, derive
from nni_nastc.search.temp_darts import TempDARTS
from nni_nastc.space.network import NasTCSpace
from tests.helpers import fill

SIZES = {"num_classes": 5, "num_layers": 2, "in_channels": 24, "num_groups": 2}


def test_labels_and_candidates_are_pinned():
    choices = NasTCSpace(**SIZES).simplify()
    assert sorted(choices) == sorted(Genotype.random(0).to_nni())
    for label, choice in choices.items():
        if "/op_" in label:
            assert isinstance(choice, Categorical)
            assert choice.values == list(SEARCHED_OPERATIONS)
        else:
            assert isinstance(choice, CategoricalMultiple)
            assert choice.values == list(range(int(label.split("_")[2])))
            assert choice.n_chosen == 1


@pytest.mark.parametrize("seed", range(20))
def test_frozen_space_is_the_fixed_network(seed):
    genotype = Genotype.random(seed)
    network = build_network(genotype, **SIZES).eval()
    frozen = NasTCSpace(**SIZES).freeze(genotype.to_nni()).eval()
    fill(network, seed)
    assert list(frozen.state_dict()) == list(network.state_dict())
    frozen.load_state_dict(network.state_dict(), strict=True)
    x = torch.randn(2, 24, 8, 2, 2)
    torch.testing.assert_close(frozen(x), network(x), rtol=1e-6, atol=1e-6)


def test_a_predecessor_twice_freezes():
    genotype = Genotype(nodes=(((("sep_conv_3", 1), ("identity", 1)), *Genotype.random(0).nodes[1:])))
    frozen = NasTCSpace(**SIZES).freeze(genotype.to_nni())
    assert list(frozen.state_dict()) == list(build_network(genotype, **SIZES).state_dict())


def test_freeze_refuses_unknown_labels_and_foreign_operations():
    space = NasTCSpace(**SIZES, operations=("identity", "sep_conv_3"))
    with pytest.raises(GenotypeError, match="missing labels"):
        space.freeze({"other": 1})
    foreign = Genotype(nodes=((("max_pool", 0), ("identity", 1)),) * 4)
    with pytest.raises(GenotypeError, match="identity, sep_conv_3, the genotype also max_pool"):
        space.freeze(foreign.to_nni())


@pytest.mark.parametrize("operations", [(), ("identity", "identity"), ("identity", "sep_conv_9")])
def test_operations_are_checked(operations):
    with pytest.raises(GenotypeError, match="different names out of zero, identity"):
        NasTCSpace(**SIZES, operations=operations)


def test_sizes_are_checked():
    with pytest.raises(ModelError, match="num_groups=7"):
        NasTCSpace(**(SIZES | {"num_groups": 7}))


def supernet() -> NasTCSpace:
    return TempDARTS().mutate_model(NasTCSpace(**SIZES))


def cells(network: torch.nn.Module) -> list[TempDartsCell]:
    return [m for m in network.modules() if isinstance(m, TempDartsCell)]


def test_supernet_has_fourteen_by_nine_alphas_that_the_layers_share():
    first, second = cells(supernet())
    assert first.alphas.shape == (14, 9)
    assert first.op_names == list(SEARCHED_OPERATIONS)
    for (_, one), (_, other) in zip(first._arch_alpha.items(), second._arch_alpha.items(), strict=True):
        assert one is other


def test_batch_norms_of_the_supernet_have_no_scale_and_shift():
    norms = [m for m in supernet().layers.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert all(m.weight is None for m in norms)


@pytest.mark.parametrize("seed", range(5))
def test_supernet_equals_the_sum_over_operations(seed):
    """Against the formula of Eq. (1), computed operation by operation, the zero with its share and its output."""
    cell = cells(supernet())[0].eval()
    torch.manual_seed(seed)
    for alpha in cell._arch_alpha.values():
        alpha.data.normal_()
    x = [torch.randn(3, 12, 6, 4), torch.randn(3, 12, 6, 4)]
    states = cell.preprocessor(list(x))
    for node in range(4):
        total = torch.zeros_like(states[0])
        for source in range(node + 2):
            alpha = cell._arch_alpha[f"nas_temp/{node + NUM_INPUTS}_{source}"]
            exponentials = [torch.exp(a) for a in alpha]
            for k, op in enumerate(cell.ops[node][source].values()):
                total = total + exponentials[k] / sum(exponentials) * op(states[source])
        states.append(total)
    torch.testing.assert_close(cell(x), torch.cat(states[2:], 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_saturated_alphas_reproduce_the_frozen_network(seed):
    genotype = Genotype.random(seed)
    space = supernet().eval()
    kept = {(node, source): name for node, pairs in enumerate(genotype.nodes) for name, source in pairs}
    for node, source in EDGES:
        zero = len(SEARCHED_OPERATIONS)
        column = SEARCHED_OPERATIONS.index(kept[node, source]) if (node, source) in kept else zero
        alpha = cells(space)[0]._arch_alpha[f"nas_temp/{node + NUM_INPUTS}_{source}"]
        alpha.data.fill_(-50.0)
        alpha.data[column] = 50.0
    fill_weights(space)
    network = build_network(genotype, **SIZES).eval()
    state = space.state_dict()
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            tensor.copy_(state.get(supernet_key(key, genotype), neutral(key, tensor)))
    x = torch.randn(2, 24, 8, 2, 2)
    torch.testing.assert_close(space(x), network(x), rtol=1e-5, atol=1e-5)
    assert Genotype.from_nni(cells(space)[0].export({})).operations == genotype.operations


def fill_weights(space: NasTCSpace) -> None:
    """Random weights and statistics, leaving the alphas."""
    alphas = {id(p): p.detach().clone() for p in space.parameters() if p.shape == (9,)}
    fill(space)
    with torch.no_grad():
        for p in space.parameters():
            if id(p) in alphas:
                p.copy_(alphas[id(p)])


def supernet_key(key: str, genotype: Genotype) -> str:
    """The key of the supernet whose weights the fixed network's key takes."""
    if ".ops." not in key:
        return key
    head, tail = key.split(".ops.")
    node, slot, rest = tail.split(".", 2)
    name, source = genotype.nodes[int(node)][int(slot)]
    return f"{head}.ops.{node}.{source}.{name}.{rest}"


def neutral(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """Scale 1 and shift 0, which the supernet's batch norms do not have."""
    return torch.ones_like(tensor) if key.endswith("weight") else torch.zeros_like(tensor)


def brute_force(strength: torch.Tensor, operations: tuple[str, ...]) -> Genotype:
    """Try every pair of edges of every node."""
    nodes = []
    for node in range(4):
        rows = {source: row for row, (target, source) in enumerate(EDGES) if target == node}
        best = max(
            itertools.combinations(rows, 2),
            key=lambda pair: sum(strength[rows[s]].max().item() for s in pair),
        )
        nodes.append(tuple((operations[int(strength[rows[s]].argmax())], s) for s in best))
    return Genotype(nodes=tuple(nodes))


@pytest.mark.parametrize("seed", range(20))
def test_derivation_equals_trying_all_pairs(seed):
    alphas = torch.randn(14, 9, generator=torch.Generator().manual_seed(seed)) * 2
    strength = torch.softmax(alphas, -1)[:, :8]
    assert derive(alphas, SEARCHED_OPERATIONS) == brute_force(strength, SEARCHED_OPERATIONS)


def test_zero_is_never_derived_but_weakens_its_edge():
    """Node 0 has two edges, both are kept; node 1 has three: the one with a strong zero loses despite its raw alpha."""
    alphas = torch.zeros(14, 9)
    alphas[:, 8] = 20.0
    genotype = derive(alphas, SEARCHED_OPERATIONS)
    assert "zero" not in genotype.operations
    alphas = torch.zeros(14, 9)
    node_one = {source: row for row, (target, source) in enumerate(EDGES) if target == 1}
    alphas[node_one[0], 3], alphas[node_one[0], 8] = 3.0, 9.0
    alphas[node_one[1], 4] = 1.0
    alphas[node_one[2], 5] = 1.0
    assert derive(alphas, SEARCHED_OPERATIONS).nodes[1] == (("dil_conv_5", 1), ("sep_conv_3", 2))


def test_an_explicit_zero_is_not_derived_either():
    names = ("identity", "zero")
    alphas = torch.zeros(14, 3)
    alphas[:, 1] = 10.0
    assert set(derive(alphas, names).operations) == {"identity"}
