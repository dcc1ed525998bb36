"""Images in a request: what may be handed to an agent's LLM.

The gateway never fetches an image. A `data:` URL is checked here; a remote URL is passed on for the LLM provider or
the agent-server to fetch, and so must not name a place that only they can reach.
"""

from __future__ import annotations

import re
import string
from urllib.parse import urlsplit

from chatgateway.errors import InvalidRequest

MEDIA_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
MAX_IMAGE_BYTES = 20 * 1024 * 1024
MAX_REMOTE_URL_CHARS = 8192

# Widely sent, and refused by providers.
_ALIASES = {"image/jpg": "image/jpeg"}
_BASE64 = (string.ascii_letters + string.digits + "+/").encode()

# At least two labels, the last not a number: this leaves out IP addresses in every spelling and single-word hosts.
_PUBLIC_HOST = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
# Reserved for private use (RFC 6761, RFC 6762, RFC 8375, ICANN's .internal) or used so in practice.
_PRIVATE_SUFFIXES = (
    ".localhost", ".local", ".localdomain", ".internal", ".intranet", ".private", ".corp", ".home", ".lan",
    ".home.arpa", ".in-addr.arpa", ".ip6.arpa", ".test", ".onion",
)  # fmt: skip


def checked_url(url: str, *, part: str, accepts_remote: bool) -> str:
    """The URL to hand on. `part` is the path of the content part, such as `messages.0.content.1`.

    Raises InvalidRequest, code `unsupported_content`, for what no LLM would get to see.
    """
    if url[:5].lower() == "data:":
        return _checked_data_url(url, part=part)
    if not accepts_remote:
        raise _refused(
            "This model does not fetch images from URLs. Send the image itself as a data: URL, "
            "for example data:image/png;base64,….",
            part=part,
        )
    _check_remote_url(url, part=part)
    return url


def _checked_data_url(url: str, *, part: str) -> str:
    header, comma, payload = url[5:].partition(",")
    media_type, *options = (piece.strip().lower() for piece in header[:200].split(";"))
    media_type = _ALIASES.get(media_type, media_type)
    if not comma or "base64" not in options:
        raise _refused("The image's data: URL must have the form data:image/png;base64,….", part=part)
    if media_type not in MEDIA_TYPES:
        raise _refused(f"Images can be sent as {', '.join(MEDIA_TYPES)}.", part=part)
    size = _decoded_size(payload)
    if size is None:
        raise _refused("The image's data: URL does not hold valid base64 (padded, without line breaks).", part=part)
    if size > MAX_IMAGE_BYTES:
        raise _refused(f"The image is larger than {MAX_IMAGE_BYTES // 1024 // 1024} MiB.", part=part)
    return f"data:{media_type};base64,{payload}"


def _decoded_size(payload: str) -> int | None:
    """Bytes after decoding, or None if this is not base64. Decoding 20 MB would take five times as long."""
    if not payload or len(payload) % 4 or not payload.isascii():
        return None
    padding = payload.encode("ascii").translate(None, _BASE64)
    if padding not in (b"", b"=", b"==") or not payload.endswith(padding.decode()):
        return None
    return len(payload) // 4 * 3 - len(padding)


def _check_remote_url(url: str, *, part: str) -> None:
    # Parsers disagree about white space, control characters and backslashes; a URL of an image needs none of them.
    if len(url) > MAX_REMOTE_URL_CHARS or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise _refused("The image's URL is too long or holds characters that must be percent-encoded.", part=part)
    try:
        pieces = urlsplit(url)
        host = (pieces.hostname or "").removesuffix(".")
        has_user = pieces.username is not None
        _ = pieces.port  # raises for what is no port
    except ValueError:
        raise _refused("The image's URL cannot be read.", part=part) from None
    if pieces.scheme.lower() != "https":
        raise _refused("Remote images must be given as https:// URLs.", part=part)
    if has_user:
        raise _refused("The image's URL must not contain a user name or password.", part=part)
    if len(host) > 253 or not _PUBLIC_HOST.fullmatch(host) or f".{host}".endswith(_PRIVATE_SUFFIXES):
        raise _refused("Remote images must be on a public host, given by its name.", part=part)


def _refused(message: str, *, part: str) -> InvalidRequest:
    return InvalidRequest(message, param=part, code="unsupported_content")
