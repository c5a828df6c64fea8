"""Settings of training: optimizer, loss and schedule."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.settings.check import (
    require,
    require_above_zero,
    require_at_least,
    require_at_most_one,
)

Loss = Literal["mse", "cross-entropy"]
# The value of optim.teacher that stands for the network's own last stack.
LAST_STACK = "last-stack"
NormWeights = Literal["one", "uniform"]


@dataclass(frozen=True, kw_only=True)
class OptimSettings:
    """Optimizer, learning rate, batch, loss and precision of training."""

    optimizer: Literal["rmsprop", "adamw"] = "rmsprop"
    """Optimizer; rmsprop with alpha 0.99 is the paper's."""
    learning_rate: float = 2.5e-4
    """Peak learning rate, before optim.rate_scaling; 2.5e-4 is the paper's."""
    rate_scaling: Literal["none", "linear", "sqrt"] = "none"
    """Scaling of the learning rate with the batch: none, or linear or by the square root in
    optim.batch_size / optim.reference_batch."""
    reference_batch: int = 6
    """Samples per step that optim.learning_rate is meant for; 6 in the paper."""
    warmup_samples: int = 0
    """Samples over which the learning rate rises linearly; the paper has no warm-up."""
    weight_decay: float = 0.0
    """Weight decay. adamw: decoupled, on convolution kernels only.
    rmsprop: an L2 penalty on all weights."""
    schedule: Literal["constant", "cosine", "plateau"] = "constant"
    """Learning rate after warm-up. constant: no change. cosine: decays over the samples of all
    epochs. plateau: drops to a fifth once, when validation accuracy plateaus, as in the paper."""
    cosine_end: float = 0.0
    """Share of the peak learning rate, 0-1, at which optim.schedule=cosine ends."""
    patience: int = 5
    """Epochs without better validation accuracy before optim.schedule=plateau drops the rate.
    Not given in the paper."""
    ema_samples: int = 0
    """Time constant, in samples, of an exponential moving average of the weights; 0: none, as in
    the paper, else at least optim.batch_size. The average is evaluated too, and the run's primary
    metric is the average's."""
    batch_size: int = 6
    """Samples per step over all workers together (the paper's 6)."""
    accumulate: int = 1
    """Parts into which each worker splits its share of a batch, to save memory. Gradients add up
    to those of the whole batch; BatchNorm sees each part alone."""
    clip_norm: float = 0.0
    """Upper limit of the norm of all gradients together; 0: no clipping, as in the paper."""
    max_bad_steps: int = 10
    """Bad steps (loss or gradient not finite) that a run may skip. One more ends the run; 0: the
    first ends it."""
    sync_batchnorm: bool = False
    """Compute BatchNorm's statistics over all workers' samples, where each has few. GPUs only."""
    epochs: int = 100
    """Passes over the training samples."""
    stop_after: int = 0
    """Epochs without better validation accuracy after which the run ends early; 0: never, as in
    the paper. With optim.schedule=plateau more than optim.patience."""
    loss: Loss = "mse"
    """Loss, summed over the supervised heatmaps. mse: mean squared error, as in the paper.
    cross-entropy: between target and softmax of each heatmap, independent of the target's scale."""
    stack_ratio: float = 1.0
    """Weight of each stack's loss relative to that of the stack before. 1: equal weights, as in the
    paper, and always with model.supervision other than every-stack. The weights add up to the
    number of stacks, so that a single stack has 1."""
    teacher: str = ""
    """Trained networks whose heatmaps are targets beside the labels, given as model.start is;
    several, separated by commas, are averaged. last-stack: the network's own last stack teaches the
    stacks before it, of which a single stack has none. Empty: labels alone, as in the paper."""
    teacher_share: float = 0.5
    """Share of the teacher's heatmaps in the target, 0-1; only with optim.teacher. With trained
    teachers, a joint that is not annotated is learned from them alone if
    optim.missing_joints=mask."""
    sigma_px: float = 1.75
    """Standard deviation of the target's Gaussian, in heatmap pixels."""
    target_px: int = 0
    """Side of the square of heatmap pixels around a joint in which its Gaussian is drawn, odd; 0:
    the whole map. 7 in the paper's code."""
    target_peak: float = 1.0
    """Height of the target's Gaussian with optim.loss=mse. The paper's is 1; AdamW learns faster
    at 10."""
    missing_joints: Literal["zero", "mask"] = "zero"
    """Target of a joint that is not annotated. zero: an all-zero heatmap, as in the paper, or with
    cross-entropy the uniform distribution. mask: none, the joint does not enter the loss."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """Precision of the network in training. auto: bf16 where the device multiplies it natively,
    else fp32. tf32: fp32 whose factors a GPU rounds to 10 bits. fp16: with a scaled loss, for GPUs
    without bf16."""
    checkpointing: bool = False
    """Keep only the inputs of residuals and recompute the rest in the backward pass, which takes
    less memory and more time."""
    compile: bool = False
    """Train through torch.compile, part by part: stacks share the code of their residuals. The
    first step takes minutes; no gain on CPU."""
    seed: int = 0
    """Seed of the initial weights."""
    norm_weights: NormWeights = "one"
    """Weights at which BatchNorm starts. one: all 1. uniform: drawn from 0 to 1, as in the paper's
    code (Torch7)."""
    zero_heads: bool = True
    """Start the weights of the heads that predict heatmaps at zero. The paper starts them at
    random, from where mse with a peak of 1 can stay at all-zero heatmaps."""

    def __post_init__(self) -> None:
        require_above_zero(self, "optim", "learning_rate", "sigma_px", "target_peak")
        require_above_zero(self, "optim", "stack_ratio")
        counts = ("reference_batch", "patience", "batch_size", "accumulate", "epochs")
        require_at_least(self, "optim", 1, *counts)
        require_at_least(self, "optim", 0, "warmup_samples", "ema_samples", "max_bad_steps", "seed")
        require_at_least(self, "optim", 0, "stop_after")
        require_at_least(self, "optim", 0, "weight_decay", "clip_norm")
        require_at_most_one(self, "optim", "cosine_end", "teacher_share")
        names = bool(self.teachers) or self.teacher in ("", LAST_STACK)
        require(names, "optim.teacher", f"empty, {LAST_STACK}, or trained networks", self.teacher)
        side = self.target_px
        fits = side == 0 or (side > 0 and side % 2 == 1)
        require(fits, "optim.target_px", "0 or a positive odd number", side)
        require(
            self.ema_samples == 0 or self.ema_samples >= self.batch_size,
            "optim.ema_samples",
            f"0, or at least optim.batch_size={self.batch_size}, as an average over less than a "
            "step is none",
            self.ema_samples,
        )
        require(
            self.stop_after == 0 or self.schedule != "plateau" or self.stop_after > self.patience,
            "optim.stop_after",
            f"0, or above optim.patience={self.patience} with optim.schedule=plateau, as the rate "
            "would never drop",
            self.stop_after,
        )
        require(
            not (self.checkpointing and self.compile),
            "optim.checkpointing",
            "False with optim.compile, which chooses itself what to recompute",
            self.checkpointing,
        )
        require(
            not (self.sync_batchnorm and self.compile),
            "optim.sync_batchnorm",
            "False with optim.compile, as its exchange between GPUs fails when compiled",
            self.sync_batchnorm,
        )

    def is_over(self, epochs: int, epochs_since_best: int) -> bool:
        """Whether training is over after `epochs`, the last `epochs_since_best` no better."""
        return epochs >= self.epochs or self.has_stalled(epochs_since_best)

    def has_stalled(self, epochs_since_best: int) -> bool:
        """Whether `epochs_since_best` epochs without better accuracy end the run early."""
        return 0 < self.stop_after <= epochs_since_best

    def describe_end(self, headline: str, epochs: int, epochs_since_best: int) -> str:
        """Describe when a run ended, and why if early. `headline` is its primary metric."""
        if epochs >= self.epochs:
            return f"after all {self.epochs} epochs"
        if self.has_stalled(epochs_since_best):
            return (
                f"early, after epoch {epochs} of {self.epochs}: {headline} has not improved in "
                f"{epochs_since_best} epochs (optim.stop_after={self.stop_after})"
            )
        return f"after epoch {epochs} of {self.epochs}"

    @staticmethod
    def joined(teachers: Sequence[str]) -> str:
        """Return the value of `teacher` for checkpoints. Raises ValueError for one with a comma."""
        for teacher in teachers:
            expected = "in folders without a comma, which separates teachers"
            require("," not in teacher, "optim.teacher", expected, teacher)
        return ",".join(teachers)

    @property
    def teachers(self) -> tuple[str, ...]:
        """The trained networks of `teacher`, as they were given."""
        if self.teacher == LAST_STACK:
            return ()
        return tuple(word.strip() for word in self.teacher.split(",") if word.strip())
