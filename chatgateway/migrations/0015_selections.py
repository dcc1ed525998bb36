from django.db import migrations, models

from chatgateway.concurrent_index import AddIndexWhileInUse


class Migration(migrations.Migration):

    atomic = False

    dependencies = [
        ('chatgateway', '0014_turns_with_content'),
    ]

    operations = [
        AddIndexWhileInUse(
            model_name='event',
            index=models.Index(condition=models.Q(('kind', 'ActionEvent')), fields=['tool', 'turn'], name='event_of_tool'),
        ),
        AddIndexWhileInUse(
            model_name='turn',
            index=models.Index(condition=models.Q(('end_user', ''), _negated=True), fields=['end_user', '-opened_at'], name='turn_of_end_user'),
        ),
    ]
