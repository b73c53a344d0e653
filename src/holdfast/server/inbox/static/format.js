// Values as people read them. Numbers and times have one form each, everywhere.

import { clean, el, exact, oneLine } from "./dom.js";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const exactTime = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const clockTime = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const dayOfYear = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const dayOfAny = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric" });
const whole = new Intl.NumberFormat(undefined);
const short = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });

export const count = (n) => whole.format(n ?? 0);
export const compact = (n) => (n < 1000 ? String(n ?? 0) : short.format(n));
export const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;

/** Milliseconds as `80 ms`, `1.2 s`, `3 min 4 s`. */
export function duration(ms) {
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 9950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** How long ago, in as few letters as it takes. */
export function ago(at, now = Date.now()) {
  const past = now - at;
  if (past < 45_000) return "now";
  if (past < HOUR) return `${Math.max(1, Math.round(past / MINUTE))} min`;
  if (past < DAY) return `${Math.round(past / HOUR)} h`;
  if (past < 7 * DAY) return `${Math.round(past / DAY)} d`;
  return (new Date(at).getFullYear() === new Date(now).getFullYear() ? dayOfYear : dayOfAny).format(at);
}

/** A `<time>` that says how long ago, or the time of day; the rest is in its title. It grows older with `older()`. */
export function time(text, form = "ago") {
  const at = Date.parse(text);
  const node = el("time", { datetime: text, title: exactTime.format(at), data: { form } });
  return tell(node, at);
}

function tell(node, at) {
  const recent = Date.now() - at < DAY;
  node.textContent = node.dataset.form === "clock" && recent ? clockTime.format(at) : ago(at);
  return node;
}

/** Tell the times below an element anew. */
export function older(root) {
  for (const node of root.querySelectorAll("time[datetime]")) tell(node, Date.parse(node.dateTime));
}

/** What a conversation is called: its name, or how it begins. */
export const title = (session) => oneLine(session.name || session.first_line || session.last_line || "") || "New conversation";

/** A line of markdown without its marks. */
export const plainly = (text) => oneLine(text).replace(/\*\*|__|~~|`+|^#{1,6} |^> |!?\[([^\]]*)\]\([^)]*\)/g, "$1");

/** A value as indented JSON; what can't be seen in it is written as its code. */
export function json(value) {
  if (value === undefined) return "";
  return exact(typeof value === "string" ? value : JSON.stringify(value, null, 2));
}

/** A value on one short line: `order_id: 1007, reason: broken`. */
export function brief(value, most = 90) {
  const text = exact(oneLine(briefly(value)));
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

function briefly(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "object") return String(value);
  if (Array.isArray(value)) return JSON.stringify(value).slice(0, 400);
  return Object.entries(value)
    .slice(0, 12)
    .map(([key, it]) => `${key}: ${typeof it === "object" ? JSON.stringify(it) : it}`.slice(0, 200))
    .join(", ");
}

/** A long text, its beginning first: `most` characters, the rest behind a button. `render` gives the node of a text. */
export function long(text, render, most = 20_000) {
  if (text.length <= most) return render(text);
  const box = el("div.long", render(text.slice(0, most)));
  box.append(el("button.quiet", { type: "button", onclick: () => box.replaceWith(render(text)) }, `Show all ${count(text.length)} characters`));
  return box;
}

/** Code as it is. */
export const pre = (text) => el("pre", { tabindex: "0", dir: "ltr" }, el("code", clean(text)));
