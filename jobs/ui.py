"""Open the MLflow UI: `python -m jobs.ui --help`."""

import time
import webbrowser
from dataclasses import dataclass
from typing import Annotated

import tyro

from jobs.options import Storage
from pipeline.io.console import say
from pipeline.io.interruption import orderly_stop
from pipeline.settings.cli import clear_errors, fail, parse

_LOOK_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Show runs in the MLflow UI: start a server for the database, or use one that runs, and print
    the link. A server that was started ends with Ctrl-C."""

    runs: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="RUN ...")]] = ()
    """Folder or name of a run or a sweep, also in a bucket (s3://, gs://, az://), or the id of an
    MLflow run. One run opens its page, several runs and the trials of a sweep their comparison.
    Without any the UI opens on the experiment of the newest run."""
    storage: Storage = ""
    uri: Annotated[str, tyro.conf.arg(name="tracking.uri", metavar="URI")] = ""
    """MLflow tracking URI; empty: that of the first run's folder, otherwise MLFLOW_TRACKING_URI,
    otherwise the database in this folder."""
    port: int = 5000
    """Port on 127.0.0.1, or the first of those to look at if it is taken."""
    open: bool = False
    """Also open the link in a browser."""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(Arguments, None, argv)
    with clear_errors():
        show(arguments)


def show(arguments: Arguments) -> None:
    """Print the link, open it if wanted, and run a server until a signal. Raises ValueError."""
    if not 1 <= arguments.port <= 65_535 - 20:
        raise ValueError(f"--port must be from 1 to 65515, got {arguments.port}")
    from pipeline.run.plan import resolved_storage
    from pipeline.tracking.links import is_server, link
    from pipeline.tracking.selection import page_of, selected, store_of
    from pipeline.tracking.ui import server

    names, storage = arguments.runs, resolved_storage(arguments.storage)
    uri = store_of(names, storage, arguments.uri)
    runs = selected(names, storage, uri)
    page = page_of(names, runs, uri)
    if is_server(uri):
        _say_link(link(uri, page), arguments)
        return
    stops: list[str] = []

    def stop(signal_name: str) -> bool:
        stops.append(signal_name)
        return True

    known = runs[0] if runs else None
    with (
        orderly_stop(stop),
        server(uri, arguments.port, known, lambda: not stops) as started,
    ):
        if started is None:
            return
        _say_link(link(started.uri, page), arguments)
        if started.process is None:
            say("a server that runs already shows it")
            return
        say("Ctrl-C ends the server")
        while not stops:
            time.sleep(_LOOK_S)
            if started.has_ended():
                fail("the MLflow server has ended")
    say("the server has ended")


def _say_link(address: str, arguments: Arguments) -> None:
    say(address)
    if arguments.open and not (address.startswith("http") and webbrowser.open(address)):
        say("note: no browser could be opened")


if __name__ == "__main__":
    main()
