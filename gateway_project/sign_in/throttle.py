"""What django-axes asks of us: whose failures are counted together, and what somebody who is locked out is told.

Failures are counted in the database, so over all processes.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from profiles.authentication import address_of


def counted_address(request: HttpRequest) -> str | None:
    """Return the address failures are counted under; of an IPv6 host its network, as it has 2^64 addresses."""
    try:
        address = ipaddress.ip_address(address_of(request))
    except ValueError:  # a Unix socket
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), 64), strict=False).network_address)


def locked_out(request: HttpRequest, *_: Any) -> HttpResponse:
    """Answer whoever is locked out: 429, for how long, and who can help."""
    wait = settings.AXES_COOLOFF_TIME
    context = admin.site.each_context(request) | {
        "title": "Locked out",
        "limit": settings.AXES_FAILURE_LIMIT,
        "minutes": round(wait.total_seconds() / 60),
    }
    response = render(request, "gateway_project/locked_out.html", context, status=429)
    response["Retry-After"] = str(round(wait.total_seconds()))
    return response
