// What is not in the log yet: messages on their way to it, and what running runs are saying.

import { clean, el, fill, oneLine, perFrame } from "./dom.js";
import { said, underWay } from "./turns.js";

export class Live {
  constructor({ onGrow, onCancel, agent }) {
    Object.assign(this, { onGrow, onCancel, agent });
    this.runs = new Map();
    this.sent = new Map();
    this.box = el("div.now");
  }

  // --- messages on their way ---

  /** A message goes out: it is shown until the log has it. */
  pending(sent) {
    const there = this.sent.get(sent.key);
    if (there) return fill(there.says, "sending…");
    const says = el("span.says", "sending…");
    const files = sent.body.attachments.length ? el("p.file", `${sent.body.attachments.length} attached`) : null;
    const node = el("article.turn.user.sending", el("header", el("b.who", el("bdi", oneLine(sent.body.user_id ?? "user"))), says), el("p.typed", { dir: "auto" }, clean(sent.body.message)), files);
    this.sent.set(sent.key, { node, says });
    this.box.append(node);
    this.onGrow();
  }

  accepted(sent) {
    this.sent.get(sent.key)?.says.replaceChildren();
  }

  refused(sent, problem, again) {
    const there = this.sent.get(sent.key);
    if (!there) return;
    there.node.classList.add("failed");
    const drop = () => (there.node.remove(), this.sent.delete(sent.key));
    fill(
      there.says,
      el("span.problem", { role: "alert" }, problem.message),
      el("button.quiet", { type: "button", onclick: () => (there.node.classList.remove("failed"), again()) }, "Send again"),
      el("button.quiet", { type: "button", onclick: drop }, "Discard"),
    );
    this.onGrow();
  }

  // --- runs ---

  /** The log as it was read: what is still under way, but for those that are `over`. */
  takeAll(entries, over) {
    for (const it of newest(entries)) if (!over.has(it.run_id)) this.take(it);
  }

  /** The runs under way that nobody drives, unless these are `driven`: their process has ended, another may take them up. */
  standing(driven) {
    const left = new Set([...this.runs.keys()].filter((run) => !driven && this.runs.get(run).status === "running"));
    for (const [run, it] of this.runs) it.node.classList.toggle("left", left.has(run));
    return [...left];
  }

  take(entry) {
    if (entry.kind === "message" && entry.data.role === "user") this.drop(entry.run_id);
    if (entry.kind === "message" && entry.data.role !== "user") this.stored(entry);
    if (entry.kind !== "run") return;
    if (underWay(entry.data.status)) this.begin(entry.run_id, entry.agent, entry.data);
    else this.end(entry.run_id);
  }

  drop(run) {
    this.sent.get(run)?.node.remove();
    this.sent.delete(run);
  }

  begin(run, agent, { status, attempt }) {
    const there = this.runs.get(run) ?? this.make(run, agent);
    there.status = status;
    there.says.textContent = status === "queued" ? "queued" : "working";
    if (attempt !== there.attempt) this.empty(there);
    there.attempt = attempt;
  }

  make(run, agent) {
    const says = el("span.says.working", { role: "status" });
    const stop = el("button.quiet.stop", { type: "button", onclick: () => this.onCancel(run) }, "Cancel");
    const body = el("div.body");
    const head = el("header", el("b.who", el("bdi", oneLine(agent ?? this.agent() ?? "agent"))), says, el("span.gap"), stop);
    const node = el("article.turn.agent.live", { "aria-busy": "true", data: { run } }, head, body);
    const made = { node, says, body, text: "", thought: "", attempt: 0 };
    made.draw = perFrame(() => this.draw(made));
    this.runs.set(run, made);
    this.box.append(node);
    this.onGrow();
    return made;
  }

  /** More of what a run says: `delta` behind what was said before, or from the start. */
  said({ run_id, start, reasoning, delta }) {
    const there = this.runs.get(run_id) ?? this.make(run_id, null);
    if (start) this.empty(there);
    if (reasoning) there.thought += delta;
    else there.text += delta;
    there.says.textContent = there.text ? "" : "thinking";
    there.draw();
  }

  draw(it) {
    fill(it.body, it.thought && !it.text ? el("p.thought", { dir: "auto" }, clean(it.thought.slice(-400))) : null, it.text ? said(it.text, "assistant") : null);
    this.onGrow();
  }

  empty(it) {
    Object.assign(it, { text: "", thought: "" });
    fill(it.body);
  }

  /** What was said is in the log now. */
  stored(entry) {
    const there = this.runs.get(entry.run_id);
    if (!there) return;
    this.empty(there);
    there.says.textContent = "working";
  }

  end(run) {
    this.runs.get(run)?.node.remove();
    this.runs.delete(run);
    this.drop(run);
  }
}

/** The last entry of each run among these. */
export const newest = (entries) => new Map(entries.filter((it) => it.kind === "run").map((it) => [it.run_id, it])).values();
