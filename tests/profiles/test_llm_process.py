"""The llm process and its client, over the real socket."""

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from profiles import llm_client
from profiles.exceptions import LlmCallFailed, LlmProcessDown, UnknownProvider
from tests.live.scripted_llm import Answer, Failure, Hang, ScriptedLlm, Usage
from tests.profiles.llm_process import LlmProcess
from tests.waiting import eventually

# --- what LiteLLM knows


def test_a_known_model_is_described_with_exact_prices(llm_process):
    facts = llm_client.describe_model("anthropic/claude-sonnet-4-5")
    assert facts.provider == "anthropic"
    assert facts.is_known
    assert (facts.input_price, facts.output_price, facts.cached_input_price) == ("3", "15", "0.3")
    assert facts.context_window == 200_000
    assert facts.supports_vision is True


@pytest.mark.parametrize(
    ("model", "base_url", "provider"),
    [
        ("litellm_proxy/anything", "", "litellm_proxy"),
        ("openai/anything", "http://127.0.0.1:9/v1", "openai"),
        ("anthropic/claude-99", "", "anthropic"),
        ("text-embedding-3-small", "", "openai"),
        ("chatgpt/gpt-5", "", "chatgpt"),
    ],
)
def test_a_model_that_nobody_lists_has_a_provider_and_no_price(llm_process, model, base_url, provider):
    facts = llm_client.describe_model(model, base_url)
    assert facts.provider == provider
    assert not facts.is_known
    assert (facts.input_price, facts.output_price, facts.cached_input_price) == (None, None, None)


def test_a_listed_model_whose_price_was_never_filled_in_is_not_free(llm_process):
    facts = llm_client.describe_model("github_copilot/gpt-4o")
    assert facts.is_known
    assert facts.input_price is None


def test_a_model_on_ones_own_machine_is_free(llm_process):
    assert llm_client.describe_model("ollama/llama2").input_price == "0"


@pytest.mark.parametrize("model", ["nonsense", "nosuchprovider/model", "openai/", "", "/", "\ud800/x", "a\x00b"])
def test_a_model_of_no_provider_is_told_apart(llm_process, model):
    with pytest.raises(UnknownProvider) as refused:
        llm_client.describe_model(model)
    assert refused.value.model == model


def test_choices_for_a_form_begin_with_what_begins_so_and_with_short_names(llm_process):
    found = llm_client.search_models("anthropic/Claude SONNET 4-5", limit=5)
    typed = llm_client.search_models("openai/gpt-5", limit=3)

    assert found[0].name == "anthropic/claude-sonnet-4-5"
    assert (found[0].input_price, found[0].output_price) == ("3", "15")
    assert (found[0].context_window, found[0].supports_vision) == (200_000, True)
    assert typed[0].name == "openai/gpt-5"
    assert len(typed) == 3
    assert llm_client.search_models("no such model anywhere") == []
    assert {"openai", "anthropic", "litellm_proxy"} <= set(llm_client.provider_names())


# --- calls


@pytest.fixture
def llm():
    with ScriptedLlm() as running:
        yield running


def complete(llm, **changed):
    given = {
        "model": "openai/scripted",
        "api_key": llm.key,
        "base_url": llm.url,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_output_tokens": 20,
        "timeout_seconds": 20,
    }
    return asyncio.run(llm_client.complete(**given | changed))


def test_a_call_is_answered_with_its_tokens(llm_process, llm):
    llm.enqueue(Answer(text="Hello yourself.", usage=Usage(prompt=11, completion=4)))
    answer = complete(llm)
    assert (answer.text, answer.finish_reason) == ("Hello yourself.", "stop")
    assert (answer.input_tokens, answer.output_tokens) == (11, 4)
    assert answer.seconds > 0
    [received] = llm.requests
    assert received.body["max_tokens"] == 20
    assert received.headers["authorization"] == f"Bearer {llm.key}"


@pytest.mark.parametrize(
    ("status", "kind"), [(401, "AuthenticationError"), (429, "RateLimitError"), (500, "InternalServerError")]
)
def test_a_failed_call_says_what_the_provider_said_without_the_key_and_is_not_repeated(llm_process, llm, status, kind):
    llm.enqueue(Failure(status=status, message=f"not with {llm.key}", type="api_error"), Answer(text="the second time"))
    with pytest.raises(LlmCallFailed) as failed:
        complete(llm)
    assert failed.value.kind == kind
    assert "not with" in failed.value.message
    assert llm.key not in failed.value.message
    assert len(llm.requests) == 1
    assert llm.key not in llm_process.stderr()


def test_without_a_key_none_of_the_environment_is_sent(llm_process, llm):
    with pytest.raises(LlmCallFailed):  # the provider wants its own
        complete(llm, api_key="")
    assert [request.headers["authorization"] for request in llm.requests] == ["Bearer none"]


def test_a_provider_that_hangs_is_given_up_in_time(llm_process, llm):
    llm.enqueue(Hang())
    started = time.monotonic()
    with pytest.raises((LlmCallFailed, LlmProcessDown)):
        complete(llm, timeout_seconds=1)
    assert time.monotonic() - started < 5


def test_questions_are_answered_while_calls_hang(llm_process, llm):
    llm.enqueue(Hang(), Hang())

    def hang():
        with pytest.raises((LlmCallFailed, LlmProcessDown)):
            complete(llm, timeout_seconds=3)

    threads = [threading.Thread(target=hang) for _ in range(2)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(llm.requests) == 2)
    assert llm_client.describe_model("openai/gpt-4o", timeout_seconds=2).is_known
    for thread in threads:
        thread.join(10)


# --- the socket


def test_only_this_user_can_open_the_socket(llm_process):
    assert stat.S_IMODE(llm_process.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(llm_process.socket.parent.stat().st_mode) == 0o700


def exchange(path, sent):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        return json.loads(connection.makefile().readline())


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\n",
        b"nonsense\n",
        b"[]\n",
        b"{}\n",
        b'{"method": "system", "params": {}, "timeout_seconds": 1}\n',
        b'{"method": "ping", "params": {}, "timeout_seconds": "soon"}\n',
        b"\xff\xfe\n",
        b"x" * (llm_client.MAXIMUM_MESSAGE_BYTES + 1000) + b"\n",
    ],
    ids=lambda sent: repr(sent[:40]),
)
def test_what_is_no_request_is_refused_and_the_process_goes_on(llm_process, sent):
    assert exchange(llm_process.socket, sent)["error"]["kind"] == "bad_request"
    assert llm_client.is_up()


def test_a_request_with_other_parameters_fails_alone(llm_process):
    request = {"method": "describe_model", "params": {"nonsense": 1}, "timeout_seconds": 1}
    assert exchange(llm_process.socket, json.dumps(request).encode() + b"\n")["error"]["kind"] == "internal"
    assert llm_client.is_up()


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
def test_other_processes_of_the_user_cannot_read_its_environment(llm_process):
    # What the kernel makes of an undumpable process: its files in /proc belong to root.
    status = Path(f"/proc/{llm_process.process.pid}/environ").stat()
    assert status.st_uid == 0
    assert "\nCoreDumping:\t0" in Path(f"/proc/{llm_process.process.pid}/status").read_text()


def test_a_second_process_is_refused(llm_process, tmp_path):
    second = LlmProcess(tmp_path, GATEWAY_LLM_SOCKET=str(llm_process.socket)).start()
    assert second.wait() == 1
    assert f"Another llm process listens at {llm_process.socket}" in second.stderr()
    assert llm_client.is_up()


# --- its life. These processes end before LiteLLM is loaded.


def is_locked(process):
    return process.socket.with_name("llm.sock.lock").exists()


def test_a_leftover_socket_is_removed_and_sigterm_ends_it(tmp_path):
    starting = LlmProcess(tmp_path)
    starting.socket.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as leftover:
        leftover.bind(str(starting.socket))
    starting.start()
    eventually(lambda: not starting.socket.exists())
    assert starting.stop() in {0, -signal.SIGTERM}, starting.stderr()
    assert not starting.socket.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_it_ends_when_its_parent_is_gone(tmp_path):
    starting = LlmProcess(tmp_path, "--exit-with-parent")
    script = (
        "import subprocess, sys, os\n"
        "child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.readline()\n"
        "os._exit(0)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, *starting._command],
        cwd=Path(__file__).parents[2],
        env=starting._environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        eventually(lambda: is_locked(starting))
        parent.stdin.write("\n")
        parent.stdin.flush()
    eventually(lambda: not is_running(child))


def is_running(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # Nobody may have collected it: in a container the first process often does not.
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_directory_that_others_can_write_to_is_refused(tmp_path):
    starting = LlmProcess(tmp_path)
    starting.socket.parent.mkdir()
    starting.socket.parent.chmod(0o777)
    starting.start()
    assert starting.wait() == 1
    assert "nobody else may write" in starting.stderr()


# --- the client alone


def listen(path, answer):
    """One connection's worth of a process that answers in its own way."""
    path.parent.mkdir(mode=0o700)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def serve():
        with server, server.accept()[0] as connection:
            connection.recv(65_536)
            answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda connection: None, id="closes at once"),
        pytest.param(lambda connection: connection.sendall(b'{"result": '), id="breaks off"),
        pytest.param(lambda connection: connection.sendall(b"nonsense\n"), id="nonsense"),
        pytest.param(lambda connection: connection.recv(1), id="says nothing"),
    ],
)
def test_a_broken_answer_is_a_process_that_is_down(settings, tmp_path, answer):
    path = tmp_path / "run" / "llm.sock"
    settings.GATEWAY_LLM_SOCKET = str(path)
    thread = listen(path, answer)
    with pytest.raises(LlmProcessDown):
        llm_client.describe_model("openai/gpt-5", timeout_seconds=0.5)
    thread.join(10)


def test_nobody_there_is_a_process_that_is_down(settings, tmp_path):
    assert not llm_client.is_up()
    (tmp_path / "nobody").mkdir(mode=0o700)
    assert not llm_client.is_up()


def test_a_directory_that_somebody_else_could_have_made_is_not_trusted(settings, tmp_path):
    path = tmp_path / "run" / "llm.sock"
    settings.GATEWAY_LLM_SOCKET = str(path)
    path.parent.mkdir()
    path.parent.chmod(0o777)
    with pytest.raises(LlmProcessDown, match="nobody else"):
        llm_client.describe_model("openai/gpt-5")


def test_a_path_too_long_for_a_socket_is_replaced_by_a_short_one_that_is_always_the_same(settings):
    settings.GATEWAY_LLM_SOCKET = "/" + "long/" * 30 + "llm.sock"
    short = llm_client.socket_path()
    assert len(os.fsencode(short)) <= 100
    assert short == llm_client.socket_path()
    settings.GATEWAY_LLM_SOCKET += "2"
    assert llm_client.socket_path() != short


def test_a_path_that_fits_is_used(settings):
    settings.GATEWAY_LLM_SOCKET = "/srv/gateway/run/llm.sock"
    assert llm_client.socket_path() == Path("/srv/gateway/run/llm.sock")
