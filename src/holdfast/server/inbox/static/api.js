// The server: requests with the key of this tab, answers or problems, and streams that come back where they broke off.

const BASE = new URL("../../", import.meta.url);
const KEY = "holdfast.key";
const FIRST_WAIT = 300;
const LONGEST_WAIT = 8_000;
const SILENCE = 45_000;
const UNSEEN = 10_000;

/** What the server, or the way to it, has against a request. `status` is 0 where it was not reached. */
export class Problem extends Error {
  constructor(status, detail, document = {}) {
    super(detail);
    this.status = status;
    this.document = document;
  }
}

/** What a header can carry: no key holds anything else. */
export const SENDABLE = /^[!-~]+$/;

let askForKey = async () => null;
let asking = null;

/** Who is asked for a key when the server wants one: `ask(problem)` gives it, or null. */
export const onKeyWanted = (ask) => (askForKey = ask);

/** One segment of a path: an id may hold anything, but for `.` and `..`, which no address can name. */
export const seg = encodeURIComponent;

const query = (given) => {
  const known = Object.entries(given).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return known.length ? `?${new URLSearchParams(known)}` : "";
};

export const get = (path, given = {}, options = {}) => json(path + query(given), options);
export const post = (path, body, options = {}) => json(path, { ...options, method: "POST", body });
export const patch = (path, body) => json(path, { method: "PATCH", body });
export const remove = (path) => json(path, { method: "DELETE" });

/** A file, as a blob. */
export const download = async (path) => (await ask(path, {})).blob();

async function json(path, options) {
  const answer = await ask(path, options);
  return answer.status === 204 ? null : answer.json();
}

async function ask(path, options) {
  for (;;) {
    const used = keyOf();
    const answer = await send(path, options, used);
    if (answer.ok) return answer;
    const problem = await problemOf(answer);
    if (problem.status !== 401 || !(await anotherKey(used, problem))) throw problem;
  }
}

/** The key of this tab; null where there is none that can be sent. */
function keyOf() {
  const key = sessionStorage.getItem(KEY);
  return SENDABLE.test(key ?? "") ? key : null;
}

async function send(path, { method = "GET", body, headers = {}, signal }, key) {
  const given = { accept: "application/json", ...headers };
  if (key !== null) given.authorization = `Bearer ${key}`;
  if (body !== undefined) given["content-type"] = "application/json";
  try {
    return await fetch(new URL(path, BASE), { method, headers: given, signal, cache: "no-store", body: body && JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The server can't be reached.");
  }
}

async function problemOf(answer) {
  const document = await answer.json().catch(() => ({}));
  return new Problem(answer.status, document.detail || `The server answered ${answer.status}.`, document);
}

/** Ask for a key, once for all requests that want one; whether there is another than the one that was used. */
async function anotherKey(used, problem) {
  if (keyOf() !== used) return true;
  asking ??= askForKey(problem, used !== null).finally(() => (asking = null));
  const key = await asking;
  if (key) sessionStorage.setItem(KEY, key);
  return Boolean(key);
}

// --- streams ---------------------------------------------------------------------------------------------------------

/**
 * Follow server-sent events until `stop()`. `onEvent(name, data, id)` gets each; a broken connection is taken up behind the last `id`.
 * `onState` hears `live` and `away`. A refusal that trying again can't mend ends it: `onState("ended", problem)`.
 */
export function follow(path, { after, onEvent, onState = () => {} }) {
  const control = new AbortController();
  const place = { last: after, wait: FIRST_WAIT };
  again(path, place, control, onEvent, onState);
  return { stop: () => control.abort() };
}

async function again(path, place, control, onEvent, onState) {
  while (!control.signal.aborted) {
    try {
      await once(path, place, control.signal, onEvent, onState);
    } catch (error) {
      if (control.signal.aborted) return;
      if (error instanceof Problem && error.status >= 400 && error.status < 500 && error.status !== 429) return onState("ended", error);
    }
    if (control.signal.aborted) return;
    if (document.hidden) {
      await seen(control.signal);
      continue;
    }
    onState("away");
    await pause(place.wait * (0.75 + Math.random() / 2), control.signal);
    place.wait = Math.min(LONGEST_WAIT, place.wait * 2);
  }
}

async function once(path, place, signal, onEvent, onState) {
  const headers = { accept: "text/event-stream" };
  if (place.last !== undefined && place.last !== null) headers["last-event-id"] = String(place.last);
  const here = new AbortController();
  const stop = () => here.abort();
  signal.addEventListener("abort", stop);
  const watch = { timer: 0 };
  const heard = () => (clearTimeout(watch.timer), (watch.timer = setTimeout(stop, SILENCE)));
  const leave = () => (clearTimeout(watch.left), document.hidden && (watch.left = setTimeout(stop, UNSEEN)));
  document.addEventListener("visibilitychange", leave);
  try {
    const answer = await ask(path, { headers, signal: here.signal });
    place.wait = FIRST_WAIT;
    onState("live");
    for await (const event of events(answer.body, heard)) {
      if (signal.aborted) return;
      if (event.id) place.last = event.id;
      if (event.data) onEvent(event.name, JSON.parse(event.data), event.id);
    }
  } finally {
    clearTimeout(watch.timer);
    clearTimeout(watch.left);
    document.removeEventListener("visibilitychange", leave);
    signal.removeEventListener("abort", stop);
    here.abort();
  }
}

/** The events of a body of `text/event-stream`. */
export async function* events(body, heard = () => {}) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    heard();
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split(/\r\n\r\n|\n\n|\r\r/);
    rest = parts.pop();
    for (const part of parts) yield parsed(part);
  }
}

function parsed(block) {
  const event = { name: "message", data: "", id: "" };
  for (const line of block.split(/\r\n|\n|\r/)) {
    const [, field, value] = /^(\w*):? ?(.*)$/s.exec(line) ?? [];
    if (field === "data") event.data += event.data ? `\n${value}` : value;
    else if (field === "event") event.name = value;
    else if (field === "id") event.id = value;
  }
  return event;
}

/** Wait until the page is looked at: a browser has few connections to one server, and pages nobody sees leave them to the others. */
function seen(signal) {
  return new Promise((done) => {
    const end = () => {
      if (document.hidden && !signal.aborted) return;
      document.removeEventListener("visibilitychange", end);
      signal.removeEventListener("abort", end);
      done();
    };
    document.addEventListener("visibilitychange", end);
    signal.addEventListener("abort", end);
    end();
  });
}

/** Wait, but no longer than until the network is back or the page is seen again. */
function pause(ms, signal) {
  return new Promise((done) => {
    const end = () => {
      clearTimeout(timer);
      removeEventListener("online", end);
      signal.removeEventListener("abort", end);
      done();
    };
    const timer = setTimeout(end, ms);
    addEventListener("online", end);
    signal.addEventListener("abort", end);
  });
}
