// The columns of the tables, shared by the page and the search.

import {
  bytes, change, clock, money, number, rate, seconds, state, text,
} from "./format.js";
import { member } from "./page.js";

const time = [(row) => clock(row.time), "time"];
const order = [member("order"), "number"];
const login = [member("login"), "number"];
const command = [member("command")];
const extID = [member("extID"), "long"];
const session = [member("peer"), "time"];
const kindOf = [(row) => text(row.kind ?? row.cmd)];
const amount = [(row) => money(row.profit), "number money"];
const principal = [member("principal"), "number"];
const comment = [member("comment"), "long"];

export const FOUND = [
  time, order, login, kindOf, amount, [(row) => state(row.state)], comment,
];

export const TRADES = [
  time, order, login, kindOf, amount, [(row) => change(row)], principal, comment,
];

export const APPROVALS = [time, order, login, kindOf, amount, principal, comment];

export const WAITERS = [
  [(row) => seconds(row.age), "number age"], order, login, command, extID, session,
];

export const REFUSALS = [
  time, [(row) => `${text(row.status)} ${text(row.error)}`],
  [member("message"), "long"], command, extID, session,
];

export const SESSIONS = [
  [member("peer"), "time"], [member("role")], principal,
  [(row) => bytes(row.unread), "number"], [(row) => number(row.inFlight), "number"],
  [(row) => (row.isStalled ? "no" : "yes")],
];

export const UNCLEAR = [
  [member("operation"), "number"], [member("state")],
  [(row) => seconds(row.age), "number"], login, command, amount, order,
  [member("why"), "said"], comment,
];

export const FINDINGS = [time, [member("kind")], [member("text"), "said"]];

export const OUTCOMES = [
  command,
  [(row) => `${text(row.status)} ${row.error ? text(row.error) : "succeeded"}`],
  [(row) => rate(row.rate), "number"], [(row) => number(row.total), "number"],
];

// How much of its timeout a request has used.
export const urgency = (age, timeout) => {
  const part = Math.min(1, age / timeout);
  return [part > 0.8 ? "bad" : part > 0.4 ? "warn" : "", part];
};
