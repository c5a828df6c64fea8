"""Pack annotations and photographs into shards: `python -m jobs.pack --help`."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import tyro

from jobs.options import Address
from pipeline.io.console import Pace, bar, duration, say
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

    source: tyro.conf.Positional[str]
    """File or folder of annotations, whose format its content tells; or a format's name, with
    --annotations: coco, yolo-pose, deeplabcut, sleap, cvat, label-studio, table, mpii-json,
    mpii-hrnet, mpii-mat, mpii-h5, lsp, lspet, flic. synthetic: rendered people, without files."""
    address: Address = ""

    @property
    def settings(self) -> PackSettings:
        """The settings of packing."""
        return PackSettings(
            **{item.name: getattr(self, item.name) for item in fields(PackSettings)}
        )


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(Arguments, None, argv)
    with clear_errors():
        pack(arguments.settings, arguments.address)


def pack_here(settings: PackSettings) -> "Index":
    """Pack in this process, without Ray. Raises ValueError."""
    from pipeline.data.packing import close_plan, open_plan, pack_shard
    from pipeline.data.packing_plan import plan_packing

    plan = plan_packing(settings)
    open_plan(plan)
    return close_plan(plan, [pack_shard(plan.settings, job) for job in plan.jobs])


def pack(settings: PackSettings, address: str = "") -> "Index":
    """Pack on Ray, resuming after the shards of an interrupted run. Raises ValueError."""
    from pipeline.data.packing import close_plan, open_plan
    from pipeline.data.packing_plan import plan_packing
    from pipeline.data.shards.index import Index

    say(f"packing {settings.source} into {settings.out}")
    plan = plan_packing(settings)
    finished = open_plan(plan)
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
            finished |= _run(plan.settings, missing)
    index = close_plan(plan, [finished[str(job.name)] for job in plan.jobs])
    _conclude(index)
    return index


def _run(settings: PackSettings, jobs: list["ShardJob"]) -> dict[str, "ShardDone"]:
    """Write shards as Ray tasks of one core each, with progress lines."""
    import ray

    from pipeline.data.packing import pack_shard

    pace, people = Pace(1.0), sum(len(job.people) for job in jobs)
    task = ray.remote(num_cpus=1)(pack_shard)
    pending = {task.remote(settings, job): job for job in jobs}
    finished: dict[str, ShardDone] = {}
    done = 0
    while pending:
        (ready, *_), _ = ray.wait(list(pending), num_returns=1)
        job = pending.pop(ready)
        finished[str(job.name)] = _result(ready)
        done += len(job.people)
        if pace.is_due() or not pending:
            say(
                f"{bar(done, people)} people  {done / pace.elapsed_s():.0f}/s  "
                f"left {duration(pace.left_s(done, people))}"
            )
    return finished


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
