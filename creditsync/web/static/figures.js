// Puts a snapshot of the feed on the page.
//
// An element with data-figure, such as "totals.late", shows that member of the
// snapshot in the format that data-format names. Only what is derived or marked is
// written here.

import { NONE, bytes, duration, number, rate, seconds, text, zone } from "./format.js";
import * as gateway from "./gateway.js";
import { $, Table, mark, setText, write } from "./page.js";
import { APPROVALS, OUTCOMES, REFUSALS, SESSIONS, TRADES, WAITERS, urgency } from "./rows.js";

// Seconds of reactor lag, and unread bytes, that are worth a warning.
const LAG = 0.1;
const UNREAD = 1024 ** 2;
// Seconds for which a node may not have read the journal.
const BEHIND = 5;

let timeout = 5;

const failed = (row) => [row.status >= 500 ? "warn" : "", 0];

const tables = {
  waiting: new Table("waiting", WAITERS, (row) => urgency(row.age, timeout)),
  trades: new Table("trades", TRADES),
  refusals: new Table("refusals", REFUSALS, failed),
  approvals: new Table("approvals", APPROVALS),
  sessions: new Table("sessions", SESSIONS, (row) => [row.isStalled ? "warn" : "", 0]),
  outcomes: new Table("outcomes", OUTCOMES, failed),
};

const FORMATS = { number, rate, seconds, bytes };

const flag = (id, level) => mark($(id), level);

export const show = (snapshot) => {
  timeout = snapshot.timeout;
  showFigures(snapshot);
  showHead(snapshot);
  showBookings(snapshot);
  showRates(snapshot.point);
  showWaits(snapshot);
  showLedger(snapshot);
  showNode(snapshot);
  gateway.show(snapshot);
  showSessions(snapshot);
  showApprovals(snapshot);
  showTables(snapshot);
};

// Nothing stays on the page after a sign-out.
export const clear = () => {
  for (const table of Object.values(tables)) table.show([]);
  gateway.clear();
};

const showFigures = (snapshot) => {
  for (const element of document.querySelectorAll("[data-figure]")) {
    const { figure, format } = element.dataset;
    const value = figure.split(".").reduce((part, name) => part?.[name], snapshot);
    write(element, FORMATS[format](value));
  }
};

const showHead = ({ version, uptime, health }) => {
  setText("facts", `version ${version} · up ${duration(uptime)}`
    + ` · reactor lag ${seconds(health.lag)}`);
  flag("facts", health.lag > LAG ? "warn" : "");
  for (const each of document.querySelectorAll(".zone")) {
    write(each, `times in ${zone()}`);
  }
};

const showBookings = ({ totals, queue }) => {
  const { booked, published, unbooked } = totals;
  const unpublished = booked - published;
  // Only the embedded runtime reports what it books.
  const isKnown = queue !== null;
  setText("booked", isKnown ? number(booked) : "unknown");
  setText("unbooked", isKnown ? number(unbooked) : "unknown");
  setText("unpublished", isKnown ? number(unpublished) : "unknown");
  const isMismatch = unbooked !== 0 || (isKnown && unpublished < 0);
  setText("consistency", isMismatch ? "Mismatch" : "Consistent");
  flag("bookings", isMismatch ? "bad" : "");
  flag("unbooked-row", unbooked ? "bad" : "");
  flag("unpublished-row", !isKnown || unpublished === 0 ? ""
    : unpublished < 0 ? "bad" : "warn");
};

const showRates = ({ ok, refused, unknown }) => {
  setText("rate", rate(ok + refused + unknown));
  flag("refused-row", refused > ok ? "warn" : "");
  flag("unknown-row", unknown ? "bad" : "");
};

const showWaits = ({ waiters }) => {
  setText("oldest", waiters.count ? seconds(waiters.oldest) : "none");
  flag("oldest-row", urgency(waiters.oldest, timeout)[0]);
};

const showLedger = ({ queue, point, commits, time }) => {
  setText("queued", queue ? `${number(queue.operations)} queued` : "unknown");
  setText("queue-oldest", !queue ? NONE
    : queue.operations ? seconds(queue.oldest) : "none");
  flag("queue-row", queue ? urgency(queue.oldest, timeout)[0] : "");
  setText("last-commit", commits.last === null ? "none yet"
    : `${seconds(time - commits.last)} ago`);
  setText("batch", point.commits ? rate(point.booked / point.commits) : NONE);
};

// Of one of several servers.
const showNode = ({ node }) => {
  $("node").hidden = node === null;
  if (node === null) return;
  const { name, incarnation, behind, readAge, unknowns, retries } = node;
  setText("node-title", `Node ${text(name)}`);
  setText("node-facts", [
    `connected ${number(incarnation)} times`,
    `journal read ${seconds(readAge)} ago`,
    `${number(behind)} events behind`,
    node.isHeard ? "notifications arrive" : "notifications don't arrive",
    node.isSynchronous ? "commits are on two machines" : "commits are on one machine",
    `${number(unknowns)} unknown outcomes settled`,
    `${number(retries)} batches judged again`,
  ].join(" · "));
  flag("node", readAge > BEHIND ? "bad"
    : node.isHeard && node.isSynchronous ? "" : "warn");
};

const showSessions = ({ sessions }) => {
  const { count, isPartial, roles, shown, stalled, unread } = sessions;
  setText("roles", Object.entries(roles).sort().map(([role, each]) =>
    `${number(each)}\u00a0${role === "none" ? "no token" : role}`).join(", ") || NONE);
  flag("unread-row", unread > UNREAD ? "warn" : "");
  flag("stalled-row", stalled ? "warn" : "");
  const partly = isPartial ? ", not all examined" : "";
  setText("sessions-count", of(shown.length, count) + partly);
};

const of = (shown, count) =>
  shown < count ? `${number(shown)} of ${number(count)}` : "";

const showApprovals = ({ approvals }) => {
  const { count, isComplete, oldest, shown } = approvals;
  const parts = [
    of(tables.approvals.show(shown), count),
    oldest === null ? "" : `the oldest for ${seconds(oldest)}`,
    isComplete ? "" : "those made before the start are not known",
  ];
  setText("approvals-count", parts.filter(Boolean).join(", "));
};

const showTables = ({ waiters, trades, refusals, sessions, outcomes, limits }) => {
  setText("waiting-count", of(tables.waiting.show(waiters.shown), waiters.count));
  tables.trades.show(trades);
  tables.refusals.show(refusals);
  tables.sessions.show(sessions.shown);
  tables.outcomes.show([...outcomes].sort((a, b) => b.total - a.total));
  const reached = Object.entries(limits).map(([name, count]) =>
    `${text(name)} ${number(count)}`);
  setText("limits", `Limits reached: ${reached.join(", ") || "none"}.`);
};
