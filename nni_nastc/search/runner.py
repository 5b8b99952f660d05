"""Run a search from its configuration, from the first check to the files of the result."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pytorch_lightning as pl
from nni.nas.strategy import DARTS, RandomOneShot
from nni.nas.strategy.base import Strategy
from pytorch_lightning.callbacks import Callback

from nni_nastc.acceleration import kernels_as_before
from nni_nastc.config import SearchConfig, TrialsConfig, find_space
from nni_nastc.data.datamodule import VideoSet
from nni_nastc.data.splits import halves
from nni_nastc.devices import check_trainer, local_device
from nni_nastc.distributed import check_processes, is_main
from nni_nastc.errors import ConfigError, ModelError
from nni_nastc.evaluation.trainer import with_precision, with_usable_precision
from nni_nastc.files import write_json
from nni_nastc.genotype import Genotype
from nni_nastc.models import SEARCH_SPACES
from nni_nastc.nn.network import check_timesteps
from nni_nastc.plots import draw_cell
from nni_nastc.runs import SPLIT_FILE, open_run
from nni_nastc.search.multi_trial import check_trials, search_by_trials
from nni_nastc.search.one_shot import is_distributed, search_one_shot
from nni_nastc.search.strategies import make_strategy
from nni_nastc.search.task import Search, SearchTask
from nni_nastc.search.temp_darts import TempDARTS
from nni_nastc.space.network import NasTCSpace

_logger = logging.getLogger(__name__)

GENOTYPE_FILE = "genotype.json"

SEARCHES: Mapping[type[Strategy], Search] = MappingProxyType(
    {DARTS: search_one_shot, RandomOneShot: search_one_shot, Strategy: search_by_trials}
)
"""Base class of a kind of strategies -> the search proper; the first that fits."""


@kernels_as_before()
def run_search(config: SearchConfig, callbacks: Sequence[Callback] = ()) -> Genotype:
    """Search a cell, or go on with a search that was stopped.

    The training part is split in halves by video: one trains the weights, the other the alphas, and scores the supernet
    after every epoch. The test part is not touched.

    Parameters
    ----------
    config : SearchConfig
        What to do. Its output folder gets ``config.yaml``, ``environment.json``, ``split.json``, ``history.json``
        (after every epoch) and at the end ``genotype.json``, ``cell.png`` and ``history.png``; ``alphas.png`` where
        there are alphas, ``samples.json`` where the best of some cells is taken.
    callbacks : sequence of Callback
        Further callbacks of Lightning, such as a progress bar.

    Returns
    -------
    Genotype
        The derived cell. The same for an unbroken and a resumed run with the same seed on a CPU.

    Raises
    ------
    NastcError
        If anything that was given is wrong; before the output folder is made.
    """
    # Everything that can be refused is refused before the folder is made.
    space_config = find_space(config.space, SEARCH_SPACES)
    num_layers = config.num_layers or space_config.num_layers
    check_timesteps(config.data.timesteps, num_layers)
    strategy = make_strategy(config.strategy, config.seed)
    _check_kind(config, _search_of(strategy))
    check_trainer(
        config.trainer.accelerator,
        config.trainer.devices,
        config.trainer.precision,
        sync_batchnorm=config.trainer.sync_batchnorm,
    )
    check_processes(config.trainer.devices, config.trainer.num_nodes)
    if is_distributed(config.trainer):
        _check_distributed(config, strategy)
    config = _precise_enough(with_usable_precision(config), strategy)
    device = local_device(config.trainer.accelerator)
    videos = VideoSet.from_config(config.data, seed=config.seed, device=device)
    weight_half, alpha_half = halves(videos.records("train"), config.seed)
    videos.require_labels(alpha_half, "the alphas' half")
    data = videos.training_batches(weight_half, alpha_half, config=config.data)
    pl.seed_everything(config.seed, verbose=False)
    space = NasTCSpace(
        num_classes=videos.num_classes,
        num_layers=num_layers,
        in_channels=videos.store.feature_shape[0],
        num_groups=space_config.num_groups,
        operations=space_config.operations,
    )
    validation = videos.scored_batches(alpha_half, config=config.data)
    task = SearchTask(config, strategy, space, videos, weight_half, alpha_half, data, validation)
    with open_run(config.output, config, GENOTYPE_FILE) as finished:
        if finished:
            return Genotype.from_json(config.output / GENOTYPE_FILE)
        if is_main():
            write_json(
                config.output / SPLIT_FILE,
                {"weights": [record.id for record in weight_half], "alphas": [record.id for record in alpha_half]},
            )
        genotype = _search_of(strategy)(task, callbacks)
        if is_main():
            draw_cell(genotype, config.output / "cell.png")
            genotype.to_json(config.output / GENOTYPE_FILE)  # marks the run as finished
        return genotype


def _precise_enough(config: SearchConfig, strategy: Strategy) -> SearchConfig:
    """Return the configuration; differences of gradients need full precision, of which half leaves nothing of them."""
    precision = config.trainer.precision
    if not (isinstance(strategy, TempDARTS) and strategy.order == 2) or precision == "32-true":
        return config
    _logger.warning(
        "trainer.precision is %s, too coarse for the differences of strategy.order 2; searching with 32-true", precision
    )
    return with_precision(config, "32-true")


def _check_kind(config: SearchConfig, search: Search) -> None:
    """Refuse settings of the other kind of strategies, and trials that this machine cannot run."""
    name = config.strategy.name
    if search is not search_by_trials:
        if config.trials != TrialsConfig():
            raise ConfigError(f"{name} trains one supernet and has no trials; remove the section trials")
        return
    defaults = SearchConfig.model_fields
    if foreign := [key for key in ("epochs", "optimizer") if getattr(config, key) != defaults[key].default]:
        raise ConfigError(
            f"{name} trains no supernet but each network in a trial; remove {' and '.join(foreign)}, "
            f"set {' and '.join(f'trials.{key}' for key in foreign)}"
        )
    check_trials(config)


def _check_distributed(config: SearchConfig, strategy: Strategy) -> None:
    """Refuse a strategy that cannot search in several processes."""
    given = f"got trainer.devices = {config.trainer.devices} and trainer.num_nodes = {config.trainer.num_nodes}"
    if not isinstance(strategy, TempDARTS):
        raise ModelError(
            f"{config.strategy.name} runs on one device, {given}; set both to 1, or search with TempDARTS, DARTS or "
            "GumbelDARTS"
        )
    if strategy.order == 2:
        raise ModelError(f"strategy.order = 2 runs on one device, {given}; set both to 1, or the order")


def _search_of(strategy: Strategy) -> Search:
    """Return the search proper of a strategy's kind."""
    return next(search for kind, search in SEARCHES.items() if isinstance(strategy, kind))
