"""Questions asked of agent-servers, conversations and turns."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from django.db import models
from django.db.models import Count, Q

if TYPE_CHECKING:
    from chatgateway.models import AgentServer, Conversation, Turn  # noqa: F401  named in strings below


class AgentServerQuerySet(models.QuerySet["AgentServer"]):
    def with_load(self) -> AgentServerQuerySet:
        """Adds `running`: turns that hold a slot, open ones and closed ones whose run has not been seen to end."""
        return self.annotate(running=Count("turns", filter=Q(turns__run_ended_at__isnull=True)))

    def shared_by_tenants(self) -> AgentServerQuerySet:
        """Those with conversations of several tenants on them; adds `n_tenants`, how many."""
        living = Q(conversations__state="live")
        counted = self.annotate(n_tenants=Count("conversations__tenant", filter=living, distinct=True))
        return counted.filter(n_tenants__gt=1)


class ConversationQuerySet(models.QuerySet["Conversation"]):
    def of_caller(self, *, tenant_id: int, api_key_id: int, only_own: bool) -> ConversationQuerySet:
        """What a caller may know of: its tenant's, or only what its own key started."""
        mine = self.filter(tenant_id=tenant_id)
        return mine.filter(api_key_id=api_key_id) if only_own else mine


class TurnQuerySet(models.QuerySet["Turn"]):
    def open(self) -> TurnQuerySet:
        return self.filter(outcome="open")

    def holding_a_slot(self) -> TurnQuerySet:
        """Turns that were given an agent-server and whose run has not been seen to end, closed ones included."""
        return self.filter(agent_server__isnull=False, run_ended_at__isnull=True)

    def failed_since(self, moment: dt.datetime) -> TurnQuerySet:
        return self.filter(opened_at__gte=moment, outcome__in=("failed", "timed_out", "abandoned"))
