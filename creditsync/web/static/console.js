// The console: the sign-in, the feed, and whether what is shown is current.
//
// There is one EventSource, and none while the page is hidden. The server sends a
// snapshot a second; without one for STALE milliseconds the page says so.

import { clock, duration, sentence } from "./format.js";
import { clear, show } from "./figures.js";
import * as gateway from "./gateway.js";
import { $, setText } from "./page.js";
import { Plots } from "./plots.js";
import * as search from "./search.js";
import { recall, verdict } from "./verdict.js";

const STALE = 3000;
// Milliseconds of silence after which a connection is replaced.
const GIVEN_UP = 10_000;
const AGAIN = 3000;

const WORDS = {
  connecting: "Connecting", live: "Live", stale: "Stale", paused: "Paused",
  signedOut: "Signed out",
};

const plots = new Plots();
let source = null;
let retry = 0;
let receivedAt = 0;
let openedAt = 0;
let last = null;
let announced = "";

const setState = (state) => {
  if (document.body.dataset.state === state) return;
  document.body.dataset.state = state;
  setText("state", WORDS[state]);
};

const showVerdict = (kind, word, why) => {
  $("verdict").dataset.kind = kind;
  setText("verdict-word", word);
  setText("verdict-why", why);
  document.title = `${word} – creditsync`;
  // Screen readers announce a change of the verdict, not every new figure.
  if (announced === kind + word) return;
  announced = kind + word;
  setText("announcement", `${word}. ${why}`);
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
  source.addEventListener("history", (event) => fill(JSON.parse(event.data)));
  source.addEventListener("snapshot", (event) => receive(JSON.parse(event.data)));
  source.addEventListener("ended", () => signedOut(
    "Your sign-in has ended: its token has expired or was revoked."));
  source.addEventListener("error", () => {
    if (source?.readyState === EventSource.CLOSED) feedRefused();
  });
};

const fill = (points) => {
  plots.fill(points);
  recall(points);
};

const receive = (snapshot) => {
  receivedAt = performance.now();
  last = snapshot;
  setState("live");
  show(snapshot);
  plots.add(snapshot.point);
  showVerdict(...verdict(snapshot));
};

// The server answers, but without a feed.
const feedRefused = async () => {
  disconnect();
  let answer;
  try {
    answer = await fetch("session");
  } catch {
    answer = null;
  }
  if (answer?.status === 401) {
    return signedOut("Your sign-in has ended: its token has expired or was revoked,"
      + " or the server has restarted.");
  }
  if (answer?.ok && last === null) {
    receivedAt = performance.now();
    showVerdict("warn", "No feed", "The server answers, but without a feed: too many"
      + " consoles are open. Trying again.");
  }
  retry = setTimeout(connect, AGAIN);
};

const isFollowing = () => ["connecting", "live", "stale"].includes(
  document.body.dataset.state) && !$("console").hidden;

const checkFreshness = () => {
  if (!isFollowing() || document.hidden) return;
  const now = performance.now();
  const silence = now - receivedAt;
  if (silence < STALE) return;
  if (last === null) {
    showVerdict("warn", "No answer", "The server sends no figures. Trying again.");
  } else {
    setState("stale");
    showVerdict("stale", "Stale", stale(silence));
  }
  if (source && now - Math.max(receivedAt, openedAt) > GIVEN_UP) connect();
};

const stale = (silence) => {
  const { problem } = last.health;
  const why = problem === null ? "The server hangs, or it or the network is down."
    : `Its last report was: ${problem}.`;
  return `No figures for ${duration(silence / 1000)}. ${why}`
    + ` Those below are from ${clock(last.time)}.`;
};

const pause = (isPaused) => {
  setText("pause", isPaused ? "Resume" : "Pause");
  if (!isPaused) return resume();
  disconnect();
  setState("paused");
  showVerdict("quiet", "Paused", `The figures below are from ${clock(last?.time)}.`);
};

const resume = () => {
  receivedAt = performance.now();
  setState("connecting");
  connect();
};

const visibilityChanged = () => {
  if ($("console").hidden || document.body.dataset.state === "paused") return;
  if (!document.hidden) return resume();
  disconnect();
  // Otherwise the tab would show an old verdict for hours.
  document.title = "creditsync";
};

const showConsole = (isSignedIn) => {
  $("entrance").hidden = isSignedIn;
  $("console").hidden = $("controls").hidden = !isSignedIn;
};

const signedIn = ({ principal, role }) => {
  $("token").value = "";
  setText("sign-in-problem", "");
  setText("who", `${principal}, ${role}`);
  setText("pause", "Pause");
  gateway.admit(role);
  showConsole(true);
  showVerdict("quiet", "Connecting", "Waiting for the first figures.");
  resume();
};

const signedOut = (why = "") => {
  disconnect();
  clear();
  search.clear();
  last = null;
  announced = "";
  setState("signedOut");
  showConsole(false);
  setText("facts", "");
  setText("announcement", "");
  setText("sign-in-problem", why);
  document.title = "creditsync";
  $("token").focus();
};

const signIn = async (event) => {
  event.preventDefault();
  setText("sign-in-problem", "");
  $("sign-in-button").disabled = true;
  try {
    const form = new URLSearchParams(new FormData($("sign-in")));
    const answer = await fetch("session", { method: "POST", body: form });
    const body = await answer.json();
    if (answer.ok) {
      signedIn(body);
      // The field that had the focus is hidden now.
      return $("verdict").focus();
    }
    setText("sign-in-problem", sentence(body.message));
    $("token").select();
  } catch {
    setText("sign-in-problem", "The server does not answer.");
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
    signedOut("The server does not answer: the sign-in may last until its token expires.");
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
document.addEventListener("visibilitychange", visibilityChanged);
search.start(() => signedOut("Your sign-in has ended."));
gateway.start(() => signedOut("Your sign-in has ended."));
setInterval(checkFreshness, 500);
begin();
