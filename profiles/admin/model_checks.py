"""What the profile form says while somebody types: whether the model can be called, what is known of it, and what
saving would do. Nothing is stored, and no provider is called."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Literal

from django import forms
from django.core.exceptions import ValidationError
from django.http import HttpRequest, JsonResponse

from profiles import http_urls, llm_client, manage
from profiles.admin_theme import usd
from profiles.exceptions import InvalidProfile, LlmProcessDown, UnknownProvider
from profiles.model_facts import ModelFacts, ModelOffer
from profiles.models import Profile

logger = logging.getLogger(__name__)

# Somebody waits with a hand on the keyboard.
SECONDS = 2.0
OFFERS = 20
_DOWN = "The llm process does not answer: there are no suggestions, and what you write is saved unchecked."


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something said beside a field. `error`: saving would be refused."""

    field: str
    state: Literal["ok", "warning", "error"]
    text: str


class _Typed(forms.Form):
    """What stands in the form at the moment. Secrets are not sent, only whether there is one."""

    profile = forms.IntegerField(required=False)
    llm_model = forms.CharField(required=False, max_length=200)
    llm_base_url = forms.CharField(required=False, max_length=500)
    utility_llm_model = forms.CharField(required=False, max_length=200)
    has_key = forms.BooleanField(required=False)
    has_prices = forms.BooleanField(required=False)
    has_window = forms.BooleanField(required=False)


def offers(request: HttpRequest) -> JsonResponse:
    """Answer a search in LiteLLM's catalogue."""
    try:
        found = llm_client.search_models(request.GET.get("search", "")[:200], limit=OFFERS, timeout_seconds=SECONDS)
    except LlmProcessDown as error:
        logger.info("no models are offered: %s", error)
        return JsonResponse({"models": [], "note": _DOWN})
    return JsonResponse({"models": [{"name": offer.name, "about": _about(offer)} for offer in found], "note": ""})


def check(request: HttpRequest) -> JsonResponse:
    """Say what is to be said of what was typed."""
    form = _Typed(request.GET)
    if not form.is_valid():
        field, errors = next(iter(form.errors.items()))
        return JsonResponse({"findings": [asdict(Finding(field=field, state="error", text=str(errors[0])))]})
    found = findings(form.cleaned_data, Profile.objects.filter(pk=form.cleaned_data["profile"]).first())
    return JsonResponse({"findings": [asdict(finding) for finding in found]})


def findings(typed: dict[str, Any], stored: Profile | None) -> list[Finding]:
    model, base_url = typed["llm_model"], typed["llm_base_url"]
    if base_url:
        try:
            http_urls.validate_http_url(base_url)
        except ValidationError as error:
            return [Finding(field="llm_base_url", state="error", text=error.messages[0])]
    found = [
        Finding(field="llm_base_url", state="warning", text=text)
        for text in http_urls.doubts_about_llm_url(base_url, model=model)
    ]
    if not model:
        return found
    try:
        facts = llm_client.describe_model(model, base_url, timeout_seconds=SECONDS)
        found += _of_model(facts, typed)
        found += _of_key(stored, typed, facts)
        found += _of_utility_model(facts, typed)
    except UnknownProvider as error:
        field = "llm_model" if error.model == model else "utility_llm_model"
        found.append(Finding(field=field, state="error", text=manage.no_provider_text(error.model)))
    except LlmProcessDown:
        found.append(Finding(field="llm_model", state="warning", text=_DOWN))
    return found


def _of_model(facts: ModelFacts, typed: dict[str, Any]) -> list[Finding]:
    found = [Finding(field="llm_model", state="ok", text=_told(facts))]
    if facts.input_price is None and not typed["has_prices"]:
        text = "Its price is unknown: turns are recorded without a cost, unless you enter prices below."
        found.append(Finding(field="llm_model", state="warning", text=text))
    if facts.context_window is None and not typed["has_window"]:
        text = "Its context window is unknown: long histories are told whole, unless you enter a window below."
        found.append(Finding(field="llm_model", state="warning", text=text))
    return found


def _of_key(stored: Profile | None, typed: dict[str, Any], facts: ModelFacts) -> list[Finding]:
    if typed["has_key"]:
        return []
    if stored is None or not stored.llm_api_key:
        text = "No key is stored or typed: most providers refuse calls without one."
        return [Finding(field="llm_api_key", state="warning", text=text)]
    old = manage.llm_place(model=stored.llm_model, base_url=stored.llm_base_url, catalogue=stored.catalogue)
    new = manage.llm_place(model=typed["llm_model"], base_url=typed["llm_base_url"], catalogue=facts.to_json())
    if old == new:
        return []
    text = "Saving removes the stored key, because the model now lives somewhere else. Enter the key for the new place."
    return [Finding(field="llm_api_key", state="warning", text=text)]


def _of_utility_model(facts: ModelFacts, typed: dict[str, Any]) -> list[Finding]:
    utility, base_url = typed["utility_llm_model"], typed["llm_base_url"]
    if not utility:
        return []
    of_utility = llm_client.describe_model(utility, base_url, timeout_seconds=SECONDS)
    try:
        manage.check_utility_place(
            model=typed["llm_model"],
            utility=utility,
            base_url=base_url,
            catalogue=facts.to_json(),
            utility_catalogue=of_utility.to_json(),
        )
    except InvalidProfile as error:
        return [Finding(field="utility_llm_model", state="error", text=error.message)]
    return [Finding(field="utility_llm_model", state="ok", text=_told(of_utility))]


def _told(facts: ModelFacts) -> str:
    known = "" if facts.is_known else ", not in LiteLLM's catalogue (normal behind a base URL of your own)"
    return f"Provider {facts.provider}{known}. {_about(facts)}".strip()


def _about(facts: ModelFacts | ModelOffer) -> str:
    """One line: window, images, price."""
    told = []
    if facts.context_window is not None:
        told.append(f"{facts.context_window:,} tokens")
    if facts.supports_vision:
        told.append("sees images")
    if facts.input_price is not None and facts.output_price is not None:
        told.append(f"{_price(facts.input_price)} in, {_price(facts.output_price)} out per million tokens")
    return " · ".join(told)


def _price(text: str) -> str:
    return usd(Decimal(text))
