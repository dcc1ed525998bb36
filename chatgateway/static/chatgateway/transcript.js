// The pages of conversations and turns: gives frames with Markdown their height, fetches steps when they are opened, and
// shows a turn as it goes on. What is put into the page as HTML comes from this server's own templates, which escape
// every text of callers, models and tools.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("iframe.gw-rich").forEach(fit);
  document.querySelectorAll("details[data-fetch]").forEach((details) => details.addEventListener("toggle", () => load(details)));
  document.querySelectorAll("[data-live]").forEach(watch);
  new MutationObserver(() => document.querySelectorAll("iframe.gw-rich").forEach(colour))
    .observe(document.documentElement, { attributes: true, attributeFilter: ["class"] });
});

// --- Markdown in frames ---------------------------------------------------------------------------------------------

function fit(frame) {
  const measure = () => {
    if (!rootOf(frame)) return;
    colour(frame);
    frame.style.height = `${rootOf(frame).offsetHeight + 2}px`;
  };
  frame.addEventListener("load", measure);
  if (frame.contentDocument && frame.contentDocument.readyState === "complete") measure();
  new ResizeObserver(measure).observe(frame.parentElement);
}

function colour(frame) {
  const isDark = document.documentElement.classList.contains("dark");
  if (rootOf(frame)) rootOf(frame).classList.toggle("dark", isDark);
}

// None while the frame's document is being made.
function rootOf(frame) {
  return frame.contentDocument && frame.contentDocument.documentElement;
}

// --- steps that are fetched when they are opened ----------------------------------------------------------------------

async function load(details) {
  const place = details.querySelector("[data-place]");
  if (!details.open || place.dataset.state) return;
  place.dataset.state = "loading";
  place.textContent = "One moment…";
  try {
    const response = await fetch(details.dataset.fetch, { headers: { "X-Requested-With": "fetch" } });
    if (!response.ok || response.redirected) throw new Error(String(response.status));
    place.innerHTML = await response.text();
  } catch {
    place.dataset.state = "";
    place.textContent = "The steps could not be fetched. Close and open this to try again, or open the turn.";
  }
}

// --- a turn as it goes on ---------------------------------------------------------------------------------------------

function watch(part) {
  const source = new EventSource(part.dataset.live);
  const told = part.querySelector("[data-live-state]");
  const over = (text) => {
    source.close();
    told.textContent = text;
  };
  source.addEventListener("state", (event) => {
    const state = JSON.parse(event.data);
    told.textContent = state.stopping ? "It is being stopped." : `Live: ${state.phase}.`;
  });
  source.addEventListener("step", (event) => {
    const { at, html } = JSON.parse(event.data);
    put(part.querySelector("[data-steps]"), at, html);
  });
  source.addEventListener("end", () => {
    over("The turn has ended.");
    window.location.reload();
  });
  source.addEventListener("signed-out", () => over("You are signed in no longer. Sign in again to go on watching."));
  source.addEventListener("error", () => {
    told.textContent = source.readyState === EventSource.CLOSED
      ? "Reload the page to see how it goes on."
      : "The connection broke off; trying again.";
  });
}

function put(steps, at, html) {
  if (!steps) return;
  const template = document.createElement("template");
  template.innerHTML = html.trim();
  const fresh = template.content.firstElementChild;
  const nothing = steps.querySelector("[data-no-step]");
  if (nothing) nothing.remove();
  const old = steps.children[at];
  if (!old) {
    steps.append(fresh);
    return;
  }
  fresh.open = old.open;
  old.replaceWith(fresh);
}
