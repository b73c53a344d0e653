// The conversations, newest first. Only the rows in sight are in the document, only the pages that were reached are fetched.

import { get } from "./api.js";
import { el, fill, oneLine, perFrame } from "./dom.js";
import { older, plainly, plural, time, title } from "./format.js";

export const ROW = 72;
const BEYOND = 6;
const PAGE = 100;
const LARGEST_PAGE = 200; // of a search: a server looks at more sessions for it at once
const AHEAD = 60;

export const WORDS = { running: "running", waiting: "waits for you", error: "failed", interrupted: "broken off", idle: "" };

/** `running`, `waiting`, `error`, `interrupted` or `idle`. */
const statusOf = (session) => session.status ?? (session.waiting ? "waiting" : session.running ? "running" : "idle");

export class List {
  /** `onOpen(session)`: a person wants to see it. `onPage()`: a page has come. `onForbidden()`: the filter names somebody else. */
  constructor({ onOpen, onPage, onForbidden }) {
    Object.assign(this, { onOpen, onPage, onForbidden });
    this.rows = new Map();
    this.space = el("div.space");
    this.says = el("div.note", { role: "status" });
    this.progress = el("span", { "aria-hidden": "true" });
    this.said = el("div.note.said");
    this.box = el("div.list", { role: "listbox", tabindex: "0", "aria-label": "Conversations" }, this.space, this.says, this.said);
    this.draw = perFrame(() => this.drawNow());
    this.box.addEventListener("scroll", this.draw, { passive: true });
    new ResizeObserver(this.draw).observe(this.box);
    setInterval(() => older(this.space), 30_000);
    this.openId = null;
    this.start({});
  }

  /** Begin anew with this filter: `waiting`, `user_id`, `name`. */
  start(filter) {
    this.filter = filter;
    this.round = (this.round ?? 0) + 1;
    this.control?.abort();
    this.control = new AbortController();
    Object.assign(this, { items: [], places: new Map(), cursor: undefined, problem: null, loading: false, at: 0, hits: null, pages: 0 });
    this.clearRows();
    this.box.scrollTop = 0;
    this.more();
  }

  clearRows() {
    for (const row of this.rows.values()) row.node.remove();
    this.rows.clear();
  }

  get done() {
    return this.cursor === null;
  }

  /** Whether names are looked through at the moment. */
  get searching() {
    return this.loading && Boolean(this.filter.name);
  }

  async more() {
    if (this.loading || this.done) return;
    const round = this.round;
    this.loading = true;
    this.problem = null;
    this.draw();
    try {
      const limit = this.filter.name ? LARGEST_PAGE : PAGE;
      const page = await get("sessions", { ...this.filter, limit, lines: true, cursor: this.cursor }, { signal: this.control.signal });
      if (round !== this.round) return;
      this.pages++;
      this.cursor = page.cursor ?? null;
      page.items.forEach((it) => this.places.has(it.id) || this.push(it));
      this.onPage();
    } catch (problem) {
      if (round !== this.round) return;
      if (problem.status === 403 && this.filter.user_id) return this.onForbidden();
      this.problem = problem;
    }
    this.loading = false;
    this.draw();
  }

  push(session) {
    this.places.set(session.id, this.items.length);
    this.items.push(session);
  }

  /** A session is as it is now: its row says so. */
  update(session) {
    const place = this.places.get(session.id);
    if (!this.fits(session)) return place !== undefined && this.gone(session.id);
    if (place === undefined) this.insert(session);
    else this.items[place] = { ...this.items[place], ...session };
    this.draw();
  }

  fits(session) {
    const { waiting, user_id, name, q } = this.filter;
    return !(waiting && !session.waiting) && !(user_id && session.user_id !== user_id) && (!(name || q) || this.places.has(session.id));
  }

  /** To its place by age. One that is older than all that were fetched comes with its page. */
  insert(session) {
    const older = this.items.findIndex((it) => it.created_at <= session.created_at);
    const place = older < 0 ? this.items.length : older;
    if (older < 0 && !this.done) return;
    this.items.splice(place, 0, session);
    this.number();
    if (place <= this.at && this.items.length > 1) this.at++;
    if (place * ROW < this.box.scrollTop) this.box.scrollTop += ROW;
  }

  gone(id) {
    const place = this.places.get(id);
    if (place === undefined) return;
    this.items.splice(place, 1);
    this.number();
    this.at = Math.max(0, Math.min(this.at - (place < this.at ? 1 : 0), this.items.length - 1));
    this.draw();
  }

  number() {
    this.places = new Map(this.items.map((it, place) => [it.id, place]));
  }

  /** What is known of a session without asking. */
  known(id) {
    return this.items[this.places.get(id)];
  }

  /** This one is open. */
  mark(id) {
    this.openId = id;
    if (this.places.has(id)) this.at = this.places.get(id);
    this.draw();
  }

  /** One down (1) or up (-1). */
  move(by) {
    if (!this.items.length) return;
    this.at = Math.max(0, Math.min(this.items.length - 1, this.at + by));
    const top = this.at * ROW;
    const { scrollTop, clientHeight } = this.box;
    if (top < scrollTop) this.box.scrollTop = top;
    else if (top + ROW > scrollTop + clientHeight) this.box.scrollTop = top + ROW - clientHeight;
    this.box.classList.add("walked");
    this.drawNow();
  }

  openCurrent() {
    const session = this.items[this.at];
    if (session) this.onOpen(session);
  }

  // --- drawing ---

  drawNow() {
    const { scrollTop, clientHeight } = this.box;
    const first = Math.max(0, Math.floor(scrollTop / ROW) - BEYOND);
    const last = Math.min(this.items.length, Math.ceil((scrollTop + clientHeight) / ROW) + BEYOND);
    this.space.style.height = `${this.items.length * ROW}px`;
    this.drawRows(first, last);
    if (last > this.items.length - AHEAD && !this.problem) this.more();
    this.drawNote();
    const current = this.rows.get(this.items[this.at]?.id);
    if (current) this.box.setAttribute("aria-activedescendant", current.node.id);
    else this.box.removeAttribute("aria-activedescendant");
  }

  drawRows(first, last) {
    const seen = new Set();
    for (let place = first; place < last; place++) {
      const session = this.items[place];
      seen.add(session.id);
      this.drawRow(session, place);
    }
    for (const [id, row] of this.rows) if (!seen.has(id)) (row.node.remove(), this.rows.delete(id));
    this.order(first, last);
  }

  /** Who reads the document instead of looking at it meets the rows in their order. */
  order(first, last) {
    let before = null;
    for (let place = last - 1; place >= first; place--) {
      const { node } = this.rows.get(this.items[place].id);
      if (node.nextSibling !== before) this.space.insertBefore(node, before);
      before = node;
    }
  }

  drawRow(session, place) {
    let row = this.rows.get(session.id);
    if (row?.session !== session) {
      const node = rowOf(session);
      node.id = row?.node.id ?? `row-${(this.numbered = (this.numbered ?? 0) + 1)}`;
      node.addEventListener("click", () => ((this.at = this.places.get(session.id) ?? this.at), this.onOpen(session)));
      row ? row.node.replaceWith(node) : this.space.append(node);
      row = { node, session };
      this.rows.set(session.id, row);
    }
    row.node.style.transform = `translateY(${place * ROW}px)`;
    row.node.setAttribute("aria-posinset", place + 1);
    row.node.setAttribute("aria-setsize", this.done ? this.items.length : -1);
    row.node.setAttribute("aria-selected", session.id === this.openId);
    row.node.classList.toggle("current", place === this.at);
  }

  /** What was said that fits the search, where the server has an index of it. */
  async find(text) {
    const round = this.round;
    const { hits } = await get("search", { q: text, limit: 12 }, { signal: this.control.signal }).catch(() => ({ hits: null }));
    if (round !== this.round || !hits?.length) return;
    this.hits = hits;
    this.draw();
  }

  /** What is below the rows: how it stands, and what was said that fits; each drawn anew only when it is something else. */
  drawNote() {
    const empty = !this.items.length;
    const waits = this.searching ? "searching" : empty ? "ghosts" : "loading";
    const says = this.problem ? "problem" : this.loading ? waits : this.done && empty && !this.hits ? "nothing" : "";
    this.progress.textContent = this.pages ? ` ${plural(this.items.length, "name")} found, ${plural(this.pages, "page")} looked through` : "";
    this.fillOnce(this.says, `${this.round} ${says}`, () => says && NOTES[says](this));
    this.fillOnce(this.said, `${this.round} ${Boolean(this.hits)}`, () => this.hits && hitsOf(this));
  }

  fillOnce(node, told, draw) {
    if (node.dataset.told === told) return;
    node.dataset.told = told;
    fill(node, draw());
  }
}

function rowOf(session) {
  const status = statusOf(session);
  return el(
    `div.row.${status}`,
    { role: "option", data: { id: session.id } },
    el("span.dot", { title: WORDS[status] || null }, WORDS[status] && el("span.unseen", WORDS[status])),
    el("span.name", { dir: "auto" }, title(session)),
    time(session.updated_at),
    el("span.line", { dir: "auto" }, plainly(session.last_line ?? "") || (status === "running" ? "…" : "")),
    el("span.who", [session.user_id, session.agent].filter(Boolean).map((it, place) => [place ? " · " : "", el("bdi", oneLine(it))])),
  );
}

const NOTES = {
  problem: (list) => [el("p", list.problem.message), el("button.plain", { type: "button", onclick: () => list.more() }, "Try again")],
  ghosts: () => Array.from({ length: 7 }, () => el("div.ghost", { "aria-hidden": "true" }, el("i"), el("i"))),
  loading: () => el("p", "Loading…"),
  searching: (list) => el("p", "Searching…", list.progress),
  nothing: (list) => nothing(list.filter),
};

const hitsOf = (list) => [el("h3", "In what was said"), list.hits.map((hit) => hitOf(hit, list))];

function hitOf(hit, list) {
  const open = () => list.onOpen({ id: hit.session_id });
  return el("button.hit", { type: "button", onclick: open }, el("span", { dir: "auto" }, plainly(hit.text).slice(0, 200)), el("small", [oneLine(hit.name ?? ""), " ", time(hit.time)]));
}

function nothing({ waiting, user_id, name, q }) {
  if (name || q) return [el("h3", "Nothing found"), el("p", "Search looks at the names of conversations.")];
  if (waiting) return [el("h3", "Nothing waits"), el("p", "When an agent needs a decision, it is listed here.")];
  if (user_id) return [el("h3", "No conversations"), el("p", "of this user.")];
  return [el("h3", "No conversations yet"), el("p", "Press ", el("kbd", "n"), " to begin one.")];
}
