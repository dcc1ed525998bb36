"""The time zone of whoever looks at the admin: its pages, lists and files tell times, and count days, by it.

The browser says it in a cookie (`admin.js`); until it has, and where it says nonsense, the site's own counts.
"""

from __future__ import annotations

import functools
import zoneinfo
from collections.abc import Callable

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone

COOKIE = "gateway_time_zone"
_PREFIX = "/admin/"
# Read from files, hundreds of them, which took a tenth of the time of every page.
_known_zones = functools.cache(zoneinfo.available_timezones)


class ViewersTimeZone:
    """Middleware: times are told in the viewer's zone while the admin answers a request."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._next = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not request.path.startswith(_PREFIX):
            return self._next(request)
        with timezone.override(zone_of(request)):
            return self._next(request)


def zone_of(request: HttpRequest) -> zoneinfo.ZoneInfo | None:
    """Return the zone a browser says it is in; None for the site's own."""
    name = request.COOKIES.get(COOKIE, "")
    if name not in _known_zones():
        return None
    return zoneinfo.ZoneInfo(name)
