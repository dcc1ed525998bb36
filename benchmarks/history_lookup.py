"""What it takes to find the turn that a resent history ends with, among many.

`python -m benchmarks.history_lookup`, on the database that GATEWAY_DATABASE_URL names. It is written to and not cleaned
up, so give it one of its own. Every tenth conversation has the history of another one; every tenth ends with a turn
that was stopped.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import statistics
import time
from collections.abc import Iterator
from typing import Any

TURNS_PER_CONVERSATION = 10
BATCH = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history_lookup", description=__doc__)
    parser.add_argument("--turns", type=int, default=1_000_000)
    parser.add_argument("--lookups", type=int, default=2_000)
    parser.add_argument("--again", action="store_true", help="look up in the rows that an earlier run has written")
    arguments = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_project.settings")
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connection

    call_command("migrate", verbosity=0)
    made = _Rows(arguments.turns // TURNS_PER_CONVERSATION, is_there=arguments.again)
    if not arguments.again:
        made.write()
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
    for kind, found, milliseconds in made.lookups(arguments.lookups):
        ordered = sorted(milliseconds)
        print(
            f"{connection.vendor}, {arguments.turns:,} turns, {kind}: {found} of {len(ordered)} found, "
            f"median {statistics.median(ordered):.2f} ms, p99 {ordered[int(len(ordered) * 0.99)]:.2f} ms"
        )


class _Rows:
    """Conversations of one tenant, and the histories that lead to them."""

    def __init__(self, conversations: int, *, is_there: bool) -> None:
        from profiles.models import Profile, Tenant

        self._count = conversations
        if is_there:
            self._tenant = Tenant.objects.filter(name__startswith="benchmark ").latest("pk")
            self._profile = Profile.objects.filter(slug__startswith="benchmark-").latest("pk")
        else:
            self._tenant = Tenant.objects.create(name=f"benchmark {time.time_ns()}")
            self._profile = Profile.objects.create(slug=f"benchmark-{time.time_ns()}", llm_model="openai/none")

    def write(self) -> None:
        from chatgateway.models import Conversation, Turn

        for chunk in itertools.batched(range(self._count), BATCH // TURNS_PER_CONVERSATION, strict=False):
            rows = [self._conversation() for _ in chunk]
            Conversation.objects.bulk_create(rows)
            turns: list[Turn] = []
            for number, row in zip(chunk, rows, strict=True):
                turns += self._turns(number, row)
            Turn.objects.bulk_create(turns)

    def lookups(self, count: int) -> Iterator[tuple[str, int, list[float]]]:
        """Yield, for each kind of history, how many were found, and how long each took in milliseconds."""
        for kind in ("the latest turn", "an earlier turn", "a stopped turn", "nobody's"):
            found, milliseconds = 0, []
            for _ in range(count):
                history = self._history(kind)
                started = time.perf_counter()
                found += self._is_found(history)
                milliseconds.append((time.perf_counter() - started) * 1000)
            yield kind, found, milliseconds

    def _is_found(self, history: Any) -> bool:
        from django.db import transaction

        from chatgateway import places

        with transaction.atomic():
            within = places.Within(tenant_id=self._tenant.pk)
            return places.find(history, within=within, may_wait=False) is not None

    def _history(self, kind: str) -> Any:
        number = random.randrange(self._count)
        length = TURNS_PER_CONVERSATION if kind == "the latest turn" else random.randrange(1, TURNS_PER_CONVERSATION)
        if kind == "a stopped turn":
            number, length = number - number % 10 + 1, TURNS_PER_CONVERSATION
        said = [*self._said(number, length), ("more", "")]
        if kind == "nobody's":
            said[0] = ("something else", "answer")
        if kind == "a stopped turn":
            said[-2] = (said[-2][0], "ans")
        return self._sent(said)

    @staticmethod
    def _said(number: int, length: int) -> list[tuple[str, str]]:
        talk = number - number % 10 if number % 10 == 9 else number  # the same words as another one
        return [(f"question {turn} of talk {talk}", "answer") for turn in range(length)]

    def _sent(self, said: list[tuple[str, str]]) -> Any:
        from chatgateway.openai_api import histories
        from chatgateway.openai_api.messages import parse_messages

        messages: list[dict[str, str]] = []
        for question, answer in said:
            messages.append({"role": "user", "content": question})
            if answer:
                messages.append({"role": "assistant", "content": answer})
        scope = histories.scope(tenant_id=self._tenant.pk, profile_id=self._profile.pk, system_text="", end_user="")
        transcript = parse_messages(messages, accepts_images=False, accepts_remote_images=False)
        return histories.sent_history(transcript, scope=scope)

    def _conversation(self) -> Any:
        from chatgateway.models import Conversation

        return Conversation(tenant=self._tenant, profile=self._profile, tenant_name="b", profile_slug="b", state="live")

    def _turns(self, number: int, conversation: Any) -> Iterator[Any]:
        from django.utils import timezone

        from chatgateway.models import Turn
        from chatgateway.openai_api import histories

        now, arrival = timezone.now(), time.time_ns() // 1000
        digests = self._sent([*self._said(number, TURNS_PER_CONVERSATION), ("more", "")]).digests
        for place in range(TURNS_PER_CONVERSATION):
            is_stopped = number % 10 == 1 and place == TURNS_PER_CONVERSATION - 1
            request_digest = digests[2 * place + 1]
            yield Turn(
                endpoint="chat.completions",
                tenant=self._tenant,
                profile=self._profile,
                conversation=conversation,
                outcome="cancelled" if is_stopped else "answered",
                phase="closed",
                arrival=arrival + place,
                answer="answer",
                request_digest=request_digest,
                end_digest="" if is_stopped else histories.end_digest(request_digest, "answer"),
                closed_at=now,
                run_ended_at=now,
            )


if __name__ == "__main__":
    main()
