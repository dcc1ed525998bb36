"""Every setting, read once. `docs/reference/settings.md` lists the environment variables.

Secrets can also be given as a file: `NAME_FILE=/run/secrets/name` wins over nothing and clashes with `NAME`.
"""

from __future__ import annotations

import datetime as dt
import importlib.util
import ipaddress
import os
import re
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import django_stubs_ext
import environ
from django.core.exceptions import ImproperlyConfigured
from django.templatetags.static import static
from django.utils.csp import CSP

# litellm fetches its price map from the internet when it is imported, with retries in the background. The map
# that ships with it is used instead: an air-gapped host must start as fast as any other.
django_stubs_ext.monkeypatch()

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()


def _secret(name: str, default: str = "") -> str:
    """`NAME`, or the content of the file that `NAME_FILE` names."""
    path = env.str(f"{name}_FILE", default="")
    value = env.str(name, default="")
    if path and value:
        raise ImproperlyConfigured(f"Set {name} or {name}_FILE, not both.")
    if path:
        try:
            return Path(path).read_text().strip()
        except OSError as error:
            raise ImproperlyConfigured(f"{name}_FILE={path}: {error.strerror}.") from error
    return value or default


def _integer(name: str, default: int, *, minimum: int = 0) -> int:
    raw = env.str(name, default=str(default))
    try:
        value = int(raw)
    except ValueError:
        raise ImproperlyConfigured(f"{name}={raw!r} is not a whole number.") from None
    if value < minimum:
        raise ImproperlyConfigured(f"{name}={value} is below {minimum}.")
    return value


def _number(name: str, default: float, *, minimum: float = 0) -> float:
    raw = env.str(name, default=str(default))
    try:
        value = float(raw)
    except ValueError:
        raise ImproperlyConfigured(f"{name}={raw!r} is not a number.") from None
    if not minimum <= value < float("inf"):
        raise ImproperlyConfigured(f"{name}={raw} is below {minimum} or not finite.")
    return value


def _boolean(name: str, *, default: bool) -> bool:
    raw: str = env.str(name, default=str(default)).strip().lower()
    if raw not in {"true", "false"}:
        raise ImproperlyConfigured(f"{name}={raw!r}: write true or false.")
    return raw == "true"


def _networks(name: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    try:
        return [ipaddress.ip_network(text.strip()) for text in env.list(name, default=[]) if text.strip()]
    except ValueError as error:
        raise ImproperlyConfigured(f"{name}: {error}. Write addresses or networks, such as 10.0.0.0/8.") from None


def _choice(name: str, default: str, allowed: set[str]) -> str:
    value: str = env.str(name, default=default).strip()
    if value not in allowed:
        raise ImproperlyConfigured(f"{name}={value!r}: write one of {', '.join(sorted(allowed))}.")
    return value


def _list(name: str, default: list[str] | None = None) -> list[str]:
    return [text.strip() for text in env.list(name, default=default or []) if text.strip()]


def _is_web_address(text: str, *, may_have_path: bool) -> bool:
    try:
        parts = urlsplit(text)
        is_whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that is not closed
        return False
    return (
        is_whole and not (parts.query or parts.fragment or re.search(r"\s", text)) and (may_have_path or not parts.path)
    )


def _url(name: str, default: str = "") -> str:
    value: str = env.str(name, default=default).strip().rstrip("/")
    if value and not _is_web_address(value, may_have_path=True):
        raise ImproperlyConfigured(f"{name}={value!r}: write a URL such as https://gateway.example.com.")
    return value


def _origins(name: str) -> list[str]:
    for origin in (values := _list(name)):
        if not _is_web_address(origin, may_have_path=False):
            raise ImproperlyConfigured(f"{name}: {origin!r} is no origin. Write them as https://chat.example.com.")
    return values


def _hosts(name: str, default: list[str]) -> list[str]:
    for host in (values := _list(name, default)):
        if re.search(r"[\s/?#@]", host) or re.fullmatch(r"[^:]+:\d*", host):
            raise ImproperlyConfigured(f"{name}: {host!r} is no host name. Write it without scheme, port and path.")
    return values


def _headers(name: str, default: list[str]) -> list[str]:
    for header in (values := _list(name, default)):
        if not re.fullmatch(r"[A-Za-z0-9-]+", header):
            raise ImproperlyConfigured(f"{name}: {header!r} is no name of a header. Use letters, digits and hyphens.")
    return values


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


def _roles(name: str) -> dict[str, str]:
    """Which group of the identity provider has which role here: group=role, …"""
    roles = {}
    for pair in _list(name):
        group, _, role = (text.strip() for text in pair.rpartition("="))
        if not group or role not in {"administrator", "operator", "auditor", "superuser"}:
            raise ImproperlyConfigured(
                f"{name}: {pair!r} is not group=role. Roles are administrator, operator, auditor and superuser."
            )
        roles[group] = role
    return roles


def _paths(name: str) -> list[str]:
    for path in (values := _list(name)):
        if not path.startswith("/"):
            raise ImproperlyConfigured(f"{name}: {path!r} is no absolute path.")
    return values


def _time_zone(name: str, default: str) -> str:
    value: str = env.str(name, default=default)
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ImproperlyConfigured(f"{name}={value!r} is no time zone. Write one such as Europe/Berlin.") from None
    return value


def _bootstrap_key() -> tuple[str, str]:
    """The name of the variable that fixes the first key, and its value; both empty when none does."""
    for name in ("GATEWAY_BOOTSTRAP_API_KEY", "OH_SESSION_API_KEYS_0"):
        value = _secret(name)
        if 0 < len(value) < 32:
            raise ImproperlyConfigured(f"{name} needs at least 32 characters, it has {len(value)}: keys are guessed.")
        if value:
            return name, value
    return "", ""


def _data_directory() -> Path:
    path = Path(env.str("GATEWAY_DATA_DIR", default=str(BASE_DIR / "data"))).resolve()
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ImproperlyConfigured(f"GATEWAY_DATA_DIR={path} cannot be made: {error.strerror}.") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ImproperlyConfigured(f"GATEWAY_DATA_DIR={path} cannot be written to by this user.")
    return path


def _data_file(name: str, *, length: int) -> str:
    """A secret made at the first start and kept in the data directory (0600), so that nobody need think of one."""
    path = DATA_DIR / "secrets" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        scratch = path.with_suffix(f".{os.getpid()}")
        scratch.touch(mode=0o600)
        scratch.write_text(secrets.token_urlsafe(length))
        try:
            os.link(scratch, path)  # fails if another process was first: both then read the same one
        except FileExistsError:
            pass
        finally:
            scratch.unlink()
    return path.read_text().strip()


if _boolean("GATEWAY_READ_DOTENV", default=True):
    environ.Env.read_env(BASE_DIR / ".env")
DATA_DIR = _data_directory()
DEBUG = _boolean("GATEWAY_DEBUG", default=False)

# --- secrets --------------------------------------------------------------------------------------------------
# Without these variables the embedded start keeps generated ones in the data directory; several hosts must share
# theirs, so there they are given.
SECRET_KEY = _secret("GATEWAY_SECRET_KEY") or _data_file("django", length=50)
# First key encrypts, all decrypt: put a new one in front, run `manage.py rotate_secrets`, remove the old one.
GATEWAY_ENCRYPTION_KEYS = [
    key.strip()
    for key in (_secret("GATEWAY_ENCRYPTION_KEYS") or _data_file("encryption", length=32)).split(",")
    if key.strip()
]
# Mixed into the digest of every API key, so that a stolen database alone cannot be used to test guesses.
GATEWAY_API_KEY_PEPPER = _secret("GATEWAY_API_KEY_PEPPER") or _data_file("pepper", length=32)

ALLOWED_HOSTS = _hosts("GATEWAY_ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]", "host.docker.internal"])
CSRF_TRUSTED_ORIGINS = _origins("GATEWAY_CSRF_TRUSTED_ORIGINS")

# --- applications ---------------------------------------------------------------------------------------------
INSTALLED_APPS = [
    "unfold.apps.BasicAppConfig",  # not its default one, which would put its own site in place of ours
    "unfold.contrib.filters",
    "gateway_project.apps.GatewayAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "axes",
    "corsheaders",
    "rest_framework",
    "profiles",
    "chatgateway",
    "gateway_project",
]
# The admin's middleware. /v1 and /api run through API_MIDDLEWARE in a handler of their own (asgi.py): each of
# these costs about 0.12 ms of CPU per request, and none of them means anything to an API client.
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.csp.ContentSecurityPolicyMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "chatgateway.admin.viewer.ViewersTimeZone",
    "axes.middleware.AxesMiddleware",
]
API_MIDDLEWARE = ["chatgateway.middleware.RequestIdentity", "chatgateway.middleware.ApiCors"]
ROOT_URLCONF = "gateway_project.urls"
ASGI_APPLICATION = "gateway_project.asgi.application"
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]

# --- database -------------------------------------------------------------------------------------------------
DATABASE_URL = _secret("GATEWAY_DATABASE_URL") or f"sqlite:///{DATA_DIR / 'gateway.sqlite3'}"
DATABASE_POOL_SIZE = _integer("GATEWAY_DATABASE_POOL_SIZE", 16, minimum=2)


def _database(url: str) -> dict[str, Any]:
    try:
        config: dict[str, Any] = env.db_url_config(url)
    except ValueError:  # not repeated: the URL may hold a password
        config = {}
    config["CONN_MAX_AGE"] = 0  # under ASGI a kept connection belongs to a thread that may serve no one for minutes
    if config.get("ENGINE") == "django.db.backends.sqlite3":
        # IMMEDIATE: a deferred transaction that turns into a writer fails at once with "database is locked".
        config["OPTIONS"] = {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            # Every turn writes the same pages again, those of indexes: the later they are copied from the log into the
            # file, and the file waited for, the fewer. 4000 pages are 16 MB of log.
            "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;PRAGMA wal_autocheckpoint=4000;",
        }
        # A file, not memory: the writer thread, the tests and the live server each have a connection.
        config["TEST"] = {"NAME": str(Path(config["NAME"]).with_name(f"test-{os.getpid()}.sqlite3"))}
    elif config.get("ENGINE") == "django.db.backends.postgresql":
        # A process that freezes inside a transaction (a paused machine) keeps its locks, and with them every turn of
        # all others: the server ends what has been idle for so long. Our own transactions never pause.
        frozen = {"options": "-c idle_in_transaction_session_timeout=10s"}
        # What the URL asks for after its "?", such as sslmode=verify-full, is the driver's.
        config["OPTIONS"] = (
            frozen
            | config.get("OPTIONS", {})
            | {
                "pool": {
                    "min_size": 1,
                    "max_size": DATABASE_POOL_SIZE,
                    "timeout": 10,
                }
            }
        )
    else:
        raise ImproperlyConfigured("GATEWAY_DATABASE_URL must be a sqlite:/// or postgres:// URL.")
    return config


DATABASES = {"default": _database(DATABASE_URL)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- web ------------------------------------------------------------------------------------------------------
LANGUAGE_CODE = "en"
TIME_ZONE = _time_zone("GATEWAY_TIME_ZONE", "UTC")
USE_TZ = True
STATIC_URL = "/static/"
STATIC_ROOT = DATA_DIR / "static"
WHITENOISE_USE_FINDERS = True
# Proxies whose X-Forwarded-For and X-Forwarded-Proto are believed. Anybody else could write anything there.
GATEWAY_TRUSTED_PROXIES = _networks("GATEWAY_TRUSTED_PROXIES")
# Where this gateway is reached, for links, printed commands and the profile test.
GATEWAY_PUBLIC_URL = _url("GATEWAY_PUBLIC_URL", "http://127.0.0.1:8000")

# --- signing in to the admin ----------------------------------------------------------------------------------
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"  # for whoever opens the sign-in page itself
_IS_HTTPS = GATEWAY_PUBLIC_URL.startswith("https://")
if _IS_HTTPS:  # its forms come from there, whatever a proxy says of the scheme
    CSRF_TRUSTED_ORIGINS.append(f"https://{urlsplit(GATEWAY_PUBLIC_URL).netloc}")
# Reached by https, cookies are never sent in the clear.
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _IS_HTTPS
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"  # Strict would lose the session on the way back from a sign-in
# Counted from the sign-in, not from the last click: a session that was carried off ends too.
SESSION_COOKIE_AGE = round(_number("GATEWAY_SESSION_HOURS", 12, minimum=0.05) * 3600)
# The admin alone is redirected: an API client that speaks plain HTTP has sent its key already, and must be told.
# Only a trusted proxy can say that a request came by https; without one every request would be redirected for ever.
SECURE_SSL_REDIRECT = _IS_HTTPS and bool(GATEWAY_TRUSTED_PROXIES)
SECURE_HSTS_SECONDS = _integer("GATEWAY_HSTS_SECONDS", 86_400) if _IS_HTTPS else 0
# Signing in through an identity provider, with OpenID Connect: docs/how-to/sign-in.md.
GATEWAY_OIDC_ISSUER = _url("GATEWAY_OIDC_ISSUER")
GATEWAY_OIDC_CLIENT_ID = env.str("GATEWAY_OIDC_CLIENT_ID", default="").strip()
GATEWAY_OIDC_CLIENT_SECRET = _secret("GATEWAY_OIDC_CLIENT_SECRET")
GATEWAY_OIDC_NAME = env.str("GATEWAY_OIDC_NAME", default="single sign-on").strip()
GATEWAY_OIDC_SCOPES = _list("GATEWAY_OIDC_SCOPES", ["openid", "profile", "email"])
GATEWAY_OIDC_GROUPS_CLAIM = env.str("GATEWAY_OIDC_GROUPS_CLAIM", default="groups").strip()
GATEWAY_OIDC_ROLES = _roles("GATEWAY_OIDC_ROLES")
GATEWAY_PASSWORD_SIGN_IN = _boolean("GATEWAY_PASSWORD_SIGN_IN", default=True)
if GATEWAY_OIDC_ISSUER and not (GATEWAY_OIDC_CLIENT_ID and GATEWAY_OIDC_CLIENT_SECRET and GATEWAY_OIDC_ROLES):
    raise ImproperlyConfigured(
        "GATEWAY_OIDC_ISSUER needs GATEWAY_OIDC_CLIENT_ID, GATEWAY_OIDC_CLIENT_SECRET and GATEWAY_OIDC_ROLES too."
    )
if not (GATEWAY_PASSWORD_SIGN_IN or GATEWAY_OIDC_ISSUER):
    raise ImproperlyConfigured("GATEWAY_PASSWORD_SIGN_IN=false needs GATEWAY_OIDC_ISSUER: nobody could sign in.")
if "openid" not in GATEWAY_OIDC_SCOPES:
    raise ImproperlyConfigured("GATEWAY_OIDC_SCOPES needs openid among them.")
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    *(["gateway_project.sign_in.backends.OpenIdBackend"] if GATEWAY_OIDC_ISSUER else []),
    *(["django.contrib.auth.backends.ModelBackend"] if GATEWAY_PASSWORD_SIGN_IN else []),
]
# Guessing passwords: so many failures of one user name from one address, then nothing is tried for a while. Per
# address, because else anybody could lock an administrator out; guesses from many addresses are limited by their
# number alone.
AXES_FAILURE_LIMIT = _integer("GATEWAY_SIGN_IN_FAILURES", 5, minimum=1)
AXES_COOLOFF_TIME = dt.timedelta(minutes=_number("GATEWAY_SIGN_IN_LOCK_MINUTES", 15, minimum=0.01))
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False  # whoever keeps trying is let in again all the same
AXES_CLIENT_IP_CALLABLE = "gateway_project.sign_in.throttle.counted_address"
AXES_LOCKOUT_CALLABLE = "gateway_project.sign_in.throttle.locked_out"
AXES_SENSITIVE_PARAMETERS = ["username", "ip_address", "csrfmiddlewaretoken"]
AXES_DISABLE_ACCESS_LOG = True  # who signed in when is not kept; failures are, until their time is over
AXES_ENABLE_ADMIN = False
AXES_VERBOSE = False
# Django's remarks: HSTS (04), redirect (08) and cookies (12, 16) follow from GATEWAY_PUBLIC_URL, and
# gateway_project.checks says what to do; of the key (09), DEBUG (18) and hosts (20) it has errors. Whether HSTS
# covers subdomains (05) and browsers' preload lists (21) is for the owner of the domain to say, in the proxy.
SILENCED_SYSTEM_CHECKS = [f"security.W0{number:02}" for number in (4, 5, 8, 9, 12, 16, 18, 20, 21)]

# What a page of the admin may load: nothing from any other host. 'unsafe-eval' and style attributes are what the
# theme's Alpine needs; no inline script and no inline style sheet is allowed. The one consequence to remember:
# untrusted text must never end up in an `x-…` attribute. Frame documents have a policy of their own.
SECURE_CSP: dict[str, list[str]] = {
    "default-src": [CSP.NONE],
    "script-src": [CSP.SELF, CSP.UNSAFE_EVAL],
    "style-src": [CSP.SELF],
    "style-src-attr": [CSP.UNSAFE_INLINE],
    "img-src": [CSP.SELF, "data:"],
    "font-src": [CSP.SELF],
    "connect-src": [CSP.SELF],
    "frame-src": [CSP.SELF],
    "form-action": [CSP.SELF],
    "base-uri": [CSP.NONE],
    "frame-ancestors": [CSP.NONE],
}
X_FRAME_OPTIONS = "DENY"

UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "OpenHands gateway",
    "SITE_HEADER": "OpenHands gateway",
    "SITE_SYMBOL": "hub",
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda _: static("chatgateway/favicon.svg")},
    ],
    "SITE_URL": None,  # the admin is all there is to see in a browser
    "SHOW_BACK_BUTTON": True,
    "STYLES": [lambda _: static("chatgateway/admin.css")],
    "SCRIPTS": [lambda _: static("chatgateway/admin.js")],
    "SIDEBAR": {"navigation": "gateway_project.admin_site.navigation"},
}

# The dispatcher refuses larger bodies itself, before Django reads them; Django's own limit must not be lower,
# or it answers with an HTML page.
GATEWAY_MAX_BODY_MIB = _integer("GATEWAY_MAX_BODY_MIB", 20, minimum=1)
DATA_UPLOAD_MAX_MEMORY_SIZE = None
FILE_UPLOAD_MAX_MEMORY_SIZE = 2_621_440

CORS_ALLOW_METHODS = ["GET", "POST", "DELETE", "OPTIONS"]
CORS_PREFLIGHT_MAX_AGE = 600
CORS_EXPOSE_HEADERS = [
    "x-request-id",
    "retry-after",
    "x-should-retry",
    "x-openhands-serverconversation-id",
    "x-gateway-conversation-match",
    "x-gateway-ignored",
    "x-gateway-housekeeping",
    "x-gateway-history-elided",
    "idempotent-replayed",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
]
CORS_ALLOWED_ORIGINS = _origins("GATEWAY_CORS_ALLOWED_ORIGINS")

# Nothing is looked up here: the views of /v1 and /api name their own classes (style: go to definition works).
REST_FRAMEWORK: dict[str, Any] = {
    "UNAUTHENTICATED_USER": None,
    "UNAUTHENTICATED_TOKEN": None,
}

# --- the gateway ----------------------------------------------------------------------------------------------
# Seconds between keep-alive comments in a silent stream. Proxies cut at 60-100 s, Node's fetch at 300 s.
GATEWAY_PING_SECONDS = _number("GATEWAY_PING_SECONDS", 15, minimum=0.05)
# Within this time a stream's status can still be a real 429 or 503; then its headers are sent.
GATEWAY_HEADERS_WITHIN_SECONDS = _number("GATEWAY_HEADERS_WITHIN_SECONDS", 0.8)
# A turn that finds every agent-server full waits this long before it is refused.
GATEWAY_QUEUE_TIMEOUT_SECONDS = _number("GATEWAY_QUEUE_TIMEOUT_SECONDS", 120)
# More waiting turns than this are refused at once.
GATEWAY_QUEUE_LIMIT = _integer("GATEWAY_QUEUE_LIMIT", 200)
# A title or the like that an LLM has not written by then comes from a template.
GATEWAY_HOUSEKEEPING_SECONDS = _number("GATEWAY_HOUSEKEEPING_SECONDS", 20, minimum=0.1)
# A conversation whose agent-server has failed for this long goes on at another one, told from the record.
GATEWAY_SERVER_GONE_SECONDS = _number("GATEWAY_SERVER_GONE_SECONDS", 60)
# How long a key or profile may be served from a process's memory after another process changed it.
GATEWAY_CACHE_SECONDS = min(5.0, _number("GATEWAY_CACHE_SECONDS", 5))
# Directories under which a profile may fix its workspace, as the agent-servers see them.
GATEWAY_WORKSPACE_ROOTS = _paths("GATEWAY_WORKSPACE_ROOTS")
# Headers in which clients name their chat and their user. Open WebUI sends its own when told to forward them;
# LibreChat's are what its configuration calls them.
GATEWAY_CHAT_ID_HEADERS = _headers("GATEWAY_CHAT_ID_HEADERS", ["X-OpenWebUI-Chat-Id", "X-Conversation-Id"])
GATEWAY_END_USER_HEADERS = _headers("GATEWAY_END_USER_HEADERS", ["X-OpenWebUI-User-Id"])
# How long the record keeps texts and turns where a profile says nothing of its own, and of requests without a profile.
# 0: for ever.
GATEWAY_KEEP_CONTENT_DAYS = _integer("GATEWAY_KEEP_CONTENT_DAYS", 0)
GATEWAY_KEEP_USAGE_DAYS = _integer("GATEWAY_KEEP_USAGE_DAYS", 0)
# What `check --deploy` says of agent-servers that tenants share is known and meant.
GATEWAY_TENANTS_TRUST_EACH_OTHER = _boolean("GATEWAY_TENANTS_TRUST_EACH_OTHER", default=False)
# The Unix socket of the process that alone has litellm loaded.
GATEWAY_LLM_SOCKET = env.str("GATEWAY_LLM_SOCKET", default=str(DATA_DIR / "run" / "llm.sock"))
# An unstreamed reply that takes longer begins with white space, so that proxies and clients do not give up on it. Its
# status is spent then. 0: never.
GATEWAY_UNSTREAMED_KEEPALIVE_SECONDS = _number("GATEWAY_UNSTREAMED_KEEPALIVE_SECONDS", 50)
# What Prometheus sends to read /metrics. Empty: only this machine may read them.
GATEWAY_METRICS_TOKEN = _secret("GATEWAY_METRICS_TOKEN")
# Where a warning is sent when most of a ceiling in USD is used up, and what it is signed with.
GATEWAY_WEBHOOK_URL = _url("GATEWAY_WEBHOOK_URL")
GATEWAY_WEBHOOK_SECRET = _secret("GATEWAY_WEBHOOK_SECRET")
GATEWAY_WEBHOOK_ALLOW_PRIVATE = _boolean("GATEWAY_WEBHOOK_ALLOW_PRIVATE", default=False)
if GATEWAY_WEBHOOK_URL and len(GATEWAY_WEBHOOK_SECRET) < 16:
    raise ImproperlyConfigured(
        "GATEWAY_WEBHOOK_SECRET must have at least 16 characters when GATEWAY_WEBHOOK_URL is set."
    )
# Images by reference are passed on to the provider, never fetched here; the profile must allow them.
GATEWAY_SHUTDOWN_GRACE_SECONDS = _number("GATEWAY_SHUTDOWN_GRACE_SECONDS", 8)

# --- traces ---------------------------------------------------------------------------------------------------
# The variables are OpenTelemetry's own, and its SDK reads them. Here is decided whether it is loaded at all, and what
# it would get wrong without a word is refused.
OTEL_ENDPOINT = env.str("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", default="") or env.str(
    "OTEL_EXPORTER_OTLP_ENDPOINT", default=""
)
OTEL_EXPORTER = _choice("OTEL_TRACES_EXPORTER", "otlp", {"otlp", "none"})
OTEL_PROTOCOL = env.str("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", default="") or env.str(
    "OTEL_EXPORTER_OTLP_PROTOCOL", default=""
)
TRACES_ARE_SENT = (
    bool(OTEL_ENDPOINT)
    and OTEL_EXPORTER == "otlp"
    and env.str("OTEL_SDK_DISABLED", default="").strip().lower() != "true"
)
if TRACES_ARE_SENT and OTEL_PROTOCOL not in {"", "http/protobuf"}:
    raise ImproperlyConfigured(
        f"OTEL_EXPORTER_OTLP_PROTOCOL={OTEL_PROTOCOL!r}: traces are sent as http/protobuf, to port 4318 of a collector."
    )
if TRACES_ARE_SENT and not _is_installed("opentelemetry.exporter.otlp.proto.http"):
    raise ImproperlyConfigured(
        "OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed: run `uv sync --extra otel`, or set "
        "OTEL_SDK_DISABLED=true."
    )

# --- Celery ---------------------------------------------------------------------------------------------------
CELERY_BROKER_URL = _secret("GATEWAY_CELERY_BROKER_URL") or f"sqla+sqlite:///{DATA_DIR / 'broker.sqlite3'}"
if not re.match(r"[a-z][a-z0-9+]*://", CELERY_BROKER_URL):
    raise ImproperlyConfigured("GATEWAY_CELERY_BROKER_URL must be a URL, such as redis://host:6379/0 or amqp://…")
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TIMEZONE = "UTC"

# --- the start command ----------------------------------------------------------------------------------------
# A first API key chosen by the operator, for containers; upstream's variable for the same is read as well.
GATEWAY_BOOTSTRAP_API_KEY_NAME, GATEWAY_BOOTSTRAP_API_KEY = _bootstrap_key()
# With a model, every start keeps the profile "default" as these say. Without, a demo LLM is started.
LLM_MODEL = env.str("LLM_MODEL", default="").strip()
LLM_API_KEY = _secret("LLM_API_KEY")
LLM_BASE_URL = _url("LLM_BASE_URL")
# A Python that has openhands-agent-server, in place of the environment that `up` builds.
GATEWAY_AGENT_PYTHON = env.str("GATEWAY_AGENT_PYTHON", default="")

# --- logs -----------------------------------------------------------------------------------------------------
LOGGING_CONFIG = "gateway_project.logs.configure"
LOGGING = {
    "format": _choice("GATEWAY_LOG_FORMAT", "auto", {"auto", "json", "text"}),
    "level": _choice("GATEWAY_LOG_LEVEL", "INFO", {"DEBUG", "INFO", "WARNING", "ERROR"}),
    "secrets": [
        SECRET_KEY,
        GATEWAY_API_KEY_PEPPER,
        GATEWAY_BOOTSTRAP_API_KEY,
        LLM_API_KEY,
        GATEWAY_METRICS_TOKEN,
        GATEWAY_WEBHOOK_SECRET,
        GATEWAY_OIDC_CLIENT_SECRET,
        *GATEWAY_ENCRYPTION_KEYS,
    ],
}
STATIC_ROOT.mkdir(exist_ok=True)  # whitenoise warns of a missing one; without collectstatic it asks the finders
