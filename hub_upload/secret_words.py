"""Find secrets and local paths in the bytes of a file: in text, UTF-16, Base64, or between the numbers of weights.

The patterns for keys of other services come from detect-secrets. Only its regular expressions are used; no service is
asked whether a key is valid.
"""

import base64
import binascii
import importlib
import re
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from .bounded_files import open_regular

_BLOCK, _OVERLAP = 2**20, 2**12  # bytes per block, and the overlap of two blocks
_WINDOW, _STEP = 2**12, 2**12 - 2**9  # characters per search, so that no pattern is slow
_SECONDS, _SECONDS_PER_BLOCK = 20, 2

# Between numbers, this many letters in a row do not occur by chance.
_READABLE = re.compile(rb"[\t\x20-\x7e]{20,}")
_WIDE = re.compile(rb"(?:[\t\x20-\x7e]\x00){7,}[\t\x20-\x7e]")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{24,}(?:\s+[A-Za-z0-9+/_-]{4,})*={0,2}")

# Patterns that detect-secrets lacks, or has in one spelling only, by their name in the report.
_OWN_PATTERNS = {
    "access token of Hugging Face": r"\bhf_[A-Za-z0-9]{20,}|\bapi_org_[A-Za-z0-9]{20,}",
    "GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}",
    "GitLab token": r"\bgl(?:pat|dt|ft|soat|rt|ptt|cbt|agent|imt)-[\w-]{20,}",
    "key of a language model's service": r"(?<![A-Za-z-])sk-[A-Za-z0-9_-]{30,}",
    "private key": r"BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY|PuTTY-User-Key-File",
    "Slack token": r"\bxox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{10,}|\bxapp-\d-[A-Za-z0-9-]{10,}",
    "Google key": r"\bAIza[\w-]{35}|\bya29\.[\w-]{20,}|\bGOCSPX-[\w-]{20,}",
    "key of Weights & Biases": r"(?i:wandb).{0,80}?(?<![0-9a-f])[0-9a-f]{40}(?![0-9a-f])|\bwandb_v\d_\w{20,}",
    "password in an address": r"://[^\s/:@\"'<>{}]{1,64}:[^\s/@\"'<>{}]{3,128}@",
    "password or key": (
        r"(?i)(?<![a-z])(?:[a-z0-9]{1,20}[_-]){0,4}(?:api_?key|secret(?:_?(?:access_?)?key)?|passw(?:or)?d|auth_?token"
        r"|access_?token)[\\\"']{0,2}\s{0,3}[:=]\s{0,3}[\\\"']{0,2}(?=[^\s\"'(\[{]{0,40}\d)[^\s\"',;()\[\]{}<>]{8,}"
    ),
}
# Plugins of detect-secrets for keys with a fixed form; the other plugins guess, or match words.
_PLUGINS = [
    ("aws", "AWSKeyDetector"),
    ("azure_storage_key", "AzureStorageKeyDetector"),
    ("discord", "DiscordBotTokenDetector"),
    ("github_token", "GitHubTokenDetector"),
    ("gitlab_token", "GitLabTokenDetector"),
    ("jwt", "JwtTokenDetector"),
    ("mailchimp", "MailchimpDetector"),
    ("npm", "NpmDetector"),
    ("openai", "OpenAIDetector"),
    ("private_key", "PrivateKeyDetector"),
    ("pypi_token", "PypiTokenDetector"),
    ("sendgrid", "SendGridDetector"),
    ("slack", "SlackDetector"),
    ("square_oauth", "SquareOAuthDetector"),
    ("stripe", "StripeDetector"),
    ("telegram_token", "TelegramBotTokenDetector"),
    ("twilio", "TwilioKeyDetector"),
]

_ROOTS = (
    "home|Users|root|tmp|private|mnt|media|work|scratch|opt|srv|var|usr|etc|content|kaggle|workspaces?|Volumes|gpfs"
    "|lustre|nfs|storage|projects?|data|dbfs|notebooks|cluster"
)
_PATHS = re.compile(
    rf"(?<![\w./:%*\\-])/(?:{_ROOTS})/[\w.~-][^\s\"'<>`)]*"
    r"|\bfile:/{1,3}\w[^\s\"'<>`)]*"
    r"|(?<![\w%])[A-Za-z]:(?:\\{2}|\\(?![nrtbf](?![a-z])))[\w$.~-]{3}[^\s\"'<>`)]*"
    r"|(?<![\w%])[A-Za-z]:/(?:Users|home|Windows|Program)[^\s\"'<>`)]*"
    r"|(?<![\w\\])\\{2}(?:\\{2})?[A-Za-z0-9][\w.-]+\\{1,2}[\w$][\w$.-]+[^\s\"'<>`)]*"
)


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    """Every pattern, with the name of what it finds."""
    patterns = [(name, re.compile(pattern)) for name, pattern in _OWN_PATTERNS.items()]
    for module, name in _PLUGINS:
        plugin = getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), name)
        patterns += [(plugin.secret_type, pattern) for pattern in plugin.denylist]
    return patterns


def search(path: Path, *, paths: bool = True) -> Iterator[str]:
    """Describe private content of a file: at most one secret and one path.

    Args:
        path: a regular file.
        paths: whether to search for paths, too.
    """
    home = str(Path.home())
    secret = local_path = None
    until = time.process_time() + _SECONDS + _SECONDS_PER_BLOCK * (path.stat().st_size // _BLOCK)
    for text in _windows(_texts(path)):
        if time.process_time() > until:
            yield "more than can be looked through in reasonable time"
            return
        secret = secret or next((name for name, pattern in _patterns() if pattern.search(text)), None)
        if paths and local_path is None:
            match = _PATHS.search(text)
            local_path = match.group() if match else home if len(home) > 1 and f"{home}/" in text else None
        if secret and (local_path or not paths):
            break
    if secret:
        yield f"what looks like an access token or a key ({secret})"
    if local_path:
        yield f"a path of one machine, {local_path[:80]}"


def _windows(texts: Iterable[str]) -> Iterator[str]:
    """Split texts into short, overlapping pieces for the search."""
    for text in texts:
        for start in range(0, max(1, len(text) - _WINDOW + _STEP), _STEP):
            yield text[start : start + _WINDOW]


def _texts(path: Path) -> Iterator[str]:
    """Yield everything in a file that can be read as text."""
    with open_regular(path) as file:
        before = b""
        while block := file.read(_BLOCK):
            content = before + block
            before = content[-_OVERLAP:]
            yield from _words(content)
            for match in _BASE64.finditer(content):
                yield from _words(_decoded(match.group()))


def _words(content: bytes) -> Iterator[str]:
    """Yield text unchanged; from other content, yield runs of letters with one or two bytes each."""
    if b"\x00" not in content:
        text = content.decode("utf-8", "replace")
        if text.count("\N{REPLACEMENT CHARACTER}") * 50 <= len(text):
            yield text
            return
    for pattern, width in ((_READABLE, 1), (_WIDE, 2)):
        runs = [match.group()[::width].decode("ascii") for match in pattern.finditer(content)]
        if runs:
            yield "\n".join(runs)


def _decoded(run: bytes) -> bytes:
    """Decode a run of Base64 in either alphabet; empty if it is not valid."""
    letters = b"".join(run.split()).rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
    try:
        return base64.b64decode(letters[: len(letters) // 4 * 4] + _rest(letters))
    except binascii.Error:
        return b""


def _rest(letters: bytes) -> bytes:
    """Pad the last letters of Base64 to a group of four."""
    rest = letters[len(letters) // 4 * 4 :]
    return rest + b"=" * (4 - len(rest)) if len(rest) > 1 else b""
