// The gateway to another platform, and an admin's decisions on held operations.

import { NONE, clock, money, number, seconds, sentence, text } from "./format.js";
import { $, Table, mark, setText } from "./page.js";
import { FINDINGS, UNCLEAR } from "./rows.js";

const STATES = ["new", "sent", "pending", "accepted", "unseen", "held"];

// Seconds after which changes at the platform should have been read.
const LATE = 300;

const unclear = new Table("unclear", UNCLEAR,
  ({ state }) => [state === "held" ? "bad" : "warn", 0]);
const findings = new Table("findings", FINDINGS);

let isAdmin = false;
let rows = [];
// What was asked for and not confirmed yet.
let asked = null;

export const admit = (role) => {
  isAdmin = role === "admin";
};

export const show = ({ gateway, time }) => {
  $("gateway").hidden = gateway === null;
  if (gateway === null) return;
  showPlatform(gateway, time);
  showStates(gateway);
  showReplies(gateway.replies);
  showFindings(gateway);
  $("decide").hidden = !isAdmin;
};

const showPlatform = ({ isConnected, since, problem, completeUpTo, delay }, time) => {
  setText("platform-since-title", isConnected ? "connected for" : "not connected for");
  setText("platform-since", seconds(since));
  mark($("platform-row"), isConnected ? "" : "bad");
  setText("gateway-facts", isConnected
    ? `p50 and p99 of the last ${number(delay.replies)} replies` : text(problem));
  setText("platform-complete", clock(completeUpTo));
  mark($("complete-row"), time - completeUpTo > LATE ? "bad" : "");
  setText("platform-p50", seconds(delay.p50 ?? NaN));
  setText("platform-p99", seconds(delay.p99 ?? NaN));
};

const showStates = ({ states, unclear: { count, shown } }) => {
  for (const name of STATES) {
    const found = states.find(({ state }) => state === name);
    setText(`state-${name}`, found
      ? `${number(found.count)}, for ${seconds(found.oldest)}` : "0");
  }
  const has = (name) => states.some(({ state }) => state === name);
  mark($("state-unseen-row"), has("unseen") ? "warn" : "");
  mark($("state-held-row"), has("held") ? "bad" : "");
  rows = shown;
  const length = unclear.show(shown);
  setText("unclear-count", length < count ? `${number(length)} of ${number(count)}` : "");
};

const showReplies = ({ lost, late, doubled, overtaking }) => {
  setText("replies-lost", number(lost));
  setText("replies-late", number(late));
  setText("replies-doubled", number(doubled));
  setText("replies-overtaking", number(overtaking));
};

const showFindings = ({ alarms, verification }) => {
  const found = verification?.findings ?? [];
  setText("verification-time", verification ? clock(verification.time) : "none yet");
  setText("verification-looked", verification ? number(verification.looked) : NONE);
  setText("verification-findings", verification ? number(verification.count) : NONE);
  setText("alarm-count", number(alarms.count));
  mark($("findings-row"), found.length ? "bad" : "");
  mark($("alarms-row"), alarms.count ? "warn" : "");
  const length = findings.show([
    ...found.map((each) => ({ time: verification.time, kind: "finding", text: each })),
    ...alarms.shown.map((each) => ({ ...each, kind: "alarm" })),
  ]);
  $("findings-part").hidden = length === 0;
};

const outcomeChanged = () => {
  const isBooked = $("decide-outcome").value === "booked";
  $("decide-order").disabled = !isBooked;
  $("decide-order-field").hidden = !isBooked;
  withdraw();
};

const withdraw = () => {
  asked = null;
  $("decide-asked").hidden = true;
};

// A decision moves no money, but may have it moved twice: it is asked for in words.
const ask = () => {
  const form = new URLSearchParams(new FormData($("decide")));
  const wanted = form.get("operation");
  const row = rows.find(({ operation }) => String(operation) === wanted);
  setText("decide-done", "");
  if (row?.state !== "held") {
    withdraw();
    return setText("decide-done", `Operation ${text(wanted)} is not shown as held.`);
  }
  asked = form;
  const what = form.get("outcome") === "booked"
    ? `was booked as order ${text(form.get("order"))}`
    : "was never booked and never will be";
  setText("decide-what", `Operation ${text(wanted)}, ${text(row.command)} of`
    + ` ${money(row.profit)} for account ${text(row.login)}, ${what}?`);
  $("decide-asked").hidden = false;
  $("decide-confirm").focus();
};

const decide = async (signedOut) => {
  const form = asked;
  if (form === null) return;
  withdraw();
  setText("decide-done", "Deciding…");
  try {
    const answer = await fetch("held", { method: "POST", body: form });
    if (answer.status === 401) return signedOut();
    const body = await answer.json();
    setText("decide-done", answer.ok
      ? `Operation ${text(body.operation)} is ${text(body.outcome)} now.`
      : `Not decided: ${sentence(body.message)}`);
    if (answer.ok) $("decide-operation").value = $("decide-order").value = "";
  } catch {
    setText("decide-done", "The server does not answer: see what the table shows.");
  }
};

export const clear = () => {
  rows = [];
  unclear.show([]);
  findings.show([]);
  withdraw();
  isAdmin = false;
  $("decide").reset();
  outcomeChanged();
  $("decide").hidden = $("gateway").hidden = true;
  for (const id of ["gateway-facts", "decide-what", "decide-done"]) setText(id, "");
};

export const start = (signedOut) => {
  $("decide").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  $("decide-operation").addEventListener("input", withdraw);
  $("decide-order").addEventListener("input", withdraw);
  $("decide-outcome").addEventListener("change", outcomeChanged);
  $("decide-confirm").addEventListener("click", () => decide(signedOut));
  $("decide-cancel").addEventListener("click", withdraw);
};
