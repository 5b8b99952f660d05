"""NNI's ``ENAS``: a controller learns by reinforcement which paths of a supernet to draw.

Mended without a fork: Lightning hands on batches without saying of which half they are; NNI 3.0 updates the controller
again with every training batch; its optimiser's order of parameters changes from run to run; and asking for the result
makes a new controller. The controller's state is saved with the supernet's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from nni.mutable import Categorical
from nni.nas.oneshot.pytorch._dataloader import ConcatLoader
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
from nni.nas.oneshot.pytorch.sampling import EnasLightningModule
from nni.nas.strategy import ENAS as NNI_ENAS
from torch import Tensor

from nni_nastc.genotype import NUM_INPUTS, NUM_NODES, Genotype
from nni_nastc.search.options import Count, Epochs, NonNegative, Positive, require_rl
from nni_nastc.search.paths import batch_norms
from nni_nastc.search.random_one_shot import SampledCell, SampledModule

UPDATES = 5
"""Updates of the controller by PPO, each of :data:`REPEATS` passes over its last rewards, as in NNI."""

REPEATS = 5
UPDATE_BATCH_SIZE = 32


class ENAS(NNI_ENAS):
    """Efficient NAS (Pham et al., ICML 2018) as NNI has it: PPO, an LSTM as the controller.

    In each epoch all batches of the weights' half train weights of drawn paths, then each batch of the other half gives
    the reward of a drawn path. The second predecessor of a node is drawn among those that the first one leaves, so
    that every path is a valid cell. What is handed over is the best of ``samples`` cells that the controller draws at
    the end, see :mod:`nni_nastc.search.judging`.

    Parameters
    ----------
    samples : int
        Cells that are judged at the end.
    batches_per_update : int
        Rewards between two updates of the controller.
    policy_learning_rate : float
        Learning rate of the controller's Adam.
    warmup_epochs : int
        Epochs at the start in which only weights are trained.
    gradient_clip_val : float or None
        Largest norm of the weights' gradients; DARTS' 5 by default (our choice; NNI does not clip).
    **kwargs : Any
        Further arguments of NNI's ``ENAS``.

    Raises
    ------
    ConfigError
        If tianshou or gym is missing.
    """

    def __init__(
        self,
        *,
        samples: Count = 16,
        batches_per_update: Count = 20,
        policy_learning_rate: Positive = 1e-4,
        warmup_epochs: Epochs = 0,
        gradient_clip_val: NonNegative | None = 5.0,
        **kwargs: Any,
    ) -> None:
        require_rl("ENAS")
        super().__init__(batches_per_update=batches_per_update, warmup_epochs=warmup_epochs, **kwargs)
        self.samples = samples
        self.policy_learning_rate = policy_learning_rate
        self.gradient_clip_val = gradient_clip_val

    def default_mutation_hooks(self) -> list[Any]:
        """Put our cell before NNI's."""
        return [SampledCell.mutate, *super().default_mutation_hooks()]

    def configure_oneshot_module(self, training_module: pl.LightningModule) -> EnasModule:
        """Wrap the evaluator's module in the search."""
        return EnasModule(
            training_module,
            batches_per_update=self.batches_per_update,
            policy_fn=self.policy_fn or partial(make_controller, learning_rate=self.policy_learning_rate),
            warmup_epochs=self.warmup_epochs,
            gradient_clip_val=self.gradient_clip_val,
        )

    def train_dataloader(self, train: Callable[[], Any], val: Callable[[], Any]) -> TaggedLoader:
        """Put the batches of the alphas' half after those of the weights' half."""
        return TaggedLoader({"train": train(), "val": val()})


class TaggedLoader(ConcatLoader):
    """NNI's concatenation of loaders, of which each batch says to which it belongs."""

    def __next__(self) -> Any:
        """Return ((batch, "train" or "val"), number, number of the loader)."""
        batch, number, loader = super().__next__()
        return (batch, ("train", "val")[loader]), number, loader


class CellChoices:
    """What the controller decides, one after the other, as NNI asks a search space."""

    def __init__(self, operations: list[str]) -> None:
        self.choices: dict[str, Categorical] = {}
        for node in range(NUM_NODES):
            for slot, free in enumerate((node + NUM_INPUTS, node + NUM_INPUTS - 1)):
                for kind, values in (("input", range(free)), ("op", operations)):
                    label = f"{kind}_{node}_{slot}"
                    self.choices[label] = Categorical(list(values), label=label)

    def simplify(self) -> dict[str, Categorical]:
        """Return the choices in their order."""
        return self.choices

    def actions(self, decisions: Mapping[str, Any]) -> list[int]:
        """Return the number of each choice's value."""
        return [choice.values.index(decisions[label]) for label, choice in self.choices.items()]

    def genotype(self, decisions: Mapping[str, Any]) -> Genotype:
        """Return the cell: the second predecessor counts those that the first one leaves."""
        nodes = []
        for node in range(NUM_NODES):
            first, second = decisions[f"input_{node}_0"], decisions[f"input_{node}_1"]
            sources = (first, second + (second >= first))
            nodes.append(tuple((decisions[f"op_{node}_{slot}"], source) for slot, source in enumerate(sources)))
        return Genotype(nodes=tuple(nodes))


class EnasModule(SampledModule, EnasLightningModule):
    """The search part of :class:`ENAS`. The evaluator's module has a method ``loss`` of a batch."""

    cell_choices: CellChoices  # once there is a supernet

    def __init__(self, training_module: pl.LightningModule, *, gradient_clip_val: float | None, **kwargs: Any) -> None:
        super().__init__(training_module, reward_metric_name="reward", **kwargs)
        self.gradient_clip_val = gradient_clip_val
        self._rewarded: list[tuple[list[int], float]] = []  # actions and reward, since the last update
        self._optimizer_state: dict[str, Any] | None = None  # of a run that goes on

    def set_model(self, model: Any) -> None:
        """Take the supernet, with a new controller; the same supernet again changes nothing."""
        if hasattr(self, "cell_choices") and self.training_module.model is model:
            return
        from nni.nas.strategy._rl_impl import TuningTrajectoryGenerator

        self.cell_choices = CellChoices([name for name in model.operations if name != "zero"])
        self._generator = TuningTrajectoryGenerator(self.cell_choices, self.policy_fn)
        self._policy = self._generator.policy
        BaseOneShotLightningModule.set_model(self, model)

    def resample(self) -> dict[str, Any]:
        """Let the controller draw a cell, and take it; return its sample."""
        with torch.no_grad(), self._full_precision():
            genotype = self.cell_choices.genotype(self.generator.next_sample())
        self.take(genotype)
        return genotype.to_nni()

    def training_step(self, packed: tuple[Any, str], batch_idx: int) -> Tensor | None:
        """Train the weights of a drawn path, or (after the warm-up) learn from its reward."""
        batch, half = packed
        loss = None
        if half == "train":
            self.resample()
            loss = self.weight_step(batch, batch_idx)
        elif self.trainer.current_epoch >= self.warmup_epochs:
            self.resample()
            self._learn(self._reward(batch))
        self.advance_lr_schedulers(batch_idx)
        return loss

    def _reward(self, batch: Any) -> float:
        """Return exp(-loss) of the path on a batch, in (0, 1] (our choice: it is there for every task and batch size).

        Dropout is off, and batch norm takes the statistics of the batch: the supernet's are those of all paths mixed.
        """
        was_training = self.model.training
        self.model.eval()
        for norm in batch_norms(self.model):
            norm.train()
        with torch.no_grad():
            reward = torch.exp(-self.training_module.loss(batch)).item()
        self.model.train(was_training)
        self.log("search/reward", reward, on_step=False, on_epoch=True, batch_size=1)
        return reward

    def _learn(self, reward: float) -> None:
        """Note a reward; with every so many of them, update the controller."""
        self._rewarded.append((self.cell_choices.actions(self.generator.sample), reward))
        if len(self._rewarded) < self.batches_per_update:
            return
        from tianshou.data import ReplayBuffer

        buffer = ReplayBuffer(len(self._rewarded) * self.generator.expected_trajectory_length)
        for actions, value in self._rewarded:
            _add_trajectory(buffer, self.generator.env, actions, value)
        self._rewarded = []
        self.policy.train()
        with self._full_precision():
            for _ in range(UPDATES):
                self.policy.update(0, buffer, batch_size=UPDATE_BATCH_SIZE, repeat=REPEATS)
        self.policy.eval()

    def _full_precision(self) -> torch.autocast:
        """Keep the trainer's mixed precision away from the controller, which cannot compute in it."""
        return torch.autocast(self.device.type, enabled=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what of the controller Lightning does not see."""
        checkpoint["controller"] = {"optimizer": self.policy.optim.state_dict(), "rewarded": list(self._rewarded)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what :meth:`on_save_checkpoint` saved."""
        self._rewarded = checkpoint["controller"]["rewarded"]
        self._optimizer_state = checkpoint["controller"]["optimizer"]

    def on_train_start(self) -> None:
        """Restore the controller's optimiser: its state has to be where the parameters are, which move before."""
        if self._optimizer_state is not None:
            self.policy.optim.load_state_dict(self._optimizer_state)
        super().on_train_start()


def make_controller(env: Any, *, learning_rate: float, hidden_dim: int = 64) -> Any:
    """Return NNI's default policy, the parameters of its optimiser in a fixed order, so that it can be resumed."""
    from nni.nas.strategy._rl_impl import Actor, Critic, Preprocessor
    from tianshou.policy import PPOPolicy

    body = Preprocessor(env.observation_space, hidden_dim)
    actor, critic = Actor(env.action_space, body), Critic(body)
    parameters = list(dict.fromkeys([*actor.parameters(), *critic.parameters()]))
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    return PPOPolicy(
        actor, critic, optimizer, torch.distributions.Categorical, discount_factor=1.0, action_space=env.action_space
    )


def _add_trajectory(buffer: Any, env: Any, actions: list[int], reward: float) -> None:
    """Walk through the decisions of one cell; the reward comes with the last one."""
    from tianshou.data import Batch

    observation, _ = env.reset()
    for action in actions:
        before = deepcopy(observation)
        observation, _, terminated, truncated, _ = env.step(action)
        buffer.add(
            Batch(
                obs=before,
                act=action,
                rew=reward if terminated else 0.0,
                terminated=terminated,
                truncated=truncated,
                obs_next=deepcopy(observation),
                info={},
                policy={},
            )
        )
