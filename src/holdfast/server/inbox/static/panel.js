// Beside a conversation: its runs over time, what the model was sent, its state, and what is known of it.

import { get } from "./api.js";
import { el, exact, fill, oneLine, settled } from "./dom.js";
import { brief, count, duration, json, long, plural, pre, time } from "./format.js";
import { markdown } from "./markdown.js";
import { runCard } from "./timeline.js";
import { pathOf } from "./turns.js";

const TABS = { runs: "Runs", sent: "What was sent", state: "State", info: "Info" };
const SCOPES = { session: "This conversation", user: "Its user", app: "The application" };
const LAST = 20;

export class Panel {
  constructor({ onOpenSession }) {
    this.onOpenSession = onOpenSession;
    this.body = el("div.body", { role: "tabpanel", tabindex: "0", id: "panel-body" });
    this.tabs = Object.entries(TABS).map(([name, text]) =>
      el("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "panel-body", data: { tab: name }, onclick: () => this.choose(name) }, text),
    );
    this.box = el("aside.panel", { "aria-label": "About this conversation" }, el("nav", { role: "tablist", onkeydown: (event) => this.walk(event) }, this.tabs), this.body);
    this.tab = "runs";
    this.run = null;
    this.soon = settled(() => this.draw(), 250);
  }

  /** Tell of this session, null for none. */
  show(session) {
    if (session?.id !== this.session?.id) this.run = null;
    this.session = session;
    this.choose(this.tab);
  }

  /** Something has changed in it. */
  refresh(session) {
    this.session = session;
    if (!this.box.hidden && this.tab !== "sent") this.soon();
  }

  choose(name) {
    this.tab = name;
    for (const it of this.tabs) {
      it.setAttribute("aria-selected", it.dataset.tab === name);
      it.tabIndex = it.dataset.tab === name ? 0 : -1;
    }
    this.body.setAttribute("aria-labelledby", `tab-${name}`);
    if (!this.box.hidden) this.draw();
  }

  /** To the tab that is shown. */
  focus() {
    this.tabs.find((it) => it.dataset.tab === this.tab).focus();
  }

  walk(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const names = Object.keys(TABS);
    this.choose(names[(names.indexOf(this.tab) + by + names.length) % names.length]);
    this.focus();
  }

  async draw() {
    if (!this.session) return fill(this.body);
    const round = (this.round = (this.round ?? 0) + 1);
    try {
      const drawn = await this[this.tab]();
      if (round !== this.round) return;
      const open = new Set(this.opened().map((it) => it.dataset.key));
      fill(this.body, drawn);
      for (const it of this.body.querySelectorAll("details[data-key]")) it.open = open.has(it.dataset.key);
    } catch (problem) {
      if (round === this.round) fill(this.body, el("p.problem", problem.message));
    }
  }

  opened() {
    return [...this.body.querySelectorAll("details[data-key][open]")];
  }

  // --- tabs ---

  async runs() {
    const runs = await get(pathOf(this.session.id, "timeline"), { last: LAST });
    if (!runs.length) return el("p.nothing", "No runs yet.");
    const onPick = (run) => ((this.run = run), this.choose("sent"));
    return runs.reverse().map((run) => runCard(run, { onPick }));
  }

  async sent() {
    const runs = (await get(pathOf(this.session.id, "runs"), { last: LAST })).reverse();
    if (!runs.length) return el("p.nothing", "Nothing was sent yet.");
    const picked = runs.find((it) => it.id === this.run)?.id ?? this.run ?? runs[0].id;
    const known = runs.some((it) => it.id === picked) ? runs : [{ id: picked, agent: "", status: "" }, ...runs];
    const options = known.map((it) => el("option", { value: it.id, selected: it.id === picked }, `${oneLine(it.agent ?? "run")} · ${it.started ? time(it.started, "clock").textContent : ""} · ${it.status}`));
    const select = el("select", { "aria-label": "Run", onchange: () => ((this.run = select.value), this.draw()) }, options);
    const told = await get(pathOf(this.session.id, "runs", encodeURIComponent(picked), "as-sent"));
    return [select, told.tries.map((it, place) => attempt(it, place + 1, told.tries.length))];
  }

  async state() {
    const scopes = Object.keys(SCOPES).filter((it) => it !== "user" || this.session.user_id);
    const values = await Promise.all(scopes.map((scope) => get(pathOf(this.session.id, "state"), { scope })));
    const versions = await get(pathOf(this.session.id, "state-versions")).catch(() => ({ keys: {} }));
    const changes = await get(pathOf(this.session.id, "state-history"), { last: LAST }).catch(() => []);
    return [scopes.map((scope, place) => stateOf(scope, values[place], scope === "session" ? versions.keys : {})), historyOf(changes)];
  }

  async info() {
    const it = await get(pathOf(this.session.id));
    const link = (id) => el("button.quiet", { type: "button", onclick: () => this.onOpenSession(id) }, el("code", exact(id)));
    const used = it.counts ?? {};
    const rows = [
      ["Id", copied(it.id)],
      ["Name", it.name && oneLine(it.name)],
      ["User", it.user_id && copied(it.user_id)],
      ["Agent", it.agent && oneLine(it.agent)],
      ["Kind", it.kind],
      ["Created", time(it.created_at)],
      ["Changed", time(it.updated_at)],
      ["Expires", it.expires_at && new Date(it.expires_at).toLocaleString()],
      ["Version", el("span.number", count(it.version))],
      ["Copied from", it.origin && [link(it.origin.session_id), ` at version ${it.origin.version}`]],
      ["Part of", it.parent && link(it.parent)],
      ["Time of runs", used.micros && duration(used.micros / 1000)],
      ...Object.entries(used).filter(([name]) => name !== "micros").map(([name, n]) => [`${name[0].toUpperCase()}${name.slice(1).replaceAll("_", " ")}`, el("span.number", count(n))]),
    ].filter(([, value]) => value);
    const metadata = Object.keys(it.metadata ?? {}).length ? [el("h3", "Metadata"), pre(json(it.metadata))] : null;
    return [el("dl.facts", rows.map(([name, value]) => [el("dt", name), el("dd", value)])), metadata];
  }
}

const copied = (text) => el("button.quiet.copy", { type: "button", title: "Copy", data: { copy: text } }, el("code", exact(text)));

function stateOf(scope, values, versions) {
  const keys = Object.keys(values);
  const rows = keys.map((key) =>
    el("details.value", { data: { key: `${scope} ${key}` } }, el("summary", el("code", exact(key)), el("span.args", brief(values[key])), versions[key] && el("span.state", `v${versions[key]}`)), long(json(values[key]), pre)),
  );
  return el("section.scope", el("h3", SCOPES[scope]), keys.length ? rows : el("p.nothing", "Nothing is kept here."));
}

function historyOf(changes) {
  if (!changes.length) return null;
  const rows = changes.reverse().map((it) =>
    el("li", el("code", exact(it.key)), " ", el("span.args", it.deleted ? "deleted" : brief(it.value)), el("span.state", [it.agent && `${oneLine(it.agent)} · `, time(it.time, "clock")])),
  );
  return el("section.scope", el("h3", "Changes, the newest first"), el("ul.changes", rows));
}

// --- what was sent ---

function attempt(it, place, of) {
  const about = [of > 1 && `${place} of ${of}`, it.model, it.status].filter(Boolean).join(" · ");
  const instructions = it.instructions && el("details.fold", el("summary", "Instructions"), el("div.out", long(it.instructions, markdown)));
  let had = it.instructions;
  const requests = it.requests.map((request, number) => {
    const other = request.instructions && request.instructions !== had ? (had = request.instructions) : null;
    const about = other && el("details.fold", el("summary", `Instructions, ${oneLine(request.model ?? "")}`), el("div.out", long(other, markdown)));
    return [about, requestOf(request, number, it)];
  });
  return el("section.attempt", el("h3", exact(about)), instructions, requests.length ? requests : el("p.nothing", "Nothing was sent."), it.error && el("p.why", exact(it.error)));
}

function requestOf(request, number, it) {
  const known = request.messages.length - request.new;
  const before = known > 0 && el("details.fold", el("summary", number ? `All of request ${number}` : pastOf(it, known)), el("div.out", request.messages.slice(0, known).map(spoken)));
  const fresh = request.messages.slice(known);
  return el(
    "section.request",
    el("h4", `Request ${number + 1}`, el("span", plural(request.messages.length, "message"))),
    before,
    fresh.map(spoken),
    request.answer && [el("h4", request.whole ? "Answer" : "Answer, broken off"), spoken(request.answer)],
  );
}

const pastOf = (it, known) => `${plural(it.past ?? known, "message")} of the past${it.history?.cut ? "; older ones were cut" : ""}`;

function spoken({ role, parts, name }) {
  return el("div.spoken", { data: { role } }, el("b", oneLine(name ? `${role} ${name}` : role)), parts.map(piece));
}

function piece(part) {
  if (part.type === "text") return long(part.content ?? "", (text) => el("p.typed", { dir: "auto" }, exact(text)), 2000);
  if (part.type === "tool_call") return el("p", el("code", exact(part.name)), " ", el("span.args", brief(part.arguments, 400)));
  if (part.type === "tool_call_response") return long(json(part.response ?? part.result), pre, 2000);
  if (part.type === "reasoning") return el("p.args", brief(part.content, 400));
  return el("p.args", part.type === "blob" ? `${part.modality}, ${exact(part.mime_type ?? "")}` : brief(part, 200));
}
