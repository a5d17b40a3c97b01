"""The schema of a system configuration: frozen dataclasses, with every key, its default and its
range.

Defaults follow the paper where it gives them. :mod:`task1a.config_file` reads configurations from
YAML.
"""
import hashlib
import json
from dataclasses import asdict, field, is_dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

MAX_FRAMES = 50_000
"""Maximum number of frames of a clip, which bounds time and memory: 300 s with a hop of 6 ms."""


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value  # YAML reads 1e-3, without a dot, as text
    except ValueError:
        return value


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{twice[0]} is named twice")
    return names


# every number is finite and bounded, so that a typing error is reported here and does not exhaust
# the memory
Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Natural = Annotated[int, Field(ge=0, le=100_000)]
Fraction = Annotated[Real, Field(ge=0, lt=1)]
Probability = Annotated[Real, Field(ge=0, le=1)]
Width = Annotated[Real, Field(ge=0.1, le=100)]
Weight = Annotated[Real, Field(ge=0, le=1000)]
Seed = Annotated[int, Field(ge=0, lt=2 ** 32)]
LearningRate = Annotated[Real, Field(gt=0, le=100)]
Epochs = Annotated[Real, Field(ge=0, le=100_000)]
Folder = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f]+$")]
Name = Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")]
Device = Annotated[str, Field(max_length=50, pattern=r"^[A-Za-z0-9_-]+$")]
Teacher = Annotated[str, Field(max_length=200, pattern=r"^(vanilla|[A-Za-z0-9_-][A-Za-z0-9._-]*/seed[0-9]+)$")]

# no conversions: true is not 1, and "3" is not a number; a misspelt key is an error
_strict = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=_strict)
class DataConfig:
    """Recordings and how they are read."""

    source: Literal["tau_layout", "demo"] = "tau_layout"
    """a folder in the layout of the TAU data sets, or the demo set, which is synthesised on first
    use"""
    root: Folder | None = None
    """folder of the development set (``--data-root``)"""
    evaluation_root: Folder | None = None
    """folder of the evaluation set (``--eval-root``); needed for a submission"""
    cache_dir: Folder = "cache"
    """folder of the feature caches and the demo set, shared by all runs"""
    demo_clip_seconds: Annotated[Real, Field(ge=0.1, le=60)] = 3.0
    """length of the clips of the demo set"""
    workers: Annotated[int, Field(ge=1, le=1024)] | None = None
    """number of processes that compute features; default: one per core"""
    skip_damaged: bool = False
    """exclude and list unreadable clips instead of stopping (``--skip-damaged``)"""

    # the checks of a section name its keys, because pydantic knows only that the section is wrong
    def __post_init__(self) -> None:
        given = [key for key in ("root", "evaluation_root") if getattr(self, key) is not None]
        if self.source == "demo" and given:
            raise ValueError(f"data.{given[0]} is given, but data.source=demo synthesises its own recordings; set "
                             "data.source=tau_layout")


@dataclass(frozen=True, config=_strict)
class FeatureConfig:
    """Log-mel energies of a clip."""

    sample_rate: Annotated[int, Field(ge=4000, le=192_000)] = 16000
    """sampling rate after resampling in Hz"""
    n_mels: Annotated[int, Field(ge=1, le=1024)] = 256
    """number of mel bins"""
    window: Annotated[int, Field(ge=16)] = 2080
    """length of the Hann window in samples; the default is 130 ms"""
    hop: Annotated[int, Field(ge=16)] = 480
    """samples between frames, at most the window; the default is 30 ms"""
    n_fft: Annotated[int, Field(ge=16, le=65_536)] = 4096
    """length of the FFT, large enough that no mel filter is empty"""
    f_min: Annotated[Real, Field(ge=0)] = 0.0
    """lower edge of the lowest mel filter in Hz"""
    f_max: Real | None = None
    """upper edge of the highest mel filter in Hz; default: half the sampling rate"""
    log_floor: Annotated[Real, Field(ge=1e-30, le=1)] = 1e-8
    """added to the mel power before the natural logarithm"""
    clip_seconds: Annotated[Real, Field(ge=0.1, le=300)] = 10.0
    """length of a clip; longer recordings are cut, shorter ones repeated"""

    def __post_init__(self) -> None:
        if self.window > self.n_fft:
            raise ValueError(f"features.window={self.window} is longer than features.n_fft={self.n_fft}")
        if self.hop > self.window:
            raise ValueError(f"features.hop={self.hop} is longer than features.window={self.window}: samples between "
                             "the frames would be lost")
        if self.frames > MAX_FRAMES:
            raise ValueError(f"features.hop={self.hop} divides a clip into {self.frames:,} frames; at most "
                             f"{MAX_FRAMES:,} are computed: raise features.hop or lower features.clip_seconds")
        if not self.f_min < self.highest_frequency <= self.sample_rate / 2:
            raise ValueError(f"features.f_max={self.highest_frequency:g} must lie between features.f_min="
                             f"{self.f_min:g} and half of features.sample_rate={self.sample_rate}")

    @property
    def highest_frequency(self) -> float:
        """Upper edge of the highest mel filter in Hz."""
        return self.sample_rate / 2 if self.f_max is None else self.f_max

    @property
    def clip_samples(self) -> int:
        """Number of samples of a clip after resampling."""
        return round(self.clip_seconds * self.sample_rate)

    @property
    def frames(self) -> int:
        """Number of frames of a clip; frames are centred, so there is one more than whole hops."""
        return 1 + self.clip_samples // self.hop


@dataclass(frozen=True, config=_strict)
class NetworkConfig:
    """Settings that all networks share."""

    name: str
    """architecture"""
    front_end: Literal["log_mel", "freqnorm", "pcen"] = "log_mel"
    """input of the network: log-mel energies; the same, normalised per mel bin over the training
    clips; mel energies under per-channel energy normalization instead of the logarithm"""

    title: ClassVar[str] = ""
    """name of the architecture in reports and metadata"""
    abbreviation: ClassVar[str] = ""
    """the same in tables of results"""
    width_key: ClassVar[str] = "tau"
    """setting that is the width of the network"""
    smallest_input: ClassVar[tuple[int, int]] = (1, 1)
    """smallest number of mel bins and frames that every layer can process"""

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of the network's class, apart from the number of classes."""
        return {key: value for key, value in asdict(self).items() if key not in ("name", "front_end")}

    @property
    def size(self) -> float:
        """Width of the network, as in its name: the 8 of BC-ResNet-ASC-8."""
        return float(getattr(self, self.width_key))

    def check_input(self, features: FeatureConfig) -> None:
        """Check that every layer can process the features; raises ValueError."""
        bins, frames = features.n_mels, features.frames
        # frequency is halved three times, and every stage divides it into the sub-bands
        sub_bands = self.settings.get("sub_bands")
        if sub_bands and bins % (8 * sub_bands):
            raise ValueError(f"features.n_mels={bins} must be a multiple of 8 model.sub_bands = {8 * sub_bands}")
        least_bins, least_frames = self.smallest_input
        if bins < least_bins or frames < least_frames:
            raise ValueError(f"features.n_mels={bins} and {frames} frames (features.clip_seconds, features.hop) are "
                             f"too few for model.name={self.name}, which needs {least_bins} x {least_frames}")


@dataclass(frozen=True, config=_strict)
class BCResNetASCConfig(NetworkConfig):
    """BC-ResNet-ASC."""

    name: Literal["bcresnet_asc"] = "bcresnet_asc"
    """architecture"""
    tau: Width = 1.0
    """width factor; the base number of channels is c = 10 tau"""
    sub_bands: Count = 4
    """number of sub-bands of the sub-spectral norm"""
    dropout: Fraction = 0.1
    """probability of the channel dropout in every block"""
    residual_norm: Literal["all", "input", "none"] = "all"
    """position of ResNorm: at the input and after every stage, at the input only, or nowhere"""
    residual_norm_shortcut: Weight = 0.1
    """lambda of ResNorm; 0 gives frequency-wise instance normalization"""
    residual_norm_eps: Annotated[Real, Field(ge=1e-30, le=1)] = 1e-5
    """added to the variance in ResNorm"""
    residual_norm_form: Literal["residual", "relaxed"] = "residual"
    """ResNorm, lambda x + FreqIN(x); or its relaxed form, lambda LN(x) + (1 - lambda) FreqIN(x)"""
    residual_norm_learned: bool = False
    """whether lambda is learned, for each position of ResNorm, beginning with
    ``residual_norm_shortcut``"""
    mixstyle_probability: Probability = 0.0
    """probability that Freq-MixStyle mixes the frequency-wise statistics of a batch behind the
    stem, in training"""
    mixstyle_alpha: Annotated[Real, Field(gt=0, le=1000)] = 0.3
    """both parameters of Freq-MixStyle's Beta distribution"""

    title: ClassVar[str] = "BC-ResNet-ASC"
    abbreviation: ClassVar[str] = "BCRes"
    smallest_input: ClassVar[tuple[int, int]] = (8, 7)


@dataclass(frozen=True, config=_strict)
class BCResNetConfig(NetworkConfig):
    """BC-ResNet for keyword spotting."""

    name: Literal["bcresnet"] = "bcresnet"
    """architecture"""
    tau: Width = 8.0
    """width factor; the base number of channels is c = 8 tau"""
    sub_bands: Count = 4
    """number of sub-bands of the sub-spectral norm"""
    dropout: Fraction = 0.1
    """probability of the channel dropout in every block"""

    title: ClassVar[str] = "BC-ResNet"
    abbreviation: ClassVar[str] = "BCResNet"
    smallest_input: ClassVar[tuple[int, int]] = (40, 1)


@dataclass(frozen=True, config=_strict)
class CPResNetConfig(NetworkConfig):
    """CP-ResNet."""

    name: Literal["cp_resnet"] = "cp_resnet"
    """architecture"""
    width: Annotated[int, Field(ge=1, le=4096)] = 64
    """number of channels of the first stage"""
    rho: Annotated[int, Field(ge=0, le=22)] = 5
    """number of 3x3 convolutions, which sets the receptive field; the other ones are 1x1"""

    title: ClassVar[str] = "CP-ResNet"
    abbreviation: ClassVar[str] = "CPRes"
    width_key: ClassVar[str] = "width"
    smallest_input: ClassVar[tuple[int, int]] = (17, 17)


NETWORKS = {"bcresnet_asc": BCResNetASCConfig, "bcresnet": BCResNetConfig, "cp_resnet": CPResNetConfig}
"""Settings of each architecture."""


Network = Annotated[BCResNetASCConfig | BCResNetConfig | CPResNetConfig, Field(discriminator="name")]
"""Settings of any network; ``name`` decides which."""


@dataclass(frozen=True, config=_strict)
class TrainingConfig:
    """Stochastic gradient descent with warm-up and cosine decay, mixup, SpecAugment and time
    roll."""

    epochs: Count = 100
    """number of passes over the training clips"""
    batch_size: Annotated[int, Field(ge=2, le=100_000)] = 64
    """clips per step, over all processes"""
    learning_rate: LearningRate = 0.06
    """peak learning rate, reached after the warm-up; then cosine decay to 0, step by step"""
    warmup_epochs: Epochs = 5
    """length of the linear warm-up from 0"""
    momentum: Fraction = 0.9
    """momentum of SGD"""
    weight_decay: Annotated[Real, Field(ge=0, le=1)] = 1e-3
    """L2 penalty on all parameters"""
    mixup_alpha: Weight = 0.3
    """both parameters of mixup's Beta distribution; 0 disables mixup"""
    frequency_masks: Annotated[int, Field(ge=0, le=100)] = 2
    """number of SpecAugment masks along frequency"""
    frequency_mask_bins: Natural = 40
    """maximum width of a frequency mask in mel bins"""
    time_masks: Annotated[int, Field(ge=0, le=100)] = 2
    """number of SpecAugment masks along time"""
    time_mask_frames: Natural = 80
    """maximum width of a time mask in frames"""
    mask_value: Literal["mean", "zero"] = "mean"
    """value of masked bins: the mean of the clip, or 0"""
    device_probability: Probability = 0.0
    """probability that a clip goes through a simulated recording device
    (:mod:`task1a.training.devices`)"""
    device_response_db: Annotated[Real, Field(ge=0, le=60)] = 6.0
    """standard deviation of the frequency response of a simulated device in dB"""
    device_compression: Probability = 0.8
    """maximum compression of a simulated device above its threshold: 0 is none, 1 a limiter"""
    device_noise_db: Annotated[Real, Field(ge=-100, le=100)] = 30.0
    """least signal-to-noise ratio of a simulated device in dB; it is drawn uniformly from the 40 dB
    above"""
    translation_probability: Probability = 0.0
    """probability that a clip of the most frequent device is translated to another device of the
    training clips, by level curves learned from parallel recordings
    (:mod:`task1a.training.translation`)"""
    roll_seconds: Annotated[Real, Field(ge=0, le=300)] = 1.5
    """maximum shift of the time roll in either direction"""
    validation_fraction: Annotated[Real, Field(ge=0, le=0.5)] = 0.1
    """fraction of the training split, by location, that is held out for validation; 0 trains on all
    clips"""
    validation_seed: Seed = 0
    """random seed of the validation split, which runs of different seeds share"""
    averaging_epochs: Annotated[Real, Field(ge=0, le=100_000)] = 0
    """time constant, in epochs, of the moving average of the weights that is stored; 0: the last
    weights are stored"""
    reestimate_norms: bool = False
    """re-estimate the statistics of batch norms after the training, on the training clips without
    augmentation"""
    calibrate: bool = False
    """divide the logits of the final model by a temperature fitted on the validation clips;
    accuracy and size do not change"""
    pilot_fraction: Annotated[Real, Field(ge=0, le=0.5)] = 0.0
    """fraction of the training split, by location, that is held out to fit the temperature: with
    ``calibrate``, a hold-out model is first trained without these clips; 0 fits it on the
    validation clips"""
    init_from: Name | None = None
    """system whose vanilla model of the same seed is fine-tuned; default: random initial weights"""
    devices: Annotated[tuple[Device, ...], Field(max_length=100), AfterValidator(_distinct)] = ()
    """recording devices whose clips are used; empty: all"""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """precision of the forward and backward pass, as lightning-fabric names it"""
    channels_last: bool = False
    """use the channels-last memory format in convolutions"""

    def __post_init__(self) -> None:
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"training.warmup_epochs={self.warmup_epochs:g} exceeds training.epochs={self.epochs}")
        if self.has_hold_out and self.init_from:
            raise ValueError("training.pilot_fraction: contradicts training.init_from, whose model was trained on the "
                             "clips that would be held out; remove one of them")

    @property
    def has_hold_out(self) -> bool:
        """Whether the temperature is fitted with a hold-out model."""
        return self.calibrate and self.pilot_fraction > 0


@dataclass(frozen=True, config=_strict)
class CompressionConfig:
    """Pruning, 8-bit quantization and knowledge distillation; augmentation and batches are those of
    the training."""

    enabled: bool = False
    """whether the system is the compressed model instead of the vanilla model"""
    epochs: Count = 100
    """number of passes over the training clips, after the vanilla training"""
    learning_rate: LearningRate = 0.06
    """peak learning rate; then cosine decay to 0. By default that of the training: Renda et al.,
    *Comparing rewinding and fine-tuning in neural network pruning* (ICLR 2020, arXiv 2003.02389)"""
    warmup_epochs: Epochs = 1
    """length of the linear warm-up from 0"""
    ratio: Fraction = 0.89
    """fraction of the convolution weights that is pruned"""
    target_bytes: Annotated[int, Field(ge=1, le=2 ** 31)] | None = None
    """size limit to prune to (policy dcase2021), instead of a fixed ratio"""
    scope: Literal["global", "layer", "lamp"] = "global"
    """how weights are ranked for pruning: by magnitude over all layers, by magnitude within each
    layer, or by the layer-adaptive score of LAMP over all layers"""
    schedule: Literal["one_shot", "iterative", "gradual"] = "one_shot"
    """prune once at the start, in a few equal steps, or before every epoch"""
    pruning_epochs: Count | None = None
    """length of an iterative or gradual schedule in epochs; default: half of ``epochs``"""
    pruning_steps: Count = 5
    """number of steps of the iterative schedule"""
    weight_scales: Literal["tensor", "channel"] = "tensor"
    """one scale of the 8-bit weights per layer, or one per output channel"""
    teachers: Annotated[tuple[Teacher, ...], Field(max_length=100), AfterValidator(_distinct)] = ("vanilla",)
    """models whose averaged probabilities are distilled: ``vanilla``, the model before compression,
    and other runs of the same folder, as <system>/seed<N>; empty: train on the labels alone"""
    temperature: Annotated[Real, Field(ge=0.01, le=1000)] = 2.0
    """softmax temperature of the distillation"""
    cross_entropy_weight: Weight = 0.5
    """weight of the cross entropy with the labels, if there is a teacher"""
    distillation_weight: Weight = 0.5
    """weight of the distillation loss"""

    def __post_init__(self) -> None:
        for key in ("warmup_epochs", "pruning_epochs"):
            if (getattr(self, key) or 0) > self.epochs:
                raise ValueError(f"compression.{key}={getattr(self, key):g} exceeds compression.epochs={self.epochs}")
        if self.teachers and not self.cross_entropy_weight + self.distillation_weight:
            raise ValueError("compression.cross_entropy_weight and compression.distillation_weight are both 0")

    @property
    def pruning_spread(self) -> int:
        """Length of an iterative or gradual schedule in epochs."""
        return self.pruning_epochs or max(1, self.epochs // 2)


@dataclass(frozen=True, config=_strict)
class EvaluationConfig:
    """Prediction of the test split and the evaluation set."""

    batch_size: Count = 64
    """clips per forward pass"""
    time_rolls: Annotated[int, Field(ge=1, le=64)] = 1
    """number of circular shifts along time whose probabilities are averaged; multiplies the
    operations"""
    compare_with: Annotated[tuple[Name, ...], Field(max_length=10), AfterValidator(_distinct)] = ()
    """systems that are trained and evaluated as well, and compared with this one at the end"""


@dataclass(frozen=True, config=_strict)
class SubmissionConfig:
    """What the metadata file states beyond the records of the run."""

    name: str = ""
    """full name of the system; default: derived from the configuration"""
    abbreviation: Annotated[str, Field(max_length=10)] = ""
    """abbreviation for the result tables, at most ten characters; default: derived from the
    configuration"""
    authors: Folder | None = None
    """YAML file with the authors; default: the example of the project"""
    source_code: str | None = None
    """URL of published source code"""


@dataclass(frozen=True, config=_strict)
class Config:
    """One system: everything that the result of a run depends on."""

    system: Name
    """name of the system, its YAML file and the folder of its runs"""
    description: str = ""
    """the system in one line; default: derived from the configuration"""
    seed: Seed = 0
    """random seed of initialisation, order of the clips, augmentation and dropout (``--seed``)"""
    ensemble: Annotated[tuple[Name, ...], Field(max_length=100), AfterValidator(_distinct)] = ()
    """systems whose probabilities are averaged; an ensemble trains nothing itself"""
    device_models: Annotated[tuple[Device, ...], Field(max_length=100), AfterValidator(_distinct)] = ()
    """recording devices that get their own fine-tuned copy of the model ``training.init_from``,
    which predicts the clips of all other devices"""
    data: DataConfig = field(default_factory=DataConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    model: Network = field(default_factory=BCResNetASCConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    compression: CompressionConfig = field(default_factory=CompressionConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    submission: SubmissionConfig = field(default_factory=SubmissionConfig)

    @property
    def vanilla_training(self) -> TrainingConfig:
        """The training of the vanilla model, which is only calibrated if it is not compressed
        afterwards."""
        if not self.compression.enabled:
            return self.training
        return replace(self.training, calibrate=False, pilot_fraction=0.0)

    def hold_out(self, calibrated: TrainingConfig) -> "Config":
        """Return the configuration of the hold-out model: this system, without the clips that fit
        the temperature.

        Args:
            calibrated: says which clips these are: the training of this system, or of the ensemble
                that it belongs to.
        """
        # its validation clips are the ones that fit the temperature
        training = replace(self.training, validation_fraction=calibrated.pilot_fraction,
                           validation_seed=calibrated.validation_seed, calibrate=False, pilot_fraction=0.0)
        return replace(self, system=f"{self.system}_pilot", training=training)

    def flat(self, *sections: str) -> dict[str, Any]:
        """Return the values of some sections by ``section.key``, as plain data."""
        values = {}
        for section in sections:
            for key, value in asdict(getattr(self, section)).items():
                values[f"{section}.{key}"] = list(value) if isinstance(value, tuple) else value
        return values

    def for_device(self, device: str) -> "Config":
        """Return the configuration of one of the ``device_models``."""
        return replace(self, system=f"{self.system}_{device}", device_models=(),
                       training=replace(self.training, devices=(device,)))

    def __post_init__(self) -> None:
        if self.device_models and (self.ensemble or not self.training.init_from):
            raise ValueError("training.init_from: device_models needs the system that is fine-tuned, and no ensemble")
        if self.training.init_from == self.system:
            raise ValueError(f"training.init_from={self.system}: is this system itself")
        self.model.check_input(self.features)


def fingerprint(value: Any) -> str:
    """A short digest of plain data or a configuration section, equal if and only if the values are
    equal."""
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
