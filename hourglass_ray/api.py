"""The Python API: the commands as functions, whose results are objects.

Each function runs the code of its command in this process, and prints what the command prints.
Wrong input raises ValueError, and a training that fails or was stopped RuntimeError; nothing ends
the process. In a notebook, interrupting the cell stops a training in order: it keeps a checkpoint,
and the same call resumes it. A second interrupt ends it at once.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.io.interruption import stopped_by_interrupt
from pipeline.io.location import is_store, local_path
from pipeline.settings import Settings
from pipeline.settings.config_file import packed_folder
from pipeline.settings.presets import settings_of
from pipeline.tracking.reuse import settings_of_config

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.evaluation.comparison import Comparison
    from pipeline.evaluation.metrics import Scores
    from pipeline.inference.predictor import Pose
    from tune.outcome import SweepOutcome

# Options of packing that are paths.
_PATHS = ("images", "annotations", "head_boxes", "joint_set")
Box = tuple[float, float, float, float]


class TrainingError(RuntimeError):
    """A training or a sweep that failed, was taken over, or was stopped."""


@dataclass(frozen=True)
class Packed:
    """Packed shards, in a folder or a bucket, and the people of each split."""

    folder: Path | str
    people: Mapping[str, int]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint: its folder, which the commands take as MODEL."""

    folder: Path

    @property
    def epoch(self) -> int:
        """The epochs that it was trained for."""
        from pipeline.run.metadata import read_metadata

        return read_metadata(self.folder).progress.epochs

    @property
    def metrics(self) -> dict[str, float]:
        """Its metrics by name, as in MLflow."""
        from pipeline.run.metadata import read_metadata

        return dict(read_metadata(self.folder).metrics)

    @property
    def joints(self) -> tuple[str, ...]:
        """The names of the joints, in the order of a pose."""
        from pipeline.run.metadata import read_metadata

        return tuple(read_metadata(self.folder).joint_set.joints)

    def predict(
        self, photograph: str | Path, boxes: Sequence[Box] = (), *, stacks: int = 0
    ) -> "list[Pose]":
        """Return a pose for each box (x, y, width, height), or for one person who fills the image.

        A pose has joints in the photograph's pixels, and a confidence of each. Given `stacks`, the
        network is cut to that many. Raises ValueError if the photograph can't be read.
        """
        import torch

        from pipeline.inference.predictor import Frame, Predictor
        from pipeline.run.cut import cut_checkpoint

        with tempfile.TemporaryDirectory() as place:
            folder = cut_checkpoint(self.folder, stacks, Path(place))
            predictor = Predictor(folder, torch.device("cpu"))
        try:
            content = Path(photograph).read_bytes()
        except OSError as error:
            raise ValueError(f"{photograph}: {error.strerror}") from None
        image = predictor.read(content)
        frames = [Frame.of_box(*box) for box in boxes] or [Frame.of_whole(image)]
        return list(predictor.predict(predictor.view(image, frame) for frame in frames))


@dataclass(frozen=True)
class Run:
    """A training run, finished or not: its folder, which has its checkpoints and its journal."""

    folder: Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    @property
    def best(self) -> Checkpoint:
        """The best checkpoint by the primary metric. Raises ValueError if none was evaluated."""
        from pipeline.run.start import find_local

        found = find_local(str(self.folder))
        if found is None:
            raise ValueError(f"{self.folder}: no such folder")
        return Checkpoint(found)

    @property
    def settings(self) -> Settings:
        """The run's settings."""
        from pipeline.run.metadata import read_metadata

        return read_metadata(self.best.folder).settings

    def curve(self) -> "pd.DataFrame":
        """Return the metrics of each epoch: a row an epoch, a column a metric."""
        import pandas as pd

        from pipeline.run.journal import Journal

        rows: dict[int, dict[str, float]] = {}
        for entry in Journal(self.folder).entries():
            if entry.kind == "metrics":
                rows.setdefault(entry.content["step"], {}).update(entry.content["values"])
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("epoch").sort_index()

    def compare(self, *others: "Run | str | Path") -> "Compared":
        """Compare other runs with this one on the same validation people."""
        return compare(self, *others)


@dataclass(frozen=True)
class Compared:
    """Runs compared with the first: scores, differences and their intervals."""

    comparison: "Comparison"

    def table(self) -> "pd.DataFrame":
        """Return a row for each percentage, a column for each run and for its gain."""
        from jobs.compare import table

        return table(self.comparison)

    def sentences(self) -> list[str]:
        """Describe whether each difference is resolved."""
        from jobs.compare import sentences

        return sentences(self.comparison)


@dataclass(frozen=True)
class Sweep:
    """A sweep: its folder, and the outcome of its trials."""

    folder: Path
    outcome: "SweepOutcome"

    def leaderboard(self) -> "pd.DataFrame":
        """Return a row for each trial, best first."""
        from tune.report.leaderboard import leaderboard

        return leaderboard(self.outcome)

    @property
    def runs(self) -> list[Run]:
        """The trials' runs, best first."""
        from tune.report.leaderboard import ranked

        return [Run(self.folder / trial.name) for trial in ranked(self.outcome)]

    @property
    def best(self) -> Run:
        """The best trial's run."""
        return self.runs[0]


def pack(source: str | Path, out: str | Path, **options: Any) -> Packed:
    """Pack annotations and photographs into shards, as `jobs.pack` does.

    `out` is a folder, or one in a bucket such as s3://bucket/folder. `options` are the command's
    options by name, such as `annotations` or `images`; `crop` is a mapping.
    """
    from jobs import pack as command
    from jobs.options import output_at
    from pipeline.settings.packing import CropSettings, PackSettings

    given: dict[str, Any] = {
        name: Path(value) if name in _PATHS and value is not None else value
        for name, value in options.items()
    }
    try:
        if isinstance(given.get("crop"), Mapping):
            given["crop"] = CropSettings(**given["crop"])
        settings = PackSettings(source=str(source), out=Path(), **given)
    except TypeError as error:
        raise ValueError(f"pack: {str(error).partition(') ')[2] or error}") from None
    with stopped_by_interrupt(), output_at(str(out)) as output:
        index = command.pack(replace(settings, out=output.folder), output=output)
    people = {split: total["people"] for split, total in index.splits().items()}
    return Packed(_place(str(out)), people)


def train(
    data: str | Path = "",
    *,
    preset: str | Sequence[str] = (),
    name: str = "",
    config: str | Path = "",
    settings: Mapping[str, Any] = {},
) -> Run:
    """Train a network, or resume the run of this name, as `jobs.train` does.

    `data` is a folder of `pack`; `settings` are by dotted key, such as `model.stacks`, and win over
    it, over presets and over the file or run `config`. Raises TrainingError if training fails.
    """
    from jobs import train as command

    with stopped_by_interrupt():
        plan = command.planned(_settings(data, preset, name, config, settings))
        with _training():
            command.trained(plan)
    return Run(plan.folder)


def sweep(
    data: str | Path = "",
    *,
    space: str = "stacks",
    vary: Mapping[str, Sequence[Any]] = {},
    preset: str | Sequence[str] = (),
    name: str = "",
    config: str | Path = "",
    settings: Mapping[str, Any] = {},
    trials: int = 0,
    from_one: bool = False,
) -> Sweep:
    """Train runs that differ in the settings of a space, as `tune.sweep` does.

    `vary` gives values by dotted key, also other ones than the space's. `trials` are drawn from the
    space; 0: every point. With `from_one` the largest number of stacks alone is trained, and its
    network cut to the others. Trials that failed are in the leaderboard. Raises TrainingError if
    the sweep is stopped.
    """
    from tune import sweep as command
    from tune.settings import SearchSettings

    with stopped_by_interrupt():
        arguments = command.Arguments(
            settings=_settings(data, preset, name, config, settings),
            space=space,
            vary=tuple(f"{key}={','.join(map(_toml, vary[key]))}" for key in vary),
            search=SearchSettings(method="random", trials=trials) if trials else SearchSettings(),
            from_one=from_one,
        )
        plan = command.planned(arguments)
        with _training():
            outcome = command.run_to_end(plan)
    return Sweep(plan.folder, outcome)


def evaluate(
    model: Checkpoint | Run | str | Path, data: str | Path, *, stacks: int = 0
) -> "Scores":
    """Measure a checkpoint on the validation shards of a packed folder, as `jobs.evaluate` does.

    Given `stacks`, the network is cut to that many.
    """
    from jobs import evaluate as command

    arguments = command.Arguments(model=_word(model), packed=str(data), stacks=stacks)
    with stopped_by_interrupt(), tempfile.TemporaryDirectory() as place:
        scores = command.evaluate_checkpoint(arguments, Path(place))
    assert scores is not None, "there were shards"
    return scores


def predict(
    model: Checkpoint | Run | str | Path,
    *inputs: str | Path,
    out: str | Path = "out/predictions",
    boxes: str | Path | None = None,
    formats: Sequence[Literal["json", "csv"]] = ("json",),
    stacks: int = 0,
) -> Path | str:
    """Predict on images, videos and folders, as `jobs.predict` does, and return the folder `out`.

    `out` may be in a bucket, such as s3://bucket/folder, and is then returned as it is. Given
    `stacks`, the network is cut to that many. Raises ValueError if an input could not be read; all
    others are done then.
    """
    from jobs import predict as command

    arguments = command.Arguments(
        model=_word(model),
        inputs=tuple(map(str, inputs)),
        out=str(out),
        boxes=None if boxes is None else Path(boxes),
        formats=tuple(formats),
        stacks=stacks,
    )
    with stopped_by_interrupt(), tempfile.TemporaryDirectory() as place:
        failures = command.predict(arguments, Path(place))
    if failures:
        raise ValueError(f"{len(failures):,} files could not be read: {failures[0].file} ...")
    return _place(str(out))


def compare(*runs: Checkpoint | Run | str | Path) -> Compared:
    """Compare runs with the first on the same validation people, as `jobs.compare` does."""
    from jobs import compare as command

    with stopped_by_interrupt():
        return Compared(command.compare_runs(command.Arguments(runs=tuple(map(_word, runs)))))


def load(run: str | Path) -> Run:
    """Return a run by its folder, also one in a bucket, or by its name in `runs`.

    Raises ValueError if there is none.
    """
    from pipeline.run.journal import JOURNAL_NAME
    from pipeline.run.plan import resolved_storage
    from pipeline.run.storage import folders_here

    storage = resolved_storage("")
    for folder in folders_here(str(run), storage):
        if (folder / JOURNAL_NAME).exists():
            return Run(folder.absolute())
    raise ValueError(f"{str(run)!r} is not the folder of a run, nor a run in {storage}")


def _place(location: str) -> Path | str:
    """Return the folder of an output, or its address in a bucket."""
    return location if is_store(location) else Path(local_path(location))


def _toml(value: Any) -> str:
    """Format a value of --vary, whose values are separated by commas, as TOML."""
    if isinstance(value, str | Path):
        return json.dumps(str(value)).replace(",", "\\u002c")
    return json.dumps(value)


def _word(model: Checkpoint | Run | str | Path) -> str:
    return str(model.folder if isinstance(model, Checkpoint | Run) else model)


def _settings(
    data: str | Path,
    preset: str | Sequence[str],
    name: str,
    config: str | Path,
    settings: Mapping[str, Any],
) -> Settings:
    """Return the settings, later sources winning: file or run, presets, data, single ones."""
    storage, uri = (str(settings.get(key, "")) for key in ("ray.storage", "tracking.uri"))
    flat: dict[str, Any] = settings_of_config(str(config), storage, uri) if config else {}
    flat |= settings_of([preset] if isinstance(preset, str) else preset)
    flat |= packed_folder(str(data)) if data else {}
    flat |= {"ray.name": name} if name else {}
    return Settings.from_flat(flat | dict(settings))


@contextmanager
def _training() -> Iterator[None]:
    """Raise what ends a training as TrainingError."""
    from pipeline.cluster.launch import TrainingFailedError
    from pipeline.run.ownership import SupersededError
    from pipeline.tracking.recording import InterruptedRunError

    try:
        yield
    except (InterruptedRunError, SupersededError, TrainingFailedError) as error:
        raise TrainingError(str(error)) from error
