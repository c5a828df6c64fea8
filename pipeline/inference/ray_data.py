"""Prediction on a cluster with Ray Data: workers with the network, which take part after part."""

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data

from pipeline.inference.batch_predictor import Estimator, Options
from pipeline.inference.results import Found, Part
from pipeline.run.metadata import METADATA_NAME
from pipeline.settings import RaySettings
from pipeline.settings.ray import KEEP_MEMORY

_PART, _FOUND, _FILES = "part", "found", "files"


class _Worker:
    """An actor with the network. It receives the checkpoint's files, so nodes share no disk."""

    def __init__(self, checkpoint: Mapping[str, bytes], options: Options) -> None:
        import torch

        torch.set_num_threads(options.threads)
        with tempfile.TemporaryDirectory() as folder:
            for name, data in checkpoint.items():
                (Path(folder) / name).write_bytes(data)
            self._estimator = Estimator(Path(folder), options)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        [part] = batch[_PART]
        found = self._estimator.estimate(Part.from_json(json.loads(part)))
        text = json.dumps(found.to_json() | {"names": list(found.files)})
        return {_FOUND: np.array([text], object), _FILES: [list(found.files.values())]}


def estimate_on_cluster(
    parts: Sequence[Part], checkpoint: Path, options: Options, settings: RaySettings
) -> Iterator[Found]:
    """Yield each part's results as soon as it is done, in any order.

    Every node must see the pictures. The pool has as many workers as the settings, at most one
    per part, and keeps them until the end.
    """
    needed = [checkpoint / METADATA_NAME, *checkpoint.glob("*.safetensors")]
    files = {path.name: path.read_bytes() for path in needed}
    # The caller reports progress.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{_PART: json.dumps(part.to_json())} for part in parts]
    found = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Worker,
        fn_constructor_args=(files, options),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(int(settings.workers), len(rows))),
        num_cpus=settings.cpus_per_worker or 1.0,
        num_gpus=settings.gpus_per_worker or None,
        runtime_env={"env_vars": KEEP_MEMORY},
    )
    for row in found.iter_rows():
        content = json.loads(row[_FOUND])
        names = content.pop("names")
        result = Found.from_json(content, "a worker's results")
        result.files.update(zip(names, row[_FILES], strict=True))
        yield result
