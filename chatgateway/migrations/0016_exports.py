"""The permission to export turns, given to the roles that administer and audit."""

from django.db import migrations

CODENAME, NAME = "export_turn", "Can export turns and make reports; with texts for those who can read them"
ROLES = ("administrator", "auditor")


def allow(apps, schema_editor):
    alias = schema_editor.connection.alias
    content_types = apps.get_model("contenttypes", "ContentType").objects.using(alias)
    permissions = apps.get_model("auth", "Permission").objects.using(alias)
    # Django makes permissions when all migrations have run; here it is needed before.
    of_turns, _ = content_types.get_or_create(app_label="chatgateway", model="turn")
    permission, _ = permissions.get_or_create(codename=CODENAME, content_type=of_turns, defaults={"name": NAME})
    for group in apps.get_model("auth", "Group").objects.using(alias).filter(name__in=ROLES):
        group.permissions.add(permission)


def forbid(apps, schema_editor):
    permissions = apps.get_model("auth", "Permission").objects.using(schema_editor.connection.alias)
    permissions.filter(codename=CODENAME, content_type__app_label="chatgateway").delete()


class Migration(migrations.Migration):
    dependencies = [("chatgateway", "0015_selections")]

    operations = [
        migrations.AlterModelOptions(
            name="turn",
            options={
                "ordering": ["-opened_at"],
                "permissions": [
                    ("stop_turn", "Can stop turns"),
                    ("read_transcript", "Can read what was asked, done and answered; each reading is recorded"),
                    (CODENAME, NAME),
                ],
            },
        ),
        migrations.RunPython(allow, forbid),
    ]
