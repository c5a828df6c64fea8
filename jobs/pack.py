"""Pack annotations and photographs into shards: `python -m jobs.pack --help`."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from jobs.options import Address, OutFolder, output_at
from pipeline.io.console import say
from pipeline.io.location import is_store
from pipeline.io.output import Output
from pipeline.io.progress import ProgressBar
from pipeline.settings.cli import clear_errors, parse
from pipeline.settings.packing import PackSettings

if TYPE_CHECKING:
    import ray

    from pipeline.data.packing import ShardDone
    from pipeline.data.packing_plan import ShardJob
    from pipeline.data.shards.index import Index


@dataclass(frozen=True, kw_only=True)
class Arguments(PackSettings):
    """Cut people out of photographs and write WebDataset shards with an index, on Ray."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """File or folder of annotations, whose format its content tells; or a format's name, with
    --annotations: coco, yolo-pose, deeplabcut, sleap, cvat, label-studio, table, mpii-json,
    mpii-hrnet, mpii-mat, mpii-h5, lsp, lspet, flic. synthetic: rendered people, without files."""
    out: OutFolder  # type: ignore[assignment]
    """Folder for the shards and their index, also in a bucket (s3://, gs://, az://)."""
    address: Address = ""

    def settings_in(self, folder: Path) -> PackSettings:
        """Return the settings of packing into a folder of this machine."""
        given = {item.name: getattr(self, item.name) for item in fields(PackSettings)}
        return PackSettings(**given | {"out": folder})


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(Arguments, None, argv)
    with clear_errors(), output_at(arguments.out) as output:
        pack(arguments.settings_in(output.folder), arguments.address, output)


def pack_here(settings: PackSettings) -> "Index":
    """Pack in this process, without Ray. Raises ValueError."""
    from pipeline.data.packing import close_plan, open_plan, pack_shard
    from pipeline.data.packing_plan import plan_packing

    plan = plan_packing(settings)
    open_plan(plan)
    return close_plan(plan, [pack_shard(plan.settings, job) for job in plan.jobs])


def pack(settings: PackSettings, address: str = "", output: Output | None = None) -> "Index":
    """Pack on Ray, resuming after the shards of an interrupted run. Raises ValueError.

    The `output` of a bucket has `settings.out` as its folder.
    """
    from pipeline.data.packing import close_plan, open_plan
    from pipeline.data.packing_plan import STATE_NAME, plan_packing
    from pipeline.data.shards.index import INDEX_NAME, Index

    output = output or Output(str(settings.out), settings.out)
    say(f"packing {settings.source} into {output.location}")
    plan = plan_packing(settings)
    output.fetch(INDEX_NAME)
    output.fetch_all(STATE_NAME)
    finished = open_plan(plan, output.size)
    output.send()
    if finished is None:
        say("already packed")
        return Index.read(settings.out)
    for note in plan.notes:
        say(note)
    say(f"{sum(len(job.people) for job in plan.jobs):,} people in {len(plan.jobs)} shards")
    missing = [job for job in plan.jobs if str(job.name) not in finished]
    if finished:
        say(f"resuming: {len(finished)} of {len(plan.jobs)} shards are complete")
    if missing:
        from pipeline.cluster.start import cluster

        with cluster(address):
            finished |= _run(plan.settings, missing, output)
    output.fetch_all(STATE_NAME)
    done = [finished[str(job.name)] for job in plan.jobs]
    # Its people are drawn with the names of their joints.
    if first := next((shard.entry for shard in done if shard.entry), None):
        output.fetch(first.name)
    state = [f"{STATE_NAME}/{path.name}" for path in plan.state.iterdir()]
    index = close_plan(plan, done)
    output.send(last=[INDEX_NAME])
    output.remove(state)
    _conclude(index)
    return index


def _run(settings: PackSettings, jobs: list["ShardJob"], output: Output) -> dict[str, "ShardDone"]:
    """Write shards as Ray tasks of one core each, and show the progress."""
    import ray

    # A worker of a cluster that runs already may be in another folder.
    images = settings.images and settings.images.absolute()
    settings = replace(settings, out=settings.out.absolute(), images=images)
    people = sum(len(job.people) for job in jobs)
    task = ray.remote(num_cpus=1)(_pack_shard)
    pending = {task.remote(settings, job, output.location): job for job in jobs}
    finished: dict[str, ShardDone] = {}
    done = 0
    with ProgressBar(people, "people", "packing", every_s=1.0) as progress:
        while pending:
            (ready, *_), _ = ray.wait(list(pending), num_returns=1)
            job = pending.pop(ready)
            finished[str(job.name)] = _result(ready)
            done += len(job.people)
            progress.to(done)
    return finished


def _pack_shard(settings: PackSettings, job: "ShardJob", location: str) -> "ShardDone":
    """Pack a shard into the folder of the settings, or by way of this machine into a bucket."""
    from pipeline.data.packing import pack_shard
    from pipeline.data.packing_plan import STATE_NAME

    if not is_store(location):
        return pack_shard(settings, job)
    with output_at(location) as output:
        (output.folder / STATE_NAME).mkdir()
        done = pack_shard(replace(settings, out=output.folder), job)
        output.send(last=[f"{STATE_NAME}/{job.name}.json"])
    return done


def _result(reference: "ray.ObjectRef") -> "ShardDone":
    """Return a task's result, or raise its own exception."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


def _conclude(index: "Index") -> None:
    for split, counts in index.splits().items():
        say(
            f"{split}: {counts['people']:,} people of {counts['images']:,} images in "
            f"{counts['shards']} shards"
        )
    for reason, count in index.skipped.items():
        if count:
            say(f"skipped, {reason}: {count:,}")
    for conversion, count in index.converted.items():
        say(f"images of {conversion}: {count:,}")
    for reason, keys in index.left_out.items():
        shown = ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
        say(f"left out, {reason}: {len(keys):,} ({shown})")
    say(f"joint set {index.joint_set.name}; details are in index.json")


if __name__ == "__main__":
    main()
