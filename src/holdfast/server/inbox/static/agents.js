// Which agent answers: asked where there are several, and nothing says which.

import { el, oneLine } from "./dom.js";

/** The question for one of these agents; `chosenIn` tells which it is. */
export const offers = (agents, asks) =>
  el("fieldset.agents", el("legend", agents.length ? asks : "No agent is registered here."), agents.map((it, place) => offer(it, place === 0)));

const offer = (it, checked) =>
  el("label.offer", el("input", { type: "radio", name: "agent", value: it.name, checked }), el("b", oneLine(it.name)), el("span.kind", it.kind === "agent" ? "" : it.kind), el("small", { dir: "auto" }, oneLine(it.instructions ?? "")));

export const chosenIn = (box) => box.querySelector("input[name=agent]:checked")?.value;
