"""What a training run needs that can be made while its cluster starts: MLflow within reach, a picture of what is trained on."""

from pathlib import Path

from pipeline.data.loader import SampleLoader, training_shards
from pipeline.data.pictures import draw_augmented, spaced
from pipeline.data.shards.reader import ShardReader
from pipeline.data.shards.sample import BadSamples, Samples
from pipeline.delivery import deliver
from pipeline.io.console import say
from pipeline.run.layout import FIGURES
from pipeline.run.plan import Plan
from pipeline.settings import TrackingSettings
from pipeline.tracking import AwayError

# Training people in the picture that a run starts with.
_SHOWN = 12


def prepare(plan: Plan) -> Path:
    """Deliver the start of the run to MLflow, and draw some people to train on; return the picture.

    Raises AwayError if tracking.required and MLflow does not answer, and
    ValueError if a sample can't be drawn.
    """
    deliver_start(plan.folder, plan.settings.tracking)
    path = plan.folder / FIGURES / "samples.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    _draw_samples(plan, path)
    return path


def deliver_start(folder: Path, tracking: TrackingSettings) -> None:
    """Deliver the start of the run in `folder` to MLflow. Raises AwayError if it does not answer though it has to."""
    try:
        deliver(folder, tracking.uri)
    except AwayError as error:
        if tracking.required:
            raise
        say(f"{error}; tracking.required is off, so training starts, and MLflow gets it all later")


def _draw_samples(plan: Plan, path: Path) -> None:
    """Draw some people of the first shard, augmented: whoever looks sees at once if joints are off."""
    data = plan.settings.data
    shards = training_shards(plan.train.paths[:1], data, rank=0, workers=1)
    samples: Samples = (
        shards
        if isinstance(shards, ShardReader)
        else shards.first(_SHOWN, BadSamples(data.bad_samples))
    )
    loader = SampleLoader(samples, plan.joint_set, plan.settings.model.input_px, data.bad_samples)
    draw_augmented(loader, data, spaced(len(samples), _SHOWN)).savefig(path, dpi=100)
