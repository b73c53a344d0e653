// One conversation: read from the log, followed live, written to. What is shown is the log and what is being said right now, nothing else.

import { chosenIn, offers } from "./agents.js";
import { download, follow, get, patch, post, remove, seg } from "./api.js";
import { Approvals } from "./approvals.js";
import { Composer } from "./composer.js";
import { askText, confirm, toast } from "./dialogs.js";
import { clean, el, fill, oneLine, perFrame, settled } from "./dom.js";
import { title } from "./format.js";
import { WORDS } from "./list.js";
import { Live, newest } from "./live.js";
import { Turns, pathOf, underWay } from "./turns.js";

const PAGE = 100;
const FURTHER = 5;
const NEAR = 120;
const TAKEN_UP = 5_000; // within this another process takes up a run that it is to go on with

export class Conversation {
  /** `hears`: `changed(session)`, `gone(id)`, `open(id)`, `back()`, `panel()`. */
  constructor(id, known, hears) {
    Object.assign(this, { id, hears, session: known ?? null, first: null, more: false, ended: false });
    this.turns = new Turns({ actions: (entry) => this.actions(entry), again: (entry) => this.again(entry), user: () => this.session?.user_id });
    this.live = new Live({ onGrow: () => this.stick(), onCancel: (run) => this.cancel(run), agent: () => this.session?.agent });
    this.approvals = new Approvals(id, { onDecided: () => this.look() });
    this.composer = new Composer({
      draft: id,
      target: () => this.target(),
      onSend: (sent) => (this.live.pending(sent), this.toEnd()),
      onSent: (sent, answer) => this.live.accepted(sent, answer),
      onFailed: (sent, problem) => this.refused(sent, problem),
    });
    this.build();
    this.soon = settled(() => this.look(), 60);
    this.load();
  }

  build() {
    this.head = el("header.bar");
    this.older = el("div.older");
    this.log = el("div.log", { role: "log", "aria-label": "Conversation", tabindex: "0" }, this.older, this.turns.box, this.live.box, this.approvals.box, (this.pick = el("div.pick")));
    this.log.addEventListener("scroll", perFrame(() => this.scrolled()), { passive: true });
    this.down = el("button.down", { type: "button", hidden: true, title: "To the newest", "aria-label": "To the newest", onclick: () => this.toEnd() }, "↓");
    this.lost = el("p.lost", { role: "status", hidden: true }, "The connection is lost; trying again…");
    this.box = el("section.conversation", { "aria-label": "Conversation" }, this.head, this.lost, this.log, el("div.foot", this.down, this.composer.box));
    this.watch = new ResizeObserver(() => this.stick());
    for (const it of [this.log, this.turns.box, this.approvals.box, this.pick]) this.watch.observe(it);
    this.drawHead();
  }

  close() {
    this.watch.disconnect();
    this.closed = true;
    clearTimeout(this.leftAlone);
    this.tail?.stop();
    this.approvals.close();
  }

  // --- the bar ---

  drawHead() {
    const session = this.session;
    const status = session?.running ? "running" : session?.waiting ? "waiting" : null;
    const action = (text, about, act) => el("button.quiet", { type: "button", title: about, disabled: !session, onclick: act }, text);
    const had = this.buttons().indexOf(document.activeElement);
    fill(
      this.head,
      el("button.icon.back", { type: "button", "aria-label": "Back to the list", onclick: () => this.hears.back() }, "‹"),
      el("h1", el("button.name", { type: "button", title: "Rename (r)", dir: "auto", onclick: () => this.rename() }, session ? title(session) : "…")),
      status && el(`span.status.${status}`, el("i.dot"), WORDS[status]),
      el("span.gap"),
      el("button.icon.menu", { type: "button", "aria-label": "More", onclick: () => this.head.classList.toggle("more") }, "⋯"),
      el("div.actions", action("Fork", "Fork (f)", () => this.fork()), action("Export", "Export (e)", () => this.export()), action("Delete", "Delete (#)", () => this.delete())),
      el("button.icon.aside", { type: "button", title: "Runs, what was sent, state, info (i)", "aria-label": "Details", onclick: () => this.hears.panel() }, "◨"),
    );
    this.buttons()[had]?.focus();
    document.title = session ? `${title(session)} – Holdfast` : "Holdfast";
  }

  buttons() {
    return [...this.head.querySelectorAll("button")];
  }

  // --- reading ---

  async load() {
    try {
      const [session, entries] = await Promise.all([this.read(), get(pathOf(this.id, "entries"), { limit: PAGE })]);
      const ends = await this.ends(session, entries.items);
      if (this.closed) return;
      this.session = session;
      this.show(entries, ends);
      this.took(session);
      this.offer();
      this.toEnd();
      if (session.waiting) this.look();
      this.listen(Math.max(0, ...entries.items.map((it) => it.seq)));
      this.loadCalls();
    } catch (problem) {
      this.failed(problem);
    }
  }

  /** The session, with how it begins. */
  read() {
    return get(pathOf(this.id), { lines: true });
  }

  /** How the runs have ended that go on by these entries, and do not: the end was rewound, or never written, or they came with a fork. */
  async ends(session, items) {
    const copied = (it) => session.origin && it.version === 1;
    const goesOn = (it) => underWay(it.data.status) || (copied(it) && it.data.status === "paused");
    const open = [...newest(items)].filter((it) => goesOn(it) && !this.turns.runs.has(it.run_id));
    const status = async (it) => (copied(it) ? "copied" : (await get(pathOf(this.id, "runs", seg(it.run_id)))).status);
    const found = await Promise.all(open.map(async (it) => [it.run_id, await status(it)]));
    return new Map(found.filter(([, it]) => !underWay(it)));
  }

  show({ items, more }, ends) {
    this.first = items[0]?.seq ?? null;
    this.more = more;
    this.turns.add(items);
    this.turns.over(ends);
    this.live.takeAll(items, ends);
    if (!items.length) fill(this.older, el("p.begin", "Nothing was said yet."));
    else this.drawOlder();
  }

  drawOlder() {
    fill(this.older, this.more ? el("button.quiet", { type: "button", onclick: () => this.loadOlder() }, "Load older") : el("p.begin", "The beginning"));
  }

  failed(problem) {
    if (this.closed) return;
    const text = problem.status === 404 ? "This conversation does not exist, or is somebody else's." : problem.message;
    const again = problem.status !== 404 && el("button.plain", { type: "button", onclick: () => (fill(this.older), this.load()) }, "Try again");
    fill(this.older, el("div.failed", { role: "alert" }, el("p", text), again));
  }

  async loadOlder() {
    if (this.loading || !this.more || this.first === null) return;
    this.loading = true;
    try {
      const { items, more } = await get(pathOf(this.id, "entries"), { limit: PAGE, before: this.first });
      const ends = await this.ends(this.session, items);
      const below = this.log.scrollHeight - this.log.scrollTop;
      this.first = items[0]?.seq ?? this.first;
      this.more = more;
      this.turns.addBefore(items);
      this.turns.over(ends);
      this.drawOlder();
      this.log.scrollTop = this.log.scrollHeight - below;
    } catch (problem) {
      toast(problem.message, { bad: true });
    }
    this.loading = false;
  }

  /** What was called may be further up than the results that are seen: within bounds it comes along. */
  async loadCalls() {
    for (let pages = 0; pages < FURTHER && this.turns.orphans.size && !this.closed; pages++) await this.loadOlder();
  }

  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.log;
    this.atEnd = scrollHeight - scrollTop - clientHeight < NEAR;
    this.down.hidden = this.atEnd;
    if (scrollTop < 300) this.loadOlder();
  }

  stick() {
    if (this.atEnd !== false) this.toEnd();
  }

  toEnd() {
    this.atEnd = true;
    this.log.scrollTop = this.log.scrollHeight;
  }

  // --- live ---

  listen(after) {
    this.tail?.stop();
    const onEvent = (name, data) => this.closed || this.heard(name, data);
    this.tail = follow(`${pathOf(this.id, "events")}?after=${after}`, { onEvent, onState: (state, problem) => this.state(state, problem) });
  }

  state(state, problem) {
    if (this.closed) return;
    this.lost.hidden = state === "live";
    if (state === "ended") problem.status === 404 || problem.status === 410 ? this.hears.gone(this.id) : (this.lost.textContent = problem.message);
  }

  heard(name, data) {
    if (name === "entry") this.entry(data);
    else if (name === "partial") this.live.said(data);
    else if (name === "session") this.moved(data);
    else if (name === "cleared") this.hears.open(this.id, { anew: true });
    else if (name === "gone") this.hears.gone(this.id);
  }

  /** The session itself is different; where something of it was hidden, it is read anew. */
  moved(session) {
    const before = this.hides ?? session.hides;
    this.hides = session.hides;
    if (before !== session.hides) return this.hears.open(this.id, { anew: true });
    this.took(session);
    if (session.waiting || this.approvals.cards.size) this.soon();
  }

  entry(entry) {
    if (entry.hidden) return;
    if (this.older.querySelector(".begin") && this.first === null) fill(this.older);
    this.first ??= entry.seq;
    this.turns.add([entry]);
    this.live.take(entry);
    this.stick();
  }

  /** What it waits for. */
  async look() {
    try {
      const open = await get(pathOf(this.id, "requirements"));
      if (!this.closed) this.approvals.show(open);
    } catch (problem) {
      if (problem.status === 404) this.hears.gone(this.id);
    }
  }

  took(session) {
    const first_line = session.first_line ?? this.session?.first_line ?? this.turns.first ?? null;
    const agent = this.session?.agent;
    this.session = { ...this.session, ...session, first_line };
    if (this.tail && this.session.agent !== agent) this.offer();
    const left = this.live.standing(this.session.running);
    clearTimeout(this.leftAlone);
    if (left.length) this.leftAlone = setTimeout(() => this.brokenOff(left), TAKEN_UP);
    this.drawHead();
    this.hears.changed(this.session);
  }

  /** Runs that were broken off, and that nobody has taken up: from now on they are shown as whoever opens the page sees them. */
  async brokenOff(runs) {
    const found = await Promise.all(runs.map((it) => get(pathOf(this.id, "runs", seg(it))).catch(() => null)));
    if (this.closed || this.session.running) return;
    const over = found.filter((it) => it && !underWay(it.status) && this.live.runs.has(it.id));
    this.turns.over(new Map(over.map((it) => [it.id, it.status])));
    for (const it of over) this.live.end(it.id);
  }

  // --- writing ---

  /** To whom a message goes: the agent that has the conversation, or the one that was chosen. */
  target() {
    const agent = chosenIn(this.pick) ?? this.instead ?? this.session?.agent;
    return { session_id: this.id, ...(agent ? { agent } : {}), ...asOwner(this.session) };
  }

  /** Where no agent that is registered has the conversation: the only one there is goes on with it, or the person says which. */
  async offer() {
    const agents = await get("agents").catch(() => null);
    if (this.closed || !agents) return;
    const missing = !agents.some((it) => it.name === this.session?.agent);
    const asked = chosenIn(this.pick);
    this.instead = missing && agents.length === 1 ? agents[0].name : null;
    if (!missing || agents.length === 1) fill(this.pick);
    else if (!agents.some((it) => it.name === asked)) fill(this.pick, offers(agents, "Which agent goes on with this conversation?"));
  }

  refused(sent, problem) {
    this.live.refused(sent, problem, () => this.composer.deliver({ ...sent, body: { ...sent.body, ...this.target() } }));
    if (problem.status === 404 || problem.status === 422) this.offer();
  }

  // --- what can be done ---

  actions(entry) {
    const fork = el("button.quiet", { type: "button", title: "A new conversation with all up to here", onclick: () => this.fork(entry.seq) }, "Fork");
    const rewind = el("button.quiet", { type: "button", title: "Go back: what comes after is hidden", onclick: () => this.rewind(entry.seq) }, "Rewind");
    const copy = el("button.quiet.copy", { type: "button", data: { copy: clean(textOf(entry)) } }, "Copy");
    return el("span.does", copy, fork, rewind);
  }

  async doing(act, said) {
    try {
      await act();
      if (said) toast(said);
    } catch (problem) {
      toast(problem.message, { bad: true });
    }
  }

  /** The run of this message goes on from what is stored: saying the same for the same run is safe to repeat. */
  again(entry) {
    const { parts } = entry.data;
    const attachments = parts.filter((it) => it.type === "blob" || it.type === "uri").map(({ mime_type, content, uri }) => (uri ? { mime_type, url: uri } : { mime_type, data: content }));
    const said = { message: textOf(entry), attachments, run_id: entry.run_id, ...(entry.agent && { agent: entry.agent }) };
    return this.doing(() => post("run", { ...this.target(), ...said, background: true }));
  }

  async rename() {
    const more = (close) => el("button.quiet", { type: "button", onclick: () => close(AUTO) }, "Let the agent name it");
    const name = await askText("Rename", { value: this.session?.name ?? "", label: "Name", does: "Rename", more });
    if (name === null) return;
    await this.doing(async () => {
      await patch(pathOf(this.id), name === AUTO ? { autogenerate: true } : { name: name.trim() || null });
      this.took(await this.read());
    });
  }

  fork(at) {
    return this.doing(async () => {
      const name = this.session.name ? { name: `${this.session.name} (fork)`.slice(0, 1000) } : {};
      const made = await post(pathOf(this.id, "fork"), at === undefined ? name : { at, ...name });
      this.hears.changed(made);
      this.hears.open(made.id);
    }, "Forked: this is the copy");
  }

  async rewind(to) {
    if (!(await confirm("Rewind to here?", "What comes after leaves the conversation. It stays in the record, hidden.", "Rewind"))) return;
    await this.doing(async () => {
      const { hidden } = await post(pathOf(this.id, "rewind"), { to });
      this.hears.open(this.id, { anew: true });
      toast(`${hidden} hidden`);
    });
  }

  export() {
    return this.doing(async () => {
      const url = URL.createObjectURL(await download(pathOf(this.id, "export")));
      el("a", { href: url, download: `${(this.session.name || this.id).replace(/[^\p{L}\p{N}._-]+/gu, "-").slice(0, 80)}.jsonl` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    }, "Exported");
  }

  async delete() {
    if (!(await confirm("Delete this conversation?", `“${oneLine(title(this.session))}”: its history, state and files are gone for good.`, "Delete"))) return;
    this.leaving = true; // the tails may tell of it first
    await this.doing(async () => {
      await remove(pathOf(this.id));
      this.hears.gone(this.id);
    }, "Deleted");
    this.leaving = false;
  }

  cancel(run) {
    return this.doing(() => post(pathOf(this.id, "runs", seg(run), "cancel"), {}));
  }
}

const AUTO = Symbol("autogenerate");
const asOwner = (session) => (session?.user_id ? { user_id: session.user_id } : {});
const textOf = (entry) => entry.data.parts.filter((it) => it.type === "text").map((it) => it.content).join("\n");
