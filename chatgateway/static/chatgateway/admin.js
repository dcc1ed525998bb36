// Copy buttons: <button data-copy="id of the element whose text is copied">.
"use strict";

// htmx would insert a style sheet of its own, which the Content-Security-Policy refuses; nothing here shows its indicators.
if (window.htmx) window.htmx.config.includeIndicatorStyles = false;

// Times are told, and days counted, where the viewer is (chatgateway/admin/viewer.py).
document.cookie = `gateway_time_zone=${Intl.DateTimeFormat().resolvedOptions().timeZone}; path=/admin/; max-age=31536000; SameSite=Lax`;

// <div data-load="URL of a piece of this page">: what takes longer than the page is fetched when it stands.
document.addEventListener("DOMContentLoaded", () => document.querySelectorAll("[data-load]").forEach(async (place) => {
  try {
    const response = await fetch(place.dataset.load);
    if (response.ok && !response.redirected) place.innerHTML = await response.text();
  } catch {
    // What is there is a link to the same.
  }
}));

document.addEventListener("click", async (event) => {
  const button = event.target instanceof Element ? event.target.closest("[data-copy]") : null;
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  const told = button.textContent;
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
  } catch {
    // No clipboard without https: select the text, so that the usual keys copy it.
    window.getSelection().selectAllChildren(source);
    button.textContent = "Selected: press Ctrl-C";
  }
  window.setTimeout(() => { button.textContent = told; }, 2000);
});
