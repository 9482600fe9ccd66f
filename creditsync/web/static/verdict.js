// The state of the server in one sentence, for somebody woken at three in the morning.

import { number, rate, seconds, sentence } from "./format.js";
import { urgency } from "./rows.js";

// Seconds for which a timed-out request stays in the headline.
const REMEMBERED = 60;
// Seconds over which rates are averaged.
const WINDOW = 10;
// Seconds that a commit takes only if something blocks it.
const STUCK = 1;

const plural = (count, one, many) => `${number(count)} ${count === 1 ? one : many}`;

const lastCommit = ({ commits, time }) =>
  commits.last === null
    ? "Nothing has been committed since the server started."
    : `The last commit ended ${seconds(time - commits.last)} ago.`;

let timedOutBefore = [];
let recent = [];

// How many requests have timed out during the last minute.
const timedOutLately = ({ time, totals }) => {
  timedOutBefore.push([time, totals.timeouts]);
  while (timedOutBefore[0][0] < time - REMEMBERED) timedOutBefore.shift();
  return totals.timeouts - timedOutBefore[0][1];
};

// Averages per second: one second alone says little.
const lately = ({ point }) => {
  if (recent.at(-1)?.time !== point.time) recent.push(point);
  recent = recent.filter((each) => each.time > point.time - WINDOW);
  const average = (key) =>
    recent.reduce((sum, each) => sum + each[key], 0) / recent.length;
  return { ok: average("ok"), refused: average("refused"), booked: average("booked") };
};

export const recall = (points) => {
  timedOutBefore = [];
  recent = points.slice(-WINDOW);
};

// [kind, word, why] for a snapshot. The worst problem comes first.
export const verdict = (snapshot) => {
  const { gateway, health, totals, waiters, queue, timeout } = snapshot;
  const [late, { ok, refused, booked }] = [timedOutLately(snapshot), lately(snapshot)];
  if (totals.unbooked !== 0) {
    return ["bad", "Mismatch", `${plural(totals.unbooked, "operation was",
      "operations were")} acknowledged or published before being booked.`
      + " This must never happen: stop the server and keep its ledger and logs."];
  }
  if (health.problem !== null) {
    return ["bad", "Not ready", `${sentence(health.problem)} ${lastCommit(snapshot)}`];
  }
  if (gateway && !gateway.isConnected) {
    return ["bad", "No platform", `The gateway has not been connected to its platform`
      + ` for ${seconds(gateway.since)}. ${sentence(gateway.problem || "why is unknown")}`];
  }
  if (queue !== null && queue.oldest > STUCK) {
    return ["bad", "Stuck", `${plural(queue.operations, "operation waits",
      "operations wait")} for a commit, the oldest for ${seconds(queue.oldest)}.`
      + ` ${lastCommit(snapshot)}`];
  }
  const [level] = urgency(waiters.oldest, timeout);
  if (level) {
    return [level, "Slow", `${plural(waiters.count, "request is", "requests are")} pending,`
      + ` the oldest for ${seconds(waiters.oldest)} of ${seconds(timeout)}.`
      + ` ${lastCommit(snapshot)}`];
  }
  const held = gateway?.states.find(({ state }) => state === "held");
  if (held) {
    return ["warn", "Held", `${plural(held.count, "operation waits", "operations wait")}`
      + ` for a person's decision, the oldest for ${seconds(held.oldest)}.`];
  }
  if (late > 0) {
    return ["warn", "Requests timed out", `${plural(late, "request", "requests")} timed out`
      + ` in the last minute. ${lastCommit(snapshot)}`];
  }
  if (booked > 0 || (queue === null && ok > 0)) {
    return ["good", "Money is flowing", booked > 0
      ? `${rate(booked)} operations per second are booked.`
      : `${rate(ok)} requests per second succeed.`];
  }
  if (refused > 0 && ok === 0 && recent.length >= WINDOW - 1) {
    return ["warn", "Everything is refused",
      `${rate(refused)} requests per second; none has succeeded for ${WINDOW} s.`];
  }
  if (totals.booked === 0 && totals.acknowledged === 0) {
    return ["quiet", "Ready", "Nothing has been booked since the server started."];
  }
  return ["quiet", "Quiet", `Ready, no requests. ${lastCommit(snapshot)}`];
};
