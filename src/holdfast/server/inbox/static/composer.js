// Where a person writes. What is sent carries a key of its own, so that sending it again is sending it once.

import { post } from "./api.js";
import { el, fill, oneLine } from "./dom.js";
import { toast } from "./dialogs.js";

const LARGEST = 8_000_000; // of a request a server takes 8 MiB, if it isn't told otherwise: this leaves room for what is written
const MOST = 10;
const TRIES = 6;
const DRAFT = "holdfast.draft.";

/** What was written and not sent, by conversation: it is there again after a reload, and goes with the tab. */
const drafts = {
  get: (id) => sessionStorage.getItem(DRAFT + id) ?? "",
  set(id, text) {
    try {
      text ? sessionStorage.setItem(DRAFT + id, text) : sessionStorage.removeItem(DRAFT + id);
    } catch {
      sessionStorage.removeItem(DRAFT + id); // more than a tab may keep: it stays on the screen
    }
  },
};

export class Composer {
  /** `onSend(sent)` before it goes out, `onSent(sent, answer)` and `onFailed(sent, problem)` after. */
  constructor({ draft, target, onSend, onSent, onFailed, picker = null }) {
    Object.assign(this, { draft, target, onSend, onSent, onFailed, files: [] });
    this.area = el("textarea", { rows: "1", placeholder: "Write a message", "aria-label": "Message", value: drafts.get(draft) });
    this.chips = el("div.chips");
    this.chosen = el("input", { type: "file", accept: "image/*", multiple: true, hidden: true, tabindex: "-1", "aria-hidden": "true" });
    const attach = el("button.icon", { type: "button", title: "Attach images", "aria-label": "Attach images", onclick: () => this.chosen.click() }, "+");
    this.button = el("button.main", { type: "submit" }, "Send");
    const hint = el("span.hint", el("kbd", "Enter"), " sends, ", el("kbd", "Shift Enter"), " begins a line");
    this.box = el("form.composer", this.chips, el("div.field", attach, this.area, this.button), el("div.under", picker, hint), this.chosen);
    this.listen();
  }

  listen() {
    this.box.addEventListener("submit", (event) => (event.preventDefault(), this.send()));
    this.area.addEventListener("keydown", (event) => this.key(event));
    this.area.addEventListener("input", () => (drafts.set(this.draft, this.area.value), this.grow()));
    this.chosen.addEventListener("change", () => (this.attach(this.chosen.files), (this.chosen.value = "")));
    this.area.addEventListener("paste", (event) => event.clipboardData.files.length && (event.preventDefault(), this.attach(event.clipboardData.files)));
    this.box.addEventListener("dragover", (event) => event.preventDefault());
    this.box.addEventListener("drop", (event) => (event.preventDefault(), this.attach(event.dataTransfer.files)));
    requestAnimationFrame(() => this.grow());
  }

  key(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.send();
  }

  grow() {
    this.area.style.height = "auto";
    this.area.style.height = `${Math.min(this.area.scrollHeight, 280)}px`;
  }

  async attach(files) {
    for (const file of [...files]) { // the list itself is emptied meanwhile
      const against = this.against(file);
      if (against) toast(`${oneLine(file.name)} ${against}`, { bad: true });
      else await this.take(file);
    }
    this.showFiles();
  }

  /** What there is against one more file. Files travel as base64, all of a message in one request. */
  against({ type, size }) {
    const taken = this.files.reduce((sum, it) => sum + it.size, 0);
    if (!type.startsWith("image/") || !size) return "is no image";
    if (this.files.length >= MOST) return `is one too many: a message takes ${MOST} images`;
    return 4 * Math.ceil((taken + size) / 3) > LARGEST ? "is too large: a message takes 6 MB of images, all together" : "";
  }

  async take(file) {
    const data = await base64(file);
    this.files.push({ name: file.name, size: file.size, mime_type: file.type, data });
  }

  showFiles() {
    const without = (it) => () => ((this.files = this.files.filter((other) => other !== it)), this.showFiles());
    fill(this.chips, this.files.map((it) => el("span.chip", oneLine(it.name), el("button.quiet", { type: "button", "aria-label": `Remove ${oneLine(it.name)}`, onclick: without(it) }, "×"))));
  }

  send() {
    const message = this.area.value.trim();
    const target = this.target();
    if ((!message && !this.files.length) || !target) return;
    const attachments = this.files.map(({ mime_type, data }) => ({ mime_type, data }));
    const sent = { key: crypto.randomUUID?.() ?? random(), body: { ...target, message, attachments, background: true } };
    this.area.value = "";
    this.files = [];
    this.drop();
    this.showFiles();
    this.grow();
    this.deliver(sent);
  }

  /** Whether anything was begun here. */
  get begun() {
    return Boolean(this.area.value.trim() || this.files.length);
  }

  /** Nothing of what was begun is kept. */
  drop() {
    drafts.set(this.draft, "");
  }

  /** What was begun in another is gone on with here. */
  takeOver(other) {
    this.area.value = [this.area.value, other.area.value].filter(Boolean).join("\n\n");
    this.files = [...this.files, ...other.files];
    other.drop();
    drafts.set(this.draft, this.area.value);
    this.showFiles();
    this.grow();
  }

  /** Send, and again while the server is away: with the same key, so that it is one message. */
  async deliver(sent) {
    this.onSend(sent);
    for (let tried = 1; ; tried++) {
      try {
        return this.onSent(sent, await post("run", sent.body, { headers: { "idempotency-key": sent.key } }));
      } catch (problem) {
        const passing = problem.status === 0 || problem.status === 503 || problem.status === 429;
        if (!passing || tried === TRIES) return this.onFailed(sent, problem);
        await new Promise((done) => setTimeout(done, 300 * 2 ** tried));
      }
    }
  }
}

const random = () => [...crypto.getRandomValues(new Uint8Array(16))].map((it) => it.toString(16).padStart(2, "0")).join("");

function base64(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(file);
  });
}
