"""HTML pages that open from disk: one file each, with their pictures, without secrets."""

import base64
import hashlib
import io
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from pipeline.io.redaction import redacted
from pipeline.io.text import visible

# Of photographs as WebP files; text and thin lines stay sharp.
_QUALITY = 85


def html_page(template: Path, script: str = "", **values: Any) -> str:
    """Return the page of a template that extends `base.html.j2`, which has the style.

    Everything that a template puts in is stripped of secrets, then escaped. The page runs `script`
    alone.
    """
    templates = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        finalize=_without_secrets,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = templates.get_template(template.name).render(
        script=script, script_digest=digest, **values
    )
    # Names that are no UTF-8 could not be written.
    return visible(page)


def picture_source(png: bytes, *, is_photograph: bool = False) -> str:
    """Return a PNG file as the source of a picture within the page.

    A photograph becomes a WebP file of about a tenth of the size.
    """
    kind, content = "png", png
    if is_photograph:
        kind, written = "webp", io.BytesIO()
        with Image.open(io.BytesIO(png)) as picture:
            picture.convert("RGB").save(written, "WEBP", quality=_QUALITY)
        content = written.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _without_secrets(value: object) -> object:
    return value if hasattr(value, "__html__") else redacted(str(value))
