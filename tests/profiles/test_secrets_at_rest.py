"""Columns that hold secrets, the command that re-encrypts them, and the checks of the settings behind both."""

from io import StringIO
from types import SimpleNamespace

import pytest
from django.core.checks import Error
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import connection

from chatgateway.models import AgentServer
from profiles import checks, rotation
from profiles.fields import decrypt
from profiles.models import Profile
from tests import factories

OLD, NEW = "old-key-" + "x" * 32, "new-key-" + "x" * 32


def raw(table, column):
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {column} FROM {table} ORDER BY id")
        return [row[0] for row in cursor.fetchall()]


@pytest.fixture
def under_the_old_key(db, settings):
    settings.GATEWAY_ENCRYPTION_KEYS = [OLD]
    factories.profile(slug="a", llm_api_key="sk-a", mcp_config='{"mcpServers": {}}')
    factories.profile(slug="b", llm_api_key="")
    factories.agent_server(session_api_key="session")


def rotate():
    out, err = StringIO(), StringIO()
    call_command("rotate_secrets", stdout=out, stderr=err)
    return out.getvalue()


def test_after_rotation_the_new_key_alone_reads_everything(under_the_old_key, settings):
    settings.GATEWAY_ENCRYPTION_KEYS = [NEW, OLD]
    said = rotate()
    settings.GATEWAY_ENCRYPTION_KEYS = [NEW]
    profile = Profile.objects.get(slug="a")
    assert profile.llm_api_key.reveal() == "sk-a"
    assert profile.mcp_config.reveal() == '{"mcpServers": {}}'
    assert AgentServer.objects.get().session_api_key.reveal() == "session"
    assert raw("profiles_profile", "llm_api_key")[1] == ""
    assert "profiles.Profile.llm_api_key: 1 encrypted anew" in said
    assert "chatgateway.AgentServer.session_api_key: 1 encrypted anew" in said


def test_rotation_can_be_repeated(under_the_old_key, settings):
    settings.GATEWAY_ENCRYPTION_KEYS = [NEW, OLD]
    rotate()
    rotate()
    assert Profile.objects.get(slug="a").llm_api_key.reveal() == "sk-a"


def test_rotation_goes_through_more_rows_than_a_batch_has(db, settings):
    settings.GATEWAY_ENCRYPTION_KEYS = [OLD]
    count = rotation.BATCH_ROWS + 3
    Profile.objects.bulk_create(Profile(slug=f"p{n}", llm_model="m", llm_api_key=f"sk-{n}") for n in range(count))
    settings.GATEWAY_ENCRYPTION_KEYS = [NEW, OLD]
    assert f"profiles.Profile.llm_api_key: {count} encrypted anew" in rotate()
    settings.GATEWAY_ENCRYPTION_KEYS = [NEW]
    assert {decrypt(token) for token in raw("profiles_profile", "llm_api_key")} == {f"sk-{n}" for n in range(count)}


def test_an_unreadable_secret_is_named_and_does_not_stop_the_others(under_the_old_key, settings):
    settings.GATEWAY_ENCRYPTION_KEYS = ["lost-key-" + "x" * 32]
    lost = factories.profile(slug="lost", llm_api_key="sk-lost")
    settings.GATEWAY_ENCRYPTION_KEYS = [NEW, OLD]
    out, err = StringIO(), StringIO()
    with pytest.raises(CommandError, match="1 secrets could not be read"):
        call_command("rotate_secrets", stdout=out, stderr=err)
    assert f"profiles.Profile.llm_api_key: row {lost.pk} cannot be read" in err.getvalue()
    settings.GATEWAY_ENCRYPTION_KEYS = [NEW]
    assert Profile.objects.get(slug="a").llm_api_key.reveal() == "sk-a"


def test_a_row_that_changes_meanwhile_is_not_set_back(under_the_old_key, settings):
    settings.GATEWAY_ENCRYPTION_KEYS = [NEW, OLD]

    def change_meanwhile(execute, sql, params, many, context):
        rows = execute(sql, params, many, context)
        if sql.startswith("SELECT") and "llm_api_key" in sql and not changed:
            changed.append(True)
            Profile.objects.filter(slug="a").update(llm_api_key="sk-newer")
        return rows

    changed = []
    with connection.execute_wrapper(change_meanwhile):
        rotate()
    assert Profile.objects.get(slug="a").llm_api_key.reveal() == "sk-newer"


def test_a_secret_of_an_unknown_key_is_an_error_that_names_the_setting(under_the_old_key, settings):
    settings.GATEWAY_ENCRYPTION_KEYS = [NEW]
    with pytest.raises(ImproperlyConfigured, match="GATEWAY_ENCRYPTION_KEYS"):
        Profile.objects.get(slug="a")


def test_nothing_readable_is_stored(under_the_old_key):
    stored = f"{raw('profiles_profile', 'llm_api_key')} {raw('chatgateway_agentserver', 'session_api_key')}"
    assert "sk-a" not in stored
    assert "session" not in stored


# --- checks


LONG = "x" * 32


@pytest.mark.parametrize(
    ("encryption", "pepper", "ids"),
    [
        ([LONG], LONG + "y", []),
        ([], LONG, ["profiles.E001"]),
        ([LONG, "short"], LONG + "y", ["profiles.E002"]),
        ([LONG], "short", ["profiles.E003"]),
        ([LONG], "", ["profiles.E003"]),
        ([LONG], LONG, ["profiles.E004"]),
    ],
)
def test_weak_secrets_stop_the_start(settings, encryption, pepper, ids):
    settings.GATEWAY_ENCRYPTION_KEYS = encryption
    settings.GATEWAY_API_KEY_PEPPER = pepper
    found = checks.check_secrets()
    assert [message.id for message in found] == ids
    assert all(isinstance(message, Error) and message.msg.startswith("GATEWAY_") for message in found)
    assert not any(secret in str(found) for secret in [LONG, "short"])


def test_the_settings_of_this_very_run_pass():
    assert checks.check_secrets() == []


@pytest.fixture
def data_dir(settings, tmp_path):
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "pepper").write_text(f"{LONG}p\n")
    settings.DATA_DIR = tmp_path
    settings.GATEWAY_API_KEY_PEPPER = f"{LONG}p"


@pytest.mark.parametrize(("engine", "ids"), [("sqlite3", []), ("postgresql", ["profiles.W001"])])
def test_a_shared_database_wants_shared_secrets(settings, data_dir, monkeypatch, engine, ids):
    monkeypatch.setitem(settings.DATABASES["default"], "ENGINE", f"django.db.backends.{engine}")
    found = checks.check_shared_secrets()
    assert [message.id for message in found] == ids
    assert LONG not in str(found)


@pytest.mark.parametrize(("prefixlen", "ids"), [(8, []), (0, ["profiles.E005"])])
def test_nobody_trusts_every_proxy(settings, prefixlen, ids):
    settings.GATEWAY_TRUSTED_PROXIES = [SimpleNamespace(prefixlen=prefixlen)]
    assert [message.id for message in checks.check_trusted_proxies()] == ids
