"""Measures of accuracy on people: whether these have the size that errors are divided by."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.data.shards.index import ShardSet
from pipeline.data.shards.reader import ShardReader
from pipeline.data.shards.sample import Samples
from pipeline.pose.joint_sets import JointSet, Measure
from pipeline.pose.person import Person
from pipeline.settings.packing import TABLE_NAME

# A smaller share of the people is printed.
_FEW = 0.2


@dataclass(frozen=True, kw_only=True)
class Measurable:
    """The people on whom a measure is defined; `count` is None where it is at least one."""

    measure: Measure
    people: int
    count: int | None

    def note(self, joint_set: JointSet) -> str:
        """Return a line on a measure that few people have, or nothing."""
        if self.count is None or self.count >= _FEW * self.people:
            return ""
        needed = size_name(self.measure, joint_set)
        if not self.count:
            return f"none of {self.people:,} people has {needed}: {self.measure.title} is undefined"
        who = f"{self.count:,} of {self.people:,} people ({self.count / self.people:.1%})"
        return f"{who} have {needed}; {self.measure.title} is of these alone"


def counts_of(people: Iterable[Person], joint_set: JointSet) -> dict[str, int]:
    """Count the people that have the size of each measure, by the measure's key."""
    measures = joint_set.all_measures
    counts = Counter({measure.key: 0 for measure in measures})
    for person in people:
        counts.update(m.key for m in measures if m.is_defined_for(person))
    return dict(counts)


def measurable(shards: ShardSet, measure: Measure) -> Measurable:
    """Find on how many people of shards a measure is defined.

    Shards that were packed without counts are read until the first such person.
    """
    known = [entry.measured for entry in shards.entries]
    counts = [found[measure.key] for found in known if found is not None and measure.key in found]
    if len(counts) == len(shards.paths):
        return Measurable(measure=measure, people=shards.people, count=sum(counts))
    is_any = any(measure.is_defined_for(s.person) for s in ShardReader(shards.paths))
    return Measurable(measure=measure, people=shards.people, count=None if is_any else 0)


def check_measurable(
    setting: str, found: Measurable, joint_set: JointSet, source: str = ""
) -> None:
    """Raise ValueError, with the way out, if a measure is defined for none of the people."""
    measure = found.measure
    if found.count != 0:
        return
    ways = {
        "head": "pack again with "
        + ("a column head_size" if source == TABLE_NAME else "--head-boxes"),
        "box": "pack again with boxes",
        "segment": "validate on people who have both",
        "oks": "pack again with boxes or areas",
    }
    others = ", ".join(m.key for m in joint_set.all_measures if m != measure)
    raise ValueError(
        f"{setting}: none of {found.people:,} people has {size_name(measure, joint_set)}, so "
        f"{measure.title} is undefined; {ways[measure.normaliser]}"
        + (f", or set evaluation.measure to {others}" if others else "")
    )


def check_any_measurable(setting: str, samples: Samples, joint_set: JointSet) -> None:
    """Raise ValueError if no measure of the joint set is defined for any of the samples' people."""
    measures = joint_set.all_measures
    if not any(m.is_defined_for(sample.person) for sample in samples for m in measures):
        needed = " or ".join(size_name(measure, joint_set) for measure in measures)
        raise ValueError(
            f"{setting}: none of {len(samples):,} people has {needed}, so accuracy is undefined; "
            "evaluate on people who have it"
        )


def size_name(measure: Measure, joint_set: JointSet) -> str:
    """Name what a person needs for a measure."""
    start, end = (joint_set.joints[joint] for joint in measure.segment)
    names = {
        "head": "a head size",
        "box": "a box",
        "segment": f"both {start} and {end}",
        "oks": "an area or a box",
    }
    return names[measure.normaliser]
