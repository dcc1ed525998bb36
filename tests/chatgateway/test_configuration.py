"""export_config and import_config: what an administrator edits, as one file, there and back again."""

from __future__ import annotations

import io
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django import Settings

from chatgateway.configuration.document import FORMAT, KINDS
from chatgateway.models import AgentServer
from profiles import access, issuing
from profiles.fields import load_json
from profiles.models import ApiKey, ApiKeySecret, ChangeRecord, Profile, Tenant
from tests import factories
from tests.gateway_project.conftest import ScriptedLlmProcess
from tests.laws import pages

pytestmark = pytest.mark.django_db

PLANTED = "planted-provider-key"
MCP = '{"mcpServers": {"docs": {"url": "https://x.example", "headers": {"a": "planted-mcp-token"}}}}'


@pytest.fixture(autouse=True)
def _no_llm_process(settings: Settings, tmp_path: Path) -> None:
    settings.GATEWAY_LLM_SOCKET = str(tmp_path / "run" / "llm.sock")
    settings.GATEWAY_WORKSPACE_ROOTS = ["/srv/projects"]


@pytest.fixture
def llm_answers(tmp_path: Path) -> Iterator[ScriptedLlmProcess]:
    scripted = ScriptedLlmProcess(tmp_path / "run" / "llm.sock")
    yield scripted
    scripted.close()


@pytest.fixture
def key() -> factories.MadeKey:
    """A gateway with one of everything, each bound to the others; return its key."""
    tenant = factories.tenant(name="Acme", notes="a customer\nof ours: “yes”", max_usd_per_day="12.5")
    server = factories.agent_server(name="east", url="http://10.0.0.5:8000", session_api_key="planted-session-key")
    profile = factories.profile(
        slug="coder",
        owner=tenant,
        tools=["terminal"],
        system_prompt="Be brief.\nBe kind.",
        llm_api_key=PLANTED,
        mcp_config=MCP,
        workspace="fixed",
        workspace_path="/srv/projects/a",
        temperature=0.5,
        accepts_images=True,
    )
    server.profiles.add(profile)
    return factories.api_key(
        tenant=tenant, name="laptop", profiles=[profile], expires_at=timezone.now().replace(year=2090)
    )


def exported(*arguments: str) -> str:
    out = io.StringIO()
    call_command("export_config", *arguments, stdout=out)
    return out.getvalue()


def imported(text: str, *arguments: str, tmp_path: Path) -> tuple[str, str]:
    """Import a text; return what was said on standard output and on standard error."""
    file = tmp_path / "config.yaml"
    file.write_text(text)
    out, err = io.StringIO(), io.StringIO()
    call_command("import_config", str(file), *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def refused(text: str, tmp_path: Path) -> str:
    with pytest.raises(CommandError) as error:
        imported(text, tmp_path=tmp_path)
    return str(error.value)


def written(**sections: Any) -> str:
    return yaml.safe_dump({"format": FORMAT, **sections})


def forget_all_rows() -> None:
    ApiKey.objects.all().delete()
    Profile.objects.all().delete()
    AgentServer.objects.all().delete()
    Tenant.objects.all().delete()
    access.forget_all()


def works(text: str) -> bool:
    return access.caller_for(text, now=timezone.now()).tenant_name == "Acme"


# --- there and back -------------------------------------------------------------------------------------------------


def test_an_empty_gateway_becomes_the_one_that_was_exported(key: factories.MadeKey, tmp_path: Path) -> None:
    before = exported("--include-secrets")
    forget_all_rows()

    imported(before, tmp_path=tmp_path)

    plain = exported()
    forget_all_rows()
    imported(before, tmp_path=tmp_path)
    assert exported() == plain
    profile = Profile.objects.get()
    assert profile.llm_api_key.reveal() == PLANTED
    assert load_json(profile.mcp_config)["mcpServers"]["docs"]["headers"] == {"a": "planted-mcp-token"}
    assert (profile.system_prompt, profile.workspace_path) == ("Be brief.\nBe kind.", "/srv/projects/a")
    assert [server.name for server in profile.allowed_servers.all()] == ["east"]
    assert AgentServer.objects.get().session_api_key.reveal() == "planted-session-key"
    assert profile.owner == Tenant.objects.get()
    made = ApiKey.objects.get()
    assert list(made.allowed_profiles.all()) == [profile]
    assert (made.allows_all_profiles, made.expires_at.year) == (False, 2090)
    assert works(key.text)


@pytest.mark.parametrize("arguments", [[], ["--include-secrets"]])
def test_the_same_file_again_changes_nothing(key: factories.MadeKey, tmp_path: Path, arguments: list[str]) -> None:
    stamp = Profile.objects.get().updated_at

    told, _ = imported(exported(*arguments), tmp_path=tmp_path)

    assert told == "Changed 0 rows.\n"
    assert not ChangeRecord.objects.exists()
    assert Profile.objects.get().updated_at == stamp
    assert Profile.objects.get().llm_api_key.reveal() == PLANTED
    assert works(key.text)


def test_without_being_asked_for_no_secret_is_written(key: factories.MadeKey) -> None:
    text = exported()

    secrets = ("planted-", ApiKeySecret.objects.get().digest, "encrypted:", "api_key_pepper:")
    assert [secret for secret in secrets if secret in text] == []
    assert "coder" in text


def test_secrets_are_written_encrypted_only(key: factories.MadeKey) -> None:
    text = exported("--include-secrets")

    assert "planted-" not in text
    assert key.text not in text
    assert yaml.safe_load(text)["profiles"][0]["llm_api_key"].keys() == {"encrypted"}


def test_every_column_that_can_be_edited_is_in_the_file(key: factories.MadeKey) -> None:
    found = yaml.safe_load(exported())

    edited = {
        kind.section: {c.name for c in kind.model._meta.concrete_fields if c.editable and not c.primary_key}
        for kind in KINDS
    }
    missing = {section: columns - set(found[section][0]) for section, columns in edited.items()}
    assert missing == {
        "tenants": set(),
        "agent_servers": {"session_api_key"},
        "profiles": {"llm_api_key", "mcp_config", "terminal_secrets"},
        "api_keys": {"allows_all_profiles"},
    }


def test_what_the_gateway_makes_by_itself_and_what_is_over_is_left_out(key: factories.MadeKey) -> None:
    factories.profile(slug="demo", source=Profile.Source.DEMO)
    factories.agent_server(name="local", is_embedded=True)
    issuing.revoke(factories.api_key(name="stolen", tenant=key.row.tenant).row, reason="stolen")

    found = yaml.safe_load(exported())

    assert [row["slug"] for row in found["profiles"]] == ["coder"]
    assert [row["name"] for row in found["agent_servers"]] == ["east"]
    assert [row["name"] for row in found["api_keys"]] == ["laptop"]


def test_a_file_is_made_for_its_owner_alone_and_never_over_another(key: factories.MadeKey, tmp_path: Path) -> None:
    path = tmp_path / "out.yaml"

    call_command("export_config", "--output", str(path), stderr=io.StringIO())

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert yaml.safe_load(path.read_text())["format"] == FORMAT
    with pytest.raises(CommandError, match="cannot be written"):
        call_command("export_config", "--output", str(path))


# --- changes --------------------------------------------------------------------------------------------------------


def test_a_changed_file_changes_just_that_and_is_recorded(key: factories.MadeKey, tmp_path: Path) -> None:
    text = exported().replace("max_iterations: 100", "max_iterations: 50")

    told, _ = imported(text, tmp_path=tmp_path)

    record = ChangeRecord.objects.get()
    assert (record.actor, record.kind, record.fields) == (
        "import_config", "profiles.profile", {"max_iterations": [100, 50]},
    )  # fmt: skip
    assert told == "profiles.profile “coder”: changed\n    max_iterations: 100 -> 50\nChanged 1 row.\n"


def test_a_dry_run_shows_the_same_and_changes_nothing(key: factories.MadeKey, tmp_path: Path) -> None:
    document = yaml.safe_load(exported())
    document["profiles"][0]["max_iterations"] = 50
    document["profiles"][0]["llm_api_key"] = {"text": "sk-new-and-secret"}
    document["tenants"].append({"name": "Beta"})

    told, _ = imported(yaml.safe_dump(document), "--dry-run", tmp_path=tmp_path)

    assert "max_iterations: 100 -> 50" in told
    assert "llm_api_key: " in told
    assert "sk-new-and-secret" not in told
    assert "profiles.tenant “Beta”: added" in told
    assert told.endswith("Would change 2 rows.\n")
    assert (Profile.objects.get().max_iterations, Tenant.objects.count()) == (100, 1)
    assert Profile.objects.get().llm_api_key.reveal() == PLANTED
    assert not ChangeRecord.objects.exists()


def test_what_an_entry_leaves_out_stays(key: factories.MadeKey, tmp_path: Path) -> None:
    imported(written(profiles=[{"slug": "coder", "description": "new"}]), tmp_path=tmp_path)

    profile = Profile.objects.get()
    assert (profile.description, profile.tools, profile.temperature) == ("new", ["terminal"], 0.5)
    assert profile.owner.name == "Acme"
    assert profile.allowed_servers.count() == 1
    assert ApiKey.objects.count() == 1


def test_a_file_by_hand_makes_what_it_names(tmp_path: Path, llm_answers: ScriptedLlmProcess) -> None:
    facts = {"provider": "openai", "is_known": True, "input_price": "1.25", "output_price": "10"}
    llm_answers.answers["describe_model"] = {"result": facts}
    (tmp_path / "provider").write_text("sk-from-a-file\n")
    text = f"""
format: {FORMAT}
tenants: [{{name: Acme}}]
profiles:
  - slug: fast
    llm_model: openai/gpt-5-mini
    llm_api_key: {{file: {tmp_path}/provider}}
api_keys:
  - {{tenant: Acme, name: laptop, profiles: [fast]}}
"""

    _, noticed = imported(text, tmp_path=tmp_path)

    profile = Profile.objects.get()
    assert profile.llm_api_key.reveal() == "sk-from-a-file"
    assert profile.prices()["output"] == "10"
    assert (profile.source, profile.max_iterations) == ("admin", 100)
    assert list(ApiKey.objects.get().allowed_profiles.all()) == [profile]
    assert "has no secret yet" in noticed
    assert ChangeRecord.objects.filter(action="added").count() == 3


def test_the_file_that_the_documentation_prints_works(tmp_path: Path) -> None:
    (printed,) = [
        snippet.text for snippet in pages.snippets("yaml") if snippet.page.endswith("configure-from-a-file.md")
    ]
    (tmp_path / "east").write_text("session-key")
    (tmp_path / "anthropic").write_text("sk-anthropic")

    imported(printed.replace("/run/secrets", str(tmp_path)), tmp_path=tmp_path)

    assert Profile.objects.get().llm_api_key.reveal() == "sk-anthropic"
    assert AgentServer.objects.get().session_api_key.reveal() == "session-key"
    assert list(ApiKey.objects.get().allowed_profiles.all()) == [Profile.objects.get()]


def test_a_stored_key_does_not_follow_a_profile_to_another_host(key: factories.MadeKey, tmp_path: Path) -> None:
    moved = {"slug": "coder", "llm_base_url": "https://elsewhere.example.com/v1"}

    _, noticed = imported(written(profiles=[moved]), tmp_path=tmp_path)

    assert not Profile.objects.get().llm_api_key
    assert "the stored LLM API key was removed" in noticed


def test_a_stored_session_key_does_not_follow_a_server_to_another_host(key: factories.MadeKey, tmp_path: Path) -> None:
    moved = {"name": "east", "url": "http://10.9.9.9:8000"}

    imported(written(agent_servers=[moved]), tmp_path=tmp_path)

    assert not AgentServer.objects.get().session_api_key


def test_a_key_that_was_revoked_here_stays_so(key: factories.MadeKey, tmp_path: Path) -> None:
    text = exported("--include-secrets")
    issuing.revoke(key.row, reason="stolen")

    _, noticed = imported(text, tmp_path=tmp_path)

    assert "was revoked here and stays so" in noticed
    assert ApiKey.objects.get().revoked_at is not None


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "not YAML"),
        ("- 1", "does not begin with"),
        ("format: other/1", "does not begin with"),
        (written(models=[]), "There is no section “models”"),
        (written(tenants={"name": "x"}), "write a list of entries"),
        (written(tenants=[{"notes": "x"}]), "an entry has no “name”"),
        (written(tenants=[{"name": "A"}, {"name": "A"}]), "stands in the file twice"),
        (written(profiles=[{"slug": "a", "llm_model": "x/y"}, {"slug": "A"}]), "stands in the file twice"),
        (written(tenants=[{"name": "A", "colour": "red"}]), "there is no “colour”"),
        (written(tenants=[{"name": "A", "max_usd_per_day": "much"}]), "max_usd_per_day"),
        (written(tenants=[{"name": "A", "notes": False}]), "notes: Write a text, in quotes."),
        (written(tenants=[{"name": "A", "max_open_turns": True}]), "max_open_turns: That is true or false"),
        (written(tenants=[{"name": "A", "notes": "a\0b"}]), "NUL"),
        (written(profiles=[{"slug": "a"}]), "llm_model: "),
        (written(profiles=[{"slug": "a b", "llm_model": "openai/x"}]), "slug: Letters, digits"),
        (
            written(profiles=[{"slug": "a", "llm_model": "openai/x", "tools": "terminal"}]),
            "tools: Write a list of texts",
        ),
        (written(profiles=[{"slug": "a", "llm_model": "openai/x", "temperature": float("nan")}]), "finite number"),
        (written(profiles=[{"slug": "a", "llm_model": "openai/x", "is_enabled": "yes"}]), "Write true or false"),
        (written(profiles=[{"slug": "a", "llm_model": "openai/x", "owner": "Nobody"}]), "no tenant “Nobody”"),
        (written(profiles=[{"slug": "a", "llm_model": "openai/x", "allowed_servers": ["?"]}]), "no agent-server “?”"),
        (written(profiles=[{"slug": "a", "llm_model": "openai/x", "llm_api_key": "sk-plain"}]), "Write {file: …}"),
        (
            written(profiles=[{"slug": "a", "llm_model": "openai/x", "llm_api_key": {"encrypted": "x"}}]),
            "ENCRYPTION_KEYS",
        ),
        (
            written(profiles=[{"slug": "a", "llm_model": "openai/x", "llm_api_key": {"file": "/no/such"}}]),
            "No such file",
        ),
        (
            written(profiles=[{"slug": "a", "llm_model": "openai/x", "mcp_config": {"text": "{}"}}]),
            "mcp_config: Write {",
        ),
        (
            written(profiles=[{"slug": "a", "llm_model": "openai/x", "workspace_template": "/etc"}]),
            "under /srv/projects",
        ),
        (written(profiles=[{"slug": "a", "llm_model": "openai/x", "workspace": "fixed"}]), "needs a path"),
        (
            written(profiles=[{"slug": "a", "llm_model": "openai/x", "keep_content_days": 9, "keep_usage_days": 3}]),
            "kept for 3 days only",
        ),
        (
            written(profiles=[{"slug": "a", "llm_model": "openai/x", "utility_llm_model": "anthropic/y"}]),
            "same provider",
        ),
        (written(api_keys=[{"name": "a"}]), "no tenant “None”"),
        (written(tenants=[{"name": "A"}], api_keys=[{"tenant": "A", "name": "a", "is_global": True}]), "is_global"),
        (
            written(tenants=[{"name": "A"}], api_keys=[{"tenant": "A", "name": "a", "profiles": ["?"]}]),
            "no profile “?”",
        ),
        (
            written(
                tenants=[{"name": "A"}], api_keys=[{"tenant": "A", "name": "a", "expires_at": "2090-01-01T00:00:00"}]
            ),
            "with its zone",
        ),
        (written(agent_servers=[{"name": "a", "url": "ftp://x", "workspace_root": "/w"}]), "Write the whole URL"),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_nothing_is_written(text: str, said: str, tmp_path: Path) -> None:
    complaint = refused(text, tmp_path)

    assert said in complaint
    assert complaint.startswith("Nothing was changed.")
    assert [model.objects.exists() for model in (Tenant, Profile, ApiKey)] == [False] * 3
    assert not ChangeRecord.objects.exists()


def test_a_broken_file_is_not_quoted(tmp_path: Path) -> None:
    assert "sk-in-the-line" not in refused("profiles: [{llm_api_key: {text: sk-in-the-line\n", tmp_path)


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    complaint = refused(written(tenants=[{"name": ""}, {"name": "ok"}], profiles=[{"slug": "a"}]), tmp_path)

    assert complaint.count("\n") == 2
    assert not Tenant.objects.exists()


def test_a_model_of_no_provider_is_refused(tmp_path: Path, llm_answers: ScriptedLlmProcess) -> None:
    llm_answers.answers["describe_model"] = {"error": {"kind": "unknown_provider", "message": ""}}

    assert "cannot tell the provider" in refused(written(profiles=[{"slug": "a", "llm_model": "x"}]), tmp_path)


def test_keys_of_another_pepper_are_refused(key: factories.MadeKey, settings: Settings, tmp_path: Path) -> None:
    text = exported("--include-secrets")
    settings.GATEWAY_API_KEY_PEPPER = "another pepper that is long enough to be one"

    assert "GATEWAY_API_KEY_PEPPER" in refused(text, tmp_path)


def test_another_tenants_profile_is_not_given_to_a_key(key: factories.MadeKey, tmp_path: Path) -> None:
    text = written(tenants=[{"name": "B"}], api_keys=[{"tenant": "B", "name": "b", "profiles": ["coder"]}])

    assert "belongs to another tenant" in refused(text, tmp_path)


def test_the_secret_of_one_key_is_not_given_to_another(key: factories.MadeKey, tmp_path: Path) -> None:
    document = yaml.safe_load(exported("--include-secrets"))
    document["api_keys"][0]["name"] = "copy"

    assert "is another one here" in refused(yaml.safe_dump(document), tmp_path)


def test_a_server_that_up_keeps_is_not_written(tmp_path: Path) -> None:
    factories.agent_server(name="local", is_embedded=True)

    assert "kept by “up” itself" in refused(written(agent_servers=[{"name": "local", "capacity": 3}]), tmp_path)


def test_a_file_that_is_not_there_is_said_so() -> None:
    with pytest.raises(CommandError, match="cannot be read: No such file"):
        call_command("import_config", "/no/such/file")
