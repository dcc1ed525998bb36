"""The permission to operate agent-servers covers draining, disabling and activating them; its name says so."""

from django.db import migrations

_BEFORE, _AFTER = "Can test agent-servers", "Can test, drain, disable and activate agent-servers"


def _named(name):
    def rename(apps, schema_editor):
        permissions = apps.get_model("auth", "Permission").objects.using(schema_editor.connection.alias)
        permissions.filter(codename="operate_agentserver", content_type__app_label="chatgateway").update(name=name)

    return rename


class Migration(migrations.Migration):
    dependencies = [("chatgateway", "0009_responses")]

    operations = [
        migrations.AlterModelOptions(
            name="agentserver",
            options={
                "ordering": ["name"],
                "permissions": [("operate_agentserver", _AFTER)],
                "verbose_name": "agent-server",
            },
        ),
        migrations.RunPython(_named(_AFTER), _named(_BEFORE)),
    ]
