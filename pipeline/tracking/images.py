"""Pictures as the image grid of the MLflow UI finds them: by names that say of what, of which step and when."""

import uuid
from pathlib import Path

from PIL import Image

# The folder of a run's artifacts that the grid looks into, and the tag by which it knows that there is something.
IMAGES, IMAGES_TAG = "images", "mlflow.loggedImages"
# The grid shows its own copies at their size: so three runs fit side by side. A click shows the whole.
_COPY_PX = (350, 350)


def lay_out(file: Path, key: str, step: int, time_ms: int, folder: Path) -> None:
    """Put a picture into `folder` under the two names that `MlflowClient.log_image` would give it, as WebP.

    That draws a new identity at every call; here the same picture has the same
    names, so that sent twice it is there once. Raises ValueError if `file` is no
    picture, and OSError if it can't be read.
    """
    identity = uuid.uuid5(uuid.UUID(int=0), f"{key} {step} {time_ms}")
    name = f"{key}+step+{step}+timestamp+{time_ms}+{identity}"
    try:
        with Image.open(file) as picture:
            # The fastest method takes half the CPU time of the default, for a file little larger.
            picture.save(folder / f"{name}.webp", method=0)
            picture.thumbnail(_COPY_PX)
            picture.save(folder / f"{name}+compressed.webp", method=0)
    except (OSError, SyntaxError) as error:
        if getattr(error, "errno", None) is not None:  # of the disk, not of the picture
            raise
        raise ValueError(f"{file} is not a picture: {error}") from error
