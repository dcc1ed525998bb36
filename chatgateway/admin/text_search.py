"""The search boxes above turns and conversations: ids, end users, and words of what was asked and answered.

Words are searched for people only who may read texts: whoever finds a turn by its words has learned what was said. Each
such search is recorded as a reading, with the turns whose texts the list then shows a piece of.
"""

from __future__ import annotations

import re
from uuid import UUID

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from chatgateway import readings, turn_texts
from chatgateway.admin import exports
from chatgateway.models import Attempt, Conversation, Turn, TurnText
from chatgateway.words import Query
from profiles.admin_theme import ChangeList, as_uuid

_HELP = "Words asked or answered; id; end user"
_HELP_WITHOUT_TEXTS = "Id of a call or conversation; end user"
# Of an excerpt, around the first place.
_BEFORE, _AFTER = 60, 180
# Of a text in which places are looked for.
_LOOKED_AT = 60_000
_PLACES = 20
# Requests and replies, as this gateway names them.
_REPLY_ID = re.compile(r"(?:chatcmpl-|cmpl-|resp_)([0-9a-f]{32})")
_NAMED = re.compile(r"(?:req_|chatcmpl-|cmpl-|resp_)\S+")


def query_of(request: HttpRequest, term: str) -> Query:
    """Return the words that a person searches for; none where the term is an id, or where texts are not theirs."""
    term = term.strip()
    is_id = as_uuid(term) is not None or _NAMED.fullmatch(term) is not None
    return Query(()) if is_id or not readings.may_read(request) else Query.parse(term)


def turns_found(request: HttpRequest, term: str) -> Q:
    """Return what keeps the turns that a person searches for. At most three queries by an index."""
    term = term.strip()
    if (wanted := as_uuid(term)) is not None:
        return Q(pk=wanted) | Q(conversation_id=wanted)
    if (reply := _REPLY_ID.fullmatch(term)) is not None:
        return Q(pk=UUID(reply[1]))
    found = _said(query_of(request, term))
    # Asked first: joined by OR with what has nothing to do with them, texts would not be found by their index.
    # “Not empty” is what the index is of: SQLite uses it for nothing else.
    if Turn.objects.filter(end_user=term).exclude(end_user="").exists():
        found |= Q(end_user=term)
    if Turn.objects.filter(request_id=term).exists():
        found |= Q(request_id=term)
    elif Attempt.objects.filter(request_id=term).exists():
        found |= Q(pk__in=Attempt.objects.filter(request_id=term).values("turn"))
    return found


def conversations_found(request: HttpRequest, term: str) -> Q:
    """Return what keeps the conversations that a person searches for: by a turn, or by what they are."""
    term = term.strip()
    if (wanted := as_uuid(term)) is not None:
        return Q(pk=wanted)
    turns = Turn.objects.filter(turns_found(request, term), conversation__isnull=False)
    found = Q(pk__in=turns.order_by().values("conversation"))
    for what in ("end_user", "profile_slug"):
        if Conversation.objects.filter(**{what: term}).exists():
            found |= Q(**{what: term})
    return found


def _said(query: Query) -> Q:
    return Q(pk__in=TurnText.objects.filter(words__matches=query).values("turn") if query else [])


def help_for(request: HttpRequest) -> str:
    """Say in the search box what is searched."""
    return _HELP if readings.may_read(request) else _HELP_WITHOUT_TEXTS


def told(request: HttpRequest, what: str) -> str:
    """Say above a list of `what` how words were searched for; empty where none were."""
    if not query_of(request, request.GET.get("q", "")):
        return ""
    return (
        f"{what} all the words in question and answer. Case and accents do not count; "
        "“some words” stand together, beg* is the beginning of a word."
    )


def noted(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """Record the search whose result `response` is about to show, if texts were searched; return the response."""
    context = response.context_data if isinstance(response, TemplateResponse) else None
    changes = context and context.get("cl")
    if changes and query_of(request, changes.query):
        shown = sum(bool(getattr(row, "found", "")) for row in changes.result_list)
        readings.note(request, readings.What.SEARCH, turns=shown, selection=exports.selected(request))
    return response


def places_in(turns: list[Turn], query: Query) -> dict[UUID, SafeString]:
    """Return the places of a page's turns where the words stand, as HTML. One query."""
    texts = Turn.objects.filter(pk__in=[turn.pk for turn in turns], content_removed_at__isnull=True)
    rows = texts.select_related("last_message").only("answer", "last_message__body").order_by()
    return {row.pk: _excerpts(row, query) for row in rows}


def _excerpts(turn: Turn, query: Query) -> SafeString:
    asked = _excerpt(turn_texts.question_of(turn.last_message), query)
    answered = _excerpt(turn.answer, query)
    lines = [(what, text) for what, text in (("Asked", asked), ("Answered", answered)) if text]
    return format_html_join("", '<div class="gw-found"><b>{}</b> {}</div>', lines)


def _excerpt(text: str, query: Query) -> SafeString:
    """Return the surroundings of the first place, with all the places in them marked; empty where there is none."""
    text = text[:_LOOKED_AT]
    places = query.found_in(text)
    first = next(places, None)
    if first is None:
        return SafeString("")
    begin, end = _word_begin(text, first[0] - _BEFORE), min(len(text), max(first[1], first[0] + _AFTER))
    parts: list[tuple[str, str]] = []
    at = begin
    for place in [first, *(place for place, _ in zip(places, range(_PLACES), strict=False))]:
        if place[1] > end:
            break
        parts.append((text[at : place[0]], text[place[0] : place[1]]))
        at = place[1]
    marked = format_html_join("", "{}<mark>{}</mark>", parts)
    return format_html("{}{}{}{}", "…" * (begin > 0), marked, text[at:end], "…" * (end < len(text)))


def _word_begin(text: str, at: int) -> int:
    """Return the beginning of the next word, if one begins soon."""
    if at <= 0:
        return 0
    space = text.find(" ", at, at + 20)
    return at if space < 0 else space + 1


class FoundTurns(ChangeList):
    """A list of turns that shows where the searched words stand: `turn.found`."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        query = query_of(request, self.query)
        if query and self.result_list:
            turns = list(self.result_list)
            found = places_in(turns, query)
            for turn in turns:
                turn.found = found.get(turn.pk, "")
            self.result_list = turns
