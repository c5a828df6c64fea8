"""Settings of a recorded run for another one. Nothing heavy is imported until a run is named."""

from typing import Any


def recorded_settings(run: str) -> dict[str, Any]:
    """Return a run's or checkpoint's settings for another run. Raises ValueError if it is none."""
    from pipeline.run.metadata import read_metadata
    from pipeline.run.plan import resolved_storage
    from pipeline.run.start import find_local
    from pipeline.settings.config_file import reusable

    storage = resolved_storage("")
    found = find_local(run, storage)
    if found is None:
        raise ValueError(
            f"--config {run}: no such file or folder, and no run of this name in {storage}"
        )
    return reusable(read_metadata(found).settings)
