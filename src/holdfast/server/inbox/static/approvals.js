// What a run waits for, decided where it is shown. Each card sends one decision; what others decide meanwhile takes its place.

import { post } from "./api.js";
import { toast } from "./dialogs.js";
import { el, exact, fill, oneLine } from "./dom.js";
import { duration, json, long, pre } from "./format.js";
import { pathOf } from "./turns.js";

const TITLES = {
  confirmation: "wants to use",
  input: "needs an answer for",
  external: "waits for the result of",
  unknown: "does not know how it ended:",
};

/** The cards of what is open in a session. */
export class Approvals {
  constructor(sessionId, { onDecided }) {
    this.sessionId = sessionId;
    this.onDecided = onDecided;
    this.box = el("div.approvals", { "aria-live": "polite" });
    this.cards = new Map();
    this.clock = setInterval(() => this.tick(), 1000);
  }

  close() {
    clearInterval(this.clock);
  }

  /** These are open now. A card that stays keeps what was typed into it. */
  show(requirements) {
    const open = new Set(requirements.map((it) => it.id));
    for (const [id, card] of this.cards) if (!open.has(id)) (card.remove(), this.cards.delete(id));
    for (const it of requirements) {
      if (this.cards.has(it.id)) continue;
      const card = this.card(it);
      this.cards.set(it.id, card);
      this.box.append(card);
    }
    this.tick();
  }

  tick() {
    for (const node of this.box.querySelectorAll("[data-expires]")) {
      const left = Number(node.dataset.expires) - Date.now();
      node.textContent = left > 0 ? `expires in ${duration(left)}` : "expired";
      node.classList.toggle("soon", left < 60_000);
    }
  }

  card(it) {
    const expires = it.expires_at && el("span.expires", { data: { expires: Date.parse(it.expires_at) } });
    const head = el("header", el("b", oneLine(it.agent ?? "The agent")), " ", TITLES[it.kind] ?? "waits for", " ", el("code", exact(it.tool)), el("span.gap"), expires);
    const body = el("div.body");
    const says = el("p.problem", { role: "alert" });
    const card = el("section.approval", { "aria-label": `Decision on ${it.tool}`, data: { requirement: it.id } }, head, body, says);
    const decide = (outcome, value) => this.decide(it, card, says, outcome, value);
    fill(body, (BODIES[it.kind] ?? BODIES.confirmation)(it, decide, body));
    return card;
  }

  /** Send a decision. What the server has against it is told in the card, and where that is gone, since others have decided, beside it. */
  async decide(it, card, says, outcome, value) {
    card.setAttribute("aria-busy", "true");
    card.classList.add("sent");
    says.textContent = "";
    let refused = "";
    const decision = { requirement: it.id, outcome };
    if (value !== undefined) decision.value = value;
    try {
      await post(pathOf(this.sessionId, "runs", encodeURIComponent(it.run_id), "decisions"), { decisions: [decision], background: true });
    } catch (problem) {
      if (problem.status !== 502) refused = problem.message;
    }
    card.removeAttribute("aria-busy");
    card.classList.remove("sent");
    await this.onDecided();
    if (refused && !card.isConnected) toast(`Your decision on ${exact(it.tool)} came to nothing: ${refused}`, { bad: true });
    else says.textContent = refused;
  }
}

const button = (kind, text, onclick) => el(`button.${kind}`, { type: "button", onclick }, text);

const BODIES = {
  confirmation(it, decide, body) {
    const again = () => fill(body, BODIES.confirmation(it, decide, body));
    return [
      shownArguments(it.arguments),
      el(
        "footer",
        button("main", "Approve", () => decide("approve")),
        button("plain", "Deny…", () => fill(body, denial(it, decide, again))),
        button("quiet", "Change…", () => fill(body, change(it, decide, again))),
      ),
    ];
  },
  input(it, decide) {
    const given = it.arguments && Object.keys(it.arguments).length ? shownArguments(it.arguments) : null;
    return [given, filledIn(it.fields, {}, "Send", (values) => decide("answer", values), cancelRun(decide))];
  },
  external(it, decide) {
    return [shownArguments(it.arguments), supply(decide, cancelRun(decide))];
  },
  unknown(it, decide) {
    return [
      el("p.note", "Its process ended while it was under way. Look whether it had its effect before you try it again."),
      shownArguments(it.arguments),
      supply(decide, button("plain", "Try again", () => decide("retry")), cancelRun(decide)),
    ];
  },
};

const cancelRun = (decide) => button("quiet", "Cancel the run", () => decide("cancel"));

function shownArguments(given) {
  if (given === null || typeof given !== "object" || Array.isArray(given)) return long(json(given ?? {}), pre);
  const rows = Object.entries(given).map(([name, value]) => [el("dt", exact(name)), el("dd", long(json(value), (it) => el("span.value", it), 2000))]);
  return rows.length ? el("dl.arguments", rows) : el("p.note", "without arguments");
}

function denial(it, decide, back) {
  const reason = el("input", { type: "text", "aria-label": "Reason", placeholder: "Reason, which the agent is told (optional)", maxlength: "4000" });
  const send = (event) => (event.preventDefault(), decide("deny", reason.value || undefined));
  queueMicrotask(() => reason.focus());
  return el("form", { onsubmit: send }, shownArguments(it.arguments), reason, el("footer", el("button.danger", { type: "submit" }, "Deny"), button("quiet", "Back", back)));
}

function change(it, decide, back) {
  const given = it.arguments ?? {};
  const fields = Object.entries(given).map(([name, value]) => ({ name, schema: schemaOf(value) }));
  const send = (values) => {
    const changed = Object.entries(values).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(given[name]));
    decide("approve", changed.length ? Object.fromEntries(changed) : undefined);
  };
  return filledIn(fields, given, "Approve with changes", send, button("quiet", "Back", back));
}

function schemaOf(value) {
  if (typeof value === "boolean") return { type: "boolean" };
  if (typeof value === "number") return { type: Number.isInteger(value) ? "integer" : "number" };
  return { type: typeof value === "string" ? "string" : "object" };
}

function supply(decide, ...beside) {
  const area = el("textarea", { rows: "3", "aria-label": "Result", placeholder: "The result: text, or JSON" });
  const send = (event) => (event.preventDefault(), decide("supply", jsonOrText(area.value)));
  return el("form", { onsubmit: send }, area, el("footer", el("button.main", { type: "submit" }, "Supply the result"), beside));
}

function jsonOrText(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

// --- fields by their JSON schema ---

function filledIn(fields, values, does, send, beside) {
  const inputs = fields.map((field) => ({ field, input: inputOf(field, values[field.name]) }));
  const submit = (event) => {
    event.preventDefault();
    const read = inputs.map(({ field, input }) => [field.name, valueOf(field.schema, input)]);
    if (read.every(([, value]) => value !== INVALID)) send(Object.fromEntries(read.filter(([, value]) => value !== undefined)));
  };
  const rows = inputs.map(({ field, input }) => el("label.field", el("span", exact(field.name)), input, field.schema?.description && el("small", oneLine(field.schema.description))));
  return el("form.fields", { onsubmit: submit }, rows, el("footer", el("button.main", { type: "submit" }, does), beside));
}

const typeOf = (schema) => [schema?.type ?? schema?.anyOf?.map((it) => it.type)].flat(2).find((it) => it && it !== "null") ?? "string";
const choices = (schema) => schema?.enum ?? (schema?.const !== undefined ? [schema.const] : null);

function inputOf({ schema }, value) {
  const type = typeOf(schema);
  const now = value ?? schema?.default;
  const among = choices(schema);
  if (among) return el("select", among.map((it, place) => el("option", { value: String(place), selected: it === now }, exact(it))));
  if (type === "boolean") return el("input", { type: "checkbox", checked: now === true });
  if (type === "integer" || type === "number") {
    return el("input", { type: "number", step: type === "integer" ? "1" : "any", value: now ?? "", min: schema?.minimum, max: schema?.maximum, required: true });
  }
  if (type === "string") return el("textarea", { rows: String(now).length > 60 ? "4" : "1", value: now ?? "", required: schema?.minLength > 0, maxlength: schema?.maxLength });
  return el("textarea", { rows: "3", spellcheck: "false", value: now === undefined ? "" : JSON.stringify(now, null, 2), placeholder: "JSON" });
}

const INVALID = Symbol("invalid");

function valueOf(schema, input) {
  const type = typeOf(schema);
  const among = choices(schema);
  if (among) return among[Number(input.value)];
  if (type === "boolean") return input.checked;
  if (type === "integer" || type === "number") return input.value === "" ? undefined : Number(input.value);
  if (type === "string") return input.value;
  try {
    input.setCustomValidity("");
    return JSON.parse(input.value);
  } catch {
    input.setCustomValidity("This is no JSON.");
    input.reportValidity();
    input.addEventListener("input", () => input.setCustomValidity(""), { once: true });
    return INVALID;
  }
}
