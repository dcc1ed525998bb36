"""What a gateway needs before anybody can use it. Every function can run at every start and changes only what is
missing or what it made itself. Synchronous; `up` and `manage.py bootstrap` call it.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractUser
from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError, transaction

from chatgateway import servers
from chatgateway.agentserver.client import AgentServerClient, new_http_session
from chatgateway.agentserver.exceptions import AgentServerError
from chatgateway.agentserver.schemas import ServerInfo
from chatgateway.models import AgentServer
from profiles import changes, issuing, llm_client, manage
from profiles.exceptions import InvalidKey, InvalidProfile, LlmCallFailed, LlmProcessDown
from profiles.fields import Secret
from profiles.models import ApiKey, Profile, Tenant

ADMINISTRATOR = "admin"
TENANT = "default"
FIRST_KEY = "first key"
BOOTSTRAP_KEY = "GATEWAY_BOOTSTRAP_API_KEY"
DEFAULT_PROFILE = "default"
DEMO_PROFILE = "demo"
DEMO_MODEL = "openai/demo"
TOOLS = ["terminal", "file_editor", "task_tracker"]
EMBEDDED_SERVER = "embedded"
_BY = changes.program("start")
_TRY_SECONDS = 20.0
_SERVER_INFO_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who can get in. `password` and `key` are there only when this call made them; nobody can read them again."""

    username: str | None
    password: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)


# --- access -------------------------------------------------------------------------------------------------------


def set_up_access(*, public_url: str) -> Access:
    """Make the first administrator, tenant and key, each only if there is none at all, and adopt a fixed key.

    What is new is written to `first_login_path()`, which the admin removes at the first sign-in. Raises
    ImproperlyConfigured when GATEWAY_BOOTSTRAP_API_KEY is no usable key.
    """
    with transaction.atomic():
        username, password = _first_administrator()
        key = _first_key()
    made = Access(username=username, password=password, key=key)
    if password or key:
        _write_first_login(made, public_url)
    return made


def first_login_path() -> Path:
    return Path(settings.DATA_DIR) / "first-login.txt"


def reset_password(username: str) -> str:
    """Give an administrator a new password and return it. Raises LookupError when there is none of that name."""
    user = _users().filter(username=username, is_superuser=True).first()
    if user is None:
        raise LookupError(f"There is no administrator '{username}'.")
    password = secrets.token_urlsafe(12)
    user.set_password(password)
    user.is_active = True
    user.save(update_fields=["password", "is_active"])
    return password


def administrators() -> list[str]:
    return list(_users().filter(is_superuser=True).order_by("pk").values_list("username", flat=True))


def _users() -> Any:
    return get_user_model()._default_manager


def _first_administrator() -> tuple[str | None, str | None]:
    if existing := administrators():
        return existing[0], None
    password = secrets.token_urlsafe(12)
    user: AbstractUser = _users().create_superuser(ADMINISTRATOR, "", password)
    return user.get_username(), password


def _first_key() -> str | None:
    """Return the text of a key that was made, None when there was one. A configured text is adopted at every start."""
    text: str = settings.GATEWAY_BOOTSTRAP_API_KEY
    if text:
        _adopt(text)
        return None
    if ApiKey.objects.exists():
        return None
    row, made = issuing.create_key(tenant=_tenant(), name=FIRST_KEY, can_manage=True, used_by_one_person=True)
    changes.added(row, by=_BY)
    return made


def _adopt(text: str) -> None:
    api_key = ApiKey.objects.filter(tenant__name=TENANT, name=BOOTSTRAP_KEY).first()
    try:
        if api_key is None:
            api_key = ApiKey(tenant=_tenant(), name=BOOTSTRAP_KEY, can_manage=True, used_by_one_person=True)
            issuing.save_key(api_key)
            changes.added(api_key, by=_BY)
        with changes.recorded(api_key, by=_BY):
            issuing.adopt_text(api_key, text)
    except InvalidKey as error:
        raise ImproperlyConfigured(f"{settings.GATEWAY_BOOTSTRAP_API_KEY_NAME}: {error.message}") from error


def _tenant() -> Tenant:
    first = Tenant.objects.order_by("pk").first()
    if first is not None:
        return first
    made = Tenant.objects.create(name=TENANT, notes="Made at the first start.")
    changes.added(made, by=_BY)
    return made


def _write_first_login(made: Access, public_url: str) -> None:
    """Write what was just made, after what an earlier start wrote if nobody has signed in since."""
    lines = [f"Admin        {public_url}/admin/"]
    if made.password:
        lines += [f"User         {made.username}", f"Password     {made.password}"]
    if made.key:
        lines += [f"API base     {public_url}/v1", f"API key      {made.key}"]
    lines += ["", "This file is removed when an administrator signs in for the first time.", ""]
    descriptor = os.open(first_login_path(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write("\n".join(lines))


# --- profiles -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoLlm:
    """Where the demo LLM of this start listens, and its key."""

    base_url: str
    api_key: str = field(repr=False)


def wants_demo() -> bool:
    """Whether this start runs the demo LLM: no LLM is configured, and nobody has put other profiles in its place."""
    if settings.LLM_MODEL:
        return False
    return Profile.objects.filter(source=Profile.Source.DEMO).exists() or not Profile.objects.exists()


def set_up_demo(demo_llm: DemoLlm) -> Profile:
    """Create the demo profile, or tell it where its LLM is now. Raises ImproperlyConfigured if the name is taken."""
    wanted = manage.SetUp(
        slug=DEMO_PROFILE,
        source=Profile.Source.DEMO,
        llm={"llm_model": DEMO_MODEL, "llm_base_url": demo_llm.base_url},
        llm_api_key=demo_llm.api_key,
        initial={
            "description": "demo, no real model",
            "tools": list(TOOLS),
            "accepts_images": False,
            "input_price": Decimal(0),
            "output_price": Decimal(0),
            "cached_input_price": Decimal(0),
        },
    )
    profile, _ = manage.set_up_profile(wanted)  # its warnings are about a model LiteLLM cannot know
    return profile


def set_up_default() -> tuple[Profile, tuple[str, ...]]:
    """Create the profile of LLM_MODEL or bring it up to date; return it with sentences for the operator.

    Raises ImproperlyConfigured, naming the variable, when LiteLLM cannot use the values.
    """
    wanted = manage.SetUp(
        slug=DEFAULT_PROFILE,
        source=Profile.Source.ENVIRONMENT,
        llm={"llm_model": settings.LLM_MODEL, "llm_base_url": settings.LLM_BASE_URL},
        llm_api_key=settings.LLM_API_KEY,
        initial={"description": f"{settings.LLM_MODEL} with a terminal and files", "tools": list(TOOLS)},
    )
    try:
        return manage.set_up_profile(wanted)
    except InvalidProfile as error:
        variable = "LLM_BASE_URL" if error.param == "llm_base_url" else "LLM_MODEL"
        raise ImproperlyConfigured(f"{variable}: {error.message}") from error


def try_llm(profile: Profile) -> str:
    """Make one real LLM call with a profile's LLM and return the outcome in one sentence."""
    try:
        completion = asyncio.run(
            llm_client.complete(
                model=profile.llm_model,
                api_key=profile.llm_api_key.reveal(),
                base_url=profile.llm_base_url,
                messages=[{"role": "user", "content": "Reply with the word: ready"}],
                max_output_tokens=None,  # a reasoning model given few tokens would spend them all on thinking
                timeout_seconds=_TRY_SECONDS,
            )
        )
    except LlmCallFailed as error:
        # LiteLLM says the class twice: "litellm.AuthenticationError: AuthenticationError: …"
        reason = error.message.removeprefix(f"litellm.{error.kind}: ").removeprefix(f"{error.kind}: ")
        reason = " ".join(reason.split())[:300]
        return f"{profile.llm_model} did not answer, so calls will fail until that is mended: {error.kind}: {reason}"
    except LlmProcessDown as error:
        return f"{profile.llm_model} was not tried: {error}"
    tokens = completion.input_tokens + completion.output_tokens
    return f"{profile.llm_model} answered in {completion.seconds:.1f} s ({tokens} tokens)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Switched:
    """Which of the profiles that a start makes were turned off or on by this one."""

    disabled: tuple[str, ...] = ()
    enabled: tuple[str, ...] = ()


def switch_made_profiles(*, runs_demo_llm: bool, may_use_tools: bool) -> Switched:
    """Disable those of our own profiles that must not be used in this start, and enable again what an earlier start
    disabled. What an administrator disabled stays so: a file in the data directory remembers which is which."""
    memory = Path(settings.DATA_DIR) / "disabled-by-start.json"
    remembered = _read_names(memory)
    disabled, enabled, kept = [], [], []
    for profile in Profile.objects.filter(source__in=(Profile.Source.DEMO, Profile.Source.ENVIRONMENT)):
        is_unusable = (profile.is_demo and not runs_demo_llm) or (profile.has_tools and not may_use_tools)
        if is_unusable and profile.is_enabled:
            disabled.append(profile.slug)
        elif not is_unusable and profile.slug in remembered and not profile.is_enabled:
            enabled.append(profile.slug)
        if is_unusable and (profile.is_enabled or profile.slug in remembered):
            kept.append(profile.slug)
    for profile in Profile.objects.filter(slug__in=[*disabled, *enabled]):
        with changes.recorded(profile, by=_BY):
            Profile.objects.filter(pk=profile.pk).update(is_enabled=profile.slug in enabled)
    manage.forget(*disabled, *enabled)
    memory.write_text(json.dumps(sorted(kept)))
    return Switched(disabled=tuple(disabled), enabled=tuple(enabled))


def first_usable_profile() -> Profile | None:
    """The profile for the printed example: one of ours if it can be used, else any."""
    usable = Profile.objects.usable().filter(owner__isnull=True)
    return usable.filter(slug__in=(DEFAULT_PROFILE, DEMO_PROFILE)).order_by("slug").first() or usable.first()


def _read_names(path: Path) -> set[str]:
    try:
        names = json.loads(path.read_text())
    except (OSError, ValueError):
        return set()
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()


# --- agent-servers ------------------------------------------------------------------------------------------------


def set_up_embedded_server(*, url: str, session_api_key: str, workspace_root: Path) -> AgentServer:
    """Create or update the row of the agent-server that `up` starts. Capacity and state stay as they were set."""
    server = AgentServer.objects.filter(is_embedded=True).first() or AgentServer(is_embedded=True, name=_server_name())
    # Another row with this address cannot be right: the port was free a moment ago.
    AgentServer.objects.filter(url=url).exclude(pk=server.pk).update(url=f"{url}/was-{secrets.token_hex(4)}")
    server.url = url
    server.session_api_key = Secret(session_api_key)
    server.workspace_root = str(workspace_root)
    server.health = AgentServer.Health.UNKNOWN
    server.health_message = ""
    _save_server(server)
    return server


def _save_server(server: AgentServer) -> None:
    with transaction.atomic():
        if server._state.adding:
            server.save()
            changes.added(server, by=_BY)
            return
        with changes.recorded(server, by=_BY):
            server.save()


def note_embedded_server_absent() -> None:
    """Say of the embedded server's row, if there is one, that this start does not run it."""
    for server in AgentServer.objects.filter(is_embedded=True):
        servers.note_health(server, is_up=False, message="not started: up --no-agent-server")


def set_up_server(*, name: str, url: str, session_api_key: str, workspace_root: str) -> AgentServer:
    """Create or update the row of an agent-server that somebody else runs. Raises ImproperlyConfigured."""
    server = AgentServer.objects.filter(url=url).first() or AgentServer(url=url, name=name)
    server.session_api_key = Secret(session_api_key)
    server.workspace_root = workspace_root
    try:
        _save_server(server)
    except IntegrityError as error:
        raise ImproperlyConfigured(f"The agent-server {name} cannot be saved: {error}") from error
    return server


def probe_server(server: AgentServer) -> str:
    """Ask an agent-server what it is, store that, and return its version. Raises AgentServerError."""
    try:
        facts = asyncio.run(_server_info(server))
    except AgentServerError as error:
        servers.note_health(server, is_up=False, message=f"{type(error).__name__}: {error}")
        raise
    servers.note_health(
        server,
        is_up=True,
        version=facts.version,
        capabilities=sorted(facts.capabilities),
        usable_tools=sorted(facts.usable_tools),
    )
    return facts.version


async def _server_info(server: AgentServer) -> ServerInfo:
    async with new_http_session() as http:
        client = AgentServerClient(base_url=server.url, session_api_key=server.session_api_key.reveal(), http=http)
        return await client.server_info(timeout_seconds=_SERVER_INFO_SECONDS)


def _server_name() -> str:
    taken = AgentServer.objects.filter(name=EMBEDDED_SERVER).exists()
    return f"{EMBEDDED_SERVER}-{secrets.token_hex(3)}" if taken else EMBEDDED_SERVER
