// The page: the list, the conversation, what is beside it; where the address points, and what the keys do.

import { chosenIn, offers } from "./agents.js";
import { follow, get, onKeyWanted, seg } from "./api.js";
import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { askForKey, help, toast } from "./dialogs.js";
import { el, fill, oneLine, settled } from "./dom.js";
import { List } from "./list.js";
import { Panel } from "./panel.js";
import * as theme from "./theme.js";

const WIDE = 1100;
const SEARCHING = 500; // while names are looked through, who types may type a little longer

class Page {
  constructor() {
    this.filter = { waiting: false, user: "", text: "" };
    this.list = new List({ onOpen: (session) => this.open(session.id), onPage: () => this.refused && this.listen(), onForbidden: () => this.ownOnly() });
    this.panel = new Panel({ onOpenSession: (id) => this.open(id) });
    this.panel.box.hidden = true;
    this.main = el("main", { tabindex: "-1" });
    this.offline = el("span.offline", { role: "status" });
    document.body.append(el("div.app", this.side(), this.main, this.panel.box), el("div.toasts"));
    addEventListener("hashchange", () => this.route());
    addEventListener("keydown", (event) => this.key(event));
    addEventListener("click", (event) => this.copy(event));
    this.listen();
    this.route();
  }

  // --- the side ---

  side() {
    this.search = el("input", { type: "search", placeholder: "Search", "aria-label": "Search conversations", "aria-keyshortcuts": "/", maxlength: "500" });
    this.search.addEventListener("input", settled(() => this.narrow({ text: this.search.value.trim() }), () => (this.list.searching ? SEARCHING : 200)));
    this.user = el("input.user", { type: "text", placeholder: "any user", "aria-label": "User", maxlength: "1024" });
    this.user.addEventListener("input", settled(() => this.narrow({ user: this.user.value.trim() }), 300));
    this.all = el("button", { type: "button", "aria-pressed": "true", onclick: () => this.narrow({ waiting: false }) }, "All");
    this.waiting = el("button", { type: "button", "aria-pressed": "false", onclick: () => this.narrow({ waiting: true }) }, "Waiting");
    const icon = (text, about, act) => el("button.icon", { type: "button", title: about, "aria-label": about.replace(/ \(.*/, ""), onclick: act }, text);
    const top = el("header.top", el("h1.mark", "Holdfast"), this.offline, el("span.gap"), icon("◐", "Light or dark (t)", theme.turn), icon("?", "Keys (?)", help), el("button.main", { type: "button", title: "New conversation (n)", onclick: () => this.begin() }, "New"));
    return el("nav.side", { "aria-label": "Conversations" }, top, el("div.find", this.search), el("div.filters", el("div.choice", { role: "group", "aria-label": "Which" }, this.all, this.waiting), this.user), this.list.box);
  }

  narrow(change) {
    const before = JSON.stringify(this.filter);
    Object.assign(this.filter, change);
    if (JSON.stringify(this.filter) === before) return;
    const { waiting, user, text } = this.filter;
    this.all.setAttribute("aria-pressed", !waiting);
    this.waiting.setAttribute("aria-pressed", waiting);
    this.list.start({ ...(waiting && { waiting: true }), ...(user && { user_id: user }), ...(text && { name: text }) });
    if (text) this.list.find(text);
  }

  /** Only admins name users: whoever is none sees their own, and is not asked. */
  ownOnly() {
    const had = this.user === document.activeElement;
    this.user.hidden = true;
    this.user.value = "";
    this.narrow({ user: "" });
    toast("Only admins look at other users' conversations: these are yours");
    if (had) this.search.focus();
  }

  // --- live ---

  listen() {
    this.refused = false;
    follow("events", { onEvent: (name, data) => this.heard(name, data), onState: (state, problem) => this.state(state, problem) });
  }

  heard(name, data) {
    if (name === "session") this.list.update(data);
    else if (name === "deleted") this.gone(data.id);
    else if (name === "reload") this.list.start(this.list.filter);
  }

  state(state, problem) {
    this.refused = state === "ended" && problem.status === 401;
    this.offline.textContent = { live: "", away: "offline", ended: problem?.status === 401 ? "no key" : "not live" }[state];
  }

  // --- where we are ---

  open(id, { anew = false } = {}) {
    const there = `#/s/${seg(id)}`;
    if (location.hash === there && anew) this.route(true);
    else location.hash = there;
  }

  begin() {
    location.hash = "#/new";
    if (location.hash === "#/new") this.composer?.area.focus();
  }

  back() {
    location.hash = "";
  }

  route(anew = false) {
    const [, kind, text] = /^#\/(s|new)(?:\/(.*))?$/.exec(location.hash) ?? [];
    const id = kind === "s" ? idOf(text) : "";
    if (id === null) return toast("This address names no conversation", { bad: true }), location.replace("#");
    const key = kind ? `${kind}/${id ?? ""}` : "";
    if (key === this.shown && anew !== true) return;
    const first = this.shown === undefined;
    this.shown = key;
    this.conversation?.close();
    this.conversation = this.composer = null;
    document.body.dataset.view = kind ? "conversation" : "list";
    if (kind === "s") this.showConversation(id);
    else if (kind === "new") this.showNew();
    else this.showNothing();
    if (!first) this.settle();
  }

  /** Whoever uses the keys is somewhere: in what is shown, where what had the focus is gone. */
  settle() {
    const at = document.activeElement;
    if (at !== document.body && at.getClientRects().length) return;
    (this.conversation?.log ?? this.composer?.area ?? (location.hash ? this.main : this.list.box)).focus({ preventScroll: true });
  }

  showConversation(id) {
    this.list.mark(id);
    this.conversation = new Conversation(id, this.list.known(id), {
      changed: (session) => this.changed(session),
      gone: (gone) => this.gone(gone),
      open: (other, how) => this.open(other, how),
      back: () => this.back(),
      panel: () => this.togglePanel(),
    });
    this.composer = this.conversation.composer;
    fill(this.main, this.conversation.box);
    this.beside(this.list.known(id) ?? { id });
  }

  changed(session) {
    this.list.update({ ...this.list.known(session.id), ...withoutStale(session, this.list.known(session.id)) });
    if (session.id !== this.conversation?.id || session.version === this.told) return;
    this.told = session.version;
    this.panel.refresh(session);
  }

  gone(id) {
    this.list.gone(id);
    if (this.conversation?.id !== id) return;
    const { leaving, composer } = this.conversation;
    if (leaving) composer.drop();
    else toast(composer.begun ? "It was deleted meanwhile. What you wrote is here, for a new conversation." : "It was deleted meanwhile", { bad: true });
    this.taken = !leaving && composer.begun ? composer : null;
    if (this.taken) this.begin();
    else this.back();
    this.route();
  }

  showNothing() {
    document.title = "Holdfast";
    this.list.mark(null);
    this.beside(null);
    fill(this.main, el("div.empty", el("p", "Choose a conversation, or press ", el("kbd", "n"), " to begin one."), el("p", el("kbd", "j"), " ", el("kbd", "k"), " move, ", el("kbd", "Enter"), " opens, ", el("kbd", "?"), " lists all keys.")));
  }

  async showNew() {
    document.title = "New conversation – Holdfast";
    this.list.mark(null);
    this.beside(null);
    const holder = el("section.conversation.new", el("header.bar", el("button.icon.back", { type: "button", "aria-label": "Back to the list", onclick: () => this.back() }, "‹"), el("h1", "New conversation")));
    fill(this.main, holder);
    try {
      this.drawNew(holder, await get("agents"));
    } catch (problem) {
      holder.append(el("div.empty", el("p.problem", { role: "alert" }, problem.message)));
    }
  }

  drawNew(holder, agents) {
    const says = el("p.says", { role: "status" });
    const { user } = this.filter;
    const asUser = user ? el("input", { type: "checkbox" }) : null;
    let sending = false;
    const composer = (this.composer = new Composer({
      draft: "",
      target: () => !sending && { agent: chosenIn(holder), ...(asUser?.checked && { user_id: user }) },
      onSend: () => ((sending = true), (says.textContent = "sending…")),
      onSent: (sent, answer) => this.composer === composer && this.begun(answer.session_id, composer),
      onFailed: (sent, problem) => ((sending = false), (says.textContent = problem.message), (composer.area.value = sent.body.message)),
      picker: asUser && el("label.as", asUser, " as ", el("bdi", oneLine(user))),
    }));
    holder.append(el("div.log", offers(agents, "Which agent?")), el("div.foot", says, composer.box));
    if (this.taken) composer.takeOver(this.taken);
    this.taken = null;
    composer.area.focus();
  }

  /** A new conversation has begun: who was writing goes on in it. */
  begun(id, composer) {
    const writing = this.main.contains(document.activeElement);
    this.open(id);
    this.route();
    this.composer.takeOver(composer);
    if (writing) this.composer.area.focus();
  }

  /** What is beside this conversation, null for none: where there is room for both it is open again if it was left open. */
  beside(session) {
    if (!session) this.panel.box.hidden = true;
    else if (innerWidth >= WIDE && sessionStorage.getItem("holdfast.panel") === "open") this.panel.box.hidden = false;
    this.panel.show(session);
  }

  togglePanel() {
    const { box } = this.panel;
    const within = box.contains(document.activeElement);
    box.hidden = !box.hidden;
    sessionStorage.setItem("holdfast.panel", box.hidden ? "closed" : "open");
    if (!box.hidden) this.panel.show(this.conversation?.session ?? null);
    if (!box.hidden && innerWidth < WIDE) this.panel.focus();
    else if (within) this.conversation?.head.querySelector(".aside").focus();
  }

  // --- keys ---

  key(event) {
    if (event.defaultPrevented || event.metaKey || event.ctrlKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") return this.escape(event.target);
    if (event.target.closest("input:not([type=radio]), textarea, select")) return this.leaveSearch(event);
    const act = this.acts()[event.key];
    if (!act || (event.key === "Enter" && event.target.closest("button, a, summary, label"))) return;
    event.preventDefault();
    act();
  }

  acts() {
    const on = (name) => () => this.conversation?.session && this.conversation[name]();
    return {
      j: () => this.walk(1),
      k: () => this.walk(-1),
      ArrowDown: this.inList() && (() => this.walk(1)),
      ArrowUp: this.inList() && (() => this.walk(-1)),
      Enter: () => this.list.openCurrent(),
      "/": () => (this.search.focus(), this.search.select()),
      n: () => this.begin(),
      c: () => this.composer?.area.focus(),
      r: on("rename"),
      f: on("fork"),
      e: on("export"),
      "#": on("delete"),
      i: () => this.conversation && this.togglePanel(),
      t: () => theme.turn(),
      "?": () => help(),
    };
  }

  inList = () => document.activeElement === this.list.box;

  walk(by) {
    this.list.box.focus({ preventScroll: true });
    this.list.move(by);
  }

  leaveSearch(event) {
    if (event.target !== this.search || (event.key !== "Enter" && event.key !== "ArrowDown")) return;
    event.preventDefault();
    this.list.box.focus();
  }

  escape(target) {
    if (target === this.search && this.search.value) {
      this.search.value = "";
      return this.narrow({ text: "" });
    }
    if (target.matches("input, textarea, select")) return this.list.box.focus();
    if (!this.panel.box.hidden && this.conversation) return this.togglePanel();
    if (location.hash) this.back();
  }

  async copy(event) {
    const button = event.target.closest?.("[data-copy]");
    if (!button) return;
    await navigator.clipboard.writeText(button.dataset.copy).then(() => toast("Copied"), () => toast("The browser does not allow it", { bad: true }));
  }
}

/** The id that an address names, null for none: dots are steps in a path to whoever reads addresses. */
function idOf(text = "") {
  try {
    const id = decodeURIComponent(text);
    return /^\.{0,2}$/.test(id) ? null : id;
  } catch {
    return null;
  }
}

/** A session without its newest line says nothing against the one that is known. */
function withoutStale(session, known) {
  if (!known || session.last_line) return session;
  const { last_line, first_line, ...rest } = session;
  const ended = known.status === "error" || known.status === "interrupted";
  return rest.status === "idle" && ended ? { ...rest, status: session.version === known.version ? known.status : "idle" } : rest;
}

theme.restore();
onKeyWanted((...given) => askForKey(...given).finally(() => page.settle()));
const page = new Page();
