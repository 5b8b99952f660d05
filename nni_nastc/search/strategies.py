"""The strategies that a configuration can name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from nni.nas.strategy.base import Strategy

from nni_nastc.config import StrategyConfig
from nni_nastc.errors import ConfigError
from nni_nastc.search.temp_darts import TempDARTS

STRATEGIES: Mapping[str, Callable[..., Strategy]] = MappingProxyType({"TempDARTS": TempDARTS})
"""Name -> class, built with the options of the configuration."""


def make_strategy(config: StrategyConfig) -> Strategy:
    """Build the strategy that a configuration names.

    Raises
    ------
    ConfigError
        If the strategy is unknown, has no such option, or refuses a value.
    """
    if config.name not in STRATEGIES:
        raise ConfigError(f"strategy.name: {_suggest(config.name, list(STRATEGIES))}")
    strategy = STRATEGIES[config.name]
    parameters = inspect.signature(strategy).parameters.values()
    known = {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    if unknown := [name for name in config.options if name not in known]:
        raise ConfigError("; ".join(f"strategy.{name}: {_suggest(name, list(known))}" for name in unknown))
    if empty := [name for name, v in config.options.items() if v is None and "None" not in str(known[name].annotation)]:
        raise ConfigError("; ".join(f"strategy.{name} must be a number, got null" for name in empty))
    return strategy(**_numbers(config.options))


def _numbers(options: Mapping[str, Any]) -> dict[str, Any]:
    """Read numbers that YAML takes for text, such as 3e-4, and refuse what is no number."""
    numbers: dict[str, Any] = {}
    for name, value in options.items():
        try:
            numbers[name] = value if value is None or isinstance(value, int | float) else float(value)
        except (TypeError, ValueError):
            raise ConfigError(f"strategy.{name} must be a number, got {value!r}") from None
        if numbers[name] is not None and not 0 <= numbers[name] < float("inf"):
            raise ConfigError(f"strategy.{name} must be at least 0 and finite, got {value!r}")
    return numbers


def _suggest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"unknown {name!r}, known are {', '.join(known)}" + (f" (did you mean {near[0]}?)" if near else "")
