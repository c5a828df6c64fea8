"""The learning rate as a function of the samples seen and of the validation plateau.

It depends on neither steps nor workers, so a recipe has the same schedule on any cluster.
"""

import math

from pipeline.settings import OptimSettings

# "We drop the learning rate once by a factor of 5 after validation accuracy
# plateaus" (Newell et al., section 3.2): from 2.5e-4 to 5e-5.
_DROP = 1 / 5


def full_rate(settings: OptimSettings) -> float:
    """Return the peak learning rate: the configured one, scaled with the batch size.

    linear: Goyal et al., 2017, arXiv 1706.02677, for SGD. sqrt: Malladi et al., NeurIPS 2022, for
    adaptive optimizers.
    """
    ratio = settings.batch_size / settings.reference_batch
    scale = {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[settings.rate_scaling]
    return settings.learning_rate * scale


def learning_rate(
    settings: OptimSettings, samples: int, total: int, *, has_dropped: bool = False
) -> float:
    """Return the learning rate of a step after `samples` of `total` samples.

    It rises linearly over `optim.warmup_samples`, the step's own included, so that the first step
    moves the weights; then the schedule begins.
    """
    rate, warmup = full_rate(settings), settings.warmup_samples
    if samples < warmup:
        return rate * min((samples + settings.batch_size) / warmup, 1.0)
    if settings.schedule == "cosine":
        # If the number of epochs was reduced, the rate stays at the end and does not rise again.
        done = min((samples - warmup) / max(total - warmup, 1), 1.0)
        end = settings.cosine_end
        return rate * (end + (1 - end) * 0.5 * (1 + math.cos(math.pi * done)))
    if settings.schedule == "plateau" and has_dropped:
        return rate * _DROP
    return rate


def describe_course(settings: OptimSettings) -> str:
    """Describe the schedule of the learning rate in words."""
    rate = f"{full_rate(settings):g}"
    if settings.rate_scaling != "none":
        rate += (
            f" (optim.learning_rate={settings.learning_rate:g}, {settings.rate_scaling} in "
            f"optim.batch_size={settings.batch_size} over {settings.reference_batch})"
        )
    warmup = (
        f", reached after {settings.warmup_samples:,} samples" if settings.warmup_samples else ""
    )
    course = {
        "constant": "constant",
        "cosine": f"a cosine to {full_rate(settings) * settings.cosine_end:g}",
        "plateau": f"a drop to {full_rate(settings) * _DROP:g} after {settings.patience} epochs "
        "without a better accuracy",
    }[settings.schedule]
    return f"{rate}{warmup}, then {course}" if warmup else f"{rate}, {course}"
