// The form of a profile: models of LiteLLM's catalogue are offered while one types, and what is typed is checked.
// Only ever writes text, never HTML. Without this script the fields are plain ones, checked when the form is saved.
"use strict";

const MODEL_FIELDS = ["llm_model", "utility_llm_model"];
const CHECKED_FIELDS = [
  "llm_model", "llm_base_url", "utility_llm_model", "llm_api_key", "input_price", "output_price", "context_window",
];
const PAUSE_MS = 250;

document.addEventListener("DOMContentLoaded", () => {
  const root = document.querySelector("[data-profile-form]");
  const model = input("llm_model");
  if (!root || !model) return;
  const check = checker(root);
  for (const name of MODEL_FIELDS) if (input(name)) offerModels(input(name), root.dataset.offers, check);
  for (const name of CHECKED_FIELDS) input(name)?.addEventListener("input", check);
  if (model.value) check();
});

function input(name) {
  return document.getElementById(`id_${name}`);
}

function value(name) {
  return input(name)?.value.trim() ?? "";
}

// Calls `work` once nobody has called for a moment, and lets an older call's answer come to nothing.
function settled(work) {
  let timer = 0;
  let running = null;
  return () => {
    window.clearTimeout(timer);
    timer = window.setTimeout(async () => {
      running?.abort();
      running = new AbortController();
      try {
        await work(running.signal);
      } catch (error) {
        if (error.name !== "AbortError") console.warn("The profile form could not ask the gateway:", error.message);
      }
    }, PAUSE_MS);
  };
}

async function ask(url, values, signal) {
  const response = await fetch(`${url}?${new URLSearchParams(values)}`, { signal, headers: { Accept: "application/json" } });
  if (!response.ok) throw new Error(`status ${response.status}`);
  return response.json();
}

// --- findings -------------------------------------------------------------------------------------------------------

function checker(root) {
  return settled(async (signal) => {
    const typed = {
      profile: root.dataset.profileForm,
      llm_model: value("llm_model"),
      llm_base_url: value("llm_base_url"),
      utility_llm_model: value("utility_llm_model"),
    };
    if (value("llm_api_key")) typed.has_key = "on"; // the key itself stays here
    if (value("input_price") && value("output_price")) typed.has_prices = "on";
    if (value("context_window")) typed.has_window = "on";
    showFindings((await ask(root.dataset.check, typed, signal)).findings);
  });
}

function showFindings(findings) {
  document.querySelectorAll("[data-findings]").forEach((place) => place.replaceChildren());
  for (const finding of findings) {
    const line = document.createElement("p");
    line.className = `gw-finding gw-finding-${finding.state}`;
    line.textContent = finding.text;
    placeFor(finding.field)?.append(line);
  }
}

function placeFor(name) {
  const field = input(name);
  if (!field) return null;
  const known = document.querySelector(`[data-findings="${name}"]`);
  if (known) return known;
  const place = document.createElement("div");
  place.dataset.findings = name;
  place.setAttribute("role", "status");
  (field.closest(".gw-secret, .gw-combobox") ?? field).after(place);
  return place;
}

// --- offers: a combobox with a list, as the ARIA pattern describes it -----------------------------------------------

function offerModels(field, url, whenChosen) {
  const box = document.createElement("div");
  box.className = "gw-combobox";
  field.replaceWith(box);
  const list = document.createElement("ul");
  list.id = `${field.id}-offers`;
  list.setAttribute("role", "listbox");
  list.hidden = true;
  const note = document.createElement("p");
  note.className = "gw-finding gw-finding-warning";
  note.hidden = true;
  box.append(field, list, note);
  const attributes = {
    role: "combobox", autocomplete: "off", spellcheck: "false", "aria-autocomplete": "list",
    "aria-controls": list.id, "aria-expanded": "false",
  };
  for (const [name, text] of Object.entries(attributes)) field.setAttribute(name, text);

  let active = -1;
  const search = settled(async (signal) => {
    const found = await ask(url, { search: value(field.name) }, signal);
    note.textContent = found.note;
    note.hidden = !found.note || field.name !== "llm_model";
    if (document.activeElement === field) show(found.models);
  });

  function show(models) {
    list.replaceChildren(...models.map(option));
    activate(-1);
    open(models.length > 0);
  }

  function option(model, place) {
    const item = document.createElement("li");
    item.id = `${list.id}-${place}`;
    item.setAttribute("role", "option");
    item.dataset.name = model.name;
    const about = document.createElement("span");
    about.className = "gw-quiet";
    about.textContent = model.about;
    item.append(model.name, about);
    item.addEventListener("mousedown", (event) => {
      event.preventDefault(); // the field keeps the focus
      choose(item);
    });
    return item;
  }

  function open(isOpen) {
    list.hidden = !isOpen;
    field.setAttribute("aria-expanded", String(isOpen));
    if (!isOpen) activate(-1);
  }

  function activate(place) {
    active = place;
    [...list.children].forEach((item, index) => item.setAttribute("aria-selected", String(index === place)));
    const item = list.children[place];
    if (item) {
      field.setAttribute("aria-activedescendant", item.id);
      item.scrollIntoView({ block: "nearest" });
    } else {
      field.removeAttribute("aria-activedescendant");
    }
  }

  function choose(item) {
    field.value = item.dataset.name;
    open(false);
    whenChosen();
  }

  field.addEventListener("input", search);
  field.addEventListener("blur", () => open(false));
  field.addEventListener("keydown", (event) => {
    const count = list.children.length;
    if (event.key === "ArrowDown" && list.hidden) {
      search();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const next = event.key === "ArrowDown" ? active + 1 : Math.max(active, 0) - 1 + count;
      if (count) activate(next % count);
    } else if (event.key === "Enter" && !list.hidden && active >= 0) {
      choose(list.children[active]);
    } else if (event.key === "Escape" && !list.hidden) {
      open(false);
    } else {
      return;
    }
    event.preventDefault();
  });
}
