// Elements from plain values. Text becomes text nodes: nothing here, or anywhere in the page, turns a string into markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `el("button.quiet", { onclick, "aria-label": "Close" }, "text", child, null, [more])`. */
export const el = (spec, ...rest) => build(document.createElement(spec.split(".")[0] || "div"), spec, rest);

/** The same, of SVG. */
export const svg = (spec, ...rest) => build(document.createElementNS(SVG, spec.split(".")[0]), spec, rest);

function build(node, spec, rest) {
  const classes = spec.split(".").slice(1);
  if (classes.length) node.classList.add(...classes);
  const given = rest.length && isOptions(rest[0]) ? rest.shift() : {};
  node.append(...rest.flat(3).filter((it) => it !== null && it !== undefined && it !== false && it !== ""));
  for (const [name, value] of Object.entries(given)) set(node, name, value); // last: with dir="auto" each child that came would be looked at again
  return node;
}

const isOptions = (it) => it !== null && typeof it === "object" && !(it instanceof Node) && !Array.isArray(it);

function set(node, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
  else if (name === "data") Object.assign(node.dataset, value);
  else if (name === "value" || name === "checked" || name === "disabled") node[name] = value;
  else node.setAttribute(name, value === true ? "" : value);
}

/** Put these in place of what an element holds. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat(3).filter((it) => it !== null && it !== undefined && it !== false));
  return node;
}

/** Run once per frame at most, with the newest arguments. */
export function perFrame(act) {
  let waiting = false;
  let newest;
  return (...args) => {
    newest = args;
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      act(...newest);
    });
  };
}

/** Run when nothing came for so many milliseconds; `ms` may be a function that tells how many. */
export function settled(act, ms) {
  let timer;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...args), typeof ms === "function" ? ms() : ms);
  };
}

const CONTROLS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e]/g;
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;

/** A text for reading: control characters, and those that turn the direction of what follows, are shown as what they are: no letters. */
export const clean = (text) => String(text).replace(CONTROLS, "\ufffd");

/** A text on one line. */
export const oneLine = (text) => clean(String(text).replace(/\s+/g, " ")).trim();

/** A text to decide on: every character that can't be seen is written as its code. */
export const exact = (text) =>
  String(text).replace(UNSEEN, (it) => (it === "\n" || it === "\t" ? it : `\\u{${it.codePointAt(0).toString(16)}}`));
