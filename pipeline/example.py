"""An example of what a served model predicts from: a rendered person."""

import numpy as np
import pandas as pd

from pipeline.data.shards.crop import cut_crop
from pipeline.data.synthetic.scene import render_scene
from pipeline.inference.pyfunc import IMAGE
from pipeline.settings.packing import CropSettings


def example() -> pd.DataFrame:
    """A table for `ServedModel.predict` with one image, which its person fills."""
    image, people = render_scene(seed=0, index=0)
    crop = cut_crop(np.asarray(image), people[0], CropSettings(margin=1.0))
    return pd.DataFrame({IMAGE: [crop.jpeg]})
