"""Configurations: YAML plus ``key=value`` -> frozen values. Unknown keys are errors; all problems are told at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from nni_nastc.errors import ConfigError, did_you_mean
from nni_nastc.genotype import SEARCHED_OPERATIONS

DatasetName = Literal["json", "charades", "multithumos", "breakfast"]
"""What :data:`nni_nastc.data.annotations.LOADERS` reads."""


Cache = Literal["none", "memory", "device"]
"""Where features stay once they are read: in no process, in the host's memory, in that of the network's device."""


Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What NumPy takes as a seed."""

BatchSize = Annotated[int, Field(le=2**16)]
Workers = Annotated[int, Field(ge=0, le=256)]


class Section(BaseModel):
    """Base of all sections: frozen, and no key that is not declared."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    """Which videos, and how superframes are drawn from them."""

    store: Path = Field(description="feature store, as written by nastc extract")
    annotations: Path = Field(description="JSON file of classes, subsets and labels, or folder of the official files")
    dataset: DatasetName = Field("json", description="whose files the annotations are")
    target: Literal["activities", "unit-actions"] | None = Field(
        None, description="which labels, where a file has both activities and unit-actions"
    )
    timesteps: int = Field(32, ge=1, le=2**16, description="T: superframes drawn from a video")
    batch_size: BatchSize = Field(8, ge=2, description="videos a batch; batch norm needs two")
    workers: Workers = Field(0, description="threads that read the store ahead; 0 reads when a batch is needed")
    cache: Cache = Field("none", description="whose memory keeps all features, if they fit: the host's, the GPU's")


class TrainerConfig(Section):
    """Where and in which precision Lightning trains."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    num_nodes: int = Field(1, ge=1, description="machines, each with as many devices; torchrun or SLURM starts them")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    sync_batchnorm: bool = Field(False, description="one batch norm over all GPUs; otherwise each has its own")
    compile: bool = Field(False, description="torch.compile of fixed networks; slow to start, needs a C++ compiler")
    deterministic: bool = Field(False, description="deterministic kernels where there are some; slower on a GPU")


class SpaceConfig(Section):
    """A search space: what ``search_spaces/*.yaml`` hold."""

    operations: tuple[str, ...] = Field(SEARCHED_OPERATIONS, min_length=1, description="candidates on each edge")
    num_layers: int = Field(3, ge=1, le=12, description="L: every layer halves T")
    num_groups: int | None = Field(None, ge=1, description="N channel groups; null: divisor of C nearest to C / 128")


class StrategyConfig(BaseModel):
    """The search strategy and its options, which are checked against the strategy itself."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "TempDARTS"

    @property
    def options(self) -> dict[str, Any]:
        """All keys but the name."""
        return dict(self.model_extra or {})


class SearchOptimizerConfig(Section):
    """SGD of the weights while cells are searched; DARTS' published settings."""

    learning_rate: float = Field(0.025, gt=0)
    final_learning_rate: float = Field(0.001, ge=0, description="end of the cosine schedule")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(3e-4, ge=0)


class TrainOptimizerConfig(Section):
    """Adam of the fixed network; the paper's settings (Sec. III-B, implementation details)."""

    learning_rate: float = Field(0.01, gt=0)
    eps: float = Field(1e-4, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    gradient_clip: float | None = Field(None, gt=0, description="largest norm of the gradients; null: no clipping")


class TrialsConfig(Section):
    """Trials, of the strategies that train each network by itself."""

    concurrency: int = Field(1, ge=1, le=1024, description="trials at a time")
    max_trials: int = Field(100, ge=1, description="networks to train, failed ones included")
    max_duration: str | None = Field(
        None, pattern=r"^[1-9]\d*[smhd]$", description="no new trial after this time (30m, 12h, 2d); null: no limit"
    )
    epochs: int = Field(20, ge=1, description="of each trial")
    optimizer: TrainOptimizerConfig = TrainOptimizerConfig()
    gpus: Literal[0, 1] | None = Field(None, description="GPUs a trial; null: 1 where there is one")
    trials_per_gpu: int = Field(1, ge=1, le=64, description="trials that share a GPU")
    # Left out of what is recorded: a search that goes on may take another.
    port: int | None = Field(None, exclude=True, description="of NNI's web page; null: a free one")

    @property
    def max_seconds(self) -> float:
        """The longest duration in seconds; infinite for no limit."""
        units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
        return float("inf") if self.max_duration is None else int(self.max_duration[:-1]) * units[self.max_duration[-1]]


class SearchConfig(Section):
    """``nastc search``."""

    output: Path = Field(description="folder for the results")
    data: DataConfig
    space: str = Field("nastc", description="a search space's name, or the path of its YAML file")
    num_layers: int | None = Field(None, ge=1, le=12, description="L; null: as the space says")
    strategy: StrategyConfig = StrategyConfig()
    optimizer: SearchOptimizerConfig = SearchOptimizerConfig()
    epochs: int = Field(50, ge=1)
    trials: TrialsConfig = TrialsConfig()
    seed: Seed = 0
    trainer: TrainerConfig = TrainerConfig()


class TrainConfig(Section):
    """``nastc train``."""

    output: Path = Field(description="folder for the checkpoint and the metrics")
    data: DataConfig
    genotype: str = Field(description="a shipped genotype, a JSON file, the folder of a search, or a method's name")
    num_layers: int = Field(3, ge=0, le=12)
    num_groups: int | None = Field(None, ge=1)
    final: bool = Field(False, description="train on all of the training part; otherwise a tenth is held out")
    hold_out: float = Field(0.1, gt=0, lt=1, description="share of the training part that is held out for validation")
    optimizer: TrainOptimizerConfig = TrainOptimizerConfig()
    epochs: int = Field(300, ge=1)
    seed: Seed = 0
    trainer: TrainerConfig = TrainerConfig()


class EvaluateConfig(Section):
    """``nastc evaluate``. Store, annotations, dataset and target are the training's own unless they are given."""

    checkpoint: Path = Field(description="model.safetensors of nastc train, or its folder")
    output: Path | None = Field(None, description="for metrics.json and predictions.txt; null: beside the checkpoint")
    store: Path | None = Field(None, description="feature store")
    annotations: Path | None = Field(None, description="JSON file, or folder of the official files")
    dataset: DatasetName | None = Field(None, description="whose files the annotations are")
    target: Literal["activities", "unit-actions"] | None = None
    subset: Literal["train", "test"] = "test"
    unlabelled: bool = Field(False, description="score the test videos, too, that nobody labelled (Charades has 49)")
    draws: int = Field(10, ge=1, le=1000, description="random draws a video whose scores are averaged")
    batch_size: BatchSize = Field(8, ge=1)
    workers: Workers = 0
    cache: Cache = "none"
    seed: Seed = 0
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")


class PredictionsConfig(Section):
    """``nastc evaluate --predictions``: scores that are there already."""

    predictions: Path = Field(description="a line a video: its id and a score for each class")
    annotations: Path = Field(description="JSON file of classes, subsets and labels, or folder of the official files")
    dataset: DatasetName = Field("json", description="whose files the annotations are")
    target: Literal["activities", "unit-actions"] | None = None
    subset: Literal["train", "test"] = "test"
    unlabelled: bool = Field(False, description="score the test videos, too, that nobody labelled (Charades has 49)")
    output: Path | None = Field(None, description="folder for metrics.json; null: they are only shown")


class BenchConfig(Section):
    """``nastc bench``: each method with each T and each seed, trained and scored under one protocol."""

    output: Path = Field(description="folder for the runs, the tables and the pictures")
    data: DataConfig
    methods: tuple[str, ...] = Field(min_length=1, description="as nastc train's genotype, each a row of the table")
    seeds: tuple[Seed, ...] = Field((0, 1, 2), description="seeds of the runs, or how many: 3 is [0, 1, 2]")
    timesteps: tuple[Annotated[int, Field(ge=1, le=2**16)], ...] = Field(
        (), description="all T that are compared; none: data.timesteps"
    )
    num_layers: int = Field(3, ge=0, le=12)
    layers_at: dict[int, Annotated[int, Field(ge=0, le=12)]] = Field({}, description="T: its L, if not num_layers")
    num_groups: int | None = Field(None, ge=1)
    optimizer: TrainOptimizerConfig = TrainOptimizerConfig()
    learning_rates: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="method: its learning rate, if not optimizer.learning_rate"
    )
    epochs: int = Field(300, ge=1)
    draws: int = Field(10, ge=1, le=1000, description="random draws a test video whose scores are averaged")
    against: str | None = Field(None, description="the method that the tests compare with; null: every pair")
    published: Literal["charades", "multithumos", "breakfast-activities", "breakfast-unit-actions"] | None = Field(
        None, description="whose published numbers stand beside the measured ones"
    )
    trainer: TrainerConfig = TrainerConfig()

    @property
    def all_timesteps(self) -> tuple[int, ...]:
        """Every T that is compared."""
        return self.timesteps or (self.data.timesteps,)

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_of_seeds(cls, value: Any) -> Any:
        return range(value) if type(value) is int and value <= 2**16 else value

    @field_validator("seeds")
    @classmethod
    def _enough_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < 2:
            raise PydanticCustomError("rule", "a deviation over seeds needs at least 2 of them")
        return value

    @field_validator("methods", "timesteps", "seeds")
    @classmethod
    def _distinct(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if twice := sorted({str(part) for part in value if value.count(part) > 1}):
            raise PydanticCustomError("rule", f"each may be there once only, {', '.join(twice)} is there again")
        return value

    @model_validator(mode="after")
    def _against_one_of_the_methods(self) -> BenchConfig:
        if self.against is not None and self.against not in self.methods:
            hint = did_you_mean(self.against, self.methods)
            raise PydanticCustomError("rule", f"against must be one of methods, {self.against!r} is not there{hint}")
        return self


AnyConfig = TypeVar("AnyConfig", bound=Section)


def load_config(
    schema: type[AnyConfig],
    path: Path | str | None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    defaults: Mapping[str, Any] | None = None,
) -> AnyConfig:
    """Read a YAML file, apply ``key=value`` pairs, and check everything.

    Parameters
    ----------
    schema : type
        One of the configurations of this module.
    path : Path, str or None
        The YAML file; None for none.
    overrides : sequence of str, or mapping
        ``key=value``, where the key may be dotted (``data.batch_size=4``) and the value is YAML; or the same as a
        mapping from dotted keys to values.
    defaults : mapping, optional
        Values that the file and the overrides may replace.

    Returns
    -------
    Section
        The configuration, frozen.

    Raises
    ------
    ConfigError
        If the file is missing or no YAML, or with all unknown keys and wrong values in one message.
    """
    values = {**(defaults or {}), **({} if path is None else _read_yaml(Path(path)))}
    given = overrides if isinstance(overrides, Mapping) else dict(map(parse_override, overrides))
    for key, value in given.items():
        set_value(values, key, value)
    try:
        return schema.model_validate(values)
    except ValidationError as problem:
        source = "the configuration" if path is None else str(path)
        raise ConfigError(f"{source}: {'; '.join(_describe(schema, e) for e in problem.errors())}") from None


def dump_config(config: Section) -> str:
    """Return a configuration as YAML, every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_yaml(path: Path) -> Any:
    """Read a YAML file with the safe loader."""
    return _read_yaml(path)


def find_space(name: str, folder: Path) -> SpaceConfig:
    """Read a search space by its name in ``folder`` or by the path of a YAML file.

    Raises
    ------
    ConfigError
        If there is none, or its content is wrong.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise ConfigError(f"no search space is called {name!r}: give the path of a YAML file or one of {names}")
    return load_config(SpaceConfig, path)


class _UniqueKeys(yaml.SafeLoader):
    """The safe loader, to which a key given twice is an error: otherwise the last one wins unseen."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse the second of two equal keys."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                problem = f"the key {key.value} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


# Numbers of too many digits and dates that do not exist are a ValueError.
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)


def _parse_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_UniqueKeys)


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"no such configuration file: {path}; check the path")
    try:
        values = _parse_yaml(path.read_text(encoding="utf-8"))
    except _NOT_YAML as problem:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(problem).split())}") from problem
    if not isinstance(values or {}, dict):
        raise ConfigError(f"{path} must hold keys and values, got {type(values).__name__}")
    return values or {}


def parse_override(override: str) -> tuple[str, Any]:
    """Return the dotted key and the value of ``key=value``.

    Raises
    ------
    ConfigError
        If there is no key, or the value is not YAML.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"overrides are written key=value (data.batch_size=4), got {override!r}")
    try:
        return key, _parse_yaml(text)
    except _NOT_YAML as problem:
        raise ConfigError(f"the value of {key} is not YAML: {text[:80]!r}") from problem


def set_value(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested dicts.

    Raises
    ------
    ConfigError
        If a part of the key is a value, not a section.
    """
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{key} cannot be set: {parent} is a value, not a section")
    values[last] = value


def _describe(schema: type[Section], error: Mapping[str, Any]) -> str:
    """Put one problem that pydantic found into our form."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        # The section in front of a key makes it less like one that is given without.
        return f"unknown key {key}{did_you_mean(key, _keys(schema), likeness=0.5)}"
    if error["type"] == "missing":
        return f"{key} is missing"
    if not key:  # a rule of several keys, which names them
        return error["msg"]
    rule = error["msg"][0].lower() + error["msg"][1:]
    return f"{key}: {rule}, got {error['input']!r}"


def _keys(schema: type[BaseModel], prefix: str = "") -> list[str]:
    """Return all keys of a schema, dotted."""
    keys = []
    for name, field in schema.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _keys(field.annotation, f"{prefix}{name}.")
    return keys
