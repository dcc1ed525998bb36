"""`manage.py up`: from nothing to a gateway that answers, and back to nothing.

The agent-server takes longest to start, so everything else happens beside it. Only this module knows both Django and
the supervisor; what it does with the database runs in threads.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

from chatgateway import health
from chatgateway.agentserver.exceptions import AgentServerError, TooOld, Unauthorized
from chatgateway.models import AgentServer
from gateway_project import bootstrap
from gateway_project.bootstrap import Access, DemoLlm, Switched
from gateway_project.supervisor import agent_environment, banner, data_dir, environments, network, programs
from gateway_project.supervisor.agent_environment import AgentEnvironmentFailed
from gateway_project.supervisor.child import Child, ChildGivenUp, ChildSpec, Listeners
from gateway_project.supervisor.supervisor import Supervisor
from gateway_project.supervisor.terminal import Terminal
from gateway_project.supervisor.threads import all_of, in_thread
from profiles import llm_client
from profiles.models import Profile

AGENT_PROJECT = programs.CODE_DIR / "agent_env"
FAILED = 2
_ONE_WISH_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says. `host` is an address to listen on."""

    host: str = "127.0.0.1"
    port: int = 8000
    allows_tools: bool = False
    runs_agent_server: bool = True
    shows_all_logs: bool = False


class StartFailed(Exception):
    """Something is missing or wrong. The message is one sentence for an operator."""


# What ends a start with one sentence; anything else is a defect and keeps its traceback.
_EXPECTED = (
    StartFailed,
    ChildGivenUp,
    AgentEnvironmentFailed,
    AgentServerError,
    ImproperlyConfigured,
    DatabaseError,
    data_dir.AlreadyRunning,
    OSError,
)


def run(options: Options) -> int:
    """Start everything, keep it running until a signal, end it. Returns the process's exit status."""
    terminal = Terminal()
    try:
        public_url = os.environ.get("GATEWAY_PUBLIC_URL") or _url_of(options)
        with data_dir.locked(Path(settings.DATA_DIR), url=public_url) as lock:
            _check_machine(options, terminal)
            return asyncio.run(Start(options, terminal, public_url=public_url.rstrip("/"), lock=lock).run())
    except _EXPECTED as error:
        terminal.fail(_sentence(error))
        return FAILED
    except KeyboardInterrupt:  # before anything was started
        return 0
    finally:
        terminal.close()


def _check_machine(options: Options, terminal: Terminal) -> None:
    if reason := network.why_not_free(options.host, options.port):
        raise StartFailed(
            f"Port {options.port} of {options.host} cannot be used ({reason}): "
            f"stop what uses it, or choose another with --port or --host."
        )
    if options.runs_agent_server and not shutil.which("git"):
        raise StartFailed("git was not found, and agents cannot work without it: install git and start again.")
    if options.runs_agent_server and not shutil.which("tmux"):
        terminal.warn("tmux was not found: agents use a plain shell, which is slower to start and less dependable.")
    if (settings.LLM_API_KEY or settings.LLM_BASE_URL) and not settings.LLM_MODEL:
        terminal.warn("LLM_API_KEY or LLM_BASE_URL is set but LLM_MODEL is not: no model of yours is used.")


def _url_of(options: Options) -> str:
    return f"http://{network.reachable_at(options.host)}:{options.port}"


class Start:
    def __init__(self, options: Options, terminal: Terminal, *, public_url: str, lock: int) -> None:
        self._options = options
        self._terminal = terminal
        self._public_url = public_url
        self._lock = lock
        self._supervisor = Supervisor()
        self._data_dir = Path(settings.DATA_DIR)
        self._programs = programs.Programs(data_dir=self._data_dir, gateway_environment=self._gateway_environment())
        self._gateway: Child | None = None

    async def run(self) -> int:
        told_to_stop = self._listen_to_signals()
        work = asyncio.create_task(self._work())
        stopping = asyncio.create_task(told_to_stop.wait())
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        began = time.monotonic()
        for task in (work, stopping):
            task.cancel()
        [outcome] = await asyncio.gather(work, return_exceptions=True)
        if not isinstance(outcome, asyncio.CancelledError):
            self._terminal.fail(_sentence(outcome))
        self._terminal.say("stopping …")
        await self._supervisor.stop(first=[self._gateway] if self._gateway else [])
        self._terminal.say(f"everything has ended ({time.monotonic() - began:.1f} s)")
        if isinstance(outcome, asyncio.CancelledError):
            return 0
        if not isinstance(outcome, _EXPECTED):
            raise outcome
        return FAILED

    def _listen_to_signals(self) -> asyncio.Event:
        """The first signal ends everything in order, a second one at once. What comes with the first is the same
        wish: Ctrl-C reaches this process from the terminal, and may again from `uv` or `timeout` above it."""
        told = asyncio.Event()
        told_at = 0.0

        def stop() -> None:
            nonlocal told_at
            if not told.is_set():
                told_at = time.monotonic()
                told.set()
            elif time.monotonic() - told_at > _ONE_WISH_SECONDS:
                self._supervisor.hurry()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        return told

    async def _work(self) -> NoReturn:
        started = time.monotonic()
        access = await self._bring_up()
        if missing := (await in_thread(health.look)).missing:
            self._terminal.warn(f"Calls cannot be answered yet: {', '.join(missing)}.")
        profile = await in_thread(bootstrap.first_usable_profile)
        ready = self._ready(access, profile, seconds=time.monotonic() - started)
        banner.show(self._terminal, ready)
        await self._supervisor.wait()

    # --- the steps ------------------------------------------------------------------------------------------------

    async def _bring_up(self) -> Access:
        port, session_api_key = network.free_port(), secrets.token_urlsafe(32)
        python = asyncio.create_task(self._agent_python()) if self._options.runs_agent_server else None
        llm = self._start(self._programs.llm(is_ready=_llm_answers))
        try:
            with self._terminal.timed("settings"):
                await in_thread(_check_settings)
            with self._terminal.timed("database") as notes:
                notes.append(await in_thread(_migrate))
            with self._terminal.timed("first login and key") as notes:
                access = await in_thread(bootstrap.set_up_access, public_url=self._public_url)
                notes.append("made" if access.password or access.key else "kept")
            server = await self._server_row(port, session_api_key)
            demo = await self._start_demo()
            worker = self._start(self._programs.worker())
            self._gateway = self._start(self._programs.gateway(host=self._options.host, port=self._options.port))
            waiting = [self._report_ready(child) for child in (llm, worker, self._gateway)]
            if python is not None and server is not None:
                waiting.append(self._start_agent_server(python, port, session_api_key, server))
            profiles = self._set_up_profiles(llm, demo)
            await all_of(*waiting, profiles)
        finally:
            if python is not None:
                python.cancel()
                await asyncio.gather(python, return_exceptions=True)
        return access

    async def _agent_python(self) -> Path:
        started = time.monotonic()
        python = await agent_environment.interpreter(
            given=settings.GATEWAY_AGENT_PYTHON,
            project=AGENT_PROJECT,
            target=self._data_dir / "agent-env",
            announce=lambda text: self._terminal.announce("agent environment", text),
        )
        self._terminal.step("agent environment", time.monotonic() - started, str(python.parent.parent))
        return python

    async def _server_row(self, port: int, session_api_key: str) -> AgentServer | None:
        if not self._options.runs_agent_server:
            await in_thread(bootstrap.note_embedded_server_absent)
            return None
        row: AgentServer = await in_thread(
            bootstrap.set_up_embedded_server,
            url=f"http://127.0.0.1:{port}",
            session_api_key=session_api_key,
            workspace_root=programs.workspaces_directory(self._data_dir),
        )
        return row

    async def _start_agent_server(
        self, python: asyncio.Task[Path], port: int, session_api_key: str, server: AgentServer
    ) -> None:
        spec = self._programs.agent_server(
            python=await python,
            port=port,
            session_api_key=session_api_key,
            secret_key=data_dir.stored_secret(self._data_dir / "secrets" / "agent-server"),
        )
        version = ""

        async def learn() -> None:
            nonlocal version
            try:
                version = await in_thread(bootstrap.probe_server, server)
            except (TooOld, Unauthorized):
                raise
            except AgentServerError as error:
                # It said it was ready and did not answer: the worker's probe asks again in a few seconds.
                self._terminal.warn(f"agent-server: {error}")

        child = self._start(spec, ready=learn)
        await self._supervisor.until_ready(child)
        self._terminal.step(spec.name, child.seconds_to_ready, version)

    async def _start_demo(self) -> DemoLlm | None:
        if not await in_thread(bootstrap.wants_demo):
            return None
        port, key = network.free_port(), secrets.token_urlsafe(32)
        self._start(self._programs.demo_llm(port=port, key=key))
        return DemoLlm(base_url=f"http://127.0.0.1:{port}/v1", api_key=key)

    async def _set_up_profiles(self, llm: Child, demo: DemoLlm | None) -> None:
        """Create or update what this start serves, and try it if it is a real model."""
        await self._supervisor.until_ready(llm)  # it checks the model
        may_use_tools = self._options.allows_tools or network.is_loopback(self._options.host)
        tried: Profile | None = None
        with self._terminal.timed("profile") as notes:
            if settings.LLM_MODEL:
                profile, sentences = await in_thread(bootstrap.set_up_default)
                notes += [profile.model_id, *sentences]
                if profile.source == Profile.Source.ENVIRONMENT:
                    tried = profile
            elif demo is not None:
                profile = await in_thread(bootstrap.set_up_demo, demo)
                notes += [profile.model_id, "demo, no real model"]
            switched: Switched = await in_thread(
                bootstrap.switch_made_profiles, runs_demo_llm=demo is not None, may_use_tools=may_use_tools
            )
        for slug in switched.disabled:
            self._terminal.warn(self._why_disabled(slug, may_use_tools=may_use_tools))
        if tried is not None:
            with self._terminal.timed("trying the LLM") as notes:
                notes.append(await in_thread(bootstrap.try_llm, tried))

    def _why_disabled(self, slug: str, *, may_use_tools: bool) -> str:
        if may_use_tools:
            return f"The profile '{slug}' is disabled: with LLM_MODEL set, the demo LLM does not run."
        return (
            f"The profile '{slug}' is disabled: its agent runs commands on this machine, and {self._options.host} can "
            f"be reached by others. Enable it with --allow-tools or in the admin."
        )

    def _ready(self, access: Access, profile: Profile | None, *, seconds: float) -> banner.Ready:
        options = self._options
        return banner.Ready(
            seconds=seconds,
            public_url=self._public_url,
            access=access,
            given_key_variable=settings.GATEWAY_BOOTSTRAP_API_KEY_NAME,
            first_login_path=bootstrap.first_login_path(),
            profile=profile,
            runs_agents_here=options.runs_agent_server,
            is_loopback=network.is_loopback(options.host),
            host=options.host,
            port=options.port,
            own_names=network.own_names(options.host),
            logs=programs.logs_directory(self._data_dir),
        )

    # --- programs -------------------------------------------------------------------------------------------------

    def _start(self, spec: ChildSpec, *, ready: Callable[[], Awaitable[None]] | None = None) -> Child:
        listeners = Listeners(restarted=self._terminal.warn, said=self._show(spec), ready=ready)
        child = Child(spec, listeners, inherited=(self._lock,))
        self._supervisor.start(child)
        return child

    def _show(self, spec: ChildSpec) -> Callable[[str, str], None]:
        if spec.is_echoed or self._options.shows_all_logs:
            return self._terminal.line_of
        return lambda _name, _line: None

    async def _report_ready(self, child: Child) -> None:
        await self._supervisor.until_ready(child)
        self._terminal.step(child.spec.name, child.seconds_to_ready)

    def _gateway_environment(self) -> dict[str, str]:
        log_format = "text" if self._terminal.is_interactive else "json"
        return environments.gateway(
            os.environ,
            public_url=self._public_url,
            allowed_hosts=[*settings.ALLOWED_HOSTS, *network.own_names(self._options.host)],
            log_format=log_format,
            grace_seconds=min(programs.STREAMS_GRACE_SECONDS, settings.GATEWAY_SHUTDOWN_GRACE_SECONDS),
        )


# --- in threads ---------------------------------------------------------------------------------------------------


def _check_settings() -> None:
    wrong = [found for found in checks.run_checks() if found.is_serious()]
    if wrong:
        raise StartFailed(" ".join(f"{found.msg} {found.hint or ''}".strip() for found in wrong))


def _migrate() -> str:
    executor = MigrationExecutor(connection)
    pending = len(executor.migration_plan(executor.loader.graph.leaf_nodes()))
    if pending:
        call_command("migrate", interactive=False, verbosity=0)
    return f"{pending} migrations applied" if pending else "up to date"


async def _llm_answers() -> bool:
    return bool(await in_thread(llm_client.is_up))


def _sentence(error: BaseException) -> str:
    if isinstance(error, AgentServerError):
        return f"The agent-server cannot be used: {error}"
    if isinstance(error, DatabaseError):
        reason = " ".join(str(error).split())
        return f"The database (GATEWAY_DATABASE_URL) cannot be used: {reason}"
    return " ".join(str(error).split())
