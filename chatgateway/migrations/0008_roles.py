"""The three roles as groups. What each may do is fixed here; an administrator may give a group more, or less."""

from django.contrib.auth.management import create_permissions
from django.db import migrations

_EDITED = ("profiles.tenant", "profiles.apikey", "profiles.profile", "chatgateway.agentserver")
_SEEN = tuple(model.replace(".", ".view_") for model in _EDITED)
_TRAFFIC = (
    "chatgateway.view_turn",
    "chatgateway.view_conversation",
    "chatgateway.view_alert",
    "profiles.view_failedauthentication",
)
_RUNNING = (
    "chatgateway.stop_turn",
    "chatgateway.operate_agentserver",
    "chatgateway.view_taskrun",
    "profiles.try_profile",
)
_ACCOUNTS = ("profiles.view_changerecord", "chatgateway.view_transcriptreading", "chatgateway.view_erasure")

ROLES = {
    # Edits who may call and what they get. Does not read what callers said.
    "administrator": (
        *_SEEN,
        *(model.replace(".", f".{action}_") for model in _EDITED for action in ("add", "change", "delete")),
        *_TRAFFIC,
        *_RUNNING,
        *_ACCOUNTS,
        "chatgateway.add_erasure",
    ),
    # Keeps it running: sees everything but texts, stops turns, tests profiles and agent-servers.
    "operator": (*_SEEN, *_TRAFFIC, *_RUNNING),
    # Reads what was asked, done and answered, and who changed or read what. Changes nothing.
    "auditor": (*_SEEN, *_TRAFFIC, *_ACCOUNTS, "chatgateway.read_transcript"),
}


def make_roles(apps, schema_editor):
    alias = schema_editor.connection.alias
    # Django makes permissions when all migrations have run; here they are needed before.
    for label in ("profiles", "chatgateway"):
        config = apps.get_app_config(label)
        module = getattr(config, "models_module", None)  # of a past state there is none
        config.models_module = module or True
        create_permissions(config, apps=apps, using=alias, verbosity=0)
        config.models_module = module
    permissions = apps.get_model("auth", "Permission").objects.using(alias)
    for name, wanted in ROLES.items():
        group, _ = apps.get_model("auth", "Group").objects.using(alias).get_or_create(name=name)
        for permission in wanted:
            label, codename = permission.split(".")
            group.permissions.add(permissions.get(content_type__app_label=label, codename=codename))


def remove_roles(apps, schema_editor):
    apps.get_model("auth", "Group").objects.using(schema_editor.connection.alias).filter(name__in=ROLES).delete()


class Migration(migrations.Migration):
    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("profiles", "0007_governance"),
        ("chatgateway", "0007_governance"),
    ]

    operations = [migrations.RunPython(make_roles, remove_roles)]
