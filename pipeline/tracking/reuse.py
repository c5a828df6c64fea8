"""Settings of a file or of another run. Nothing heavy is imported until a run is named."""

import tempfile
from pathlib import Path
from typing import Any

from pipeline.settings.config_file import read_config, reusable


def settings_of_config(config: str, storage: str = "", uri: str = "") -> dict[str, Any]:
    """Return the settings of a TOML file, or those of a run or checkpoint for another run.

    That is looked for as `model.start` is, in the storage and in MLflow's store of these settings.
    Raises ValueError if there is none, AwayError or RefusedError.
    """
    path = Path(config)
    if path.is_file() or path.suffix == ".toml":
        return read_config(path)
    from pipeline.run.metadata import METADATA_NAME, read_metadata
    from pipeline.tracking.lookup import find_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        found = find_checkpoint(
            config,
            storage,
            uri,
            Path(folder),
            argument="--config",
            files=[METADATA_NAME],
        )
        return reusable(read_metadata(found).settings)
