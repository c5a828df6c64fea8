"""The tree of all settings of a run, and access by dotted key."""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from pipeline.io.parsing import did_you_mean
from pipeline.io.redaction import redacted
from pipeline.settings.check import require
from pipeline.settings.data import DataSettings
from pipeline.settings.evaluation import EvaluationSettings
from pipeline.settings.model import ModelSettings
from pipeline.settings.optim import LAST_STACK, OptimSettings
from pipeline.settings.ray import RaySettings
from pipeline.settings.tracking import TrackingSettings

Scalar = str | int | float | bool
# Settings of one start of a run, not of the run: they are not recorded.
_OF_A_START = ("ray.take_over", "ray.on_change")
# Settings that change neither the samples nor their order, or do the same arithmetic otherwise, or
# with which a run should resume: with a higher limit of bad steps, or of epochs to wait.
_INDECISIVE = (
    *("data.threads", "data.cache", "data.cache_gb", "data.cache_decoded_gb", "data.max_pixels"),
    *("optim.checkpointing", "optim.compile", "optim.max_bad_steps", "evaluation.every_stack"),
    "optim.stop_after",
)
# Settings that runs which were begun before them did not have, with the values that change nothing:
# such a run keeps its name.
_ADDED = {
    "model.stem_features": 0,
    "model.start": "",
    "optim.target_px": 0,
    "optim.norm_weights": "one",
    "optim.stack_ratio": 1.0,
    "optim.teacher": "",
    "optim.teacher_share": 0.5,
    "evaluation.precision": "fp32",
}


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
        self._check_teacher()
        self._check_stacks()
        gpus, workers = self.ray.gpus_per_worker, self.ray.workers
        # NCCL refuses two ranks on one GPU, after the workers have started.
        fits = self.ray.most_workers == 1 or gpus in (0, 1)
        expected = f"0 or 1 with ray.workers={workers}, as workers that train together share no GPU"
        require(fits, "ray.gpus_per_worker", expected, gpus)
        expected = (
            "False without ray.gpus_per_worker, since torch synchronises BatchNorm on GPUs only"
        )
        is_synced = self.optim.sync_batchnorm
        has_gpus = self.ray.gpus_per_worker > 0
        require(has_gpus or not is_synced, "optim.sync_batchnorm", expected, is_synced)

    def _check_batch(self) -> None:
        parts = f"ray.workers={self.ray.workers}"
        if self.optim.accumulate > 1:
            parts += f" times optim.accumulate={self.optim.accumulate}"
        size, fewest = self.optim.batch_size, self.ray.most_workers * self.optim.accumulate
        if self.ray.is_elastic:
            # Shares need not be equal, but none may be empty.
            expected = f"at least {fewest} with {parts} (the largest number of workers)"
            require(size >= fewest, "optim.batch_size", expected, size)
            reading = self.data.reading
            expected = f"exact with {parts}, since a stream is split for a fixed number of workers"
            require(reading == "exact", "data.reading", expected, reading)
        else:
            require(size % fewest == 0, "optim.batch_size", f"a multiple of {parts}", size)

    def _check_teacher(self) -> None:
        teacher, supervision = self.optim.teacher, self.model.supervision
        fits = not teacher or supervision != "inside"
        expected = "empty with model.supervision=inside, whose heatmaps have several resolutions"
        require(fits, "optim.teacher", expected, teacher)
        fits = teacher != LAST_STACK or supervision == "every-stack"
        expected = f"every-stack with optim.teacher={LAST_STACK}, which teaches the other stacks"
        require(fits, "model.supervision", expected, supervision)
        share = self.optim.teacher_share
        fits = teacher != "" or share == OptimSettings.teacher_share
        expected = f"{OptimSettings.teacher_share} without optim.teacher, whose share it is"
        require(fits, "optim.teacher_share", expected, share)

    def _check_stacks(self) -> None:
        supervision, ratio = self.model.supervision, self.optim.stack_ratio
        fits = ratio == 1 or supervision == "every-stack"
        expected = f"1 with model.supervision={supervision}, with which one stack alone has a loss"
        require(fits, "optim.stack_ratio", expected, ratio)
        measured = self.evaluation.every_stack
        fits = not measured or supervision != "last-stack"
        expected = "False with model.supervision=last-stack, as other stacks learn no joints"
        require(fits, "evaluation.every_stack", expected, measured)

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any]) -> Self:
        """Build settings from dotted keys, the rest at defaults. Raises like `replaced`."""
        return cls().replaced(flat)

    def flat(self) -> dict[str, Scalar]:
        """Return every setting by its dotted key."""
        return {
            f"{section.name}.{item.name}": getattr(getattr(self, section.name), item.name)
            for section in fields(self)
            for item in fields(getattr(self, section.name))
        }

    def shown(self) -> dict[str, Scalar]:
        """Return what is recorded: `flat()` with the secrets in URIs replaced by `***`.

        What concerns one start alone is left out: `ray.take_over` and `ray.on_change`.
        """
        return {
            key: redacted(value) if isinstance(value, str) else value
            for key, value in self.flat().items()
            if key not in _OF_A_START
        }

    def replaced(self, changes: Mapping[str, Any]) -> Self:
        """Return a copy with some settings replaced by dotted key.

        Raises ValueError for an unknown key, a value of the wrong type, or one out of range.
        """
        by_section: dict[str, dict[str, Any]] = {}
        known = self.flat()
        for key, value in changes.items():
            if key not in known:
                raise ValueError(f"unknown setting {key!r}{did_you_mean(key, known)}")
            section, _, name = key.partition(".")
            typed = _typed(getattr(self, section), name, key, value)
            by_section.setdefault(section, {})[name] = typed
        sections = {
            section: dataclasses.replace(getattr(self, section), **values)
            for section, values in by_section.items()
        }
        return dataclasses.replace(self, **sections)

    def decisive(self) -> dict[str, Scalar]:
        """Return the settings that decide the outcome of training, but for the place of the data.

        Where the run is stored, tracked and executed is not among them.
        """
        return {
            key: value
            for key, value in self.flat().items()
            if key.startswith(("data.", "model.", "optim.", "evaluation.", "ray.workers"))
            and key not in (*_INDECISIVE, "data.train", "data.val")
        }

    def fingerprint(self, data_checksum: str) -> str:
        """Return eight hexadecimal digits that identify the outcome of training.

        Data enter by their checksum, not by their location.
        """
        decisive = self.decisive()
        for key, before in _ADDED.items():
            if decisive[key] == before:
                del decisive[key]
        decisive |= {"data.train": data_checksum, "data.val": ""}
        text = json.dumps(decisive, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def _typed(section: object, name: str, key: str, value: Any) -> Scalar:
    """Check `value` against the annotation of `section.name`. Integers pass as floats."""
    annotation = get_type_hints(type(section))[name]
    if get_origin(annotation) is Literal:
        choices = get_args(annotation)
        require(value in choices, key, f"one of {', '.join(choices)}", value)
        return value
    if annotation is float and type(value) in (int, float):
        # NaN is in no range, and a larger whole number no float.
        most = sys.float_info.max
        require(-most <= value <= most, key, "a finite number", value)
        return float(value)
    types = get_args(annotation) or (annotation,)
    names = " or ".join(kind.__name__ for kind in types)
    require(type(value) in types, key, f"of type {names}", value)
    # No path and no command can have it.
    require("\0" not in str(value), key, "without the character NUL", value)
    return value
