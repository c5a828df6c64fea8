"""Every setting of a training run, as one tree of frozen dataclasses.

A setting is known everywhere by its dotted key, such as `model.stacks`: on the
command line, in a search space, as an MLflow parameter, in a checkpoint's JSON
and in every error. Defaults are the paper's (Newell et al., ECCV 2016) where it
gives one.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from pipeline.plain_data import did_you_mean
from pipeline.redaction import redacted

Scalar = str | int | float | bool
Supervision = Literal["every-stack", "last-stack", "inside"]
Loss = Literal["mse", "cross-entropy"]
Decoding = Literal["argmax", "quarter", "dark"]


def _require(ok: bool, key: str, expected: str, got: object) -> None:
    if not ok:
        raise ValueError(f"{key} must be {expected}, got {got!r}")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where samples come from and how they are varied."""

    train: str = ""
    """Training shards: comma-separated globs or braces, local or at http(s)://, s3:// or gs://, such as 'out/train-*.tar' or 'https://host/train-{000000..000012}.tar'."""
    val: str = ""
    """Validation shards, like data.train."""
    seed: int = 0
    """Seed of the order of samples and of augmentation."""
    shuffle_window: int = 2048
    """Samples that are shuffled together, after the shards themselves have been shuffled."""
    threads: int = 1
    """Threads in each worker that decode and warp."""
    reading: Literal["exact", "streaming"] = "exact"
    """How training shards are read: exact: each sample once an epoch, through their index; streaming: front to back through webdataset, for tars that are compressed or have no index, approximate: a sample may come twice or not at all."""
    epoch_samples: int = 0
    """Training samples that make an epoch when streaming, where no index counts them."""
    cache: str = ""
    """Folder on each node for whole copies of remote shards; empty: remote samples are read one by one."""
    cache_gb: float = 20.0
    """Bound of data.cache in gigabytes of 1e9 bytes; the least recently used copies go first."""
    bad_samples: int = 0
    """Samples that each worker may pass over, named and counted, for being cut off, damaged or without joints; 0: stop at the first."""
    scale_jitter: float = 0.25
    """Standard deviation of log2 of the scale factor, clipped at twice that (0: none)."""
    rotation_deg: float = 30.0
    """Standard deviation of the rotation in degrees, clipped at twice that (0: none)."""
    rotation_share: float = 0.4
    """Share of samples that are rotated, 0-1."""
    flip_share: float = 0.5
    """Share of samples that are mirrored, 0-1."""
    color_jitter: float = 0.4
    """Each colour channel is multiplied by a factor from 1 - this to 1 + this."""

    def __post_init__(self) -> None:
        _require(self.seed >= 0, "data.seed", "at least 0", self.seed)
        _require(
            self.shuffle_window >= 1,
            "data.shuffle_window",
            "at least 1",
            self.shuffle_window,
        )
        _require(self.threads >= 1, "data.threads", "at least 1", self.threads)
        _require(self.cache_gb > 0, "data.cache_gb", "above 0", self.cache_gb)
        streams = self.reading == "streaming"
        _require(
            (self.epoch_samples > 0) == streams,
            "data.epoch_samples",
            "above 0 with data.reading=streaming, else 0",
            self.epoch_samples,
        )
        _require(self.bad_samples >= 0, "data.bad_samples", "at least 0", self.bad_samples)
        _require(
            0 <= self.scale_jitter <= 1,
            "data.scale_jitter",
            "from 0 to 1",
            self.scale_jitter,
        )
        _require(
            0 <= self.rotation_deg <= 90,
            "data.rotation_deg",
            "from 0 to 90 degrees",
            self.rotation_deg,
        )
        for name in ("rotation_share", "flip_share", "color_jitter"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"data.{name}", "from 0 to 1", value)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Shape of the stacked hourglass network."""

    stacks: int = 8
    """Hourglasses one after another (the paper's nStack)."""
    modules: int = 1
    """Residual modules at each location of an hourglass (nModules)."""
    order: int = 4
    """Times an hourglass halves its input (numReductions)."""
    features: int = 256
    """Channels inside an hourglass (nChannels), a multiple of 4."""
    stem_features: int = 0
    """Channels before the stem's last residual, even; 0: half of model.features, the paper's 128 of 256. In pytorch-pose they are 256."""
    joints: int = 0
    """Heatmaps that the network predicts (nJoints); 0: as many as the data's joint set has."""
    input_px: int = 256
    """Side of the square input in pixels; heatmaps have a quarter of it."""
    supervision: Supervision = "every-stack"
    """Which heatmaps are compared with the target: every-stack: every stack's (the paper's); last-stack: the last stack's alone; inside: besides a single stack's output, those predicted within the hourglass at half and a quarter of the output's resolution."""

    def __post_init__(self) -> None:
        for name, least in (("stacks", 1), ("modules", 1), ("order", 1), ("joints", 0)):
            value = getattr(self, name)
            _require(value >= least, f"model.{name}", f"at least {least}", value)
        _require(
            self.features >= 4 and self.features % 4 == 0,
            "model.features",
            "a positive multiple of 4",
            self.features,
        )
        _require(
            self.stem_features >= 0 and self.stem_features % 2 == 0,
            "model.stem_features",
            "0 or a positive multiple of 2",
            self.stem_features,
        )
        step = 4 * 2**self.order
        _require(
            self.input_px >= step and self.input_px % step == 0,
            "model.input_px",
            f"a positive multiple of {step} (4 * 2**model.order)",
            self.input_px,
        )
        if self.supervision == "inside":
            _require(
                self.stacks == 1, "model.stacks", "1 with model.supervision=inside", self.stacks
            )
            _require(
                self.order >= 3,
                "model.order",
                "at least 3 with model.supervision=inside, to have two resolutions between the "
                "lowest and the output's",
                self.order,
            )

    @property
    def heatmap_px(self) -> int:
        """Side of a heatmap in pixels."""
        return self.input_px // 4


@dataclass(frozen=True, kw_only=True)
class OptimSettings:
    """How the network is trained."""

    optimizer: Literal["rmsprop", "adamw"] = "rmsprop"
    """Optimizer; rmsprop with alpha 0.99 is the paper's."""
    learning_rate: float = 2.5e-4
    """Highest learning rate, per step of the whole batch, before optim.rate_scaling."""
    rate_scaling: Literal["none", "linear", "sqrt"] = "none"
    """How the learning rate follows optim.batch_size: not at all, or times its ratio to optim.reference_batch, or times the ratio's root."""
    reference_batch: int = 6
    """Samples a step for which optim.learning_rate is meant; the paper's 6."""
    warmup_samples: int = 0
    """Samples over which the learning rate first rises linearly from 0; the paper has no warm-up."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW, of convolutions' kernels only (L2 penalty of RMSprop, of all weights)."""
    schedule: Literal["constant", "cosine", "plateau"] = "constant"
    """Course of the learning rate after warm-up: constant; cosine over the samples of all epochs; plateau: one drop to a fifth, the paper's, when validation accuracy no longer rises."""
    cosine_end: float = 0.0
    """Share of the highest learning rate, 0-1, at which optim.schedule=cosine ends."""
    patience: int = 5
    """Epochs without a better validation accuracy that make optim.schedule=plateau drop; the paper gives no number."""
    ema_samples: int = 0
    """Time constant, in samples, of a moving average of the weights, which is evaluated beside them and then gives the run's headline; 0: none, as in the paper."""
    batch_size: int = 6
    """Samples a step over all workers together."""
    accumulate: int = 1
    """Parts in which each worker passes its share of a batch through the network, one after another, to save memory; gradients add up to the whole batch's, BatchNorm sees each part alone."""
    clip_norm: float = 0.0
    """Norm of all gradients together to which longer ones are shortened; 0: never, as in the paper."""
    max_bad_steps: int = 10
    """Steps of a run whose loss or gradient is not finite that are left out; one more stops the run. 0: stop at the first."""
    sync_batchnorm: bool = False
    """Take BatchNorm's statistics over all workers' samples at each step, where each has few; on GPUs only."""
    epochs: int = 100
    """Passes over the training samples."""
    loss: Loss = "mse"
    """Loss, summed over the supervised heatmaps: mse: mean squared error (the paper's); cross-entropy: of the softmax over each map with its target, which has no scale to choose."""
    sigma_px: float = 1.75
    """Standard deviation of the target's Gaussian in pixels of the heatmap that it is drawn on."""
    target_peak: float = 1.0
    """Height of the target's Gaussian with optim.loss=mse; the paper's is 1, but AdamW learns faster at 10."""
    missing_joints: Literal["zero", "mask"] = "zero"
    """What an unannotated joint trains: zero: an all-zero heatmap (the paper's), with cross-entropy the uniform distribution; mask: nothing."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the network in training; auto: bf16 where the device multiplies it natively; fp16 with a scaled loss, for GPUs that do not."""
    checkpointing: bool = False
    """Keep only the inputs of residuals for the backward pass, which computes the rest again: less memory for more time."""
    compile: bool = False
    """Train through torch.compile, on a GPU with CUDA graphs; takes a minute or more to start, and on CPU gains nothing."""
    seed: int = 0
    """Seed of the initial weights."""
    zero_heads: bool = True
    """Start the weights of the heads that predict heatmaps at zero, not at random as in the paper, so that mse at a peak of 1 does not stay with all-zero heatmaps."""

    def __post_init__(self) -> None:
        _require(
            self.learning_rate > 0,
            "optim.learning_rate",
            "above 0",
            self.learning_rate,
        )
        _require(
            self.weight_decay >= 0,
            "optim.weight_decay",
            "at least 0",
            self.weight_decay,
        )
        for name in ("batch_size", "reference_batch", "accumulate", "epochs", "patience"):
            value = getattr(self, name)
            _require(value >= 1, f"optim.{name}", "at least 1", value)
        for name in ("warmup_samples", "ema_samples", "clip_norm", "max_bad_steps"):
            value = getattr(self, name)
            _require(value >= 0, f"optim.{name}", "at least 0", value)
        _require(0 <= self.cosine_end <= 1, "optim.cosine_end", "from 0 to 1", self.cosine_end)
        for name in ("sigma_px", "target_peak"):
            value = getattr(self, name)
            _require(value > 0, f"optim.{name}", "above 0", value)
        _require(self.seed >= 0, "optim.seed", "at least 0", self.seed)
        _require(
            not (self.checkpointing and self.compile),
            "optim.checkpointing",
            "False with optim.compile, which chooses itself what to compute again",
            self.checkpointing,
        )


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How accuracy is measured."""

    measure: str = "auto"
    """Measure that picks the best checkpoint: pckh, pck_torso, pck_box; auto: the joint set's own."""
    flip_test: bool = True
    """Average the heatmaps with those of the mirrored image, as the paper does."""
    decoding: Decoding = "quarter"
    """How a heatmap becomes a joint: argmax: its highest pixel; quarter: moved 0.25 px toward the higher neighbours (the paper's); dark: moved to the top of the Gaussian fitted around it, for precision."""
    batch_size: int = 32
    """Samples a forward pass."""
    overlays: int = 12
    """Validation people in the picture of predictions."""

    def __post_init__(self) -> None:
        _require(
            self.batch_size >= 1,
            "evaluation.batch_size",
            "at least 1",
            self.batch_size,
        )
        _require(self.overlays >= 1, "evaluation.overlays", "at least 1", self.overlays)


@dataclass(frozen=True, kw_only=True)
class RaySettings:
    """The cluster, and what of it a run takes."""

    address: str = ""
    """Cluster to join; empty: RAY_ADDRESS or the submitted job's cluster, else one is started here."""
    workers: int | str = 1
    """Training workers (DDP ranks); 1:4 is elastic: from 1 to 4, as many as there is room for, fewer when nodes go and more when they come, each step's samples shared among them."""
    cpus_per_worker: float = 1.0
    """CPU cores that a worker takes; also its compute threads."""
    gpus_per_worker: float = 0.0
    """GPUs that a worker takes; 0: train on CPU."""
    storage: str = ""
    """Folder of runs and checkpoints, on a disk that every node sees; empty: 'runs' in the working folder, in a submitted job ~/hourglass-ray/runs."""
    name: str = ""
    """Name of the run, by which it is resumed; empty: made from the settings."""
    max_failures: int = 3
    """Times that training is started again from the last checkpoint when a worker fails."""
    hang_minutes: float = 10.0
    """Minutes without progress after which a worker is taken for hung, named with its stacks, and started again like one that fails; must be longer than its start, any step, evaluation batch or wait for a checkpoint to be written; 0: never."""
    checkpoint_steps: int = 0
    """Steps between the checkpoints within an epoch, so many are lost at most; 0: by ray.checkpoint_minutes alone. One is written at each epoch's end besides."""
    checkpoint_minutes: float = 10.0
    """Minutes between the checkpoints within an epoch; 0: none by the clock."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept, besides the best."""

    def __post_init__(self) -> None:
        elastic = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", str(self.workers))
        _require(
            int(elastic[1]) < int(elastic[2])
            if elastic
            else isinstance(self.workers, int) and self.workers >= 1,
            "ray.workers",
            "at least 1, or a range such as 1:4",
            self.workers,
        )
        for name, least in (
            ("max_failures", 0),
            ("hang_minutes", 0),
            ("checkpoint_steps", 0),
            ("checkpoint_minutes", 0),
            ("keep_checkpoints", 1),
        ):
            value = getattr(self, name)
            _require(value >= least, f"ray.{name}", f"at least {least}", value)
        _require(
            self.cpus_per_worker > 0,
            "ray.cpus_per_worker",
            "above 0",
            self.cpus_per_worker,
        )
        _require(
            self.gpus_per_worker >= 0,
            "ray.gpus_per_worker",
            "at least 0",
            self.gpus_per_worker,
        )
        _require(
            re.fullmatch(r"[\w.-]*", self.name) is not None,
            "ray.name",
            "made of letters, digits, '.', '_' and '-'",
            self.name,
        )

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers may change while training."""
        return isinstance(self.workers, str)

    @property
    def fewest_workers(self) -> int:
        """Workers without which there is no training."""
        return int(str(self.workers).partition(":")[0])

    @property
    def most_workers(self) -> int:
        """Workers that there are at most."""
        return int(str(self.workers).rpartition(":")[2])


@dataclass(frozen=True, kw_only=True)
class TrackingSettings:
    """Where MLflow records the run."""

    uri: str = ""
    """MLflow tracking URI; empty: MLFLOW_TRACKING_URI, else SQLite's mlflow.db in the working folder, in a submitted job ~/hourglass-ray/mlflow.db."""
    experiment: str = "hourglass"
    """MLflow experiment."""
    required: bool = True
    """Start only if MLflow answers; false: start anyway, and deliver what is recorded when it does."""

    def __post_init__(self) -> None:
        _require(bool(self.experiment), "tracking.experiment", "a name", self.experiment)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of one training run."""

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    ray: RaySettings = field(default_factory=RaySettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)

    def __post_init__(self) -> None:
        self._check_batch()
        _require(
            self.ray.gpus_per_worker > 0 or not self.optim.sync_batchnorm,
            "optim.sync_batchnorm",
            "False without ray.gpus_per_worker, since torch synchronises BatchNorm on GPUs only",
            self.optim.sync_batchnorm,
        )

    def _check_batch(self) -> None:
        parts = f"ray.workers={self.ray.workers}"
        if self.optim.accumulate > 1:
            parts += f" times optim.accumulate={self.optim.accumulate}"
        size, fewest = self.optim.batch_size, self.ray.most_workers * self.optim.accumulate
        if self.ray.is_elastic:
            # Shares need not be equal, but nobody's may be empty.
            _require(
                size >= fewest,
                "optim.batch_size",
                f"at least {fewest} with {parts}, the most",
                size,
            )
            _require(
                self.data.reading == "exact",
                "data.reading",
                f"exact with {parts}, since streams are made for a number of workers",
                self.data.reading,
            )
        else:
            _require(size % fewest == 0, "optim.batch_size", f"a multiple of {parts}", size)

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any]) -> Self:
        """Build settings from dotted keys; what is not named keeps its default. Raises ValueError."""
        return cls().replaced(flat)

    def flat(self) -> dict[str, Scalar]:
        """Return every setting by its dotted key."""
        return {
            f"{section.name}.{item.name}": getattr(getattr(self, section.name), item.name)
            for section in fields(self)
            for item in fields(getattr(self, section.name))
        }

    def shown(self) -> dict[str, Scalar]:
        """Return every setting by its dotted key as others may read it: secrets in URIs are `***`."""
        return {
            key: redacted(value) if isinstance(value, str) else value
            for key, value in self.flat().items()
        }

    def replaced(self, changes: Mapping[str, Any]) -> Self:
        """Return a copy with some settings replaced by dotted key.

        Raises ValueError for an unknown key, a value of the wrong type, or one
        out of range.
        """
        by_section: dict[str, dict[str, Any]] = {}
        known = self.flat()
        for key, value in changes.items():
            if key not in known:
                raise ValueError(f"unknown setting {key!r}{did_you_mean(key, known)}")
            section, _, name = key.partition(".")
            by_section.setdefault(section, {})[name] = _typed(
                getattr(self, section), name, key, value
            )
        return dataclasses.replace(
            self,
            **{
                section: dataclasses.replace(getattr(self, section), **values)
                for section, values in by_section.items()
            },
        )

    def fingerprint(self, data_checksum: str) -> str:
        """Return eight hexadecimal digits that name what decides the outcome of training.

        Where data lie does not enter, but what they are does, by their
        checksum; nor where the run is stored, tracked and executed.
        """
        decisive = {
            key: value
            for key, value in self.flat().items()
            if key.partition(".")[0] in ("data", "model", "optim", "evaluation")
            or key == "ray.workers"
        }
        # The stream is the same for any number of threads, wherever it is kept.
        for key in ("data.threads", "data.cache", "data.cache_gb"):
            del decisive[key]
        # Who puts up with more bad steps wants the same run to go on.
        del decisive["optim.max_bad_steps"]
        # A run that was begun before there was this setting keeps its name.
        if not self.model.stem_features:
            del decisive["model.stem_features"]
        # The same arithmetic, done in another way.
        for key in ("optim.checkpointing", "optim.compile"):
            del decisive[key]
        decisive |= {"data.train": data_checksum, "data.val": ""}
        text = json.dumps(decisive, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def _typed(section: object, name: str, key: str, value: Any) -> Scalar:
    """Check `value` against the annotation of `section.name`; whole numbers pass as floats."""
    expected = get_type_hints(type(section))[name]
    if get_origin(expected) is Literal:
        _require(
            value in get_args(expected),
            key,
            "one of " + ", ".join(map(str, get_args(expected))),
            value,
        )
        return value
    if expected is float and type(value) is int:
        return float(value)
    kinds = get_args(expected) or (expected,)
    _require(
        type(value) in kinds, key, "of type " + " or ".join(kind.__name__ for kind in kinds), value
    )
    return value
