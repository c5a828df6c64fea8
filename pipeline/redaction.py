"""Secrets in what people get to read: passwords and signatures that stand in URIs become `***`."""

import re

_HIDDEN = "***"
# A password may hold anything up to the last @ before the host. Of a web address the host ends at
# the first slash; SQLAlchemy takes a slash for part of a password, too.
_WEB = re.compile(r"(?<=://)(?P<user>[^\s:/?#@]*:)?[^\s/?#]*@")
_DATABASE = re.compile(r"(?<=://)(?P<user>[^\s:/@]*:)(?:(?!://)\S)*@")
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
# Names that object stores, clouds and databases give to what opens the door, and others like them.
_PARAMETER = re.compile(
    r"(?P<name>[?&;][^\s=&;?'\"]*(?:sig|token|secret|pass|pwd|key|cred|auth|access|policy|session|jwt)"
    # Up to the next parameter, the next of several addresses, or what a sentence says of it.
    r"[^\s=&;?'\"]*=)(?:(?!,[A-Za-z][A-Za-z0-9+.-]*://|[:,](?:\s|$))[^\s&;#'\"])*",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """Return a text with the password of every URI in it, and the value of every query parameter like `X-Amz-Signature` or `token`, replaced by `***`.

    The user of a password stays, but what stands alone before the @ of a web
    address is taken for a token. All else is left as it is.
    """
    parts, at = [], 0
    for scheme in _SCHEME.finditer(text):
        parts.append(text[at : scheme.end()])
        at = scheme.end()
        form = _WEB if scheme["scheme"].lower() in ("http", "https") else _DATABASE
        found = form.match(text, at)
        if found:
            parts.append(f"{found['user'] or ''}{_HIDDEN}@")
            at = found.end()
    parts.append(text[at:])
    return _PARAMETER.sub(rf"\g<name>{_HIDDEN}", "".join(parts))
