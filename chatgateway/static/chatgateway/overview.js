// Keeps the upper part of the overview up to date: fetched anew every 5 seconds while the page can be seen.
"use strict";

const EVERY_MS = 5000;
const part = document.querySelector("[data-live]");
const state = document.querySelector("[data-live-state]");

if (part && state) {
  const told = state.querySelector("[data-live-told]");
  const pause = state.querySelector("[data-live-pause]");
  let isPaused = false;
  let isAsking = false;
  state.hidden = false;

  const refresh = async () => {
    // Not under somebody's finger, and not what nobody looks at.
    if (isPaused || isAsking || document.hidden || part.querySelector(":active")) return;
    isAsking = true;
    try {
      // A redirect leads to the sign-in page: whoever was signed out meanwhile is told so.
      const answer = await fetch(part.dataset.live, { redirect: "error", signal: AbortSignal.timeout(EVERY_MS * 2) });
      if (!answer.ok) throw new Error(String(answer.status));
      const html = await answer.text();
      if (isPaused) return;
      const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
      part.innerHTML = html;
      if (focused) document.getElementById(focused)?.focus();
      told.textContent = "Kept up to date every 5 seconds.";
    } catch {
      told.textContent = "Not up to date: the gateway did not answer, or you were signed out. Trying again.";
    } finally {
      isAsking = false;
    }
  };

  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.textContent = isPaused ? "Go on" : "Pause";
    told.textContent = isPaused ? "Not kept up to date." : "Kept up to date every 5 seconds.";
    refresh();
  });
  document.addEventListener("visibilitychange", refresh);
  window.setInterval(refresh, EVERY_MS);
}
