from decimal import Decimal

import pytest
from django.db import transaction
from django.utils import timezone

from profiles import access, manage
from profiles.exceptions import InvalidProfile, LlmProcessDown, ProfileNameTaken, UnknownProfile
from profiles.fields import Secret
from profiles.manage import SetUp
from profiles.models import Profile
from tests import factories
from tests.profiles.together import at_once

KEY = "sk-provider-secret-0001"


def body(**llm):
    return {"llm": {"model": "openai/gpt-5", "api_key": KEY} | llm, "include_secrets": True}


def caller_of(made):
    return access.caller_for(made.text, now=timezone.now())


@pytest.fixture
def caller(db):
    return caller_of(factories.api_key())


@pytest.fixture
def global_caller(db):
    return caller_of(factories.api_key(is_global=True))


def stored(slug="fast"):
    return Profile.objects.get(slug=slug)


# --- creating and replacing


def test_a_profile_is_created_for_the_callers_tenant_and_works_at_once(caller):
    with pytest.raises(UnknownProfile):
        access.profile_for(caller, "fast")
    profile, _ = manage.save_profile(caller, "fast", body(temperature=0.5))
    assert access.profile_for(caller, "fast") == profile == stored()
    assert stored().owner_id == caller.tenant_id
    assert stored().source == Profile.Source.API
    assert stored().temperature == 0.5
    assert stored().llm_api_key.reveal() == KEY
    assert stored().tools == []


def test_a_key_that_manages_every_tenant_makes_profiles_for_everybody(caller, global_caller):
    manage.save_profile(global_caller, "fast", body())
    assert stored().owner_id is None
    assert access.profile_for(caller, "fast").slug == "fast"


def test_replacing_changes_the_llm_and_leaves_what_administrators_set(caller):
    factories.profile(
        slug="fast",
        owner_id=caller.tenant_id,
        tools=["terminal"],
        system_prompt="Be kind.",
        temperature=0.7,
        is_enabled=False,
        source=Profile.Source.DEMO,
    )
    _, warnings = manage.save_profile(caller, "fast", body())
    row = stored()
    assert (row.llm_model, row.llm_base_url, row.temperature) == ("openai/gpt-5", "", None)
    assert (row.tools, row.system_prompt, row.is_enabled) == (["terminal"], "Be kind.", False)
    assert row.source == Profile.Source.API
    assert any("disabled" in warning for warning in warnings)


def test_a_replaced_profile_is_seen_at_once(caller):
    manage.save_profile(caller, "fast", body())
    access.profile_for(caller, "fast")
    manage.save_profile(caller, "fast", body(temperature=1))
    assert access.profile_for(caller, "fast").temperature == 1


def test_prices_of_an_administrator_stay_with_their_model(caller):
    manage.save_profile(caller, "fast", body())
    Profile.objects.update(input_price=1, output_price=2, cached_input_price=0)
    manage.save_profile(caller, "fast", body(temperature=1))
    assert stored().prices() == {"input": "1.000000", "output": "2.000000", "cached": "0.000000"}
    manage.save_profile(caller, "fast", body(model="openai/gpt-4o"))
    assert stored().prices() == {}
    manage.save_profile(caller, "fast", body(input_cost_per_token=3e-06, output_cost_per_token=1.5e-05))
    assert stored().input_price == Decimal(3)


@pytest.mark.django_db(transaction=True)
def test_a_profile_that_is_made_twice_at_once_exists_once():
    caller = caller_of(factories.api_key())
    saved = at_once(lambda number: manage.save_profile(caller, "fast", body(temperature=number / 10)), times=4)
    assert [profile.slug for profile, _ in saved] == ["fast"] * 4
    assert Profile.objects.count() == 1


# --- what is refused


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        (None, None),
        ([], None),
        ("text", None),
        ({}, "llm"),
        ({"llm": None}, "llm"),
        (body() | {"tools": ["terminal"]}, "tools"),
        (body() | {"mcp_config": {}}, "mcp_config"),
        (body() | {"terminal_secrets": {}}, "terminal_secrets"),
        (body() | {"workspace": "fixed"}, "workspace"),
        (body() | {"allowed_servers": []}, "allowed_servers"),
        (body() | {"include_secrets": "yes"}, "include_secrets"),
        (body() | {"\ud800bad": 1}, "bad"),
        (body(temperature=3), "llm.temperature"),
        (body(seed=3), "llm.seed"),
    ],
)
def test_a_body_is_refused_by_the_name_of_what_is_wrong(caller, sent, param):
    with pytest.raises(InvalidProfile) as refused:
        manage.save_profile(caller, "fast", sent)
    assert refused.value.param == param
    assert refused.value.message.encode()
    assert not Profile.objects.exists()


@pytest.mark.parametrize("name", ["", "a/b", " a", "a\n", "\x00", "\ud800", "-a", "x" * 101, "ä"])
def test_names_that_cannot_be_a_model_id_are_refused(caller, name):
    with pytest.raises(InvalidProfile) as refused:
        manage.save_profile(caller, name, body())
    assert refused.value.param == "name"
    with pytest.raises(UnknownProfile):
        manage.get_profile(caller, name)
    with pytest.raises(UnknownProfile):
        manage.delete_profile(caller, name)


@pytest.mark.parametrize("owner", ["another tenant", "nobody"])
def test_a_name_of_somebody_else_is_taken_and_nothing_is_told_or_changed(caller, owner):
    factories.profile(slug="fast", owner=factories.tenant() if owner == "another tenant" else None)
    before = Profile.objects.values().get()
    with pytest.raises(ProfileNameTaken) as refused:
        manage.save_profile(caller, "fast", body())
    assert refused.value.message == "The profile name 'fast' is taken. Choose another."
    with pytest.raises(UnknownProfile):
        manage.get_profile(caller, "fast")
    with pytest.raises(UnknownProfile):
        manage.delete_profile(caller, "fast")
    assert manage.list_profiles(caller) == []
    assert Profile.objects.values().get() == before


def test_names_that_differ_in_case_alone_are_taken(caller):
    manage.save_profile(caller, "fast", body())
    with pytest.raises(ProfileNameTaken):
        manage.save_profile(caller, "FAST", body())


def test_a_key_that_manages_every_tenant_sees_and_changes_all(caller, global_caller):
    manage.save_profile(caller, "theirs", body())
    factories.profile(slug="everybodys")
    assert [profile.slug for profile in manage.list_profiles(global_caller)] == ["everybodys", "theirs"]
    manage.save_profile(global_caller, "theirs", body(temperature=1))
    assert stored("theirs").owner_id == caller.tenant_id
    manage.delete_profile(global_caller, "theirs")
    assert [profile.slug for profile in manage.list_profiles(global_caller)] == ["everybodys"]


def test_a_deleted_profile_is_gone_at_once(caller):
    manage.save_profile(caller, "fast", body())
    access.profile_for(caller, "fast")
    manage.delete_profile(caller, "fast")
    with pytest.raises(UnknownProfile):
        access.profile_for(caller, "fast")
    with pytest.raises(UnknownProfile):
        manage.delete_profile(caller, "fast")


# --- secrets


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        pytest.param({}, {"api_key": None}, KEY, id="nothing sent"),
        pytest.param({}, {"api_key": "**********"}, KEY, id="the mask sent back"),
        pytest.param({}, {"api_key": None, "model": "openai/gpt-4o"}, KEY, id="another model of the provider"),
        pytest.param({}, {"api_key": None, "model": "anthropic/claude"}, "", id="another provider"),
        pytest.param({}, {"api_key": None, "base_url": "https://evil.example"}, "", id="a base URL added"),
        pytest.param(
            {"base_url": "https://llm.example/v1"},
            {"api_key": None, "base_url": "https://llm.example/v2", "model": "litellm_proxy/x"},
            KEY,
            id="another path of the host",
        ),
        pytest.param(
            {"base_url": "https://llm.example/v1"},
            {"api_key": None, "base_url": "https://evil.example/v1"},
            "",
            id="another host",
        ),
        pytest.param(
            {"base_url": "https://llm.example"},
            {"api_key": None, "base_url": "http://llm.example"},
            "",
            id="the same host in the clear",
        ),
        pytest.param({"base_url": "https://llm.example"}, {"api_key": None}, "", id="the base URL taken away"),
        pytest.param(
            {"base_url": "https://llm.example"},
            {"api_key": "sk-new", "base_url": "https://other.example"},
            "sk-new",
            id="another host with its own key",
        ),
        pytest.param({}, {"api_key": ""}, "", id="an empty key"),
    ],
)
def test_a_stored_key_is_kept_only_for_the_place_it_was_given_for(caller, first, second, kept):
    manage.save_profile(caller, "fast", body(**first))
    manage.save_profile(caller, "fast", body(**second))
    assert stored().llm_api_key.reveal() == kept


def test_without_secrets_no_key_is_stored(caller):
    manage.save_profile(caller, "fast", body())
    manage.save_profile(caller, "fast", body() | {"include_secrets": False})
    assert not stored().llm_api_key


@pytest.mark.parametrize(
    ("stored_text", "sent", "new_place", "expected"),
    [
        ("old", None, "https://a:443", "old"),
        ("old", None, "https://b:443", ""),
        ("old", "new", "https://b:443", "new"),
        ("old", "new", "https://a:443", "new"),
        ("old", "", "https://a:443", ""),
        ("", None, "https://b:443", ""),
    ],
)
def test_the_rule_for_edited_urls(stored_text, sent, new_place, expected):
    kept = manage.keep_or_clear_secret(
        stored=Secret(stored_text), sent=sent, old_place="https://a:443", new_place=new_place
    )
    assert kept == Secret(expected)


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        (("openai/a", "", {}), ("openai/b", "", {}), True),
        (("gpt-4o", "", {"provider": "openai"}), ("openai/gpt-5", "", {"provider": "openai"}), True),
        (("gpt-4o", "", {}), ("gpt-5", "", {}), False),
        (("openai/a", "", {}), ("anthropic/a", "", {}), False),
        (("openai/a", "http://h:1", {}), ("anthropic/a", "http://h:1/v1", {}), True),
        (("openai/a", "http://h:1", {}), ("openai/a", "http://h:2", {}), False),
    ],
)
def test_where_a_key_is_sent(first, second, is_same):
    places = {
        manage.llm_place(model=model, base_url=base_url, catalogue=catalogue)
        for model, base_url, catalogue in (first, second)
    }
    assert (len(places) == 1) is is_same


def test_no_reply_repr_or_log_shows_the_key(caller, caplog):
    with caplog.at_level("DEBUG"):
        profile, warnings = manage.save_profile(caller, "fast", body())
    shown = f"{manage.profile_json(stored())} {profile!r} {profile} {warnings} {vars(profile)} {caplog.text}"
    assert KEY not in shown
    assert KEY[-8:] not in shown


def test_a_profile_is_shown_as_the_agent_server_shows_it(caller):
    manage.save_profile(caller, "fast", body(base_url="http://litellm:4000", temperature=0.5, timeout=30))
    shown = manage.profile_json(stored())
    assert shown["name"] == "fast"
    assert shown["model"] == "openai/gpt-5"
    assert shown["base_url"] == "http://litellm:4000"
    assert shown["api_key_set"] is True
    assert shown["model_id"] == "openhands_fast"
    assert shown["config"]["api_key"] is None
    assert shown["config"]["temperature"] == 0.5
    assert shown["config"]["timeout"] == 30


def test_what_is_shown_can_be_sent_back(caller):
    manage.save_profile(caller, "fast", body(base_url="http://litellm:4000", temperature=0.5, disable_vision=True))
    before = Profile.objects.values().get()
    manage.save_profile(caller, "fast", {"llm": manage.profile_json(stored())["config"]})
    assert Profile.objects.values().get() | {"updated_at": None} == before | {"updated_at": None}
    assert stored().llm_api_key.reveal() == KEY


# --- the model


def test_without_the_llm_process_a_profile_is_saved_with_a_warning(caller):
    _, warnings = manage.save_profile(caller, "fast", body(model="whatever"))
    assert warnings == ("The model 'whatever' was saved but could not be checked.",)
    assert stored().catalogue == {}


def test_without_the_llm_process_what_was_known_of_the_same_model_is_kept(caller):
    manage.save_profile(caller, "fast", body())
    Profile.objects.update(catalogue={"provider": "openai"})
    manage.save_profile(caller, "fast", body(temperature=1))
    assert stored().catalogue == {"provider": "openai"}
    manage.save_profile(caller, "fast", body(model="openai/gpt-4o"))
    assert stored().catalogue == {}


def test_a_known_model_brings_its_price_and_window(caller, llm_process):
    _, warnings = manage.save_profile(caller, "fast", body(model="anthropic/claude-sonnet-4-5"))
    assert warnings == ()
    assert stored().catalogue["context_window"] == 200_000
    assert stored().prices() == {"input": "3", "output": "15", "cached": "0.3", "cache_write": "3.75"}
    assert stored().sees_images


def test_an_unknown_model_is_warned_about_and_its_price_is_unknown(caller, llm_process):
    _, warnings = manage.save_profile(caller, "fast", body(model="openai/mine", base_url="http://127.0.0.1:9"))
    assert len(warnings) == 1
    assert "'openai/mine'" in warnings[0]
    assert stored().prices() == {}


@pytest.mark.parametrize("model", ["nonsense", "nosuchprovider/model", "openai/"])
def test_a_model_whose_provider_nobody_knows_is_refused(caller, llm_process, model):
    with pytest.raises(InvalidProfile) as refused:
        manage.save_profile(caller, "fast", body(model=model))
    assert refused.value.param == "llm.model"
    assert f"'{model}'" in refused.value.message
    assert not Profile.objects.exists()


def test_a_stale_catalogue_is_read_again(db, llm_process):
    profile = factories.profile(slug="fast", llm_model="openai/gpt-4o", llm_base_url="", catalogue={"is_known": False})
    assert manage.refresh_catalogue(profile)
    assert stored().catalogue["input_price"] == "2.5"
    assert not manage.refresh_catalogue(stored())


def test_a_catalogue_is_not_written_over_a_newer_model(db, llm_process):
    stale = factories.profile(slug="fast", llm_model="openai/gpt-4o", llm_base_url="")
    Profile.objects.update(llm_model="openai/other", catalogue={"provider": "openai"})
    assert not manage.refresh_catalogue(stale)
    assert stored().catalogue == {"provider": "openai"}


def test_a_catalogue_cannot_be_read_without_the_llm_process(db):
    with pytest.raises(LlmProcessDown):
        manage.refresh_catalogue(factories.profile())


# --- the start command


def wanted(**fields):
    given = {
        "slug": "default",
        "source": Profile.Source.ENVIRONMENT,
        "llm": {"llm_model": "openai/gpt-5", "llm_base_url": ""},
        "llm_api_key": KEY,
        "initial": {"tools": ["terminal"], "description": "From LLM_MODEL"},
    }
    return SetUp(**given | fields)


@pytest.mark.django_db
def test_the_start_command_makes_a_profile_and_later_brings_its_llm_up_to_date():
    manage.set_up_profile(wanted())
    Profile.objects.update(tools=[], is_enabled=False)
    manage.set_up_profile(wanted(llm={"llm_model": "openai/gpt-4o", "llm_base_url": "http://x:1"}, llm_api_key="sk-2"))
    row = stored("default")
    assert (row.llm_model, row.llm_base_url, row.llm_api_key.reveal()) == ("openai/gpt-4o", "http://x:1", "sk-2")
    assert (row.tools, row.is_enabled, row.description) == ([], False, "From LLM_MODEL")


@pytest.mark.django_db
@pytest.mark.parametrize("source", [Profile.Source.ADMIN, Profile.Source.API, Profile.Source.DEMO])
def test_the_start_command_leaves_a_profile_of_another_hand_alone(source):
    factories.profile(slug="default", llm_model="openai/mine", source=source)
    before = Profile.objects.values().get()
    _, warnings = manage.set_up_profile(wanted())
    assert Profile.objects.values().get() == before
    assert len(warnings) == 1
    assert "left as it is" in warnings[0]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"slug": "not a slug"}, "name"),
        ({"llm": {"llm_model": "openai/gpt-5", "llm_base_url": "nonsense"}}, "llm_base_url"),
        ({"llm": {"llm_model": ""}}, "llm_model"),
    ],
)
def test_the_start_command_is_told_which_value_is_wrong(fields, param):
    with pytest.raises(InvalidProfile) as refused:
        manage.set_up_profile(wanted(**fields))
    assert refused.value.param == param
    assert not Profile.objects.exists()


def test_what_the_start_command_wants_shows_no_key():
    assert KEY not in repr(wanted())


@pytest.mark.django_db(transaction=True)
def test_a_profile_remembered_before_a_commit_is_forgotten_after_it():
    caller = caller_of(factories.api_key())
    manage.save_profile(caller, "fast", body())
    old = stored()
    with transaction.atomic():
        manage.save_profile(caller, "fast", body(temperature=1))
        # Another thread, which cannot see the uncommitted row, remembers the profile as it was.
        access._profiles["fast"] = access._KnownProfile(profile=old, looked_up_at=timezone.now())
    assert access.profile_for(caller, "fast").temperature == 1


@pytest.mark.django_db
def test_a_model_for_housekeeping_does_not_follow_the_llm_to_another_place():
    profile = factories.profile(llm_base_url="", llm_model="anthropic/claude-large", source=Profile.Source.API)
    Profile.objects.update(utility_llm_model="anthropic/claude-small", utility_catalogue={"input_price": "1"})

    def save(model):
        caller = access.caller_for(factories.api_key(is_global=True).text, now=timezone.now())
        return manage.save_profile(caller, profile.slug, {"llm": {"model": model}})

    stayed, _ = save("anthropic/claude-larger")
    moved, warnings = save("openai/gpt-5")

    assert stayed.utility_llm_model == "anthropic/claude-small"
    assert (moved.utility_llm_model, moved.utility_catalogue) == ("", {})
    assert any("anthropic/claude-small" in warning for warning in warnings)
