"""Which of a run's checkpoints MLflow is to keep as models: entered in its journal as they come and go."""

from pathlib import Path

from pipeline.run.checkpoint_manager import ranked
from pipeline.run.journal import Journal


def enter_models(journal: Journal, folder: Path, metric: str, most: int) -> None:
    """Bring the journal's models up to date: the `most` best checkpoints in `folder` by `metric`, none twice.

    What is registered under a name stays. Call it before a checkpoint is
    removed, which the journal must not promise any more. Raises OSError.
    """
    wanted = {path.name: (path, record) for path, record in ranked(folder, metric)[:most]}
    entered = journal.models()
    for name in entered.keys() - wanted.keys():
        if not entered[name]:
            journal.forget_model(name)
    for name, (path, record) in wanted.items():
        if name not in entered:
            journal.model(path, record.progress.epochs)
