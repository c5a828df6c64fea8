"""Parameters and tags that are longer than MLflow stores: they lie whole in an artifact."""

import hashlib
from collections.abc import Iterator, Mapping

from pipeline.io.redaction import redacted
from pipeline.run.journal import Journal

# MLflow 3.17 cuts off what is longer (mlflow/utils/validation.py), with no more than a warning.
_MOST_OF_PARAM, _MOST_OF_TAG = 6000, 8000
# The tag that names a long value's artifact is this and the value's name.
_TAG = "whole."
_FOLDER = "whole"


def record_long(journal: Journal, params: Mapping[str, object], tags: Mapping[str, str]) -> None:
    """Add a text to the journal for each value that MLflow would cut off."""
    for values, most in ((params, _MOST_OF_PARAM), (tags, _MOST_OF_TAG)):
        for name, value in _long({k: redacted(str(v)) for k, v in values.items()}, most):
            journal.text(value, _path(name))


def shortened_params(params: Mapping[str, str]) -> dict[str, str]:
    """Cut long parameters, each with an end that names the artifact and a checksum."""
    return {name: _shortened(name, value, _MOST_OF_PARAM) for name, value in params.items()}


def shortened_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Cut long tags like `shortened_params`, and add the tags that name their artifacts."""
    shown = {name: _shortened(name, value, _MOST_OF_TAG) for name, value in tags.items()}
    return shown | {_TAG + name: _path(name) for name, _ in _long(tags, _MOST_OF_TAG)}


def tags_of_long(params: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that name the artifacts of long parameters."""
    return {_TAG + name: _path(name) for name, _ in _long(params, _MOST_OF_PARAM)}


def _long(values: Mapping[str, str], most: int) -> Iterator[tuple[str, str]]:
    return ((name, value) for name, value in values.items() if len(value) > most)


def _shortened(name: str, value: str, most: int) -> str:
    if len(value) <= most:
        return value
    # Values that differ in their ends alone still differ.
    checksum = hashlib.sha256(value.encode()).hexdigest()[:12]
    end = f"... ({len(value):,} characters, whole in {_path(name)}, SHA-256 {checksum})"
    return value[: most - len(end)] + end


def _path(name: str) -> str:
    return f"{_FOLDER}/{name}.txt"
