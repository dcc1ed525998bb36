"""Agent-servers in the admin: the list, the form, and the page that tries one out."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db import models, transaction
from django.db.models import Count, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import reverse

from chatgateway import servers
from chatgateway.admin import server_state
from chatgateway.admin.server_trial import trial_page
from chatgateway.models import AgentServer, Conversation, Leftover, Turn
from profiles import manage
from profiles.admin.recorded import RecordedAdmin
from profiles.admin.secret_fields import SecretsForm, secret_formfield
from profiles.admin_theme import column, detail_action, is_list, moment
from profiles.fields import EncryptedTextField
from profiles.http_urls import origin_of

_STATES = {
    AgentServer.State.ACTIVE.value: "success",
    AgentServer.State.DRAINING.value: "warning",
    AgentServer.State.DISABLED.value: "default",
}
_BUTTON_OF = {
    AgentServer.State.ACTIVE.value: "activate",
    AgentServer.State.DRAINING.value: "drain",
    AgentServer.State.DISABLED.value: "disable",
}
_HEALTH = {
    AgentServer.Health.UP.value: "success",
    AgentServer.Health.DOWN.value: "danger",
    AgentServer.Health.UNKNOWN.value: "default",
}


class ServerForm(SecretsForm):
    """`notices` are for the person who saved. Changing the URL's host clears the stored session key."""

    class Meta:
        model = AgentServer
        fields = "__all__"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.notices: list[str] = []
        self.moves = False

    def clean_url(self) -> str:
        url: str = self.cleaned_data["url"]
        return url.rstrip("/")

    def clean_workspace_root(self) -> str:
        path: str = self.cleaned_data["workspace_root"].strip()
        if not path.startswith("/") or ".." in path.split("/"):
            raise forms.ValidationError("Write an absolute path, such as /srv/workspaces, without “..”.")
        return path.rstrip("/") or "/"

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        if not self.instance.pk or "url" not in cleaned or "session_api_key" not in self.sent_secrets:
            return cleaned
        old_url = self.initial.get("url", "")
        self.moves = cleaned["url"] != old_url
        stored = self.instance.session_api_key
        sent = self.sent_secrets["session_api_key"]
        kept = manage.keep_or_clear_secret(
            stored=stored, sent=sent, old_place=origin_of(old_url), new_place=origin_of(cleaned["url"])
        )
        if stored and not kept and sent is None:
            self.notices.append(
                "The stored session API key was removed, because the URL leads to another host now. Enter that "
                "server's key."
            )
        cleaned["session_api_key"] = kept
        return cleaned


@admin.register(AgentServer)
class AgentServerAdmin(RecordedAdmin[AgentServer]):
    """Where agents run."""

    empty_title = "No agent-server yet"
    empty_text = "Agents run on agent-servers. The gateway's start command brings one; others are added here."
    form = ServerForm
    list_display = ("name", "url", "state_told", "health_told", "load", "kept", "version", "bound")
    list_filter = ("state", "health", "version")
    search_fields = ("name", "url")
    autocomplete_fields = ("profiles",)
    readonly_fields = (
        "health_now",
        "version_told",
        "can_told",
        "tools_told",
        "load_told",
        "kept_told",
        "leftovers_told",
    )
    actions = None
    actions_detail = ("try_out", "drain", "activate", "disable", "turns_of")
    change_form_before_template = "chatgateway/admin/server_notices.html"
    add_fieldsets = (
        (
            None,
            {
                "fields": (
                    "name",
                    "url",
                    "session_api_key",
                    "workspace_root",
                    "capacity",
                    "max_conversations",
                    "profiles",
                )
            },
        ),
    )
    fieldsets = (
        (None, {"fields": ("name", "url", "session_api_key", "workspace_root")}),
        (
            "Work",
            {
                "description": "Draining: conversations that are there go on, new ones go elsewhere. Disabled: nothing "
                "is sent to it any more, and its conversations go on at other servers, told from the record, without "
                "their files; a disabled server can be deleted.",
                "fields": ("state", "capacity", "max_conversations", "profiles"),
            },
        ),
        ("What it says of itself", {"fields": ("health_now", "version_told", "can_told", "tools_told")}),
        ("What is on it", {"fields": ("load_told", "kept_told", "leftovers_told")}),
    )

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[AgentServer]:
        rows = super().get_queryset(request)
        if not is_list(request):
            return rows
        # Each count is a query of its own over an index of a handful of rows; joined they would read every turn.
        busy = Turn.objects.holding_a_slot().filter(agent_server=OuterRef("pk")).order_by().values("agent_server")
        bound = AgentServer.profiles.through.objects.filter(agentserver=OuterRef("pk")).values("agentserver")
        kept = Conversation.objects.filter(agent_server=OuterRef("pk"), state=Conversation.State.LIVE)
        living = kept.order_by().values("agent_server")
        return rows.defer("session_api_key").annotate(
            n_running=Coalesce(Subquery(busy.annotate(n=Count("pk")).values("n")), 0),
            n_kept=Coalesce(Subquery(living.annotate(n=Count("pk")).values("n")), 0),
            n_bound=Coalesce(Subquery(bound.annotate(n=Count("pk")).values("n")), 0),  # type: ignore[misc]
        )

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if isinstance(db_field, EncryptedTextField):
            return secret_formfield(db_field)
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Conversations on a deleted server are lost; disabling it first shows who still uses it."""
        may_go = isinstance(obj, AgentServer) and obj.state == AgentServer.State.DISABLED
        return super().has_delete_permission(request, obj) and may_go

    def has_operate_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("chatgateway.operate_agentserver")

    # --- columns ----------------------------------------------------------------------------------------------------

    @column("state", ordering="state", labels=_STATES)
    def state_told(self, server: AgentServer) -> tuple[str, str]:
        return server.state, server.state

    @column("health", ordering="health", labels=_HEALTH)
    def health_told(self, server: AgentServer) -> tuple[str, str]:
        return server.health, server.get_health_display()

    @column("running / capacity", ordering="n_running")
    def load(self, server: AgentServer) -> str:
        return f"{server.n_running} / {server.capacity}"  # type: ignore[attr-defined]  # annotated above

    @column("conversations", ordering="n_kept")
    def kept(self, server: AgentServer) -> str:
        return f"{server.n_kept:,} / {server.max_conversations:,}"  # type: ignore[attr-defined]  # annotated above

    @column("profiles bound", ordering="n_bound")
    def bound(self, server: AgentServer) -> str:
        count: int = server.n_bound  # type: ignore[attr-defined]  # annotated above
        return str(count) if count else "none: serves any"

    @column("Health")
    def health_now(self, server: AgentServer) -> str:
        if server.health_checked_at is None:
            return "Not checked yet. Press “Test”."
        said = f": {server.health_message}" if server.health_message else ""
        since = f", down since {moment(server.down_since, seconds=True)}" if server.down_since else ""
        at = moment(server.health_checked_at, seconds=True)
        return f"{server.get_health_display().capitalize()} at {at}{since}{said}"

    @column("Version")
    def version_told(self, server: AgentServer) -> str:
        return server.version or "Unknown until it was checked."

    @column("What it can do")
    def can_told(self, server: AgentServer) -> str:
        return ", ".join(str(name) for name in server.capabilities or ()) or "Unknown until it was checked."

    @column("Tools it has")
    def tools_told(self, server: AgentServer) -> str:
        return ", ".join(str(name) for name in server.usable_tools or ()) or "Unknown until it was checked."

    @column("Agents at work")
    def load_told(self, server: AgentServer) -> str:
        running = Turn.objects.holding_a_slot().filter(agent_server=server).count()
        return f"{running} of at most {server.capacity}"

    @column("Conversations")
    def kept_told(self, server: AgentServer) -> str:
        living = server.conversations.filter(state=Conversation.State.LIVE).count()
        return f"{living} of at most {server.max_conversations}"

    @column("To be removed")
    def leftovers_told(self, server: AgentServer) -> str:
        left = server.leftovers.order_by("-attempts")
        worst = left.first()
        if worst is None:
            return "Nothing."
        counted = left.aggregate(
            conversations=Count("pk", filter=Q(kind=Leftover.Kind.CONVERSATION)),
            directories=Count("pk", filter=Q(kind=Leftover.Kind.DIRECTORY)),
        )
        failing = f" Last failure: {worst.message}" if worst.message else ""
        now, later = counted["conversations"], counted["directories"]
        return f"Conversations: {now}. Directories, each when its time comes: {later}.{failing}"

    # --- the page of a server -----------------------------------------------------------------------------------------

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        context = {**(extra_context or {}), "shared": None}
        if object_id is not None and object_id.isdecimal():
            context["shared"] = AgentServer.objects.shared_by_tenants().filter(pk=object_id).first()
        return super().changeform_view(request, object_id, form_url, context)

    # --- saving -----------------------------------------------------------------------------------------------------

    def save_model(self, request: HttpRequest, obj: AgentServer, form: Any, change: bool) -> None:
        if form.moves:  # what is known is another server's
            obj.health, obj.health_checked_at, obj.health_message = AgentServer.Health.UNKNOWN, None, ""
            obj.version, obj.capabilities, obj.usable_tools, obj.down_since = "", [], [], None
        super().save_model(request, obj, form, change)
        for notice in form.notices:
            messages.warning(request, notice)
        if not change or form.moves:
            messages.info(request, "Press “Test” to see whether it can be reached and runs a turn.")

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        servers.forget()
        transaction.on_commit(servers.forget)

    def delete_model(self, request: HttpRequest, obj: AgentServer) -> None:
        super().delete_model(request, obj)
        servers.forget()
        transaction.on_commit(servers.forget)

    # --- buttons ----------------------------------------------------------------------------------------------------

    @detail_action("Test", path="test", icon="play_arrow", permissions=("operate",))
    def try_out(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        return trial_page(self, request, object_id)

    @detail_action("Drain", path="drain", icon="hourglass_top", permissions=("operate",))
    def drain(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        return server_state.page(self, request, object_id, server_state.DRAIN)

    @detail_action("Activate", path="activate", icon="power", permissions=("operate",))
    def activate(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        return server_state.page(self, request, object_id, server_state.ACTIVATE)

    @detail_action("Disable", path="disable", icon="power_off", permissions=("operate",))
    def disable(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        return server_state.page(self, request, object_id, server_state.DISABLE)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """The buttons, without the one for the state that the server is in."""
        offered: list[Any] = super().get_actions_detail(request, object_id)  # type: ignore[misc]  # the theme's
        state = AgentServer.objects.filter(pk=object_id).values_list("state", flat=True).first()
        idle = _BUTTON_OF.get(state or "", "")
        return [action for action in offered if action.path != idle]

    @detail_action("Its turns", path="turns", icon="forum", permissions=("view",))
    def turns_of(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        url = reverse("admin:chatgateway_turn_changelist")
        return HttpResponseRedirect(f"{url}?agent_server__id__exact={object_id}")
