"""Settings of training itself."""

from dataclasses import dataclass
from typing import Literal

from pipeline.settings.check import require

Loss = Literal["mse", "cross-entropy"]


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
        require(
            self.learning_rate > 0,
            "optim.learning_rate",
            "above 0",
            self.learning_rate,
        )
        require(
            self.weight_decay >= 0,
            "optim.weight_decay",
            "at least 0",
            self.weight_decay,
        )
        for name in ("batch_size", "reference_batch", "accumulate", "epochs", "patience"):
            value = getattr(self, name)
            require(value >= 1, f"optim.{name}", "at least 1", value)
        for name in ("warmup_samples", "ema_samples", "clip_norm", "max_bad_steps"):
            value = getattr(self, name)
            require(value >= 0, f"optim.{name}", "at least 0", value)
        require(0 <= self.cosine_end <= 1, "optim.cosine_end", "from 0 to 1", self.cosine_end)
        for name in ("sigma_px", "target_peak"):
            value = getattr(self, name)
            require(value > 0, f"optim.{name}", "above 0", value)
        require(self.seed >= 0, "optim.seed", "at least 0", self.seed)
        require(
            not (self.checkpointing and self.compile),
            "optim.checkpointing",
            "False with optim.compile, which chooses itself what to compute again",
            self.checkpointing,
        )
