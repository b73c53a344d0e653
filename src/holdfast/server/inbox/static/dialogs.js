// Questions to the person: one dialog at a time, modal, closed by Escape; each is a promise of the answer.

import { SENDABLE } from "./api.js";
import { el } from "./dom.js";

const KEYS = [
  ["j  k", "down and up the list"],
  ["Enter", "open the conversation"],
  ["/", "search"],
  ["n", "new conversation"],
  ["c", "write"],
  ["r", "rename"],
  ["f", "fork"],
  ["e", "export"],
  ["#", "delete"],
  ["i", "runs, what was sent, state, info"],
  ["t", "light or dark"],
  ["Esc", "close, leave, go back"],
  ["?", "these keys"],
];

/** Show a dialog of these nodes; gives what `close(value)` was called with, null when it was left. */
function shown(name, draw) {
  return new Promise((done) => {
    const dialog = el("dialog.ask", { "aria-labelledby": "asked" });
    let given = null;
    const close = (value) => ((given = value), dialog.close());
    const form = el("form", { method: "dialog" }, el("h2", { id: "asked" }, name), draw(close));
    const from = document.activeElement;
    dialog.append(form);
    dialog.addEventListener("close", () => (dialog.remove(), from?.isConnected && from.focus(), done(given)));
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    document.body.append(dialog);
    dialog.showModal();
    dialog.querySelector("[data-first]")?.focus();
    dialog.querySelector("input[data-first]")?.select();
  });
}

const buttons = (...all) => el("footer", all);
const cancel = (close) => el("button.plain", { type: "button", onclick: () => close(null) }, "Cancel");

/** A text, or null. `more(close)` adds another button; `against(text)` says what is wrong with it, if anything. */
export const askText = (name, { value = "", label, does = "Save", type = "text", more = () => null, note = null, most = 1000, against = () => "" } = {}) =>
  shown(name, (close) => {
    const input = el("input", { type, value, "aria-label": label || name, data: { first: "" }, autocomplete: "off", maxlength: most });
    const says = el("p.problem", { role: "alert" });
    const take = () => (says.textContent = against(input.value)) || close(input.value);
    const go = el("button.main", { type: "submit", onclick: (event) => (event.preventDefault(), take()) }, does);
    return [note && el("p.note", note), input, says, buttons(more(close), el("span.gap"), cancel(close), go)];
  });

/** Whether to do it. */
export const confirm = (name, note, does) =>
  shown(name, (close) => {
    const go = el("button.danger", { type: "button", onclick: () => close(true) }, does);
    return [el("p.note", note), buttons(el("span.gap"), el("button.plain", { type: "button", data: { first: "" }, onclick: () => close(null) }, "Cancel"), go)];
  });

/** The keys of the page. */
export const help = () =>
  shown("Keys", (close) => [
    el("dl.keys", KEYS.map(([keys, does]) => [el("dt", keys.split("  ").map((it) => el("kbd", it))), el("dd", does)])),
    buttons(el("span.gap"), el("button.main", { type: "button", data: { first: "" }, onclick: () => close(null) }, "Close")),
  ]);

/** A key for the server. */
export const askForKey = (problem, refused) =>
  askText("This server wants a key", {
    type: "password",
    label: "API key or token",
    does: "Use it",
    most: 16_000,
    against: (key) => (!key || SENDABLE.test(key) ? "" : "This is no key: it holds a blank, or a character that no key has."),
    note: refused ? "The key was not accepted. Give another one." : "Give an API key or a token. It is kept for this tab only, and sent to this server only.",
  });

/** A line at the bottom that goes by itself. */
export function toast(text, { bad = false } = {}) {
  const node = el(bad ? "p.bad" : "p", { role: bad ? "alert" : "status" }, text);
  document.querySelector(".toasts")?.append(node);
  setTimeout(() => node.remove(), bad ? 8000 : 3500);
}
