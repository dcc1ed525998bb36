# An agent-server of the locked version, alone with its agents: nothing of the gateway is in this container.
FROM python:3.13-slim
RUN apt-get update && apt-get install -y --no-install-recommends git tmux && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir uv && useradd --create-home --uid 10002 agent && install -d -o agent /workspaces /state
WORKDIR /opt/agent-server
COPY agent_env/pyproject.toml agent_env/uv.lock ./
RUN uv sync --locked --no-cache
ENV OH_WORKSPACE_PATH=/workspaces OH_CONVERSATIONS_PATH=/state/conversations OH_BASH_EVENTS_DIR=/state/bash \
    OH_ENABLE_VSCODE=0 OH_PRELOAD_TOOLS=0 OH_WEBHOOKS=[] OH_MAX_CONCURRENT_RUNS=10 \
    LOG_JSON=1 LOG_LEVEL=WARNING LITELLM_LOCAL_MODEL_COST_MAP=True
USER agent
VOLUME ["/workspaces", "/state"]
EXPOSE 8000
# The server reads its keys from the environment only; they come in as files.
CMD ["sh", "-c", "OH_SESSION_API_KEYS_0=$(cat /run/secrets/session_api_key) OH_SECRET_KEY=$(cat /run/secrets/agent_server_secret) exec .venv/bin/python -m openhands.agent_server --host 0.0.0.0 --port 8000"]
