"""Hooks of the documentation site: it shows the guide to clusters, which lies beside its files."""

from pathlib import Path
from typing import Any

GUIDE = Path(__file__).parents[1] / "jobs/cluster/README.md"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the guide in place of `cluster.md`, its links seen from `docs/`."""
    if page.file.src_uri != "cluster.md":
        return markdown
    return GUIDE.read_text(encoding="utf-8").replace("](../../docs/", "](")
