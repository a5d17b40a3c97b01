"""A system configuration: frozen dataclasses, read from YAML, overridden by ``section.key=value``.

A YAML file may name another one of the same folder as its ``base`` and then states only what differs. The defaults
below are the paper's recipe where it is published, else what the line under each field says.
"""
import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from task1a.errors import InputError, shown
from task1a.files import YAMLError, parse_yaml, read_yaml

MOST_BASES = 10
"""How many configurations one may build on, one upon another."""


def _number(value: Any) -> Any:
    # PyYAML reads 1e-3 (no dot) as text; who writes it means the number
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _unlike(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{twice[0]} is named twice")
    return names


# every number is finite and bounded, so that a slip of the pen is told here and not by an exhausted memory
Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Natural = Annotated[int, Field(ge=0, le=100_000)]
Fraction = Annotated[Real, Field(ge=0, lt=1)]
Width = Annotated[Real, Field(ge=0.1, le=100)]
Weight = Annotated[Real, Field(ge=0, le=1000)]
Seed = Annotated[int, Field(ge=0, lt=2 ** 32)]
LearningRate = Annotated[Real, Field(gt=0, le=100)]
Epochs = Annotated[Real, Field(ge=0, le=100_000)]
Folder = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f]+$")]
Name = Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")]
Teacher = Annotated[str, Field(max_length=200, pattern=r"^(vanilla|[A-Za-z0-9_-][A-Za-z0-9._-]*/seed[0-9]+)$")]

_strict = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=_strict)
class DataConfig:
    """Which recordings, and how they are gone through."""

    source: Literal["tau_layout", "demo"] = "tau_layout"
    """a folder in the layout of the TAU sets, or the demo set that is synthesised on first use"""
    root: Folder | None = None
    """folder of the development set (``--data-root``)"""
    evaluation_root: Folder | None = None
    """folder of the evaluation set (``--eval-root``); without one there is nothing to submit"""
    cache_dir: Folder = "cache"
    """folder of the feature caches and of the demo set, shared by all runs"""
    demo_clip_seconds: Annotated[Real, Field(ge=0.1, le=60)] = 5.0
    """length of the clips of the demo set"""
    workers: Annotated[int, Field(ge=1, le=1024)] | None = None
    """processes of the features stage; one a core when not given"""
    skip_damaged: bool = False
    """leave unreadable clips out, and list them, instead of stopping (``--skip-damaged``)"""

    def __post_init__(self) -> None:
        given = [key for key in ("root", "evaluation_root") if getattr(self, key) is not None]
        if self.source == "demo" and given:
            raise ValueError(f"data.{given[0]} is given, but data.source=demo synthesises its own recordings; set "
                             "data.source=tau_layout")


@dataclass(frozen=True, config=_strict)
class FeatureConfig:
    """Log-mel energies of a clip."""

    sample_rate: Annotated[int, Field(ge=4000, le=192_000)] = 16000
    """Hz, after resampling"""
    n_mels: Annotated[int, Field(ge=1, le=1024)] = 256
    """mel bins"""
    window: Annotated[int, Field(ge=16)] = 2080
    """samples of the Hann window: 130 ms"""
    hop: Annotated[int, Field(ge=16)] = 480
    """samples between frames: 30 ms; at most the window, so that every sample is heard"""
    n_fft: Annotated[int, Field(ge=16, le=65_536)] = 4096
    """FFT size; large enough that no mel filter is empty"""
    f_min: Annotated[Real, Field(ge=0)] = 0.0
    """Hz, lower edge of the lowest filter"""
    f_max: Real | None = None
    """Hz, upper edge of the highest filter; half the sampling rate when not given"""
    log_floor: Annotated[Real, Field(ge=1e-30, le=1)] = 1e-8
    """added to the mel power before the natural logarithm"""
    clip_seconds: Annotated[Real, Field(ge=0.1, le=300)] = 10.0
    """length every clip is brought to: a longer one is cut, a shorter one repeated"""

    def __post_init__(self) -> None:
        if self.window > self.n_fft:
            raise ValueError(f"features.window={self.window} is longer than features.n_fft={self.n_fft}")
        if self.hop > self.window:
            raise ValueError(f"features.hop={self.hop} is longer than features.window={self.window}: samples between "
                             "the frames would not be heard")
        if not self.f_min < self.highest_frequency <= self.sample_rate / 2:
            raise ValueError(f"features.f_max={self.highest_frequency:g} must lie between features.f_min="
                             f"{self.f_min:g} and half of features.sample_rate={self.sample_rate}")

    @property
    def highest_frequency(self) -> float:
        """Hz, upper edge of the highest filter."""
        return self.sample_rate / 2 if self.f_max is None else self.f_max

    @property
    def clip_samples(self) -> int:
        """Samples of a clip after resampling."""
        return round(self.clip_seconds * self.sample_rate)

    @property
    def frames(self) -> int:
        """Frames of a clip: centred frames, so one more than whole hops fit."""
        return 1 + self.clip_samples // self.hop


@dataclass(frozen=True, config=_strict)
class NetworkConfig:
    """A network and the front end before it; the number of classes comes from the data."""

    name: str
    """architecture"""
    front_end: Literal["log_mel", "freqnorm", "pcen"] = "log_mel"
    """what is done to the log-mel energies before the network: nothing; each mel bin is normalised by its mean and
    standard deviation over the training clips; per-channel energy normalization replaces the logarithm"""

    smallest_input: ClassVar[tuple[int, int]] = (1, 1)
    """mel bins and frames below which a layer of the architecture has nothing to work on"""

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the architecture: the arguments of its class."""
        return {key: value for key, value in asdict(self).items() if key not in ("name", "front_end")}


@dataclass(frozen=True, config=_strict)
class BCResNetASCConfig(NetworkConfig):
    """BC-ResNet-ASC."""

    name: Literal["bcresnet_asc"] = "bcresnet_asc"
    """architecture"""
    tau: Width = 1.0
    """width factor; the base width is c = 10 tau"""
    sub_bands: Count = 4
    """sub-bands of the sub-spectral norm"""
    dropout: Fraction = 0.1
    """channel dropout in every block"""
    residual_norm: Literal["all", "input", "none"] = "all"
    """where ResNorm is applied: at the input and after every stage, at the input only, or nowhere"""
    residual_norm_shortcut: Weight = 0.1
    """lambda of ResNorm; 0 is plain frequency-wise instance norm"""
    residual_norm_eps: Annotated[Real, Field(ge=1e-30, le=1)] = 1e-5
    """added to the variance in ResNorm"""

    smallest_input: ClassVar[tuple[int, int]] = (8, 7)


@dataclass(frozen=True, config=_strict)
class BCResNetConfig(NetworkConfig):
    """BC-ResNet for keyword spotting."""

    name: Literal["bcresnet"] = "bcresnet"
    """architecture"""
    tau: Width = 8.0
    """width factor; the base width is c = 8 tau"""
    sub_bands: Count = 4
    """sub-bands of the sub-spectral norm"""
    dropout: Fraction = 0.1
    """channel dropout in every block"""

    smallest_input: ClassVar[tuple[int, int]] = (40, 1)


@dataclass(frozen=True, config=_strict)
class CPResNetConfig(NetworkConfig):
    """CP-ResNet."""

    name: Literal["cp_resnet"] = "cp_resnet"
    """architecture"""
    width: Annotated[int, Field(ge=1, le=4096)] = 64
    """channels of the first stage"""
    rho: Annotated[int, Field(ge=0, le=22)] = 5
    """number of 3x3 convolutions, with which the receptive field grows; 22 are all that there are"""

    smallest_input: ClassVar[tuple[int, int]] = (17, 17)


NETWORKS = (BCResNetASCConfig, BCResNetConfig, CPResNetConfig)


def _set_keys(model: Any) -> Any:
    # null takes back what a base says; files of models name the settings of all architectures, the others' as null
    if not isinstance(model, dict):
        return model
    return {"name": "bcresnet_asc", **{key: value for key, value in model.items() if value is not None}}


Network = Annotated[BCResNetASCConfig | BCResNetConfig | CPResNetConfig, Field(discriminator="name"),
                    BeforeValidator(_set_keys)]
"""The settings of any network, told apart by its name."""


@dataclass(frozen=True, config=_strict)
class TrainingConfig:
    """Stochastic gradient descent with warm-up and cosine decay, mixup, SpecAugment and time roll."""

    epochs: Count = 100
    """passes over the training part"""
    batch_size: Annotated[int, Field(ge=2, le=100_000)] = 64
    """clips a step, over all processes"""
    learning_rate: LearningRate = 0.06
    """peak, reached after the warm-up; decays to 0 along a cosine, step by step"""
    warmup_epochs: Epochs = 5
    """linear rise from 0"""
    momentum: Fraction = 0.9
    """of SGD"""
    weight_decay: Annotated[Real, Field(ge=0, le=1)] = 1e-3
    """L2 penalty on all parameters"""
    mixup_alpha: Weight = 0.3
    """of the Beta distribution; 0 is no mixup"""
    frequency_masks: Annotated[int, Field(ge=0, le=100)] = 2
    """SpecAugment: masks along frequency"""
    frequency_mask_bins: Natural = 40
    """their greatest width in mel bins"""
    time_masks: Annotated[int, Field(ge=0, le=100)] = 2
    """SpecAugment: masks along time"""
    time_mask_frames: Natural = 80
    """their greatest width in frames"""
    mask_value: Literal["mean", "zero"] = "mean"
    """what a mask puts in: the clip's own mean, or 0"""
    roll_seconds: Annotated[Real, Field(ge=0, le=300)] = 1.5
    """time roll: greatest shift to either side"""
    validation_fraction: Annotated[Real, Field(ge=0, le=0.5)] = 0.1
    """part of the training split, by location, that is held out for history.csv; 0 trains on all of it"""
    validation_seed: Seed = 0
    """draws the validation locations, so that runs of different seeds share them"""
    calibrate: bool = False
    """divide the logits by the temperature of least validation log loss; accuracy and size stay as they are"""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """number format of the forward and backward pass, as lightning-fabric names it"""
    channels_last: bool = False
    """memory layout of the convolutions"""

    def __post_init__(self) -> None:
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"training.warmup_epochs={self.warmup_epochs:g} exceeds training.epochs={self.epochs}")


@dataclass(frozen=True, config=_strict)
class CompressionConfig:
    """Pruning, 8-bit quantization and distillation; the augmentation and the batches are those of the training."""

    enabled: bool = False
    """make the compressed model the system; without, it is the vanilla model"""
    epochs: Count = 100
    """passes over the training part after the vanilla training"""
    learning_rate: LearningRate = 0.03
    """peak; decays to 0 along a cosine"""
    warmup_epochs: Epochs = 1
    """linear rise from 0"""
    ratio: Fraction = 0.89
    """part of the convolution weights that is pruned"""
    target_bytes: Annotated[int, Field(ge=1, le=2 ** 31)] | None = None
    """prune as much as it takes to count at most this (policy dcase2021), in place of the ratio"""
    scope: Literal["global", "layer", "lamp"] = "global"
    """the smallest weights of all layers together go, the smallest of every layer, or the smallest of all together
    relative to those of their own layer (layer-adaptive magnitude pruning)"""
    schedule: Literal["one_shot", "iterative", "gradual"] = "one_shot"
    """prune at once, in a few equal steps, or a little before every epoch"""
    pruning_epochs: Count | None = None
    """epochs that an iterative or gradual schedule spreads over; half of all when not given"""
    pruning_steps: Count = 5
    """prunings of the iterative schedule"""
    weight_scales: Literal["tensor", "channel"] = "tensor"
    """one scale of the 8-bit weights a layer, or one an output channel"""
    fold_batch_norms: bool = False
    """fold the batch norms after convolutions into them first; sub-spectral norms stay"""
    teachers: Annotated[tuple[Teacher, ...], Field(max_length=100), AfterValidator(_unlike)] = ("vanilla",)
    """whose averaged probabilities teach: ``vanilla``, the model before compression, and other runs beside this one, as
    <system>/seed<N>; none is training on the labels alone"""
    temperature: Annotated[Real, Field(ge=0.01, le=1000)] = 2.0
    """of the softmax in distillation"""
    cross_entropy_weight: Weight = 0.5
    """of the labels' part of the loss, where there is a teacher"""
    distillation_weight: Weight = 0.5
    """of the teacher's part of the loss"""

    def __post_init__(self) -> None:
        for key in ("warmup_epochs", "pruning_epochs"):
            if (getattr(self, key) or 0) > self.epochs:
                raise ValueError(f"compression.{key}={getattr(self, key):g} exceeds compression.epochs={self.epochs}")
        if self.teachers and not self.cross_entropy_weight + self.distillation_weight:
            raise ValueError("compression.cross_entropy_weight and compression.distillation_weight are both 0")

    @property
    def pruning_spread(self) -> int:
        """Epochs that an iterative or gradual schedule spreads over."""
        return self.pruning_epochs or max(1, self.epochs // 2)


@dataclass(frozen=True, config=_strict)
class EvaluationConfig:
    """Prediction over the test split and the evaluation set."""

    batch_size: Count = 64
    """clips a forward pass"""


@dataclass(frozen=True, config=_strict)
class SubmissionConfig:
    """What the metadata file says beyond what the run knows by itself."""

    name: str = "BC-ResNet-ASC with Residual Normalization"
    """full name of the system"""
    abbreviation: Annotated[str, Field(min_length=1, max_length=10)] = "BCResNet"
    """at most ten characters, for the result tables"""
    authors: Folder | None = None
    """YAML file with the authors; the filled example that comes with the project when not given"""
    source_code: str | None = None
    """address of published source code"""


@dataclass(frozen=True, config=_strict)
class Config:
    """One system: everything that decides what a run computes."""

    system: Name
    """the name of the YAML file, and of the folder of its runs"""
    description: str = ""
    """one line: which row of which table this is"""
    seed: Seed = 0
    """of the initialisation, the order of the clips, the augmentation and the dropout (``--seed``)"""
    ensemble: Annotated[tuple[Name, ...], Field(max_length=100), AfterValidator(_unlike)] = ()
    """names of the systems beside this one whose runs of the same seed are averaged; this one trains nothing then"""
    data: DataConfig = field(default_factory=DataConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    model: Network = field(default_factory=BCResNetASCConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    compression: CompressionConfig = field(default_factory=CompressionConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    submission: SubmissionConfig = field(default_factory=SubmissionConfig)

    def __post_init__(self) -> None:
        bins, frames = self.features.n_mels, self.features.frames
        sub_bands = self.model.settings.get("sub_bands")
        # frequency is halved three times, and every stage has the sub-bands
        if sub_bands and bins % (8 * sub_bands):
            raise ValueError(f"features.n_mels={bins} must be a multiple of 8 model.sub_bands = {8 * sub_bands}")
        least_bins, least_frames = self.model.smallest_input
        if bins < least_bins or frames < least_frames:
            raise ValueError(f"features.n_mels={bins} and {frames} frames (features.clip_seconds, features.hop) are "
                             f"too few for model.name={self.model.name}, which needs {least_bins} x {least_frames}")


def load(path: Path, overrides: Sequence[str] = (), options: Mapping[str, Any] | None = None) -> Config:
    """Read a system configuration and apply what was given on the command line.

    Args:
        path: of the YAML file.
        overrides: ``section.key=value``, the value in YAML.
        options: values by ``section.key``, which stand above the overrides.

    Raises:
        InputError: the file or an override is malformed, names an unknown key (the nearest valid one is offered) or
            has a value of the wrong type or range.
    """
    path = Path(path)
    tree = _read_tree(path)
    given = [_parsed(override) for override in overrides]
    for key, value in (*given, *(options or {}).items()):
        *sections, name = key.split(".")
        nested = {name: value}
        for section in reversed(sections):
            nested = {section: nested}
        _check_keys(nested, "command line")
        tree = _merge(tree, nested)
    return from_tree({"system": path.stem, **tree}, source=str(path))


def from_tree(tree: Mapping[str, Any], source: str) -> Config:
    """Build a configuration from nested mappings, e.g. a run's own ``config.yaml``; ``source`` is named in errors."""
    _check_keys(tree, source)
    try:
        # JSON is where pydantic takes mappings for sections and yet is strict about types
        return TypeAdapter(Config).validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # the name of a network's kind is a step on the way to its settings
        steps = [step for step in first["loc"] if isinstance(step, str) and step.islower()]
        key = ".".join(step for step in steps if step not in [kind.name for kind in NETWORKS])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "value_error" and message.startswith(tuple(f"{section}." for section in KEYS)):
            raise InputError(f"{source}: {message}") from None  # of a check that names the keys itself
        if first["type"] == "union_tag_invalid":
            raise InputError(f"{source}: model.name: Input should be {first['ctx']['expected_tags']} (given "
                             f"{shown(tree['model']['name'])})") from None
        if first["type"] == "unexpected_keyword_argument":
            own = next(kind for kind in NETWORKS if kind.name == steps[1])
            raise InputError(f"{source}: {key}: {own.name} has no such setting, only {', '.join(own().settings)}; set "
                             "it to null") from None
        raise InputError(f"{source}: {key}: {message} (given {shown(first['input'])})") from None
    except ValueError:
        raise InputError(f"{source}: a number has too many digits") from None


def to_yaml(config: Config) -> str:
    """The whole configuration, defaults included, as the text of a YAML file that :func:`load` reads back."""
    return yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)


def fingerprint(value: Any) -> str:
    """A short digest of plain data or of a configuration section: equal exactly where the values are equal."""
    plain = asdict(value) if is_dataclass(value) else value
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_tree(path: Path) -> dict[str, Any]:
    """The sections of a configuration, merged with those of the configurations that it builds on."""
    tree: dict[str, Any] = {}
    seen: list[Path] = []
    while True:
        if not path.is_file():
            raise InputError(f"{path}: no such configuration{_similar_file(path)}")
        above = read_yaml(path)
        if not isinstance(above, dict):
            raise InputError(f"{path}: must hold sections ({', '.join(key for key in KEYS if KEYS[key])})")
        base = above.pop("base", None)
        tree = _merge(above, tree)
        if base is None:
            return tree
        if not isinstance(base, str) or Path(base).name != base or not base.isprintable():
            raise InputError(f"{path}: base: must be the name of a file in the same folder (given {shown(base)})")
        seen.append(path)
        if path.parent / base in seen:
            raise InputError(f"{path}: base: {base} builds on this file itself")
        if len(seen) > MOST_BASES:
            raise InputError(f"{seen[0]}: builds on more than {MOST_BASES} configurations, one upon another")
        path = path.parent / base


def _similar_file(path: Path) -> str:
    known = sorted(other.name for other in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _parsed(override: str) -> tuple[str, Any]:
    """Key and value of an override."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise InputError(f"{shown(override)}: an override is written section.key=value, e.g. training.epochs=60")
    try:
        return key, parse_yaml(text)
    except YAMLError as error:
        raise InputError(f"{shown(override)}: {error}") from None


def _check_keys(tree: Any, source: str) -> None:
    """Refuse keys that there are not, and values where keys are expected."""
    if not isinstance(tree, Mapping):
        raise InputError(f"{source}: must hold keys ({', '.join(KEYS)})")
    for section, values in tree.items():
        if section not in KEYS:
            raise _unknown_key(source, str(section))
        if not KEYS[section]:
            continue
        if not isinstance(values, Mapping):
            raise InputError(f"{source}: {section}: must hold keys ({', '.join(KEYS[section])})")
        for key in values:
            if key not in KEYS[section]:
                raise _unknown_key(source, f"{section}.{key}")


def _unknown_key(source: str, name: str) -> InputError:
    """Offers the valid key closest to ``name``: the one of that name in another section, else by its spelling."""
    name = name[:200]
    names = []
    for section, keys in KEYS.items():
        names += [f"{section}.{key}" for key in keys] or [section]
    last = name.rsplit(".", 1)[-1]
    near = [known for known in names if known.rsplit(".", 1)[-1] == last]
    for spelling in (name, last):
        near = near or difflib.get_close_matches(spelling, names, n=1, cutoff=0.5)
    return InputError(f"{source}: unknown key {shown(name)}" + (f"; did you mean {near[0]!r}?" if near else ""))


def _keys() -> dict[str, tuple[str, ...]]:
    keys = {}
    for section in fields(Config):
        kinds = NETWORKS if section.name == "model" else (section.type,)
        names = [key.name for kind in kinds if is_dataclass(kind) for key in fields(kind)]
        keys[section.name] = tuple(dict.fromkeys(names))
    return keys


KEYS = _keys()
"""Keys of each section; none for the values that stand beside the sections."""
