"""Secrets in what people get to read: passwords and signatures that stand in URIs become `***`."""

import re

_HIDDEN = "***"
# A password may hold anything up to the last @ before the host. Of a web address the host ends at
# the first slash; SQLAlchemy takes a slash for part of a password, too.
_WEB = re.compile(r"(?<=://)(?P<user>[^\s:/?#@]*:)?[^\s/?#]*@")
_DATABASE = re.compile(r"(?<=://)(?P<user>[^\s:/@]*:)(?:(?!://)\S)*@")
_AUTHORITY = re.compile("://")
# What stands before it; looked for backwards and not far, so that long words cost no more than others.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*\Z")
_SCHEME_LETTERS = 40
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
    for authority in _AUTHORITY.finditer(text):
        if authority.start() < at:
            continue  # within what is hidden
        scheme = _SCHEME.search(
            text[max(at, authority.start() - _SCHEME_LETTERS) : authority.start()]
        )
        if scheme is None:
            continue
        parts.append(text[at : authority.end()])
        at = authority.end()
        form = _WEB if scheme[0].lower() in ("http", "https") else _DATABASE
        found = form.match(text, at)
        if found:
            parts.append(f"{found['user'] or ''}{_HIDDEN}@")
            at = found.end()
    parts.append(text[at:])
    return _PARAMETER.sub(rf"\g<name>{_HIDDEN}", "".join(parts))
