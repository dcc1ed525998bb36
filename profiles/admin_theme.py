"""The admin's theme, with types: unfold ships none. Everything here is unfold's at run time and Django's to mypy.

Also the parts every list shares: how times, amounts and states are written, and what read-only means.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from uuid import UUID

from django.contrib.admin import SimpleListFilter
from django.db import models
from django.db.models import Q
from django.db.models.expressions import Combinable
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone
from unfold import decorators as unfold_decorators
from unfold.widgets import UnfoldAdminTextareaWidget

if TYPE_CHECKING:
    from django.contrib.admin import AdminSite
    from django.contrib.admin import ModelAdmin as ThemedAdmin
    from django.contrib.admin import RelatedFieldListFilter as AutocompleteSelectFilter
    from django.contrib.admin.views.main import ChangeList as ThemedChangeList
else:
    from unfold.admin import ModelAdmin as ThemedAdmin
    from unfold.contrib.filters.admin import AutocompleteSelectFilter
    from unfold.sites import UnfoldAdminSite as AdminSite
    from unfold.views import ChangeList as ThemedChangeList

__all__ = [
    "AdminSite",
    "ChangeList",
    "Choice",
    "ChoiceFilter",
    "ModelAdmin",
    "ReadOnlyAdmin",
    "RelatedFilter",
    "ThemedChangeList",
    "as_uuid",
    "column",
    "detail_action",
    "duration",
    "is_list",
    "moment",
    "usd",
]

M = TypeVar("M", bound=models.Model)
Column = TypeVar("Column", bound=Callable[..., Any])
Page = TypeVar("Page", bound=Callable[..., HttpResponseBase])


def column(
    description: str,
    *,
    ordering: str | Combinable | None = None,
    labels: Mapping[str, str] | None = None,
    boolean: bool = False,
    empty: str | None = None,
) -> Callable[[Column], Column]:
    """Mark a method as a column. With `labels` it returns (value, text) and is shown as a pill whose colour `labels`
    gives for the value: success, warning, danger, info or primary; other values are grey."""
    marked: Callable[[Column], Column] = unfold_decorators.display(
        description=description,
        ordering=ordering,
        label=dict(labels) if labels is not None else None,
        boolean=boolean or None,
        empty_value=empty,
    )
    return marked


def detail_action(
    description: str, *, path: str, icon: str, permissions: tuple[str, ...] = ("change",)
) -> Callable[[Page], Page]:
    """Mark a method as a button of an object's page; the method is the page behind the button."""
    marked: Callable[[Page], Page] = unfold_decorators.action(
        description=description, url_path=path, icon=icon, permissions=permissions
    )
    return marked


class ChangeList(ThemedChangeList):
    """The list behind every list page of ours."""

    def get_results(self, request: HttpRequest) -> None:
        if not _is_page(request):
            # Totals and files are of the whole selection: a page of it, and its length, would cost as much again.
            self.result_count, self.result_list = 0, []
            return
        super().get_results(request)
        if not self.has_active_filters and not self.query:
            # Without the second count the theme would offer “Show all” on a list that shows all.
            self.full_result_count = self.result_count


class ModelAdmin(ThemedAdmin[M]):
    """The base of every page of ours. The `empty_…` texts stand where a list has no row at all and say what to do;
    `empty_link` names a page of the admin, for lists nobody adds to."""

    empty_title = "Nothing here yet"
    empty_text = ""
    empty_link = ""
    empty_link_title = ""
    formfield_overrides = {models.TextField: {"widget": UnfoldAdminTextareaWidget(attrs={"rows": 4})}}

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ChangeList


class RelatedFilter(AutocompleteSelectFilter):
    """A filter by a related row, found by typing: lists of all keys or tenants would be too long. Its title is what
    the row is called (“API key”), not what the column is (“api key”)."""

    def __init__(self, field: Any, *arguments: Any, **more: Any) -> None:
        super().__init__(field, *arguments, **more)
        self.title = field.related_model._meta.verbose_name


class Choice(NamedTuple):
    """What a filter offers: how it stands in the URL, what it is called, and which rows it keeps."""

    value: str
    title: str
    keeps: Callable[[], Q]


class ChoiceFilter(SimpleListFilter):
    """A filter that offers a few conditions of our own; each is made when it is asked for, as some speak of now."""

    offers: Iterable[Choice] = ()

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(choice.value, choice.title) for choice in self.offers]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
        chosen = next((choice for choice in self.offers if choice.value == self.value()), None)
        return queryset if chosen is None else queryset.filter(chosen.keeps())


class ReadOnlyAdmin(ModelAdmin[M]):
    """History: nobody adds, changes or deletes it here, whatever their permissions say. No Save button is shown."""

    actions: Any = None
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return False


# --- how things are written ---------------------------------------------------------------------------------------


def moment(at: dt.datetime | None, *, seconds: bool = False) -> str:
    """Return a time in the site's zone as it sorts: `2026-11-23 04:20`; empty for None."""
    if at is None:
        return ""
    return timezone.localtime(at).strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")


def duration(seconds: float | None) -> str:
    """Return `0.84 s`, `12.3 s`, `2 min 05 s` or `3 h 20 min`; empty for None."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{max(0.0, seconds):.2f} s"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def usd(amount: Decimal | None) -> str:
    """Return an amount with as many digits as tell something: `$12.40`, `$0.0312`, `$0.00000400`; empty for None."""
    if amount is None:
        return ""
    if amount == 0:
        return "$0"
    if amount >= 1:
        return f"${amount:,.2f}"
    text = f"${amount:.4f}"
    return text if amount >= Decimal("0.001") else f"${amount:.8f}".rstrip("0")


def as_uuid(term: str) -> UUID | None:
    """Return what somebody searched for as an id, or None if it is none."""
    try:
        return UUID(term.strip())
    except ValueError:
        return None


def _is_page(request: HttpRequest) -> bool:
    """Whether a page of a list is to be shown."""
    match = request.resolver_match
    return match is None or (match.url_name or "").endswith("_changelist")


def is_list(request: HttpRequest) -> bool:
    """Whether the request is for a list, where the large and the encrypted columns are not wanted."""
    match = request.resolver_match
    ending = ("_changelist", "_totals", "_export_csv", "_export_jsonl", "autocomplete")
    return match is not None and (match.url_name or "").endswith(ending)
