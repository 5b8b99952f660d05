"""ENAS: the controller's choices, rewards, updates, state."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from itertools import product

import pytest
import torch

from nni_nastc.evaluation.history import seed_epoch
from nni_nastc.genotype import Genotype
from nni_nastc.search.enas import ENAS, UPDATES, CellChoices, EnasModule
from nni_nastc.search.judging import draw_cells
from tests.nni_toys import ToyVideos, toy_evaluator, toy_search, toy_space

OPERATIONS = ["identity", "max_pool", "sep_conv_3"]


def searched(*, train: bool = False, epochs: int = 1, **options) -> EnasModule:
    torch.manual_seed(0)
    return toy_search(ENAS(**options), toy_space(), epochs=epochs, train=train)


def always_first(module: EnasModule) -> None:
    """Make the controller take the first of all possibilities."""
    with torch.no_grad():
        module.policy.actor.linear.bias[0] = 100.0


def test_decisions_reach_every_pair_of_different_predecessors_once():
    choices = CellChoices(OPERATIONS)
    fixed = {label: choice.values[0] for label, choice in choices.choices.items()}
    for node in range(4):
        cells = [
            choices.genotype(fixed | {f"input_{node}_0": first, f"input_{node}_1": second})
            for first, second in product(*(choices.choices[f"input_{node}_{slot}"].values for slot in (0, 1)))
        ]
        pairs = [tuple(source for _, source in genotype.nodes[node]) for genotype in cells]
        assert sorted(pairs) == [(a, b) for a, b in product(range(node + 2), repeat=2) if a != b]


def test_zero_is_no_choice():
    module = toy_search(ENAS(), toy_space(operations=("zero", "identity")), train=False)
    assert set(module.path().operations) == {"identity"}


def test_cells_are_those_of_the_controller_in_use():
    """NNI 3.0 makes a new controller when it is asked for the result."""
    module = searched(train=True)
    always_first(module)
    module.set_model(module.model)
    first = (("identity", 0), ("identity", 1))
    assert Genotype.from_nni(module.export()).nodes == (first,) * 4
    assert draw_cells(module, 5) == [Genotype(nodes=(first,) * 4)]


@pytest.mark.parametrize(("batches_per_update", "updates", "left"), [(2, 3, 0), (4, 1, 2), (7, 0, 6)])
def test_the_controller_is_updated_with_every_so_many_rewards(monkeypatch, batches_per_update, updates, left):
    """Three epochs of two batches of each half give six rewards."""
    sizes = []
    module = searched(batches_per_update=batches_per_update)
    update = type(module.policy).update

    def spy(self, size, buffer, **kwargs):
        sizes.append(len(buffer))
        return update(self, size, buffer, **kwargs)

    monkeypatch.setattr(type(module.policy), "update", spy)
    module = searched(batches_per_update=batches_per_update, train=True, epochs=3)
    assert sizes == [16 * batches_per_update] * updates * UPDATES
    assert len(module._rewarded) == left


def test_no_rewards_in_the_warmup():
    assert searched(train=True, epochs=1, warmup_epochs=1)._rewarded == []


@pytest.mark.slow
def test_the_controller_learns_what_is_rewarded():
    seed_epoch(0, 0)
    module = searched(batches_per_update=6, policy_learning_rate=2e-2)

    def share() -> float:
        drawn = Counter(name for _ in range(6) for name in module.path().operations)
        return drawn["max_pool"] / drawn.total()

    before = share()
    for _ in range(24):
        module._learn(module.path().operations.count("max_pool") / 8)
    assert before < 0.5
    assert share() > 0.8


def test_the_reward_is_the_geometric_mean_of_the_right_classes_chances():
    module = searched()
    module.log = lambda *args, **kwargs: None
    videos = [ToyVideos()[n] for n in range(4)]
    batch = {key: torch.stack([video[key] for video in videos]) for key in videos[0]}
    always_first(module)
    module.resample()
    reward = module._reward(batch)
    assert module.model.training
    for dropout in (m for m in module.model.modules() if isinstance(m, torch.nn.Dropout)):
        dropout.p = 0.0
    with torch.no_grad():
        chances = module.model(batch["features"]).softmax(-1)[torch.arange(4), batch["target"]]
    assert reward == pytest.approx(chances.prod().item() ** 0.25, rel=1e-4)


def test_the_controllers_state_is_saved_whole():
    module = searched(train=True, epochs=2, batches_per_update=3)
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    checkpoint = deepcopy(checkpoint)  # as a file would be
    torch.manual_seed(9)
    other = toy_search(ENAS(batches_per_update=3), toy_space(), train=False)
    other.load_state_dict(checkpoint["state_dict"])
    other.on_load_checkpoint(checkpoint)
    other.on_train_start()
    assert len(module._rewarded) == 1
    for one in (module, other):
        seed_epoch(1, 0)
        for _ in range(2):
            one._learn(one.path().operations.count("identity"))
    state = other.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())


def test_batches_of_both_halves_come_one_half_after_the_other(monkeypatch):
    halves = []
    step = EnasModule.training_step

    def spy(self, packed, batch_idx):
        halves.append(packed[1])
        return step(self, packed, batch_idx)

    monkeypatch.setattr(EnasModule, "training_step", spy)
    strategy, space = ENAS(), toy_space()
    strategy.mutate_model(space)
    strategy.mutate_evaluator(toy_evaluator()).evaluate(space)
    assert halves == ["train"] * 2 + ["val"] * 2
