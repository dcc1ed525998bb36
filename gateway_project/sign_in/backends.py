"""What Django's sign-in needs of somebody who came through OpenID Connect: their row and permissions, no password."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.backends import ModelBackend


class OpenIdBackend(ModelBackend):
    """Sessions that `sign_in.views.callback` began name it. Taken out of the settings, those sessions end."""

    def authenticate(self, request: Any, username: str | None = None, password: str | None = None, **_: Any) -> None:
        """Nobody: the provider was asked, not we."""
