// Sends the prompt of a test page and shows the JSON lines that come back. Only ever writes text, never HTML.
"use strict";

const WORDS = { running: "running", ok: "works", failed: "failed", skipped: "not run" };
const KINDS = { running: "info", ok: "success", failed: "danger", skipped: "default" };

document.addEventListener("DOMContentLoaded", () => {
  for (const form of document.querySelectorAll("form[data-trial]")) {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      run(form);
    });
  }
});

async function run(form) {
  const button = form.querySelector("button[type=submit]");
  const error = form.querySelector("[data-trial-error]");
  button.disabled = true;
  error.hidden = true;
  document.querySelectorAll("[data-part]").forEach(reset);
  try {
    const response = await fetch(window.location.href, { method: "POST", body: new FormData(form) });
    if (!response.ok && response.headers.get("content-type") !== "application/json") {
      throw new Error(`The gateway answered ${response.status}. Reload the page and try again.`);
    }
    await readLines(response, show);
  } catch (failure) {
    error.textContent = failure instanceof TypeError ? "The connection to the gateway broke off." : failure.message;
    error.hidden = false;
  } finally {
    button.disabled = false;
  }
}

async function readLines(response, take) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    const lines = (rest + (value || "")).split("\n");
    rest = done ? "" : lines.pop();
    lines.filter((line) => line.trim()).forEach((line) => take(JSON.parse(line)));
    if (done) return;
  }
}

function reset(part) {
  for (const text of part.querySelectorAll("[data-step], [data-answer]")) text.textContent = "";
  const shown = "[data-state], [data-note], [data-steps], [data-answers], [data-link]";
  for (const element of part.querySelectorAll(shown)) element.hidden = true;
}

function show(line) {
  const part = document.querySelector(`[data-part="${CSS.escape(line.part)}"]`);
  if (!part) return;
  if (line.state) {
    const pill = part.querySelector("[data-state]");
    pill.textContent = WORDS[line.state];
    pill.className = `gw-pill gw-pill-${KINDS[line.state]}`;
    pill.hidden = false;
  }
  if (line.note) reveal(part, "note").textContent = line.note;
  if (line.step) {
    reveal(part, "steps");
    part.querySelector("[data-step]").textContent += line.step;
  }
  if (line.answer) {
    reveal(part, "answers");
    part.querySelector("[data-answer]").textContent += line.answer;
  }
  if (line.link && line.link.startsWith("/")) {
    const link = reveal(part, "link");
    link.href = line.link;
    link.textContent = line.label;
  }
}

function reveal(part, name) {
  const element = part.querySelector(`[data-${name}]`);
  element.hidden = false;
  return element;
}
