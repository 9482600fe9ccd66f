// Puts a snapshot of the feed on the page.

import { NONE, bytes, duration, number, rate, seconds, text, zone } from "./format.js";
import { $, Table, mark, tell, write } from "./page.js";
import { OUTCOMES, REFUSALS, SESSIONS, TRADES, WAITERS, urgency } from "./rows.js";

// Seconds of reactor lag, and bytes that nobody reads, that are worth a look.
const LAG = 0.1;
const UNREAD = 1024 ** 2;

let timeout = 5;

const failed = (row) => [row.status >= 500 ? "warn" : "", 0];

const tables = {
  waiting: new Table("waiting", WAITERS, (row) => urgency(row.age, timeout)),
  trades: new Table("trades", TRADES),
  refusals: new Table("refusals", REFUSALS, failed),
  sessions: new Table("sessions", SESSIONS, (row) => [row.isStalled ? "warn" : "", 0]),
  outcomes: new Table("outcomes", OUTCOMES, failed),
};

const flag = (id, level) => mark($(id), level);

export const show = (snapshot) => {
  timeout = snapshot.timeout;
  showHead(snapshot);
  showMoney(snapshot);
  showRates(snapshot.point);
  showWaits(snapshot);
  showLedger(snapshot);
  showSessions(snapshot);
  showTables(snapshot);
};

// What was seen is for those alone who are signed in.
export const clear = () => {
  for (const table of Object.values(tables)) table.show([]);
};

const showHead = ({ version, uptime, health }) => {
  tell("facts", `version ${version} · up ${duration(uptime)}`
    + ` · reactor lag ${seconds(health.lag)}`);
  flag("facts", health.lag > LAG ? "warn" : "");
  for (const each of document.querySelectorAll(".zone")) {
    write(each, `times in ${zone()}`);
  }
};

const showMoney = ({ totals, queue }) => {
  const { acknowledged, booked, published, unbooked } = totals;
  const unpublished = booked - published;
  // Only the embedded runtime tells what it books.
  const isTold = queue !== null;
  tell("acknowledged", number(acknowledged));
  tell("booked", isTold ? number(booked) : "not told");
  tell("published", number(published));
  tell("unbooked", isTold ? number(unbooked) : "not told");
  tell("unpublished", isTold ? number(unpublished) : "not told");
  const isApart = unbooked !== 0 || (isTold && unpublished < 0);
  tell("money-apart", isApart ? "Apart!" : "Apart by 0");
  flag("money", isApart ? "bad" : "");
  flag("unbooked-row", unbooked ? "bad" : "");
  flag("unpublished-row", !isTold || unpublished === 0 ? ""
    : unpublished < 0 ? "bad" : "warn");
};

const showRates = ({ ok, refused, unknown, p50, p99 }) => {
  tell("rate", rate(ok + refused + unknown));
  tell("rate-ok", rate(ok));
  tell("rate-refused", rate(refused));
  tell("rate-unknown", rate(unknown));
  tell("took-p50", seconds(p50));
  tell("took-p99", seconds(p99));
  flag("refused-row", refused > ok ? "warn" : "");
  flag("unknown-row", unknown ? "bad" : "");
};

const showWaits = ({ waiters, totals }) => {
  tell("waits", number(waiters.count));
  tell("oldest", waiters.count ? seconds(waiters.oldest) : "none");
  tell("timeout", seconds(timeout));
  tell("timeouts", number(totals.timeouts));
  tell("late", number(totals.late));
  tell("unmatched", number(totals.unmatched));
  flag("oldest-row", urgency(waiters.oldest, timeout)[0]);
};

const showLedger = ({ queue, point, commits, time }) => {
  tell("queued", queue ? `${number(queue.operations)} queued` : "not ours");
  tell("queue-oldest", !queue ? NONE
    : queue.operations ? seconds(queue.oldest) : "none");
  flag("queue-row", queue ? urgency(queue.oldest, timeout)[0] : "");
  tell("last-commit", commits.last === null ? "none yet"
    : `${seconds(time - commits.last)} ago`);
  tell("commits", rate(point.commits));
  tell("batch", point.commits ? rate(point.booked / point.commits) : NONE);
  tell("commit-took", seconds(point.commit_p99));
};

const showSessions = ({ sessions }) => {
  const { count, inFlight, isPartial, roles, shown, stalled, unread } = sessions;
  tell("connected", number(count));
  tell("roles", Object.entries(roles).sort().map(([role, each]) =>
    `${number(each)}\u00a0${role === "none" ? "without" : role}`).join(", ") || NONE);
  tell("unread", bytes(unread));
  tell("stalled", number(stalled));
  tell("in-flight", number(inFlight));
  flag("unread-row", unread > UNREAD ? "warn" : "");
  flag("stalled-row", stalled ? "warn" : "");
  const partly = isPartial ? ", not all looked at" : "";
  tell("sessions-count", of(shown.length, count) + partly);
};

const of = (shown, count) =>
  shown < count ? `${number(shown)} of ${number(count)}` : "";

const showTables = ({ waiters, trades, refusals, sessions, outcomes, limits }) => {
  tell("waiting-count", of(tables.waiting.show(waiters.shown), waiters.count));
  tables.trades.show(trades);
  tables.refusals.show(refusals);
  tables.sessions.show(sessions.shown);
  tables.outcomes.show([...outcomes].sort((a, b) => b.total - a.total));
  const reached = Object.entries(limits).map(([name, count]) =>
    `${text(name)} ${number(count)}`);
  tell("limits", `Limits reached: ${reached.join(", ") || "none"}.`);
};
