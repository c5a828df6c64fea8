"""Redaction of secrets in output: a URI shows its scheme, host, path and the names in its query.

Everything else may be a secret and becomes `***`: user and password, the values of the query, and
the fragment. So do parts of a web address's path that look like tokens, or follow a part `token`.
"""

import re
from bisect import bisect_left

_HIDDEN = "***"
# Where user and password stand: behind the slashes, also of a URI with one slash or without its
# scheme. Lengths are bounded, so that long words cost no more than others.
_AUTHORITY = re.compile(
    r"(?P<web>\bhttps?)?(?P<slashes>:[/\\]+)"
    r"|(?:^|(?<=[\s'\"`=(]))(?://)?(?=[^\s:/@'\"`=(]+:[^\s/\\])",
    re.IGNORECASE,
)
_HOST = re.compile(r"\[[^\]\s]*\]|[^\s:/?#@]*")
_ENCODED = re.compile("%40|%3a", re.IGNORECASE)
_NEXT = r"[,;|][A-Za-z][A-Za-z0-9+.-]{0,40}://"
_PORT = re.compile(rf":\d{{1,5}}(?=[/?#]|['\"`,;:)\]}}>.]{{0,8}}(?:\s|\Z)|['\"][,:)\]}}]|{_NEXT})")
_WORD_END = re.compile(rf"\s|\Z|{_NEXT}")
# A value also ends at the punctuation of the sentence, the call or the JSON around it.
_VALUE_END = re.compile(rf"['\"`)\]}}>]{{0,8}}[:,.;!]{{0,3}}(?:\s|\Z)|['\"](?=[,:)\]}}])|{_NEXT}")
# On disks and in buckets a question mark is a wildcard, and # a letter.
_QUERY = re.compile(
    r"(?:\b(?!(?:s3|gs|file):)(?P<uri>[a-z][a-z0-9+.-]{0,40}:/(?:[^\s?#;&:]|:(?!/))*+))?(?P<mark>[?#;&])",
    re.IGNORECASE,
)
_NAME = re.compile(r"[\w.~%+$\[\]-]{1,64}=")
# MLflow's interface has its pages behind the #. Their queries name ids of runs, and saved views.
_IDS = r"%5B(?:%22(?:[0-9a-f]{32}|\d{1,20})%22(?:%2C)?)+%5D"
_VIEW = rf"(?:runs={_IDS}&experiments={_IDS}|viewStateShareKey=scores_\w+(?:\.\d+)?)"
_PAGE = re.compile(
    rf"(?:/[\w.~%-]*)+(?:\?{_VIEW})?(?:[?&]workflowType=\w{{1,20}})?(?=\s|\Z|['\"`),.:])"
)
_IN_A_VALUE = re.compile(
    r"(?P<scheme>%3a%2f%2f)(?:(?:(?!%3a%2f%2f|%40)\S)*+(?P<at>%40))+", re.IGNORECASE
)
# Credentials in the environment, a database's connection string, an HTTP header or a library's
# error. In quotes they may hold spaces.
_SECRET = (
    r"(?:passw|passphrase|\bpass\b|pwd|secret|token|signature|credential"
    r"|(?:api|access|account|private)[_-]?key)[\w.-]{0,40}"
)
_QUOTED = re.compile(
    rf"(?P<name>{_SECRET}(?:['\"]?\s?(?:=|%3D)|['\"]\s?:)\s?(?P<quote>['\"]))"
    r"(?:\\.|(?!(?P=quote))[^\\\n])+",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(
    rf"(?P<name>{_SECRET}['\"]?\s?(?:=|%3D)\s?['\"]?|\bBearer\s|\bBasic\s)"
    r"(?!\*\*\*)(?:\{[^}\s]*\}|(?:\\.|[^\s;&'\",)\\]){3,})",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"(?P<name>(?:-key|-token|\bauthorization|\bcookie)['\"]?\s?:"
    r"\s?['\"]?(?:(?:basic|bearer|digest|token)\s)?)[^\s'\"][^\n'\"]*",
    re.IGNORECASE,
)
# A query that is itself percent-encoded.
_ENCODED_QUERY = re.compile(r"%3f(?:(?!%3f)[^\s'\"&])*%3d[^\s'\"&,]*", re.IGNORECASE)

# The path of a web address, and its parts before a token.
_PATH = re.compile(
    r"(?P<server>\bhttps?://[^\s/?#'\"`]*)(?P<path>/[^\s?#'\"`)\]}>]*)", re.IGNORECASE
)
_BEFORE_TOKEN = re.compile(
    r"(?:access|api|auth|bearer|refresh)?[_-]?tokens?|api[_-]?keys?|secrets?|passwords?|passwd|pwd"
    r"|sig|signature|sas|credentials?",
    re.IGNORECASE,
)
# Tokens of known services, which say so, and three parts in base64 that begin as JSON does.
_PREFIXES = r"gh[a-z]_|github_pat_|glpat-|xox[a-z]-|hf_|sk-"
_SERVICE = re.compile(
    rf"\b(?:{_PREFIXES})[A-Za-z0-9_-]{{16,}}"
    r"|\beyJ[\w-]{8,}\.eyJ[\w-]{4,}(?:\.[\w-]*)?"
)
_TOKEN = re.compile(
    rf"(?:{_PREFIXES}|AKIA|ya29\.|bot\d+:).{{8,}}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"
)
# A random word of letters of both cases and digits; hashes and ids are in lower case.
_RANDOM = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*\d)[\w+=~%-]{20,}", re.ASCII)
_CHANGE = re.compile(r"(?<=[a-z])(?=[A-Z\d])|(?<=[A-Z])(?=[a-z\d])|(?<=\d)(?=[A-Za-z])")
_LEAST_CHANGES = 8


def redacted(text: str) -> str:
    """Replace by `***` whatever in the URIs of a text may be a secret.

    Scheme, host and path remain, without what looks like a token, and the names of a query's
    parameters. Credentials that are assigned in other text, such as `password=...`, are hidden too.
    """
    text = _PATH.sub(_without_tokens, _without_values(_without_users(text)))
    text = _IN_A_VALUE.sub(rf"\g<scheme>{_HIDDEN}\g<at>", text)
    text = _ENCODED_QUERY.sub(f"%3F{_HIDDEN}", text)
    for pattern in (_QUOTED, _HEADER, _ASSIGNED):
        text = pattern.sub(rf"\g<name>{_HIDDEN}", text)
    return _SERVICE.sub(_HIDDEN, text)


def _without_users(text: str) -> str:
    parts, at = [], 0
    words = [found.start() for found in _WORD_END.finditer(text)]
    for found in _AUTHORITY.finditer(text):
        start = found.end()
        if start < at:
            continue  # inside a secret that is already hidden
        end, word = start, words[bisect_left(words, start)]
        is_uri, is_web = found["slashes"] == "://", found["web"] is not None
        while (after := _user_end(text, end, word, is_uri=is_uri, is_web=is_web)) > end:
            end = after
        if end > start:
            host = "@" if text[end - 1] == "@" else ""
            parts += [text[at:start], _HIDDEN, host]
            at = end
    return "".join([*parts, text[at:]])


def _user_end(text: str, start: int, word_end: int, *, is_uri: bool, is_web: bool) -> int:
    """Return the place behind the @ of user and password, or `start` if there are none."""
    host = _HOST.match(text, start)
    assert host is not None, "it matches nothing too"
    colon = host.end()
    follows = text[colon : colon + 1]
    if follows == "@" and is_uri:
        return colon + 1
    if follows != ":":
        return colon if is_uri and _ENCODED.search(host[0]) else start
    port = _PORT.match(text, colon)
    behind = text.rfind("@", colon, word_end) + 1
    # Of the web, a path may hold an @; a password may begin with digits and hold a slash.
    if is_uri and port and (not behind or (is_web and text.count("/", colon, behind) > 1)):
        return start
    # A password can hold any letter, up to the last @ of the word.
    if behind or not is_uri:
        return behind or start
    if not text[colon + 1 : colon + 2].strip() or host[0].endswith(("'", '"', "`")):
        return start  # the colon is punctuation
    # The password holds a space, or the host is missing.
    line = text[colon:].split("\n", 1)[0].split("://", 1)[0]
    return colon + line.find("@") + 1 if "@" in line else _value_end(text, colon)


def _without_values(text: str) -> str:
    parts, at, page_end = [], 0, 0
    for found in _QUERY.finditer(text):
        start = found.end()
        if start < max(at, page_end):
            continue
        if not _NAME.match(text, start):
            if found["uri"] is None or found["mark"] not in "?#":
                continue
            if found["mark"] == "#" and (page := _PAGE.match(text, start)):
                page_end = page.end()
                continue
        end = _value_end(text, start)
        parts += [text[at:start], "&".join(map(_shown, text[start:end].split("&")))]
        at = end
    return "".join([*parts, text[at:]])


def _without_tokens(found: re.Match[str]) -> str:
    parts = found["path"].split("/")
    hidden = [
        _HIDDEN if part and (_BEFORE_TOKEN.fullmatch(before) or _is_token(part)) else part
        for before, part in zip(["", *parts], parts, strict=False)
    ]
    return found["server"] + "/".join(hidden)


def _is_token(part: str) -> bool:
    if _TOKEN.fullmatch(part):
        return True
    return bool(_RANDOM.fullmatch(part)) and len(_CHANGE.findall(part)) >= _LEAST_CHANGES


def _shown(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    if not parameter:
        return ""
    # A word that ends in = is rather a value in base64 than a name.
    is_named = value.partition("#")[0].strip("=") and _NAME.fullmatch(name + equals)
    return f"{name}={_HIDDEN}" if is_named else _HIDDEN


def _value_end(text: str, start: int) -> int:
    found = _VALUE_END.search(text, start)
    assert found is not None, "it matches the end"
    return found.start()
