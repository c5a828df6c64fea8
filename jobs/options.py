"""Options that several commands share, and what they do with them."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from pipeline.io.console import say
from pipeline.io.location import bucket_and_key, is_store, local_path
from pipeline.io.output import Output
from pipeline.io.redaction import redacted

if TYPE_CHECKING:
    import torch

OutFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
OutFolder = Annotated[str, tyro.conf.arg(metavar="DIR")]
Model = tyro.conf.Positional[
    Annotated[
        str,
        tyro.conf.arg(
            metavar="MODEL",
            help="Checkpoint folder; folder or name of a run, for its best checkpoint, also in a "
            "bucket (s3://, gs://, az://); "
            "models:/NAME@ALIAS or models:/NAME/VERSION; or with --tracking.uri the name or id "
            "of an MLflow run.",
        ),
    ]
]
Weights = Annotated[
    Literal["auto", "raw", "ema"],
    tyro.conf.arg(
        help="Weights of the checkpoint: raw, as trained; ema, their moving average; auto: ema "
        "if there is one."
    ),
]
Stacks = Annotated[
    int,
    tyro.conf.arg(
        metavar="K",
        help="Cut the network to its first K stacks; 0: all stacks.",
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    tyro.conf.arg(help="Device of the network, without a cluster; auto: a GPU if there is one."),
]
Threads = Annotated[
    int, tyro.conf.arg(help="Decode threads, on CPU also compute threads, without a cluster.")
]
Address = Annotated[
    str,
    tyro.conf.arg(
        name="ray.address",
        help="Cluster to join; empty: RAY_ADDRESS or the submitted job's cluster, otherwise one "
        "is started on this machine.",
    ),
]
Storage = Annotated[
    str,
    tyro.conf.arg(
        name="ray.storage",
        metavar="DIR",
        help="Folder of runs given by name, or one in a bucket (s3://, gs://, az://); empty: "
        "./runs.",
    ),
]
TrackingUri = Annotated[
    str,
    tyro.conf.arg(
        name="tracking.uri",
        metavar="URI",
        help="MLflow tracking URI for models:/... and for runs that are not in a folder here; "
        "empty: only models, from the database in this folder.",
    ),
]


def torch_device(name: str, threads: int) -> "torch.device":
    """Return the device of an option, and let torch compute with `threads` on CPU.

    Raises ValueError if there is no such device, or for less than one thread.
    """
    import torch

    if threads < 1:
        raise ValueError(f"--threads must be at least 1, got {threads}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this machine has no GPU that torch can use")
    torch.set_num_threads(threads)
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def write_json(path: Path | None, content: dict[str, Any]) -> None:
    """Write JSON if the option was given, and print where."""
    if path is not None:
        path.write_text(json.dumps(content, indent=1) + "\n")
        say(f"written: {path}")


@contextmanager
def output_at(location: str) -> Iterator[Output]:
    """Give the output at a folder, a file: URL, or a folder in a bucket. Raises ValueError."""
    if not is_store(location):
        if location.startswith(("http://", "https://")):
            raise ValueError(
                f"--out {redacted(location)}: a web server takes no files; expected a folder, or "
                "one in a bucket, such as s3://BUCKET/FOLDER"
            )
        folder = local_path(location)
        yield Output(folder, Path(folder))
        return
    # The client of the store takes a moment to load.
    from pipeline.io.uploads import Uploads

    bucket_and_key(location)
    with tempfile.TemporaryDirectory(prefix="hourglass-ray-") as folder:
        yield Uploads(location, Path(folder))
