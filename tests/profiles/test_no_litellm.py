"""The web path without LiteLLM: in a process of its own, because the test's may have imported it for another test."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys
import django
django.setup()
from django.core.management import call_command
from django.utils import timezone
call_command("migrate", verbosity=0)
from profiles import access, issuing, llm_client, manage, tasks
from profiles.models import Profile, Tenant
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory
from profiles.authentication import ApiKeyAuthentication
_, text = issuing.create_key(tenant=Tenant.objects.create(name="t"), name="k", can_manage=True)
request = Request(APIRequestFactory().get("/v1/models", headers={"Authorization": f"Bearer {text}"}))
_, caller = ApiKeyAuthentication().authenticate(request)
manage.save_profile(caller, "fast", {"llm": {"model": "openai/gpt-5"}})
assert access.profile_for(caller, "fast").slug == "fast"
assert access.profiles_for(caller)
print(sorted({"litellm", "openai", "profiles.llm"} & set(sys.modules)))
"""


def test_neither_a_key_nor_a_profile_needs_litellm(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=REPOSITORY,
        env={
            "PATH": os.environ["PATH"],
            "DJANGO_SETTINGS_MODULE": "gateway_project.settings",
            "GATEWAY_DATA_DIR": str(tmp_path),
            "GATEWAY_READ_DOTENV": "false",
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "[]"
