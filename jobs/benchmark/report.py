"""The benchmark's result as a person reads it."""

from collections.abc import Mapping, Sequence
from typing import Any


def loader_report(result: Mapping[str, Any]) -> str:
    """Tables of all that was measured."""
    parts = (_head, _routes, _end_to_end, _crops, _memory, _headline)
    return "\n\n".join(part(result) for part in parts)


def _head(result: Mapping[str, Any]) -> str:
    machine, data = result["machine"], result["data"]
    rendered = data["photographs"] == "rendered"
    lines = [f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_average']:.1f}"]
    if rendered:
        lines.append(
            "photographs: rendered, with grain that makes files as large as those of real ones"
        )
    else:
        lines.append(f"photographs: {data['photographs']}")
    lines += [
        f"  {name}: {held['photographs']} of {held['photograph_bytes'] / 1000:.0f} KB, "
        f"{held['people']} people framed at random, {held['shard_bytes_a_person'] / 1000:.1f} KB each"
        for name, held in data["sizes"].items()
    ]
    return "\n".join(lines)


def _routes(result: Mapping[str, Any]) -> str:
    rows = [["one core", *result["sizes"], "all"]]
    first = next(iter(result["sizes"].values()))
    for name in first["routes"]:
        held = [size["routes"][name] for size in result["sizes"].values()]
        whole = [result["routes"][name]] if name in result["routes"] else []
        rows.append([name.replace("_", " "), *(f"{h['samples_per_s']:,.0f}" for h in held + whole)])
    for name in ("of_decode", "pipe_overhead", *(n for n in first if n.startswith("over_"))):
        held = [size[name] for size in result["sizes"].values()]
        whole = [result[name]] if name in result else []
        rows.append([name, *(f"{value:.3f}" for value in held + whole)])
    return aligned(rows) + (
        "\nsamples a second of CPU time, medians; ratios are medians of the rounds' own. plain: the whole photograph decoded,\n"
        "colours in order and mirrored as published code does, one warp, floats, heatmaps, DataLoader; lean: with\n"
        "colours and mirroring where they cost least; all: as many samples of each size;\n"
        "device part: with floats and heatmaps, which a GPU would make, on the same core"
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
            *(f"{held['psnr_db']:.2f}", f"{100 * held['missing_share']:.2f} %"),
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


def _headline(result: Mapping[str, Any]) -> str:
    return (
        f"of_decode {result['of_decode']:.3f}   over_plain {result['over_plain']:.1f}   "
        f"pipe_overhead {result['pipe_overhead']:.3f}"
    )


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns: the first flush left, the others right; short rows end early."""
    widths = [max(len(row[k]) for row in rows if k < len(row)) for k in range(max(map(len, rows)))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if k else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=False))
        )
        for row in rows
    )
