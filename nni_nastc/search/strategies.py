"""The strategies that a configuration can name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from nni.nas.strategy.base import Strategy

from nni_nastc.config import StrategyConfig
from nni_nastc.errors import ConfigError
from nni_nastc.search.darts import DARTS, GumbelDARTS
from nni_nastc.search.enas import ENAS
from nni_nastc.search.options import check_options, unknown_name
from nni_nastc.search.proxyless import Proxyless
from nni_nastc.search.random_one_shot import RandomOneShot
from nni_nastc.search.sampling import MULTI_TRIAL
from nni_nastc.search.temp_darts import TempDARTS

STRATEGIES: Mapping[str, Callable[..., Strategy]] = MappingProxyType(
    {
        "TempDARTS": TempDARTS,
        "DARTS": DARTS,
        "GumbelDARTS": GumbelDARTS,
        "Proxyless": Proxyless,
        "RandomOneShot": RandomOneShot,
        "ENAS": ENAS,
        **MULTI_TRIAL,
    }
)
"""Name -> class, built with the options of the configuration: its keyword-only parameters."""


def make_strategy(config: StrategyConfig, seed: int = 0) -> Strategy:
    """Build the strategy that a configuration names; those that sample networks for trials draw by the seed.

    Raises
    ------
    ConfigError
        If the strategy is unknown, has no such option, refuses a value, or lacks its dependency.
    """
    if config.name not in STRATEGIES:
        raise ConfigError(f"strategy.name: {unknown_name(config.name, list(STRATEGIES))}")
    strategy = STRATEGIES[config.name]
    options = check_options(strategy, config.options)
    return strategy(seed, **options) if config.name in MULTI_TRIAL else strategy(**options)
