// Runs as bars over time: what the model took, what tools took, when a person was waited for.

import { el, oneLine, svg } from "./dom.js";
import { compact, duration, time } from "./format.js";

const WIDE = 320;
const HIGH = 12;
const GAP = 4;
const TOP = 16;

/** One run: its facts, and its spans drawn to scale. */
export function runCard(run, { onPick }) {
  const used = run.metrics ?? {};
  const facts = [
    ["model calls", used.model_calls],
    ["tool calls", used.tool_calls],
    ["attempts", run.attempt > 1 && run.attempt],
  ].filter(([, n]) => n);
  const head = el("header", el("b", el("bdi", oneLine(run.agent ?? "run"))), el("span.status", { data: { status: run.status } }, run.status), el("span.gap"), time(run.started, "clock"));
  const sent = el("button.quiet", { type: "button", onclick: () => onPick(run.id) }, "What was sent");
  return el(
    "section.run",
    { data: { run: run.id } },
    head,
    drawing(run),
    tokens(used),
    el("footer", facts.map(([word, n]) => el("span", el("b", String(n)), ` ${n === 1 ? word.replace(/s$/, "") : word}`)), el("span.gap"), sent),
    run.error && el("p.why", { dir: "auto" }, oneLine(run.error)),
  );
}

function drawing(run) {
  const spans = run.spans?.length ? run.spans : [{ kind: "model", name: null, attempt: run.attempt, started: run.started, ended: run.ended }];
  const scale = scaled(spans, run);
  const lanes = laid(spans, scale);
  const high = TOP + (Math.max(0, ...lanes.map((it) => it.lane)) + 1) * (HIGH + GAP);
  const about = `${run.status}, ${duration(scale.total)}: ${lanes.map(({ span, ms }) => `${nameOf(span)} ${duration(ms)}`).join(", ")}`;
  return svg(
    "svg.timeline",
    { viewBox: `0 0 ${WIDE} ${high}`, role: "img", "aria-label": about, preserveAspectRatio: "xMinYMin meet" },
    ticks(scale, high),
    lanes.map((it) => bar(it, scale)),
  );
}

/** Time to place. A wait for a person may take days: it is drawn as long as a sixth of the rest, and marked. */
function scaled(spans, run) {
  const from = Math.min(...spans.map((it) => Date.parse(it.started)));
  const end = run.ended && run.status !== "paused" ? Date.parse(run.ended) : Date.now();
  const to = Math.max(end, ...spans.map((it) => Date.parse(it.ended ?? it.started)), from + 1);
  const pauses = spans.filter((it) => it.kind === "waiting" || it.kind === "queued").map((it) => [Date.parse(it.started), it.ended ? Date.parse(it.ended) : to]);
  const waited = pauses.reduce((sum, [a, b]) => sum + b - a, 0);
  const worked = Math.max(1, to - from - waited);
  const most = worked / 6;
  const cut = (a, b) => Math.max(0, b - a - most);
  const drawn = (at) => at - from - pauses.reduce((sum, [a, b]) => sum + (at >= b ? cut(a, b) : at > a ? Math.max(0, at - a - most) : 0), 0);
  const whole = Math.max(1, drawn(to));
  return { from, to, total: to - from, worked, x: (at) => (drawn(at) / whole) * WIDE };
}

function laid(spans, scale) {
  const ends = [];
  const bars = spans.map((span) => {
    const from = Date.parse(span.started);
    const to = span.ended ? Date.parse(span.ended) : scale.to;
    const x = scale.x(from);
    const wide = Math.max(2, scale.x(to) - x);
    let lane = span.kind === "tool" ? 1 : 0;
    while ((ends[lane] ?? -1) > x + 0.5) lane++;
    ends[lane] = x + wide;
    return { span, lane, x, wide: Math.min(wide, WIDE - x), ms: to - from };
  });
  for (const it of bars) it.room = Math.min(WIDE, ...bars.filter((other) => other.lane === it.lane && other.x > it.x).map((other) => other.x)) - it.x - it.wide;
  return bars;
}

const nameOf = (span) => (span.kind === "tool" ? oneLine(span.name ?? "tool") : { model: "model", waiting: "waiting", queued: "queued" }[span.kind]);

function bar({ span, lane, x, wide, ms, room }, scale) {
  const y = TOP + lane * (HIGH + GAP);
  const label = `${nameOf(span)} ${duration(ms)}`;
  const needs = label.length * 4.9 + 8;
  const fits = needs < wide;
  const open = !span.ended && scale.to - Date.now() > -1000;
  return svg(
    `g.span.${span.kind}${open ? ".open" : ""}`,
    svg("title", label),
    svg("rect", { x: x.toFixed(1), y, width: Math.max(1.5, wide - 1).toFixed(1), height: HIGH, rx: 2 }),
    fits && svg("text", { x: (x + 4).toFixed(1), y: y + 9 }, label),
    !fits && needs < room && svg("text.beside", { x: (x + wide + 3).toFixed(1), y: y + 9 }, label),
  );
}

function ticks(scale, high) {
  const line = (x) => svg("line.tick", { x1: x, x2: x, y1: TOP - 3, y2: high - GAP });
  return [
    line(0.5),
    line(WIDE - 0.5),
    svg("text.scale", { x: 0, y: 9 }, "0"),
    svg("text.scale", { x: WIDE, y: 9, "text-anchor": "end" }, scale.total > scale.worked + 5 ? `${duration(scale.worked)} of work, ${duration(scale.total)} in all` : duration(scale.total)),
  ];
}

function tokens({ input_tokens: given = 0, output_tokens: made = 0 }) {
  if (!given && !made) return null;
  const all = Math.max(1, given + made);
  const x = Math.max(2, Math.min(WIDE - 2, (given / all) * WIDE));
  return el(
    "div.tokens",
    svg(
      "svg",
      { viewBox: `0 0 ${WIDE} 4`, role: "img", "aria-label": `${given} tokens in, ${made} out`, preserveAspectRatio: "none" },
      svg("rect.in", { x: 0, y: 0, width: Math.max(0, x - 1), height: 4 }),
      svg("rect.made", { x, y: 0, width: WIDE - x, height: 4 }),
    ),
    el("span", el("b", compact(given)), " tokens in"),
    el("span", el("b", compact(made)), " out"),
  );
}
