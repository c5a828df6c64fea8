"""Ray Train's trainer without the helpers that our runs have no use for: each is a process beside training that wakes 100 times a second."""

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import RayTrainCallback

from pipeline.cluster.start import is_for_one_run

# Hands Ray Data's datasets to the ranks; ours read shards.
_UNUSED = (DatasetsCallback,)
# Frees what a run that was killed held, for the others on its cluster.
_FOR_OTHERS = (PlacementGroupCleanerCallback,)


class LeanTrainer(TorchTrainer):
    """As Ray Train's own, with fewer processes."""

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        spared = _UNUSED + _FOR_OTHERS if is_for_one_run() else _UNUSED
        return [one for one in super()._create_default_callbacks() if not isinstance(one, spared)]
