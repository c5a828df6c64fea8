"""The data path's figures: ratios between variants, and tables."""

from collections.abc import Mapping
from typing import Any

from jobs.benchmark.timing import Timing, Timings, pooled, ratio, speed
from pipeline.io.console import aligned

# Stages of our data path and all of it, each alone over the same people.
OURS = (
    *("stream", "stream_of_decoded", "sample_function", "decode_only", "reading_only"),
    *("network_input", "heatmaps"),
)
# The plain loader in the usual order of its steps, and in the cheapest one.
PLAIN, LEAN_PLAIN = "plain", "lean_plain"


def summary(timings: Mapping[str, Mapping[str, Timings]]) -> dict[str, Any]:
    """Return the ratios, over equal numbers of samples of each size and by size."""
    names = (*OURS, PLAIN, LEAN_PLAIN)
    both = {name: pooled(*(of_size[name] for of_size in timings.values())) for name in names}
    return _ratios(both) | {"sizes": {size: _of_size(held) for size, held in timings.items()}}


def _ratios(timings: Mapping[str, Timings]) -> dict[str, Any]:
    stream = timings["stream"]
    return {
        "of_decode": ratio(stream, timings["decode_only"]),
        "decoded_of_decode": ratio(timings["stream_of_decoded"], timings["decode_only"]),
        "over_plain": ratio(stream, timings[PLAIN]),
        "over_lean_plain": ratio(stream, timings[LEAN_PLAIN]),
        "pipe_overhead": 1 - ratio(stream, timings["sample_function"]),
        "variants": {name: speed(of_variant) for name, of_variant in timings.items()},
    }


def _of_size(timings: Mapping[str, Timings]) -> dict[str, Any]:
    # The plain loader also makes floats and heatmaps, which a GPU makes for ours.
    stages = zip(*(timings[n] for n in ("stream", "network_input", "heatmaps")), strict=True)
    whole = [
        Timing(samples=1, wall_s=sum(1 / stage.per_s for stage in of_round), cpu_s=0.0)
        for of_round in stages
    ]
    return _ratios(timings) | {"over_plain_with_device_part": ratio(whole, timings[PLAIN])}


def loader_report(result: Mapping[str, Any]) -> str:
    """Format all that was measured as tables."""
    primary = (
        f"of_decode {result['of_decode']:.3f}   over_plain {result['over_plain']:.1f}   "
        f"pipe_overhead {result['pipe_overhead']:.3f}"
    )
    parts = (_head, _variants, _end_to_end, _crops, _memory)
    return "\n\n".join([*(part(result) for part in parts), primary])


def _head(result: Mapping[str, Any]) -> str:
    machine, data = result["machine"], result["data"]
    photographs = data["photographs"]
    if photographs == "rendered":
        photographs += ", with grain that makes files as large as those of real ones"
    lines = [
        f"{machine['device']}, {machine['cores']} cores, load {machine['load_average']:.1f}",
        f"photographs: {photographs}",
    ]
    lines += [
        f"  {name}: {held['photographs']} of {held['photograph_bytes'] / 1000:.0f} KB, "
        f"{held['people']} people framed at random, "
        f"{held['shard_bytes_a_person'] / 1000:.1f} KB each"
        for name, held in data["sizes"].items()
    ]
    return "\n".join(lines)


def _variants(result: Mapping[str, Any]) -> str:
    columns = [*result["sizes"].values(), result]
    rows = [["one core", *result["sizes"], "all"]]
    for name in result["variants"]:
        speeds = (column["variants"][name]["samples_per_s"] for column in columns)
        rows.append([name.replace("_", " "), *(f"{per_s:,.0f}" for per_s in speeds)])
    first = columns[0]
    names = ("of_decode", "decoded_of_decode", "pipe_overhead")
    for name in (*names, *(n for n in first if n.startswith("over_"))):
        rows.append([name, *(f"{column[name]:.3f}" for column in columns if name in column)])
    return aligned(rows) + (
        "\nsamples a second of CPU time, medians; ratios are medians over rounds. plain: the whole"
        "\nphotograph decoded, colours in order and mirrored as published code does, one warp,"
        "\nfloats, heatmaps, DataLoader; lean: with colours and mirroring where they cost least;"
        "\nall: equal numbers of samples of each size; device part: with floats and heatmaps, which"
        "\na GPU would make, on the same core; stream of decoded: as epochs after the first with"
        "\ndata.cache_decoded_gb"
    )


def _end_to_end(result: Mapping[str, Any]) -> str:
    rows = [["end to end", "samples/s", "min", "max", "CPU ms a sample"]]
    for name, held in result["end_to_end"].items():
        figures = (held["samples_per_s"], held["min"], held["max"])
        rows.append([name, *(f"{value:,.0f}" for value in figures), f"{held['cpu_ms']:.2f}"])
    return aligned(rows)


def _crops(result: Mapping[str, Any]) -> str:
    rows = [["stored px", "margin", "quality", "KB", "decoded/s", "dB", "pixels missing"]]
    rows += [
        [
            *(str(held["person_px"]), f"{held['margin']:g}", str(held["jpeg_quality"])),
            *(f"{held['bytes'] / 1000:.1f}", f"{held['decode_samples_per_s']:,.0f}"),
            *(f"{held['psnr_db']:.2f}", f"{held['missing_share']:.2%}"),
        ]
        for held in result["crops"]
    ]
    return aligned(rows) + (
        "\ndB: the augmented input from the stored crop, against one straight from the photograph"
    )


def _memory(result: Mapping[str, Any]) -> str:
    memory = result["memory"]
    epochs = next(iter(memory["resident_mib"].values()))
    rows = [["resident MiB", *(f"epoch {epoch}" for epoch in epochs), "growth"]]
    for people, after in memory["resident_mib"].items():
        figures = (*after.values(), memory["growth_mib"][people])
        rows.append([f"{people:,} people", *(f"{value:.1f}" for value in figures)])
    return aligned(rows)
