// A conversation as it is read: entries of the log become turns, folded calls, and thin lines where runs end.

import { seg } from "./api.js";
import { clean, el, exact, fill, oneLine } from "./dom.js";
import { brief, compact, duration, json, long, pre, time } from "./format.js";
import { link, markdown } from "./markdown.js";

const SHOWN = new Set(["image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"]);
const LONGEST = 60_000;

/** The nodes of a log, in its order. Entries are given with `add` as they come, earlier ones with `addBefore`. */
export class Turns {
  /** `actions(entry)` gives the buttons of a message; `again(entry)`: what was said with this message is tried again. */
  constructor({ actions, again, user = () => null }) {
    this.again = again;
    this.asking = new Map();
    this.actions = actions;
    this.user = user;
    this.box = el("div.turns");
    this.calls = new Map();
    this.orphans = new Map();
    this.seqs = new Set();
    this.runs = new Map();
    this.speaking = null;
  }

  add(entries) {
    this.box.append(...this.nodes(entries));
  }

  addBefore(entries) {
    const { speaking, runs } = this;
    Object.assign(this, { speaking: null, runs: new Map() });
    this.box.prepend(...this.nodes(entries));
    Object.assign(this, { speaking, runs: new Map([...this.runs, ...runs]) });
    this.stopCalls();
  }

  nodes(entries) {
    return entries.filter((it) => !this.seqs.has(it.seq) && this.seqs.add(it.seq)).flatMap((it) => this.nodesOf(it)).filter(Boolean);
  }

  nodesOf(entry) {
    if (entry.kind === "message") return this.message(entry);
    if (entry.kind === "run") return this.run(entry);
    if (entry.kind === "handoff") return line("handed over to ", el("b", oneLine(entry.data.agent)), entry.data.reason && `: ${oneLine(entry.data.reason)}`);
    if (entry.kind === "decision") return this.decision(entry);
    if (entry.kind === "requirement") return this.asked(entry);
    if (entry.kind === "summary") return folded("summary", "What came before, in short", () => markdown(String(entry.data.text ?? "")));
    return [];
  }

  // --- messages ---

  message(entry) {
    const { role, parts } = entry.data;
    if (role === "tool") return parts.flatMap((part) => this.result(entry, part));
    if (role === "system" || role === "developer") {
      return folded("system", "Instructions", () => parts.map((part) => partOf(part, entry)));
    }
    return this.turn(entry, parts.map((part) => (part.type === "tool_call" ? this.call(entry, part) : partOf(part, entry))));
  }

  turn(entry, body) {
    const mine = entry.data.role === "user";
    if (mine && this.seqs.has(1)) this.first ??= oneLine(entry.data.parts.find((it) => it.type === "text")?.content ?? "").slice(0, 200);
    const more = !mine && this.speaking === entry.run_id && entry.run_id !== null;
    this.speaking = mine ? null : entry.run_id;
    if (mine && !this.asking.has(entry.run_id)) this.asking.set(entry.run_id, entry);
    const who = mine ? this.user() || "user" : entry.agent || entry.data.role;
    const head = el("header", el("b.who", el("bdi", oneLine(entry.data.name || who))), time(entry.time, "clock"), el("span.gap"), this.actions(entry));
    return [el(`article.turn.${mine ? "user" : "agent"}${more ? ".more" : ""}`, { data: { seq: entry.seq, run: entry.run_id ?? "" } }, head, body)];
  }

  call(entry, part) {
    const state = el("span.state", "running");
    const out = el("div.out");
    const summary = el("summary", el("code", exact(part.name)), el("span.args", brief(part.arguments)), state);
    const asked = el("div.in", el("h4", "Arguments"), long(json(part.arguments ?? {}), pre));
    const node = el("details.call.pending", summary, asked, out);
    const key = `${entry.run_id}/${part.id}`;
    const made = { node, state, out, run: entry.run_id, at: Date.parse(entry.time) };
    this.calls.set(key, made);
    const orphan = this.orphans.get(key);
    if (orphan) {
      this.orphans.delete(key);
      orphan.node.remove();
      answered(made, orphan.response, orphan.at);
    }
    return node;
  }

  result(entry, part) {
    if (part.type !== "tool_call_response") return folded("system", "Tool", () => partOf(part, entry));
    const key = `${entry.run_id}/${part.id}`;
    const call = this.calls.get(key);
    const response = part.response ?? part.result;
    if (call) return answered(call, response, Date.parse(entry.time)), [];
    const node = folded("system", `Result of ${entry.data.name ?? "a tool"}`, () => long(json(response), pre))[0];
    this.orphans.set(key, { node, response, at: Date.parse(entry.time) });
    return [node];
  }

  asked(entry) {
    const call = this.calls.get(`${entry.run_id}/${entry.data.via?.call ?? entry.data.call?.id}`);
    if (call) hold(call);
    return [];
  }

  decision(entry) {
    const { outcome, value } = entry.data;
    for (const call of this.pending()) if (call.run === entry.run_id) call.at = Date.parse(entry.time);
    this.speaking = null;
    const words = { approve: "approved", deny: "denied", answer: "answered", supply: "result supplied", retry: "tried again", cancel: "cancelled" };
    const reason = typeof value === "string" && value ? `: ${oneLine(value)}` : value && outcome === "approve" ? ", with changes" : "";
    return line(words[outcome] ?? outcome, reason);
  }

  // --- runs ---

  run(entry) {
    const { status, attempt, metrics, error } = entry.data;
    this.runs.set(entry.run_id, status);
    if (underWay(status)) return attempt > 1 && status === "running" ? line(`try ${attempt}`) : [];
    this.stopCalls();
    if (status === "paused") return [];
    const used = metrics ?? {};
    const facts = [used.seconds && duration(used.seconds * 1000), used.output_tokens && `${compact(used.input_tokens ?? 0)} → ${compact(used.output_tokens)} tokens`];
    const about = facts.filter(Boolean).join("  ·  ");
    if (status === "completed") return [el("div.end", { data: { run: entry.run_id } }, el("span", about))];
    return [el(`div.end.${status}`, { role: "note", data: { run: entry.run_id } }, el("b", ENDS[status] ?? status), error && el("span.why", { dir: "auto" }, clean(error)), el("span", about), status === "cancelled" ? null : this.tryAgain(entry.run_id))];
  }

  /** The button that goes on with a run; of one whose beginning is not shown there is none. */
  tryAgain(run) {
    const asking = this.asking.get(run);
    return asking ? el("button.quiet.again", { type: "button", onclick: () => this.again(asking) }, "Try again") : "";
  }

  /** Runs that are under way by the entries shown, and are not: a Map of their statuses. What was broken off is told behind what it did. */
  over(ends) {
    for (const [run, status] of ends) {
      this.runs.set(run, "over");
      if (status !== "interrupted") continue;
      const did = [...this.box.querySelectorAll("[data-run]")].findLast((it) => it.dataset.run === run);
      did?.after(el("div.end.interrupted", { role: "note", data: { run } }, el("b", ENDS.interrupted), this.tryAgain(run)));
    }
    this.stopCalls();
  }

  /** The calls that have no result. */
  pending() {
    return [...this.calls.values()].filter((it) => it.node.classList.contains("pending"));
  }

  /** The calls without a result of runs that wait, or are over. */
  stopCalls() {
    for (const call of this.pending()) {
      const status = this.runs.get(call.run) ?? "running";
      if (status === "paused") hold(call);
      else if (!underWay(status)) {
        call.node.classList.add("stopped");
        call.state.textContent = "no result";
      }
    }
  }
}

/** Whether a run of this status goes on, or is about to. */
export const underWay = (status) => status === "running" || status === "queued";

const ENDS = { error: "failed", cancelled: "cancelled", interrupted: "broken off: its process ended" };

function answered(call, response, at) {
  call.node.classList.remove("pending");
  call.state.textContent = duration(at - call.at);
  fill(call.out, el("h4", "Result"), long(json(response), pre));
  call.node.querySelector("summary .args").after(el("span.gave", brief(response, 60)));
}

function hold(call) {
  call.node.classList.add("held");
  call.state.textContent = "waits";
}

const line = (...text) => [el("div.cut", el("span", text))];

/** Something folded: drawn when it is opened. */
export function folded(kind, name, draw) {
  const body = el("div.out");
  const node = el(`details.fold.${kind}`, el("summary", clean(name)), body);
  node.addEventListener("toggle", () => node.open && !body.hasChildNodes() && body.append(...[draw()].flat(2)));
  return [node];
}

// --- parts ---

/** The node of one part of a message. */
export function partOf(part, entry) {
  if (part.type === "text") return said(part.content ?? "", entry.data.role);
  if (part.type === "reasoning") return folded("reasoning", `Thought: ${brief(part.content, 80)}`, () => long(part.content ?? "", markdown));
  if (part.type === "blob") return media(part);
  if (part.type === "uri") return el("p.file", link(part.uri, [part.modality, ": ", exact(part.uri)], exact(part.uri)));
  if (part.type === "file") return el("p.file", `${part.modality}: ${exact(part.file_id)}`);
  if (part.type === "compaction") return folded("summary", "What came before, in short", () => markdown(part.content ?? ""));
  return folded("system", part.type, () => long(json(part), pre));
}

/** What was said: a person's words as they were typed, an agent's as markdown. */
export const said = (text, role) => long(text, (it) => (role === "user" ? el("p.typed", { dir: "auto" }, clean(it)) : markdown(it)), LONGEST);

function media({ content, mime_type, modality }) {
  const blob = new Blob([bytes(content)], { type: SHOWN.has(mime_type) ? mime_type : "application/octet-stream" });
  const url = URL.createObjectURL(blob);
  if (SHOWN.has(mime_type)) return el("img.media", { src: url, alt: `${modality}, ${mime_type}`, loading: "lazy", decoding: "async" });
  return el("p.file", el("a", { href: url, download: modality }, `${modality}, ${exact(mime_type ?? "no type")}, ${compact(blob.size)} bytes`));
}

function bytes(base64) {
  try {
    return Uint8Array.from(atob(base64), (it) => it.charCodeAt(0));
  } catch {
    return new Uint8Array();
  }
}

export const pathOf = (id, ...more) => ["sessions", seg(id), ...more].join("/");
