// Markdown as nodes. It reads a text once, line by line, makes text nodes of everything that was written, and links only to the web.

import { clean, el } from "./dom.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^ {0,3}>\s?(.*)$/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const DEEPEST = 8;

/** The nodes of a text. */
export const markdown = (text) => el("div.md", { dir: "auto" }, blocks(clean(text).split("\n"), 0));

function blocks(lines, depth) {
  const found = [];
  const at = { line: 0 };
  while (at.line < lines.length) {
    const block = lines[at.line].trim() ? next(lines, at, depth) : (at.line++, null);
    if (block) found.push(block);
  }
  return found;
}

function next(lines, at, depth) {
  const line = lines[at.line];
  const heading = HEADING.exec(line);
  if (FENCE.test(line)) return fenced(lines, at);
  if (heading) return at.line++, el(`h${Math.min(6, heading[1].length + 2)}`, { dir: "auto" }, inline(heading[2]));
  if (RULE.test(line)) return at.line++, el("hr");
  if (depth < DEEPEST && QUOTE.test(line)) return el("blockquote", { dir: "auto" }, blocks(taken(lines, at, QUOTE), depth + 1));
  if (depth < DEEPEST && ITEM.test(line)) return list(lines, at, depth);
  if (line.includes("|") && TABLE_RULE.test(lines[at.line + 1] ?? "") && lines[at.line + 1].includes("-")) return table(lines, at);
  return paragraph(lines, at, depth);
}

function taken(lines, at, pattern) {
  const found = [];
  for (let match; at.line < lines.length && (match = pattern.exec(lines[at.line])); at.line++) found.push(match[1]);
  return found;
}

function fenced(lines, at) {
  const [, fence, language] = FENCE.exec(lines[at.line++]);
  const code = [];
  while (at.line < lines.length && !lines[at.line].trimStart().startsWith(fence)) code.push(lines[at.line++]);
  at.line++;
  const body = el("pre", { tabindex: "0", dir: "ltr" }, el("code", code.join("\n")));
  const copy = el("button.quiet.copy", { type: "button", data: { copy: code.join("\n") } }, "Copy");
  return el("figure.code", el("figcaption", el("span", language || "text"), copy), body);
}

function list(lines, at, depth) {
  const [, margin, mark] = ITEM.exec(lines[at.line]);
  const ordered = /\d/.test(mark);
  const items = [];
  for (let match; at.line < lines.length && (match = ITEM.exec(lines[at.line])); ) {
    if (match[1].length < margin.length || /\d/.test(match[2]) !== ordered) break;
    at.line++;
    items.push(item([match[3], ...inside(lines, at, margin.length)], depth));
  }
  const first = Number.parseInt(mark, 10);
  return el(ordered ? "ol" : "ul", ordered && first !== 1 ? { start: first, dir: "auto" } : { dir: "auto" }, items);
}

/** The lines that belong to an item: those that are written further in than it is, empty ones between them. */
function inside(lines, at, margin) {
  const found = [];
  while (at.line < lines.length) {
    const line = lines[at.line];
    const indent = line.length - line.trimStart().length;
    const following = lines[at.line + 1] ?? "";
    const empty = !line.trim() && following.trim() && following.length - following.trimStart().length > margin;
    if (!empty && !(line.trim() && indent > margin)) break;
    found.push(line.slice(Math.min(indent, margin + 2)));
    at.line++;
  }
  return found;
}

function item(lines, depth) {
  const task = /^\[([ xX])\]\s+/.exec(lines[0]);
  if (task) lines[0] = lines[0].slice(task[0].length);
  const [first, ...more] = blocks(lines, depth + 1);
  const box = task && el("input", { type: "checkbox", disabled: true, checked: task[1] !== " " });
  return el("li", { dir: "auto" }, box, first?.tagName === "P" ? [...first.childNodes] : first, more);
}

function table(lines, at) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").slice(0, 40);
  const row = (tag) => el("tr", cells(lines[at.line++]).map((it) => el(tag, { dir: "auto" }, inline(it.trim()))));
  const head = row("th");
  at.line++;
  const body = [];
  while (at.line < lines.length && lines[at.line].includes("|")) body.push(row("td"));
  return el("div.table", { tabindex: "0" }, el("table", head.textContent && el("thead", head), el("tbody", body)));
}

const begins = (line, depth) =>
  FENCE.test(line) || HEADING.test(line) || RULE.test(line) || (depth < DEEPEST && (QUOTE.test(line) || ITEM.test(line)));

function paragraph(lines, at, depth) {
  const found = [lines[at.line++]];
  while (at.line < lines.length && lines[at.line].trim() && !begins(lines[at.line], depth)) found.push(lines[at.line++]);
  return el("p", { dir: "auto" }, inline(found.join("\n")));
}

// --- within a line ---

const SPAN = new RegExp(
  [
    "(?<!`)(?<code>`+)(?!`)(?<literal>[^]{1,4000}?)(?<!`)\\k<code>(?!`)",
    "\\\\(?<escaped>[\\\\`*_{}\\[\\]()#+.!|~<>-])",
    "!?\\[(?<label>[^\\[\\]]{0,1000})\\]\\((?<target>[^()\\s]{1,2000})(?:\\s+\"[^\"]{0,500}\")?\\)",
    "<?(?<bare>https?://[^\\s<>\"'`]{1,2000}[^\\s<>\"'`.,;:!?)\\]*_])>?",
    "(?<strong>\\*\\*|__)(?=\\S)(?<bold>[^\\n]{1,4000}?\\S?)\\k<strong>",
    "~~(?=\\S)(?<struck>[^~\\n]{1,4000})~~",
    "(?<![\\w*])(?<em>[*_])(?=[^\\s*_])(?<italic>[^*_\\n]{1,4000})\\k<em>(?!\\w)",
    "(?<br> {2,}\\n|\\n)",
  ].join("|"),
  "gu",
);

function inline(text, depth = 0) {
  const found = [];
  let end = 0;
  for (const match of text.matchAll(SPAN)) {
    if (match.index > end) found.push(text.slice(end, match.index));
    found.push(span(match, depth));
    end = match.index + match[0].length;
  }
  if (end < text.length) found.push(text.slice(end));
  return found;
}

function span(match, depth) {
  const { literal, escaped, label, target, bare, bold, struck, italic, br } = match.groups;
  const inner = (it) => (depth < 4 ? inline(it, depth + 1) : it);
  if (literal !== undefined) return el("code", literal.replace(/^ (.*[^ ].*) $/s, "$1"));
  if (escaped !== undefined) return escaped;
  if (target !== undefined) return link(target, inner(label || target), match[0]);
  if (bare !== undefined) return link(bare, bare, match[0]);
  if (bold !== undefined) return el("strong", inner(bold));
  if (struck !== undefined) return el("s", inner(struck));
  if (italic !== undefined) return el("em", inner(italic));
  return br === "\n" ? "\n" : el("br");
}

/** A link to the web or to an address of mail; anything else stays the text it was. */
export function link(target, label, otherwise) {
  let address;
  try {
    address = new URL(target);
  } catch {
    return otherwise;
  }
  if (!["https:", "http:", "mailto:"].includes(address.protocol)) return otherwise;
  return el("a", { href: address.href, rel: "noopener noreferrer nofollow", target: "_blank", title: address.href }, label);
}
