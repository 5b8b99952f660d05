"""Options of strategies: their types, and the check of what a configuration says against a strategy's constructor."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Annotated, Any, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from nni_nastc.errors import ConfigError, did_you_mean

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Epochs = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Order = Annotated[int, Field(ge=1, le=2)]


def check_options(constructor: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Check options against the keyword-only parameters of a constructor, and read numbers that YAML takes for text.

    Parameters
    ----------
    constructor : callable
        A class or a function whose keyword-only parameters have type annotations.
    options : mapping
        What the configuration says.

    Returns
    -------
    dict
        The options, of the types that are annotated.

    Raises
    ------
    ConfigError
        With all unknown options and wrong values in one message.
    """
    function = constructor.__init__ if inspect.isclass(constructor) else constructor
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    types = get_type_hints(function, include_extras=True)
    checked, problems = {}, []
    for name, value in options.items():
        if name not in known:
            problems.append(f"strategy.{name}: {unknown_name(name, known)}")
            continue
        try:
            checked[name] = TypeAdapter(types[name]).validate_python(value)
        except ValidationError as problem:
            rules = dict.fromkeys(error["msg"][0].lower() + error["msg"][1:] for error in problem.errors())
            problems.append(f"strategy.{name}: {' or '.join(rules)}, got {value!r}")
    if problems:
        if not options.keys() <= set(known):
            problems.append("'strategy={name: NAME}' on the command line leaves all options of the file out")
        raise ConfigError("; ".join(problems))
    return checked


def unknown_name(name: str, known: Sequence[str]) -> str:
    """Say that a name is not known, which ones are, and which of them is nearest."""
    return f"unknown {name!r}, known are {', '.join(known)}{did_you_mean(name, known)}"


def require_rl(strategy: str) -> None:
    """Refuse a strategy of reinforcement learning where its dependency is missing.

    Raises
    ------
    ConfigError
        If tianshou or gym is not installed; names the extra.
    """
    if find_spec("tianshou") is None or find_spec("gym") is None:
        raise ConfigError(
            f"strategy {strategy} needs tianshou and gym, which are not installed; pip install 'nni_nastc[rl]'"
        )
