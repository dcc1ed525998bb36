"""The documentation says what the code does, all of it, and nothing else; and what it prints works."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from django.apps import apps
from django.db.models import Model

from chatgateway.models import Turn
from chatgateway.openai_api import responses_parameters
from chatgateway.openai_api.chat_request import PARAMETERS, Parameter
from tests import factories
from tests.fakes.agent_script import Answer
from tests.fakes.agent_server import FakeAgentServer
from tests.faults import table
from tests.gateway_process import LiveGateway
from tests.laws import code_facts, pages

HTTP_API = pages.reference("http-api.md")
SETTINGS = pages.reference("settings.md")
MODELS = pages.reference("models.md")
COMMANDS = pages.reference("commands.md")
ROUTE = re.compile(r"(?:GET|POST|DELETE) /\S*")
# Written by every server, or by Django.
COMMON_HEADERS = {"date", "server", "content-type", "content-length", "transfer-encoding", "connection", "vary"}
# Paths of a development machine.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:root|work|tmp|Users)/\S*|/home/(?!agents\b)\w+")
TREATMENTS = {"honour": "honoured", "ignore": "ignored", "refuse": "refused"}
OUR_MODELS = [model for app in ("profiles", "chatgateway") for model in apps.get_app_config(app).get_models()]
COMMAND_LINE = re.compile(r"manage\.py ((?:" + "|".join(code_facts.OUR_COMMANDS) + r")\b[^\n#`]*)")


def documented_codes() -> set[str]:
    errors = pages.section(HTTP_API, "## Errors")
    return {name for row in pages.rows(errors) for name in pages.named(row[1])}


def documented_headers() -> set[str]:
    headers = pages.section(HTTP_API, "## Reply headers")
    return {name.lower() for row in pages.rows(headers) for name in pages.named(row[0])}


def documented_variables() -> set[str]:
    return {name for row in pages.rows(SETTINGS) for name in pages.named(row[0])}


def documented_routes() -> set[str]:
    text = HTTP_API + pages.reference("native-api.md")
    found = {route for row in pages.rows(text) for name in pages.named(row[0]) for route in ROUTE.findall(name)}
    return {re.sub(r"\{\w+\}", "{}", route) for route in found}


def command_lines() -> list[str]:
    """Calls of our management commands in snippets of shell, continued lines joined."""
    joined = (snippet.text.replace("\\\n", " ") for snippet in pages.snippets("bash"))
    return sorted({found.strip() for text in joined for found in COMMAND_LINE.findall(text)})


# --- what there is, is documented ---------------------------------------------------------------------------------


def test_every_environment_variable_is_documented_and_no_other() -> None:
    assert documented_variables() == code_facts.variables()


def test_every_error_code_is_documented_and_no_other() -> None:
    assert documented_codes() == code_facts.error_codes()


@pytest.mark.parametrize("code", sorted(code_facts.error_codes()))
def test_the_troubleshooting_page_says_what_to_do_about(code: str) -> None:
    assert f"`{code}`" in pages.text_of(pages.DOCS / "how-to" / "troubleshoot.md")


def test_every_reply_header_that_the_code_sets_is_documented() -> None:
    assert code_facts.reply_headers() - documented_headers() == set()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/chat/completions", {"stream": True, "seed": 1}),
        ("POST", "/v1/chat/completions", {"seed": 1}),
        ("POST", "/v1/chat/completions", {"n": 2}),
        ("POST", "/v1/responses", {"input": "Hi", "truncation": "auto"}),
        ("POST", "/v1/responses", {"input": "Hi", "stream": True}),
        ("PUT", "/v1/chat/completions", {}),
        ("GET", "/v1/models", {}),
    ],
)
def test_replies_carry_no_header_that_is_not_documented(
    served: LiveGateway, method: str, path: str, body: dict[str, object]
) -> None:
    question = {"model": "openhands_chat", "messages": [{"role": "user", "content": "Hi"}], **body}
    headers = {"Authorization": f"Bearer {served.key}"}

    reply = httpx.request(method, f"{served.url}{path}", json=question, headers=headers, timeout=100)

    assert {name.lower() for name in reply.headers} - COMMON_HEADERS - documented_headers() == set()


def test_every_route_and_method_is_documented_and_no_other() -> None:
    assert documented_routes() - {"GET /", "GET /v1"} == code_facts.routes()


@pytest.mark.parametrize(
    ("heading", "parameters"),
    [("## Parameters", PARAMETERS), ("## Parameters of responses", responses_parameters.PARAMETERS)],
)
def test_the_parameter_table_is_the_codes_own(heading: str, parameters: tuple[Parameter, ...]) -> None:
    table = [row for row in pages.rows(pages.section(HTTP_API, heading)) if len(row) == 3]

    assert table == [
        [
            f"`{parameter.name}`",
            "honoured if the profile allows it, else ignored"
            if parameter.is_override
            else TREATMENTS[parameter.treatment],
            parameter.note,
        ]
        for parameter in parameters
    ]


def test_every_model_is_documented_and_no_other() -> None:
    assert set(re.findall(r"^### (\w+)$", MODELS, re.MULTILINE)) == {model.__name__ for model in OUR_MODELS}


@pytest.mark.parametrize("model", OUR_MODELS, ids=lambda model: model.__name__)
def test_every_column_of_a_model_is_documented(model: type[Model]) -> None:
    documented = set(pages.named(pages.section(MODELS, f"### {model.__name__}")))
    columns = {field.name for field in (*model._meta.concrete_fields, *model._meta.many_to_many)}

    assert columns - documented - {"id"} == set()


@pytest.mark.parametrize("command", code_facts.OUR_COMMANDS)
def test_every_option_of_a_command_is_documented_and_no_other(command: str) -> None:
    documented = set(re.findall(r"`(--[\w-]+)`", pages.section(COMMANDS, f"## {command}")))

    assert documented == code_facts.own_options(command)


def test_every_outcome_of_a_turn_is_explained() -> None:
    outcomes = pages.section(pages.text_of(pages.DOCS / "how-to" / "audit-a-turn.md"), "## Outcomes")

    assert {row[0] for row in pages.rows(outcomes)} == set(Turn.Outcome.labels)


def test_every_fault_that_is_played_is_in_the_table_and_no_other() -> None:
    assert set(table.documented()) == table.scenarios()


@pytest.mark.parametrize("row", table.documented().values(), ids=lambda row: row[0])
def test_the_table_of_faults_shows_what_the_suite_asserts(row: list[str]) -> None:
    shown = dict(zip(table.HEADS, row, strict=True))

    assert int(shown["most_runs"]) <= 1
    assert {shown[name] for name in ("turns_lost", "crossed", "slots_leaked", "wrong_rows")} == {"0"}


# --- what is printed works ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("snippet", pages.snippets("python"), ids=str)
def test_python_snippets_are_python(snippet: pages.Snippet) -> None:
    ast.parse(snippet.text)


@pytest.mark.parametrize("snippet", pages.snippets("json"), ids=str)
def test_json_snippets_are_json(snippet: pages.Snippet) -> None:
    json.loads(snippet.text)


@pytest.mark.parametrize("snippet", pages.snippets("bash"), ids=str)
def test_shell_snippets_are_shell(snippet: pages.Snippet) -> None:
    checked = subprocess.run(
        ["bash", "-n"], input=snippet.text, capture_output=True, text=True, check=False, timeout=20
    )  # fmt: skip

    assert checked.stderr == ""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
@pytest.mark.parametrize("snippet", pages.snippets("js"), ids=str)
def test_javascript_snippets_are_javascript(snippet: pages.Snippet) -> None:
    checked = subprocess.run(
        ["node", "--input-type=module", "--check", "-"],
        input=snippet.text, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip

    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("line", command_lines())
def test_printed_commands_have_the_options_they_are_given(line: str) -> None:
    command, *arguments = shlex.split(line)

    code_facts.parser_of(command).parse_args(arguments)


@pytest.fixture
def readme(served: LiveGateway, agent_server: FakeAgentServer) -> dict[str, str]:
    """The README's snippets by language, pointed at a live gateway whose agent answers with one sentence."""
    factories.profile(slug="demo")
    agent_server.script(Answer("Here I am."))
    first = {
        snippet.language: snippet.text
        for snippet in reversed(pages.snippets("python", "bash"))
        if snippet.page == "README.md"
    }
    last_shell = [snippet.text for snippet in pages.snippets("bash") if snippet.page == "README.md"][-1]
    return {
        language: text.replace("http://127.0.0.1:8000", served.url)
        .replace("gw-…", served.key)
        .replace("$GATEWAY_KEY", served.key)
        for language, text in (first | {"bash": last_shell}).items()
    }


def test_the_readmes_python_prints_the_agents_answer(
    readme: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(readme["python"], "README.md", "exec"), {})

    assert capsys.readouterr().out == "Here I am."


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_readmes_curl_streams_the_agents_answer(readme: dict[str, str]) -> None:
    done = subprocess.run(["bash", "-c", readme["bash"]], capture_output=True, text=True, check=True, timeout=100)

    written = re.findall(r'"content":"([^"]*)"', done.stdout)
    assert "".join(written) == "Here I am."
    assert done.stdout.endswith("data: [DONE]\n\n")


# --- the pages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", pages.links(), ids=str)
def test_links_lead_to_files_of_the_repository(link: pages.Link) -> None:
    assert link.file.is_dir() or link.file in pages.versioned_files()


@pytest.mark.parametrize("link", [link for link in pages.links() if link.anchor], ids=str)
def test_links_into_pages_lead_to_a_heading(link: pages.Link) -> None:
    assert link.anchor in pages.anchors(link.file)


@pytest.mark.parametrize("name", sorted(code_facts.pages_named_in_code()))
def test_pages_that_programs_name_exist(name: str) -> None:
    assert pages.ROOT / name in pages.PAGES


def test_every_page_can_be_reached_from_the_readme() -> None:
    assert set(pages.PAGES) - pages.reachable() == set()


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_pages_hold_no_paths_of_a_development_machine(page: Path) -> None:
    assert MACHINE_PATH.findall(pages.text_of(page)) == []


def test_the_readme_shows_a_picture_in_its_first_ten_lines() -> None:
    assert re.search(
        r"^!\[.+\]\(.+\)$", "\n".join(pages.text_of(pages.ROOT / "README.md").splitlines()[:10]), re.MULTILINE
    )
