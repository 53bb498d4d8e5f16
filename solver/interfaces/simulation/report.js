"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const results = data.results;
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const COLOURS = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22",
  "#4c78a8", "#e45756", "#54a24b", "#b279a2", "#f58518", "#72b7b2", "#9d755d", "#ff9da6", "#79706e", "#d8b5a5"];
const colour = k => COLOURS[k % COLOURS.length];
const make = (tag, text) => { const e = document.createElement(tag); if (text !== undefined) e.textContent = text; return e; };

const FIGURES = [
  ["P50 s", "p50_latency_ms", 1e-3, 2], ["P95 s", "p95_latency_ms", 1e-3, 2], ["P99 s", "p99_latency_ms", 1e-3, 2],
  ["max s", "max_latency_ms", 1e-3, 1], ["first token P99 s", "p99_first_token_ms", 1e-3, 2], ["mean wait s", "mean_wait_ms", 1e-3, 2],
  ["utilization", "utilization", 1, 3], ["Jain", "jain_index", 1, 3], ["served", "served", 1, 0], ["refused", "refused", 1, 0],
  ["overload", "overload_failures", 1, 0], ["throttled", "throttled", 1, 0], ["failed", "failed", 1, 0], ["in time", "deadline_attainment", 1, 3],
  ["quality", "quality", 1, 3], ["of the served", "quality_served", 1, 3], ["US dollars", "cost_usd", 1, 2]];
const MEASURED = [
  ["decision P50 µs", "decision_us_p50", 1, 0], ["decision P99 µs", "decision_us_p99", 1, 0],
  ["batch P99 ms", "decision_us_p99_batch", 1e-3, 2], ["refreshes", "refreshes", 1, 0], ["refresh P50 ms", "refresh_us_p50", 1e-3, 2],
  ["refresh P99 ms", "refresh_us_p99", 1e-3, 2]];
const known = figures => figures.filter(([, name]) => results.some(r => r[name].mean !== null));
const shown = known(FIGURES);
const number = (value, digits) => value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

function table(id, rows, figures, cell) {
  const target = document.getElementById(id), head = make("thead"), line = make("tr");
  line.append(make("th", "policy"), ...figures.map(([title]) => make("th", title)));
  head.append(line); target.append(head);
  const body = make("tbody");
  for (const row of rows) {
    const tr = make("tr"); tr.append(make("td", row.policy));
    for (const figure of figures) tr.append(cell(row[figure[1]], figure));
    body.append(tr);
  }
  target.append(body);
}
const withHalf = (value, [, , scale, digits]) => {
  if (value.mean === null) return make("td", "–");
  const half = scale * (value.high - value.mean);
  return make("td", number(scale * value.mean, digits) + (half >= 0.5 * 10 ** -digits ? " ± " + number(half, digits) : ""));
};
table("figures", results, shown, withHalf);
table("measured", results, known(MEASURED), withHalf);
const change = data.what_if ? { title: "What changes with " + data.what_if.change, rows: data.what_if.differences }
  : data.comparison ? { title: data.comparison.of + " against " + data.comparison.against, rows: [{ policy: data.comparison.of, ...data.comparison }] } : null;
if (change) {
  document.getElementById("change").hidden = false;
  document.getElementById("change-title").textContent = change.title;
  table("differences", change.rows, shown.filter(([, name]) => change.rows[0][name]), (value, [, , scale, digits]) => {
    if (value.mean === null) return make("td", "–");
    const half = data.settings.seeds > 1 ? " ± " + number(scale * (value.high - value.mean), digits) : "";
    const td = make("td", (value.mean > 0 ? "+" : "") + number(scale * value.mean, digits) + half);
    if (half && value.low <= 0 && value.high >= 0) td.className = "unsure";
    return td;
  });
}
document.getElementById("summary").textContent =
  `${results.length} policies, ${data.settings.seeds} ${data.settings.seeds === 1 ? "seed" : "seeds"}`;
for (const note of data.notes.length ? data.notes : ["none beyond the documentation's"]) document.getElementById("notes").append(make("li", note));

const width = id => Math.max(280, document.getElementById(id).clientWidth);
const axis = (label, more) => ({ label, stroke: css("--text"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line") }, labelSize: 20, ...more });
function chart(id, options, columns) {
  document.getElementById(id).replaceChildren();
  return new uPlot({ width: width(id), height: 320, ...options }, columns, document.getElementById(id));
}
function latency() {
  const served = results.map((r, k) => [r, k]).filter(([r]) => r.series.latency_s.length);
  if (!served.length) { document.getElementById("latency").textContent = "No request was served."; return; }
  const columns = uPlot.join(served.map(([r]) => {
    const kept = new Map(r.series.latency_s.map((x, i) => [Math.max(x, 1e-3), 100 * r.series.shares[i]]));
    return [[...kept.keys()], [...kept.values()]];
  }));
  chart("latency", {
    scales: { x: { time: false, distr: 3 }, y: { range: [0, 100] } },
    axes: [axis("seconds", { values: (u, ticks) => ticks.map(t => t === null ? "" : String(+t.toPrecision(3))) }), axis("% of the served")],
    series: [{ label: "seconds" }, ...served.map(([r, k]) => ({ label: r.policy, stroke: colour(k), width: 1.5, spanGaps: true }))],
  }, columns);
}
function quality() {
  const order = results.map((r, k) => [r, k]).filter(([r]) => r.quality.mean !== null && r.cost_usd.mean !== null);
  const priced = order.some(([r]) => r.cost_usd.mean > 0), x = priced ? "cost_usd" : "p99_latency_ms", scale = priced ? 1 : 1e-3;
  const points = order.filter(([r]) => r[x].mean !== null).sort((a, b) => a[0][x].mean - b[0][x].mean);
  if (!points.length) { document.getElementById("quality").textContent = "No request was served."; return; }
  const columns = [points.map(([r]) => r[x].mean * scale), ...points.map(([r], k) => points.map((_, i) => i === k ? r.quality.mean : null))];
  const pad = (u, low, high) => { const p = (high - low || Math.abs(high) || 1) * 0.08; return [low - p, high + p]; };
  chart("quality", {
    scales: { x: { time: false, range: pad }, y: { range: pad } },
    axes: [axis(priced ? "US dollars" : "P99 latency, seconds (the fleet states no prices)"), axis("quality per request")],
    series: [{ label: priced ? "US dollars" : "seconds" }, ...points.map(([r, k]) => ({ label: r.policy, stroke: colour(k), width: 0, points: { show: true, size: 11, fill: colour(k) } }))],
  }, columns);
}
function overTime() {
  const r = results[document.getElementById("policy").value || 0], models = Object.keys(r.series.utilization);
  chart("utilization", {
    scales: { x: { time: false }, y: { range: [0, 1.02] } },
    axes: [axis("seconds since the first arrival"), axis("share of its slots")],
    series: [{ label: "seconds" }, ...models.map((name, k) => ({ label: name, stroke: colour(k), width: 1.5 }))],
  }, [r.series.time_s, ...models.map(name => r.series.utilization[name])]);
  const kinds = Object.keys(r.series.lost).filter(name => r.series.lost[name].some(v => v));
  document.getElementById("nobody").hidden = kinds.length > 0;
  document.getElementById("lost").replaceChildren();
  if (kinds.length) chart("lost", {
    height: 220, scales: { x: { time: false } },
    axes: [axis("seconds since the first arrival"), axis("requests")],
    series: [{ label: "seconds" }, ...kinds.map((name, k) => ({ label: name, stroke: colour(k), width: 1.5, paths: uPlot.paths.stepped({ align: 1 }) }))],
  }, [r.series.time_s, ...kinds.map(name => r.series.lost[name])]);
  const events = r.rule_events || [];
  document.getElementById("rules").hidden = !results.some(one => one.rule_events);
  const target = document.getElementById("events"); target.replaceChildren();
  for (const event of events.slice(0, 500)) {
    const tr = make("tr");
    tr.append(make("td", `${number(event.at_s, 0)} s`), make("td", event.model), make("td", event.action), make("td", event.begins ? "begins" : "ends"), make("td", number(100 * event.utilization, 0) + " %"));
    target.append(tr);
  }
  if (!events.length) { const tr = make("tr"); tr.append(make("td", "No rule would have acted under this policy.")); target.append(tr); }
}
const select = document.getElementById("policy");
results.forEach((r, k) => { const option = make("option", r.policy); option.value = k; select.append(option); });
select.addEventListener("change", overTime);
function draw() { latency(); quality(); overTime(); }
draw();
let timer = 0;
addEventListener("resize", () => { clearTimeout(timer); timer = setTimeout(draw, 150); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
