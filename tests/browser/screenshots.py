"""Pictures of each main page of the admin, to be looked at: light and dark, wide and narrow.

`python -m tests.browser.screenshots FOLDER` makes a database of its own, fills it with `seed_demo`, serves it on a
loopback port, and writes `FOLDER/{page}-{light,dark}-{wide,narrow}.png`. `--empty` leaves the database as a first start
finds it; `--docs` makes the few that README and docs show, under the names they have there. Nothing of it is kept but
the pictures.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WIDTHS = {"wide": 1440, "narrow": 390}
SCHEMES = ("light", "dark")
LEAST_HEIGHT = 900
PASSWORD = "a long password"
# What docs/images holds, light and wide: which page each is of, and how much of it.
IN_DOCS = {
    "overview.png": ("overview-7-days", 1640),
    "turns.png": ("list-turn", 900),
    "turn.png": ("turn", 900),
    "conversation.png": ("conversation", 900),
    "key.png": ("key", 1250),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.screenshots", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="pages whose name holds this")
    parser.add_argument("--turns", type=int, default=900)
    parser.add_argument("--running", type=int, default=6)
    parser.add_argument("--empty", action="store_true", help="a database without any row")
    parser.add_argument("--schemes", default=",".join(SCHEMES))
    parser.add_argument("--widths", default=",".join(WIDTHS))
    parser.add_argument("--docs", action="store_true", help="the pictures of docs/images alone, under their names")
    parser.add_argument("--window", action="store_true", help="only what fits into the window, not the whole page")
    asked = parser.parse_args()
    if asked.docs:
        asked.schemes, asked.widths = "light", "wide"
    asked.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data:
        os.environ["GATEWAY_DATA_DIR"] = data
        os.environ["GATEWAY_READ_DOTENV"] = "false"
        os.environ["GATEWAY_LOG_LEVEL"] = "ERROR"
        os.environ.pop("GATEWAY_DATABASE_URL", None)
        os.environ["DJANGO_SETTINGS_MODULE"] = "gateway_project.settings"
        import django

        django.setup()
        done = threading.Event()
        _fill(asked, done)
        _take(asked)
        done.set()


def _fill(asked: argparse.Namespace, done: threading.Event) -> None:
    from django.contrib.auth.models import User
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    User.objects.create_superuser("root", password=PASSWORD)
    if not asked.empty:
        call_command("seed_demo", turns=asked.turns, running=asked.running, verbosity=0)
        threading.Thread(target=_keep_running, args=[done], daemon=True).start()
        _account(User.objects.get(username="root"))


def _account(root: Any) -> None:
    """Something to see on the pages of accountability, made as it is made in use."""
    from django.test import Client

    from chatgateway import erasures
    from chatgateway.models import AgentServer, Turn
    from profiles import changes
    from profiles.models import ApiKey, Profile, Tenant

    browser = Client(SERVER_NAME="localhost")
    browser.force_login(root)
    for turn in Turn.objects.filter(conversation__isnull=False).order_by("-opened_at")[:12]:
        browser.get(f"/admin/chatgateway/turn/{turn.pk}/change/")
    who = changes.person(root, address="192.0.2.10")
    profile = Profile.objects.order_by("slug").first()
    if profile is not None:
        with changes.recorded(profile, by=who, note="Prices of the new contract"):
            Profile.objects.filter(pk=profile.pk).update(input_price="1.1", output_price="9", max_iterations=80)
    for row in (*Profile.objects.all(), *ApiKey.objects.all(), *Tenant.objects.all()):
        changes.added(row, by=changes.program("seed_demo"))
    server = AgentServer.objects.order_by("name").last()
    if server is not None:
        with changes.recorded(server, by=who):
            AgentServer.objects.filter(pk=server.pk).update(capacity=8)
    tenant = Tenant.objects.order_by("name").first()
    if tenant is not None:
        erasures.ask(tenant=tenant, end_user="noor", by="root")


def _pages() -> Iterator[tuple[str, str]]:
    """The name of each picture and the page it is of; pages of a row only where there is one."""
    from django.contrib import admin
    from django.db import models

    from chatgateway.models import AgentServer, Conversation, Erasure, Turn
    from profiles.models import ApiKey, ChangeRecord, Profile, Tenant

    yield "overview", ""
    yield "overview-7-days", "?range=7d"
    yield "overview-30-days", "?range=30d"
    for model_admin in admin.site._registry.values():
        opts = model_admin.opts
        yield f"list-{opts.model_name}", f"{opts.app_label}/{opts.model_name}/"
    yield "retention", "chatgateway/erasure/retention/"
    yield "erasure-add", "chatgateway/erasure/add/"
    for model in ("profiles/profile", "profiles/apikey", "profiles/tenant", "chatgateway/agentserver", "auth/user"):
        yield f"add-{model.partition('/')[2]}", f"{model}/add/"
    steps = Turn.objects.annotate(n=models.Count("events")).filter(outcome="answered").order_by("-n", "-opened_at")
    long = Conversation.objects.annotate(n=models.Count("turns")).order_by("-n", "-created_at")
    rows: list[tuple[str, Any, str]] = [
        ("turn", steps.first(), "change"),
        ("turn-failed", Turn.objects.filter(outcome="failed").first(), "change"),
        ("turn-open", Turn.objects.open().first(), "change"),
        ("conversation", long.first(), "change"),
        ("profile", Profile.objects.order_by("slug").first(), "change"),
        ("profile-test", Profile.objects.order_by("slug").first(), "test"),
        ("profile-doctor", Profile.objects.order_by("slug").first(), "doctor"),
        ("tenant", Tenant.objects.order_by("name").first(), "change"),
        ("key", ApiKey.objects.filter(revoked_at__isnull=True).order_by("-last_used_at").first(), "change"),
        ("key-use", ApiKey.objects.filter(revoked_at__isnull=True).first(), "use"),
        ("key-rotate", ApiKey.objects.filter(revoked_at__isnull=True).first(), "rotate"),
        ("key-revoke", ApiKey.objects.filter(revoked_at__isnull=True).first(), "revoke"),
        ("server", AgentServer.objects.order_by("name").first(), "change"),
        ("server-test", AgentServer.objects.order_by("name").first(), "test"),
        ("server-drain", AgentServer.objects.order_by("name").first(), "drain"),
        ("server-disable", AgentServer.objects.order_by("name").first(), "disable"),
        ("change", ChangeRecord.objects.filter(action="changed").first(), "change"),
        ("erasure", Erasure.objects.first(), "change"),
    ]
    for name, row, page in rows:
        if row is not None:
            yield name, f"{row._meta.app_label}/{row._meta.model_name}/{row.pk}/{page}/"


def _take(asked: argparse.Namespace) -> None:
    from tests.browser.chromium import Visit, browse
    from tests.gateway_process import LiveGateway

    pages = [(name, path) for name, path in _pages() if asked.only in name]
    names = {page: name for name, (page, _) in IN_DOCS.items()} if asked.docs else {}
    if asked.docs:
        pages = [(name, path) for name, path in pages if name in names]

    def steps(visit: Visit) -> None:
        visit.page.goto(f"{gateway.url}/admin/login/")
        if not asked.docs:
            visit.page.screenshot(path=asked.folder / f"sign-in-{scheme}-{width}.png")
        visit.sign_in()
        for name, path in pages:
            status = visit.open(path)
            file = asked.folder / names.get(name, f"{name}-{scheme}-{width}.png")
            height = LEAST_HEIGHT
            if asked.docs:
                height = IN_DOCS[names[name]][1]
            elif not asked.window:
                # As high as the page is, as what sticks to the window's edge would lie across a longer picture.
                height = max(height, int(visit.page.evaluate("document.documentElement.scrollHeight")))
            visit.page.set_viewport_size({"width": WIDTHS[width], "height": height})
            visit.page.screenshot(path=file)
            visit.page.set_viewport_size({"width": WIDTHS[width], "height": LEAST_HEIGHT})
            wider_by = visit.is_wider_than_window_by()
            print(status, file, f"WIDER BY {wider_by}" if wider_by else "")

    gateway = LiveGateway()
    gateway.start()
    try:
        for scheme in asked.schemes.split(","):
            for width in asked.widths.split(","):
                _, complaints = browse(gateway.url, steps, width=WIDTHS[width], scheme=scheme)
                for complaint in complaints:
                    print("COMPLAINT", complaint)
    finally:
        gateway.stop()


def _keep_running(done: threading.Event) -> None:
    """Hold the leases of the turns that seem to run, or the gateway would take them over and find no agent."""
    from django.db import connection

    from chatgateway import audit
    from chatgateway.models import Turn

    while not done.wait(4):
        audit.renew_leases("seed_demo", list(Turn.objects.open().values_list("pk", flat=True)))
    connection.close()


if __name__ == "__main__":
    main()
