"""Redaction of secrets in output: passwords and signatures in URIs become `***`."""

import re

_HIDDEN = "***"
# A password extends to the last @ before the host. In a web address it can't have a slash; in
# SQLAlchemy's URIs it can.
_WEB = re.compile(r"(?<=://)(?P<user>[^\s:/?#@]*:)?[^\s/?#]*@")
_DATABASE = re.compile(r"(?<=://)(?P<user>[^\s:/@]*:)(?:(?!://)\S)*@")
_AUTHORITY = re.compile("://")
# The end of the text before "://". The search covers only the last few letters, so that long
# words cost no more than others.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*\Z")
_SCHEME_LETTERS = 40
# Names of credentials in the URLs of object stores, clouds and databases.
_PARAMETER = re.compile(
    r"(?P<name>[?&;][^\s=&;?'\"]*(?:sig|token|secret|pass|pwd|key|cred|auth|access|policy|session|jwt)"
    # The value ends at the next parameter, address or punctuation of the sentence around it.
    r"[^\s=&;?'\"]*=)(?:(?!,[A-Za-z][A-Za-z0-9+.-]*://|[:,](?:\s|$))[^\s&;#'\"])*",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """Replace passwords in URIs, and values of query parameters such as `token`, by `***`.

    The user name stays, except in a web address that has no password: there it counts as a token.
    """
    parts, at = [], 0
    for authority in _AUTHORITY.finditer(text):
        if authority.start() < at:
            continue  # inside a secret that is already hidden
        begin = max(at, authority.start() - _SCHEME_LETTERS)
        scheme = _SCHEME.search(text[begin : authority.start()])
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
