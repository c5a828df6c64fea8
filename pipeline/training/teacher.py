"""Teachers: trained networks, or a network's own last stack, whose heatmaps a network learns."""

import torch
from torch import Tensor

from pipeline.model.loss import LOSSES, to_heatmaps
from pipeline.model.network import Heatmaps
from pipeline.pose.shapes import Float
from pipeline.run.checkpoint import load_network
from pipeline.run.start import find_local
from pipeline.settings import LAST_STACK, OptimSettings
from pipeline.training.step import Teach


def teacher_of(settings: OptimSettings, device: torch.device, scratch: str = "") -> Teach | None:
    """Return the teacher of `optim.teacher`, None if there is none.

    Of a network in a bucket a copy comes to `scratch`. Raises ValueError for one that is absent or
    damaged.
    """
    if settings.teacher == LAST_STACK:
        return lambda _, student: to_heatmaps(student.stacks[-1].detach(), settings.loss)
    return Teachers(settings, device, scratch) if settings.teachers else None


class Teachers:
    """Trained networks on a device, called with images for the mean of their last heatmaps."""

    def __init__(self, settings: OptimSettings, device: torch.device, scratch: str) -> None:
        self._settings = settings
        loaded = []
        for teacher in settings.teachers:
            folder = find_local(teacher, scratch=scratch)
            if folder is None:
                raise ValueError(
                    f"optim.teacher={teacher!r}: no such checkpoint here; a teacher must stay "
                    "where it is until the training ends"
                )
            loaded.append(load_network(folder, device))
        self._networks = [network.requires_grad_(False) for network, _ in loaded]
        certain = LOSSES[settings.loss].certain
        # Heights in the unit of the student's target.
        self._units = [
            certain(settings.target_peak) / certain(metadata.settings.optim.target_peak)
            for _, metadata in loaded
        ]

    def __call__(
        self, images: Float[Tensor, "batch 3 input_px input_px"], _: Heatmaps
    ) -> Float[Tensor, "batch joint heatmap_px heatmap_px"]:
        with torch.no_grad():
            maps = [
                unit * to_heatmaps(network(images).stacks[-1], self._settings.loss)
                for network, unit in zip(self._networks, self._units, strict=True)
            ]
            return torch.stack(maps).mean(dim=0)
