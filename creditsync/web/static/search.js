// The search by order, login or extID.

import { $, Table, setText } from "./page.js";
import { sentence, text } from "./format.js";
import { FOUND, REFUSALS, WAITERS } from "./rows.js";

const parts = {
  trades: new Table("found-trades", FOUND),
  waiters: new Table("found-waiters", WAITERS),
  refusals: new Table("found-refusals", REFUSALS),
};

const NAMES = {
  trades: ["trade", "trades"], waiters: ["pending request", "pending requests"],
  refusals: ["refusal", "refusals"],
};

// Of two searches at the same time, the result of the later one is shown.
let latest = 0;

const search = async (signedOut) => {
  const [by, wanted] = [$("search-by").value, $("search-for").value.trim()];
  const ours = ++latest;
  open("Searching…", "");
  let found;
  try {
    const answer = await fetch(`search?${new URLSearchParams({ [by]: wanted })}`);
    if (answer.status === 401) return signedOut();
    found = await answer.json();
    if (!answer.ok) found = { problem: found.message };
  } catch {
    found = { problem: "the server does not answer" };
  }
  if (ours === latest) show(by, wanted, found);
};

const open = (what, note, found = {}) => {
  $("found").hidden = false;
  setText("found-what", what);
  setText("found-note", note);
  for (const [name, table] of Object.entries(parts)) {
    $(`found-${name}-part`).hidden = !table.show(found[name] ?? []);
  }
};

const show = (by, wanted, found) => {
  setText("found-title", `Found for ${by} ${text(wanted)}`);
  if (found.problem) return open(`Can't search: ${found.problem}.`, "");
  const counts = Object.entries(NAMES)
    .filter(([name]) => found[name].length)
    .map(([name, [one, many]]) =>
      `${found[name].length} ${found[name].length === 1 ? one : many}`);
  const note = found.note && sentence(found.note);
  const what = counts.length ? `Found: ${counts.join(", ")}.` : "Nothing was found.";
  open(what, note, found);
};

const close = () => {
  latest += 1;
  $("found").hidden = true;
};

export const clear = () => {
  open("", "");
  close();
  $("search-for").value = "";
};

export const start = (signedOut) => {
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    search(signedOut);
  });
  $("search-by").addEventListener("change", () => {
    $("search-for").inputMode = $("search-by").value === "extID" ? "text" : "numeric";
  });
  $("found-close").addEventListener("click", () => {
    close();
    $("search-for").focus();
  });
};
