"""Documents that hold what callers, models and tools wrote, for sandboxed frames: no script, no other host, no form.

They are the only pages of the admin that may be framed, and only by the admin itself.
"""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.csp import CSP

POLICY = {
    "default-src": [CSP.NONE],
    "style-src": [CSP.SELF],
    "img-src": ["data:"],
    "base-uri": [CSP.NONE],
    "form-action": [CSP.NONE],
    "frame-ancestors": [CSP.SELF],
    "sandbox": True,
}


def document(
    request: HttpRequest, *, text: str, note: str = "", links: list[tuple[str, str]] | None = None
) -> HttpResponse:
    """Return `text` as an HTML document of escaped, preformatted text. `links` are (title, URL) of our own pages."""
    content = render_to_string(
        "chatgateway/admin/frame.html", {"text": text, "note": note, "links": links or []}, request=request
    )
    response = HttpResponse(content)
    response._csp_config = POLICY  # type: ignore[attr-defined]  # where Django's CSP middleware looks
    response["X-Frame-Options"] = "SAMEORIGIN"
    response["Cache-Control"] = "no-store, private"
    return response
