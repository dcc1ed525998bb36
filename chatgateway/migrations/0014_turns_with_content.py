from django.db import migrations, models

from chatgateway.concurrent_index import AddIndexWhileInUse


class Migration(migrations.Migration):

    atomic = False

    dependencies = [
        ('chatgateway', '0013_hourly_figures'),
        ('profiles', '0008_sign_in_identity'),
    ]

    operations = [
        AddIndexWhileInUse(
            model_name='turn',
            index=models.Index(condition=models.Q(('content_removed_at__isnull', True)), fields=['profile', 'opened_at'], name='turn_with_content'),
        ),
    ]
