// The console: who is signed in, the feed, and whether what is shown is true now.
//
// There is one EventSource, and none while nobody looks. The server sends a
// snapshot a second; without one for STALE milliseconds the page says so.

import { clock, duration, sentence } from "./format.js";
import { clear, show } from "./figures.js";
import { $, tell } from "./page.js";
import { Plots } from "./plots.js";
import * as search from "./search.js";
import { recall, verdict } from "./verdict.js";

const STALE = 3000;
// Milliseconds of silence after which a connection is given up for a new one.
const GIVEN_UP = 10_000;
const AGAIN = 3000;

const WORDS = {
  connecting: "Connecting", live: "Live", stale: "Stale", paused: "Paused",
  signedOut: "Signed out",
};

const plots = new Plots();
let source = null;
let retry = 0;
let heardAt = 0;
let openedAt = 0;
let last = null;
let said = "";

const setState = (state) => {
  if (document.body.dataset.state === state) return;
  document.body.dataset.state = state;
  tell("state", WORDS[state]);
};

const judge = (kind, word, why) => {
  $("verdict").dataset.kind = kind;
  tell("verdict-word", word);
  tell("verdict-why", why);
  document.title = `${word} – creditsync`;
  // Read aloud only when the verdict is another one, not with every figure.
  if (said === kind + word) return;
  said = kind + word;
  tell("announcement", `${word}. ${why}`);
};

const disconnect = () => {
  clearTimeout(retry);
  source?.close();
  source = null;
};

const connect = () => {
  disconnect();
  openedAt = performance.now();
  source = new EventSource("feed");
  source.addEventListener("history", (event) => began(JSON.parse(event.data)));
  source.addEventListener("snapshot", (event) => heard(JSON.parse(event.data)));
  source.addEventListener("ended", () => signedOut(
    "Your sign-in has ended: its token has expired or was revoked."));
  source.addEventListener("error", () => {
    if (source?.readyState === EventSource.CLOSED) refused();
  });
};

const began = (points) => {
  plots.fill(points);
  recall(points);
};

const heard = (snapshot) => {
  heardAt = performance.now();
  last = snapshot;
  setState("live");
  show(snapshot);
  plots.add(snapshot.point);
  judge(...verdict(snapshot));
};

// The server answers, but not with a feed.
const refused = async () => {
  disconnect();
  let answer;
  try {
    answer = await fetch("session");
  } catch {
    answer = null;
  }
  if (answer?.status === 401) {
    return signedOut("Your sign-in has ended: its token has expired or was revoked,"
      + " or the server was started again.");
  }
  if (answer?.ok && last === null) {
    heardAt = performance.now();
    judge("warn", "No feed", "The server answers, but gives no feed: too many look"
      + " already. Trying again.");
  }
  retry = setTimeout(connect, AGAIN);
};

const isWatching = () => ["connecting", "live", "stale"].includes(
  document.body.dataset.state) && !$("console").hidden;

const look = () => {
  if (!isWatching() || document.hidden) return;
  const now = performance.now();
  const silence = now - heardAt;
  if (silence < STALE) return;
  if (last === null) {
    judge("warn", "No answer", "The server gives no figures. Trying again.");
  } else {
    setState("stale");
    judge("stale", "Stale", stale(silence));
  }
  if (source && now - Math.max(heardAt, openedAt) > GIVEN_UP) connect();
};

const stale = (silence) => {
  const { problem } = last.health;
  const why = problem === null ? "The server hangs or is down, or the way to it is."
    : `The last that it said was: ${problem}.`;
  return `Nothing was heard for ${duration(silence / 1000)}. ${why}`
    + ` What is below was true at ${clock(last.time)}.`;
};

const pause = (isPaused) => {
  tell("pause", isPaused ? "Resume" : "Pause");
  if (!isPaused) return resume();
  disconnect();
  setState("paused");
  judge("quiet", "Paused", `What is below was true at ${clock(last?.time)}.`);
};

const resume = () => {
  heardAt = performance.now();
  setState("connecting");
  connect();
};

const seen = () => {
  if ($("console").hidden || document.body.dataset.state === "paused") return;
  if (!document.hidden) return resume();
  disconnect();
  // The last verdict would stand on the tab for hours.
  document.title = "creditsync";
};

const turn = (isSignedIn) => {
  $("entrance").hidden = isSignedIn;
  $("console").hidden = $("controls").hidden = !isSignedIn;
};

const signedIn = ({ principal, role }) => {
  $("token").value = "";
  tell("sign-in-problem", "");
  tell("who", `${principal}, ${role}`);
  tell("pause", "Pause");
  turn(true);
  judge("quiet", "Connecting", "Waiting for the first figures.");
  resume();
};

const signedOut = (why = "") => {
  disconnect();
  clear();
  search.clear();
  last = null;
  said = "";
  setState("signedOut");
  turn(false);
  tell("facts", "");
  tell("announcement", "");
  tell("sign-in-problem", why);
  document.title = "creditsync";
  $("token").focus();
};

const signIn = async (event) => {
  event.preventDefault();
  tell("sign-in-problem", "");
  $("sign-in-button").disabled = true;
  try {
    const body = new URLSearchParams(new FormData($("sign-in")));
    const answer = await fetch("session", { method: "POST", body });
    const told = await answer.json();
    if (answer.ok) {
      signedIn(told);
      // The field that had it is gone.
      return $("verdict").focus();
    }
    tell("sign-in-problem", sentence(told.message));
    $("token").select();
  } catch {
    tell("sign-in-problem", "The server does not answer.");
  } finally {
    $("sign-in-button").disabled = false;
  }
};

const signOut = async () => {
  disconnect();
  try {
    await fetch("session/end", { method: "POST" });
    signedOut();
  } catch {
    signedOut("The server does not answer: the sign-in may last until its token ends.");
  }
};

const begin = async () => {
  try {
    const answer = await fetch("session");
    if (answer.ok) return signedIn(await answer.json());
    signedOut();
  } catch {
    signedOut("The server does not answer.");
  }
};

$("sign-in").addEventListener("submit", signIn);
$("sign-out").addEventListener("click", signOut);
$("pause").addEventListener("click", () =>
  pause(document.body.dataset.state !== "paused"));
document.addEventListener("visibilitychange", seen);
search.start(() => signedOut("Your sign-in has ended."));
setInterval(look, 500);
begin();
