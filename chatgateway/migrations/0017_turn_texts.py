import chatgateway.models.texts
import django.db.models.deletion
from django.db import migrations, models

# SQLite has no index over words: a table of its own, which reads the words where they are and is kept up by triggers.
# The words come separated and folded: its tokenizer has nothing to know of letters (“ascii” takes all others as such).
SQLITE = (
    """CREATE VIRTUAL TABLE chatgateway_turntext_index USING fts5(
        words, content='chatgateway_turntext', content_rowid='id', columnsize=0, tokenize='ascii'
    )""",
    """CREATE TRIGGER chatgateway_turntext_inserted AFTER INSERT ON chatgateway_turntext BEGIN
        INSERT INTO chatgateway_turntext_index (rowid, words) VALUES (new.id, new.words);
    END""",
    """CREATE TRIGGER chatgateway_turntext_deleted AFTER DELETE ON chatgateway_turntext BEGIN
        INSERT INTO chatgateway_turntext_index (chatgateway_turntext_index, rowid, words)
        VALUES ('delete', old.id, old.words);
    END""",
)
# New words are kept in a list that is sorted in now and then, by the turn that fills it up: a short list, so that the
# turn does not wait.
POSTGRESQL = (
    "CREATE INDEX turn_text_words ON chatgateway_turntext USING gin (words) WITH (gin_pending_list_limit = 256)",
)


def make_index(apps, schema_editor):
    for statement in POSTGRESQL if schema_editor.connection.vendor == "postgresql" else SQLITE:
        schema_editor.execute(statement)


def drop_index(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("DROP INDEX turn_text_words")
        return
    schema_editor.execute("DROP TRIGGER chatgateway_turntext_deleted")
    schema_editor.execute("DROP TRIGGER chatgateway_turntext_inserted")
    schema_editor.execute("DROP TABLE chatgateway_turntext_index")


class Migration(migrations.Migration):

    dependencies = [
        ('chatgateway', '0016_exports'),
    ]

    operations = [
        migrations.CreateModel(
            name='Watermark',
            fields=[
                ('name', models.CharField(max_length=40, primary_key=True, serialize=False)),
                ('at', models.DateTimeField(help_text='Turns opened before this moment are done.')),
            ],
        ),
        migrations.CreateModel(
            name='TurnText',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('words', chatgateway.models.texts.WordsField()),
                ('turn', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='text', to='chatgateway.turn')),
            ],
        ),
        migrations.RunPython(make_index, drop_index),
    ]
