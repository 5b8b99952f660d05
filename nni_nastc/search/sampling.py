"""NNI's strategies that sample networks to be trained one by one, seeded, with what NNI 3.0 leaves to mend.

``TPE`` does not run on NNI's ``Cell``, whose choices of a predecessor have no legacy form, and minimises by default.
``PolicyBasedRL`` draws from the global generators of NumPy and PyTorch, so that these are seeded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
import torch
from nni import NoMoreTrialError
from nni.algorithms.hpo.tpe_tuner import TpeArguments, TpeTuner
from nni.mutable import Categorical
from nni.nas.strategy import GridSearch, PolicyBasedRL, Random, RegularizedEvolution
from nni.nas.strategy.base import Strategy
from nni.nas.strategy.hpo import HPOTunerStrategy
from pydantic import Field

from nni_nastc.errors import ConfigError
from nni_nastc.search.options import Count, NonNegative, Positive, require_rl

Share = Annotated[float, Field(gt=0, le=1)]


def random(seed: int = 0) -> Random:
    """Return NNI's random search, which draws no cell twice."""
    return Random(seed=seed)


def grid_search(seed: int = 0, *, shuffle: bool = True) -> GridSearch:
    """Return NNI's grid search: all cells in their order, and no end to them within anyone's budget.

    Parameters
    ----------
    seed : int
        Seeds the shuffling.
    shuffle : bool
        Shuffle each 100 successive cells.
    """
    return GridSearch(seed=seed, shuffle=shuffle)


def regularized_evolution(
    seed: int = 0,
    *,
    population_size: Count = 20,
    sample_size: Count = 5,
    mutation_prob: Share = 0.05,
    crossover: bool = False,
) -> RegularizedEvolution:
    """Return NNI's aging evolution (Real et al., AAAI 2019).

    Parameters
    ----------
    seed : int
        Seeds the draws.
    population_size, sample_size : int
        Cells in the population and in a tournament. NNI's 100 and 25 take hundreds of trials to be more than a random
        search; these are our choice.
    mutation_prob : float
        Probability that one of the 16 choices of a cell is drawn again.
    crossover : bool
        Mix two parents.

    Raises
    ------
    ConfigError
        If a tournament is larger than the population, or has none to choose from.
    """
    if not 1 <= sample_size <= population_size:
        raise ConfigError(
            f"strategy.sample_size is from 1 to population_size, got {sample_size} of {population_size}; change one"
        )
    return RegularizedEvolution(
        seed=seed,
        population_size=population_size,
        sample_size=sample_size,
        mutation_prob=mutation_prob,
        crossover=crossover,
    )


def policy_based_rl(seed: int = 0, *, samples_per_update: Count = 20) -> PolicyBasedRL:
    """Return NNI's policy search (PPO of tianshou), and seed the global generators from which it draws.

    Parameters
    ----------
    seed : int
        Seeds NumPy's and PyTorch's global generators.
    samples_per_update : int
        Trials between two updates of the policy.

    Raises
    ------
    ConfigError
        If tianshou or gym is not installed.
    """
    require_rl("PolicyBasedRL")
    np.random.seed(seed)
    torch.manual_seed(seed)
    return PolicyBasedRL(samples_per_update=samples_per_update)


class TPE(HPOTunerStrategy):
    """The tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), NNI's tuner, maximising the score.

    Parameters
    ----------
    seed : int
        Seeds the draws.
    n_startup_jobs : int
        Cells that are drawn at random first.
    n_ei_candidates : int
        Candidates for each choice, of which the one with the largest expected improvement is taken.
    gamma : float
        Of N trials the best ``gamma * sqrt(N)`` count as good.
    prior_weight : float
        Weight of the uniform prior.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        n_startup_jobs: Count = 20,
        n_ei_candidates: Count = 24,
        gamma: Positive = 0.25,
        prior_weight: NonNegative = 1.0,
    ) -> None:
        arguments = TpeArguments(
            n_startup_jobs=n_startup_jobs, n_ei_candidates=n_ei_candidates, gamma=gamma, prior_weight=prior_weight
        )
        super().__init__(TpeTuner("maximize", seed, arguments._asdict()))

    def _run(self) -> None:
        """Sample until the budget is spent, as NNI's own loop, but without a second's sleep after each sample."""
        space = {label: _choices(mutable) for label, mutable in self.model_space.simplify().items()}
        self.tuner.update_search_space(space)
        while self.wait_for_resource():
            try:
                sample = self.tuner.generate_parameters(self._model_count)
            except NoMoreTrialError:
                return
            model = self.model_space.freeze(sample)
            self._model_to_id[model] = self._model_count
            self._model_count += 1
            self.engine.submit_models(model)


def _choices(mutable: Any) -> dict[str, Any]:
    """Return a choice of the cell in the form that NNI's tuners know: an operation, or a list of one predecessor."""
    values = list(mutable.values)
    return {"_type": "choice", "_value": values if isinstance(mutable, Categorical) else [[value] for value in values]}


MULTI_TRIAL: Mapping[str, Callable[..., Strategy]] = MappingProxyType(
    {
        "PolicyBasedRL": policy_based_rl,
        "Random": random,
        "GridSearch": grid_search,
        "RegularizedEvolution": regularized_evolution,
        "TPE": TPE,
    }
)
"""Name -> what builds the strategy."""
