"""The two pages of a sign-in through OpenID Connect: there and back. Without a provider in the settings, 404."""

from __future__ import annotations

import logging

from django.conf import settings
from django.contrib import admin
from django.contrib.auth import REDIRECT_FIELD_NAME, login
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from gateway_project.sign_in.failures import SignInFailed
from profiles.authentication import address_of

logger = logging.getLogger(__name__)

_NEXT = "sign_in_next"
_BACKEND = "gateway_project.sign_in.backends.OpenIdBackend"


@never_cache
@require_GET
def begin(request: HttpRequest) -> HttpResponseBase:
    """Send the browser to the provider; `next` says where it ends up."""
    from gateway_project.sign_in import openid

    _require_provider()
    wanted = request.GET.get(REDIRECT_FIELD_NAME, "")
    if url_has_allowed_host_and_scheme(wanted, allowed_hosts={request.get_host()}, require_https=request.is_secure()):
        request.session[_NEXT] = wanted
    try:
        return openid.begin(request, callback_url=f"{settings.GATEWAY_PUBLIC_URL}{reverse('oidc-callback')}")
    except SignInFailed as failure:
        return _failed(request, failure)


@never_cache
@require_GET
def callback(request: HttpRequest) -> HttpResponseBase:
    """Where the provider sends the browser back to: sign in whoever it vouches for."""
    from gateway_project.sign_in import openid, people

    _require_provider()
    try:
        person = openid.finish(request)
        user = people.user_of(person, address=address_of(request))
    except SignInFailed as failure:
        return _failed(request, failure)
    wanted = request.session.pop(_NEXT, reverse("admin:index"))
    login(request, user, backend=_BACKEND)
    return HttpResponseRedirect(wanted)


def _require_provider() -> None:
    if not settings.GATEWAY_OIDC_ISSUER:
        raise Http404("GATEWAY_OIDC_ISSUER is not set.")


def _failed(request: HttpRequest, failure: SignInFailed) -> HttpResponse:
    logger.warning("a sign-in through OpenID Connect from %s failed: %s", address_of(request), failure.reason)
    context = admin.site.each_context(request) | {"title": "Not signed in", "message": str(failure)}
    return render(request, "gateway_project/sign_in_failed.html", context, status=failure.status)
