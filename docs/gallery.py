"""Shrink the pictures of a run for the gallery: `python docs/gallery.py RUN`, the run's folder."""

import sys
from pathlib import Path

from PIL import Image

_GALLERY = Path(__file__).parent / "gallery"
# Enough to read the text of the widest figures on a page.
_MOST_PX, _QUALITY = 1000, 60


def main(run: Path) -> None:
    """Replace the gallery's pictures."""
    overlays = sorted((run / "overlays").glob("*.png"))
    found = {path.stem: path for path in sorted((run / "figures").glob("*.png"))}
    found |= {"overlay_first": overlays[0], "overlay_last": overlays[-1]}
    _GALLERY.mkdir(exist_ok=True)
    for old in _GALLERY.glob("*.webp"):
        old.unlink()
    for name, path in found.items():
        with Image.open(path) as picture:
            small = picture.convert("RGB")
            small.thumbnail((_MOST_PX, 4 * _MOST_PX))
            small.save(_GALLERY / f"{name}.webp", quality=_QUALITY, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
