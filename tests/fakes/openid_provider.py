"""An OpenID provider on a loopback port that takes nothing on trust: it knows one client, its secret and where it may
send people back to, demands PKCE, and takes each code once. Told to, it lies, or breaks."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from joserfc import jws, jwt
from joserfc.jwk import OctKey, RSAKey

CLIENT_ID = "the-gateway"
CLIENT_SECRET = "client-q8Zr4vN1xW7tK2mB"
Claims = dict[str, Any]


@cache
def rsa_key(name: str) -> RSAKey:
    """Made once: it takes a while."""
    return RSAKey.generate_key(2048, {"kid": name, "use": "sig"})


class FakeOpenIdProvider:
    """Set `person` before somebody comes; `lie` changes the claims of the token, `sign` how it is signed, `replies`
    whole answers by path. `asked` keeps the paths that were asked for."""

    def __init__(self, *, callback_url: str = "") -> None:
        self.callback_url = callback_url
        self.person: Claims = {"sub": "u-17", "preferred_username": "anna", "email": "anna@corp.test"}
        self.userinfo: Claims | None = None
        self.key = rsa_key("first")
        self.algorithms = ["RS256"]
        self.lie: Callable[[Claims], Claims] = lambda claims: claims
        self.sign: Callable[[Claims], str] = self._signed
        self.replies: dict[str, tuple[int, str]] = {}
        self.is_silent = False  # takes questions and never answers
        self.asked: list[str] = []
        self.refusals: list[str] = []
        self._codes: dict[str, dict[str, str]] = {}
        self._tokens: set[str] = set()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider._get(self)

            def do_POST(self) -> None:
                provider._post(self)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def start(self) -> FakeOpenIdProvider:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    # --- what is asked ----------------------------------------------------------------------------------------------

    def _get(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlsplit(handler.path)
        self.asked.append(url.path)
        if self.is_silent:
            handler.rfile.read(1)  # until the caller goes
            return None
        if url.path in self.replies:
            return _send(handler, *self.replies[url.path])
        match url.path:
            case "/.well-known/openid-configuration":
                return _send(handler, 200, json.dumps(self._metadata()))
            case "/jwks":
                return _send(handler, 200, json.dumps({"keys": [self.key.as_dict(private=False)]}))
            case "/authorize":
                page = f'<h1>The provider</h1><form method="post" action="/authorize?{url.query}"><button>I am Anna</button></form>'
                return _send(handler, 200, page, kind="text/html")
            case "/userinfo":
                bearer = handler.headers.get("Authorization", "").removeprefix("Bearer ")
                told = self.userinfo or {"sub": self.person["sub"]}
                is_known = bearer in self._tokens
                return _send(handler, 200 if is_known else 401, json.dumps(told if is_known else {}))
        return _send(handler, 404, "{}")

    def _post(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlsplit(handler.path)
        self.asked.append(url.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0))).decode()
        if url.path in self.replies:
            return _send(handler, *self.replies[url.path])
        if url.path == "/authorize":
            return self._approve(handler, {name: values[0] for name, values in parse_qs(url.query).items()})
        return self._exchange(handler, {name: values[0] for name, values in parse_qs(body).items()})

    def _approve(self, handler: BaseHTTPRequestHandler, asked: dict[str, str]) -> None:
        expected = {
            "client_id": CLIENT_ID,
            "redirect_uri": self.callback_url,
            "response_type": "code",
            "code_challenge_method": "S256",
        }
        wrong = [name for name, value in expected.items() if asked.get(name) != value]
        wrong += [name for name in ("state", "nonce", "code_challenge") if len(asked.get(name, "")) < 16]
        if wrong:
            self.refusals.append(f"authorize: {', '.join(wrong)}")
            return _send(handler, 400, json.dumps(wrong))
        code = secrets.token_urlsafe(16)
        self._codes[code] = asked
        handler.send_response(302)
        handler.send_header("Location", f"{self.callback_url}?{urlencode({'code': code, 'state': asked['state']})}")
        handler.end_headers()
        return None

    def _exchange(self, handler: BaseHTTPRequestHandler, sent: dict[str, str]) -> None:
        asked = self._codes.pop(sent.get("code", ""), None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(sent.get("code_verifier", "").encode()).digest())
        if _basic(handler) != (CLIENT_ID, CLIENT_SECRET):
            return self._refuse(handler, "invalid_client")
        if asked is None or sent.get("redirect_uri") != asked["redirect_uri"]:
            return self._refuse(handler, "invalid_grant")
        if challenge.decode().rstrip("=") != asked["code_challenge"]:
            return self._refuse(handler, "invalid_grant")
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": asked["nonce"]}
        token = secrets.token_urlsafe(16)
        self._tokens.add(token)
        reply = {"access_token": token, "token_type": "Bearer", "expires_in": 300}
        return _send(
            handler, 200, json.dumps(reply | {"id_token": self.sign(self.lie(claims | self.person))})
        )  # fmt: skip

    def _refuse(self, handler: BaseHTTPRequestHandler, problem: str) -> None:
        self.refusals.append(f"token: {problem}")
        _send(handler, 400, json.dumps({"error": problem}))

    # --- what is answered -------------------------------------------------------------------------------------------

    def _metadata(self) -> Claims:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "id_token_signing_alg_values_supported": self.algorithms,
        }

    def _signed(self, claims: Claims) -> str:
        return jwt.encode({"alg": "RS256", "kid": self.key.kid}, claims, self.key)


def signed_by_a_stranger(claims: Claims) -> str:
    """With a key that the provider does not have, under the name of one that it has."""
    return jwt.encode({"alg": "RS256", "kid": "first"}, claims, rsa_key("stranger"))


def unsigned(claims: Claims) -> str:
    """With the algorithm `none`."""
    parts = ({"alg": "none", "typ": "JWT"}, claims)
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."


def signed_with_the_client_secret(claims: Claims) -> str:
    """With a key that every client of the provider knows."""
    registry = jws.JWSRegistry(algorithms=["HS256"])
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(CLIENT_SECRET), registry=registry)


def _basic(handler: BaseHTTPRequestHandler) -> tuple[str, str]:
    sent = handler.headers.get("Authorization", "").removeprefix("Basic ")
    name, _, secret = base64.b64decode(sent or b"Og==").decode().partition(":")
    return unquote(name), unquote(secret)


def _send(handler: BaseHTTPRequestHandler, status: int, body: str, *, kind: str = "application/json") -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body.encode())))
    handler.end_headers()
    handler.wfile.write(body.encode())
