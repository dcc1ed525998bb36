"""The OpenID Connect flow: to the provider with a challenge, back with a code, and who it says that is.

Authlib runs it, with PKCE, `state` and `nonce`. What is checked of the ID token is written down here: signature,
issuer, audience, expiry, nonce. Authlib checks no audience unless told to.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import requests
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.django_client import OAuth
from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from joserfc.errors import JoseError

from gateway_project.sign_in.failures import SignInFailed

# The provider's metadata and keys are read again after this; a key it has never seen is asked for at once.
METADATA_SECONDS = 3600.0
TIMEOUT_SECONDS = 10.0
LEEWAY_SECONDS = 60
# Signed with the provider's private key. `none` is no signature, and HS… is one with our own secret.
_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
# Asked with POST or GET, a provider may answer anything at all.
_NONSENSE = (ValueError, TypeError, KeyError, AttributeError, RuntimeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody as the provider describes them. `issuer` and `subject` are who; the rest may change."""

    issuer: str
    subject: str
    username: str
    email: str
    full_name: str
    groups: frozenset[str]


def begin(request: HttpRequest, *, callback_url: str) -> HttpResponseBase:
    """Send the browser to the provider. What must fit on the way back is kept in the session."""
    try:
        redirect: HttpResponseBase = _client().authorize_redirect(request, callback_url)
    except (AuthlibBaseError, requests.RequestException, *_NONSENSE) as error:
        raise _unreachable(error) from error
    return redirect


def finish(request: HttpRequest) -> Person:
    """Exchange the code that the browser brought, and return who it stands for."""
    client = _client()
    issuer: str = client.server_metadata["issuer"]
    expected = {
        "iss": {"essential": True, "value": issuer},
        "aud": {"essential": True, "value": settings.GATEWAY_OIDC_CLIENT_ID},
        "exp": {"essential": True},
        "sub": {"essential": True},
    }
    try:
        token = client.authorize_access_token(request, claims_options=expected, leeway=LEEWAY_SECONDS)
        claims: dict[str, Any] | None = token.get("userinfo")
    except (AuthlibBaseError, JoseError) as error:
        raise SignInFailed(
            "The identity provider did not confirm who you are. Begin again; if it happens again, tell whoever runs "
            "this gateway.",
            reason=f"{type(error).__name__}: {error}",
        ) from error
    except (requests.RequestException, *_NONSENSE) as error:
        raise _unreachable(error) from error
    if not claims:
        raise _unreachable(ValueError("no ID token"))
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= 255:
        raise _unreachable(ValueError("an unusable subject"))
    if _groups_in(claims) is None:
        claims = _with_userinfo(client, token, claims)
    return Person(
        issuer=issuer,
        subject=subject,
        username=_text(claims, "preferred_username") or _text(claims, "email") or subject,
        email=_text(claims, "email"),
        full_name=_text(claims, "name"),
        groups=_groups_in(claims) or frozenset(),
    )


# --- inside -------------------------------------------------------------------------------------------------------

_known: tuple[tuple[str, ...], float, Any] | None = None


def _client() -> Any:
    """Authlib's client of the provider, with its metadata. Kept for an hour."""
    global _known  # noqa: PLW0603  # one per process
    wanted = (
        settings.GATEWAY_OIDC_ISSUER,
        settings.GATEWAY_OIDC_CLIENT_ID,
        settings.GATEWAY_OIDC_CLIENT_SECRET,
        *settings.GATEWAY_OIDC_SCOPES,
    )
    if _known is not None and _known[0] == wanted and _known[1] > time.monotonic():
        return _known[2]
    client = OAuth().register(
        "gateway",
        client_id=settings.GATEWAY_OIDC_CLIENT_ID,
        client_secret=settings.GATEWAY_OIDC_CLIENT_SECRET,
        server_metadata_url=f"{settings.GATEWAY_OIDC_ISSUER}/.well-known/openid-configuration",
        client_kwargs={
            "scope": " ".join(settings.GATEWAY_OIDC_SCOPES),
            "code_challenge_method": "S256",
            "default_timeout": TIMEOUT_SECONDS,
        },
    )
    try:
        metadata = client.load_server_metadata()
        issuer = str(metadata["issuer"])
        offered = metadata.get("id_token_signing_alg_values_supported") or ["RS256"]
        metadata["id_token_signing_alg_values_supported"] = sorted(_ALGORITHMS.intersection(offered))
    except (requests.RequestException, *_NONSENSE) as error:
        raise _unreachable(error) from error
    if issuer.rstrip("/") != settings.GATEWAY_OIDC_ISSUER:
        raise _unreachable(ValueError(f"it calls itself {issuer}"))
    _known = (wanted, time.monotonic() + METADATA_SECONDS, client)
    return client


def _with_userinfo(client: Any, token: Any, claims: dict[str, Any]) -> dict[str, Any]:
    """Some providers tell groups only there. What it says of somebody else is no use."""
    if "userinfo_endpoint" not in client.server_metadata:
        return claims
    try:
        told: dict[str, Any] = dict(client.userinfo(token=token))
    except (AuthlibBaseError, requests.RequestException, *_NONSENSE) as error:
        raise _unreachable(error) from error
    if told.get("sub") != claims["sub"]:
        raise _unreachable(ValueError("its userinfo is about somebody else"))
    return told | claims


def _groups_in(claims: dict[str, Any]) -> frozenset[str] | None:
    """The groups, at a path such as realm_access.roles; None if nothing stands there."""
    found: Any = claims
    if settings.GATEWAY_OIDC_GROUPS_CLAIM in claims:  # a name with dots, such as a URL
        found = claims[settings.GATEWAY_OIDC_GROUPS_CLAIM]
    else:
        for name in settings.GATEWAY_OIDC_GROUPS_CLAIM.split("."):
            found = found.get(name) if isinstance(found, dict) else None
    if isinstance(found, str):
        return frozenset({found})
    return frozenset(map(str, found)) if isinstance(found, list) else None


def _text(claims: dict[str, Any], name: str) -> str:
    value = claims.get(name)
    return value.strip() if isinstance(value, str) else ""


def _unreachable(error: Exception) -> SignInFailed:
    return SignInFailed(
        "The identity provider cannot be reached, or answers in a way that this gateway does not understand. Try "
        "again in a while.",
        reason=f"{type(error).__name__}: {error}",
        status=502,
    )
