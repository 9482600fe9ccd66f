// Formats: numbers grouped, money exact, times local.

export const NONE = "–";

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const finer = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export const zone = () => {
  const { timeZone } = new Intl.DateTimeFormat().resolvedOptions();
  const minutes = -new Date().getTimezoneOffset();
  const [hours, rest] = [Math.abs(minutes) / 60 | 0, Math.abs(minutes) % 60];
  const offset = `UTC${minutes < 0 ? "−" : "+"}${hours}${rest ? ":" + rest : ""}`;
  return timeZone && timeZone !== "UTC" ? `${timeZone} (${offset})` : offset;
};

export const number = (value) =>
  Number.isFinite(value) ? grouped.format(value) : NONE;

export const rate = (value) =>
  !Number.isFinite(value) ? NONE : (value < 10 ? finer : grouped).format(value);

// Three digits, so that columns do not change their width.
const short = (value) => value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);

export const seconds = (value) => {
  if (!Number.isFinite(value)) return NONE;
  const length = Math.max(0, value);
  if (length < 0.9995) return `${short(length * 1000)} ms`;
  if (length < 60) return `${short(length)} s`;
  return duration(length);
};

export const duration = (value) => {
  const [days, hours] = [value / 86400 | 0, (value % 86400) / 3600 | 0];
  const minutes = (value % 3600) / 60 | 0;
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  if (minutes) return `${minutes} min ${value % 60 | 0} s`;
  return `${value | 0} s`;
};

export const bytes = (value) => {
  if (!Number.isFinite(value)) return NONE;
  if (value < 1024) return `${value} B`;
  if (value < 1024 ** 2) return `${finer.format(value / 1024)} KiB`;
  return `${finer.format(value / 1024 ** 2)} MiB`;
};

// A decimal number as text, never as a float, which would round it.
export const money = (value) => {
  const parts = /^(-?)(\d+)(?:\.(\d*))?$/.exec(value ?? "");
  if (!parts) return text(value);
  const [, sign, whole, fraction = ""] = parts;
  const groups = whole.replace(/\B(?=(\d{3})+$)/g, ",");
  return `${sign && "−"}${groups}.${fraction.padEnd(2, "0")}`;
};

const two = (value) => String(value).padStart(2, "0");

export const clock = (unix) => {
  const when = new Date(unix * 1000);
  if (!Number.isFinite(unix) || Number.isNaN(when.getTime())) return NONE;
  const time = [when.getHours(), when.getMinutes(), when.getSeconds()]
    .map(two).join(":");
  if (when.toDateString() === new Date().toDateString()) return time;
  const day = [when.getFullYear(), when.getMonth() + 1, when.getDate()]
    .map(two).join("-");
  return `${day} ${time}`;
};

// Text from clients. Invisible characters, and those that change the direction of
// the text after them, are spelled out, so that nothing looks like what it is not.
export const text = (value) => {
  if (value === null || value === undefined || value === "") return NONE;
  return String(value).slice(0, 300).replace(
    /[\p{Cc}\p{Cf}\p{Co}\p{Zl}\p{Zp}]/gu,
    (each) => `⟨U+${each.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`,
  );
};

// The server's messages begin with a small letter and have no full stop.
export const sentence = (message) => `${message[0].toUpperCase()}${message.slice(1)}.`;

const STATES = {
  3: "booked", 6: "deleted", 10: "pending", 11: "change pending", 12: "deletion pending",
  17: "waits for approval", 18: "declined",
};
const EVENTS = { 0: "added", 1: "changed", 2: "deleted" };
// Those of a finance request that move no money.
const REQUESTED = { 17: "requested", 18: "declined" };

export const state = (value) => STATES[value] ?? text(value);

// What an event did to its trade.
export const change = ({ type, state, command }) => {
  if (command?.startsWith("MngApproveFinanceRequest")) return "approved";
  return REQUESTED[state] ?? EVENTS[type] ?? text(type);
};
