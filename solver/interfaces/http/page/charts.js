// Utilization and latency of the busiest models over the last five minutes.
const SPAN_S = 300;
const LINES = 8;
const COLORS = ["#4a90d9", "#d9822b", "#3da35d", "#c2556e", "#8d6cc9", "#2aa5a0", "#a6841f", "#7d8793"];
const KINDS = [["utilization", "chart-utilization"], ["p95_ms", "chart-latency"]];
const history = { at: [], utilization: new Map(), p95_ms: new Map() };
const plots = {};
let shown = null;

const shorten = (line) => { while (line.length > SPAN_S) line.shift(); };
const rounded = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en", { maximumFractionDigits: 0 }));

export const clock = (moment) => moment.toLocaleTimeString("en-GB");

// Adds one sample of every model; models that are gone fade out with null.
export function remember(load) {
  history.at.push(Date.parse(load.at) / 1000);
  shorten(history.at);
  const now = new Map(load.models.map((one) => [one.model, one]));
  for (const [key] of KINDS) {
    const lines = history[key];
    for (const model of now.keys()) if (!lines.has(model)) lines.set(model, Array(history.at.length - 1).fill(null));
    for (const [model, line] of lines) {
      const one = now.get(model);
      line.push(one ? (key === "utilization" ? 100 * one.utilization : one[key]) : null);
      while (line.length > history.at.length) line.shift();
      if (!one && line.every((value) => value === null)) lines.delete(model);
    }
  }
  if (!document.hidden) draw([...now.keys()]);
}

function busiest(models) {
  const sum = new Map(models.map((model) => [model, history.utilization.get(model).slice(-60).reduce((a, b) => a + b, 0)]));
  return models.sort((a, b) => sum.get(b) - sum.get(a)).slice(0, LINES).sort();
}

function draw(models) {
  if (models && (!shown || shown.some((model) => !history.utilization.has(model)) || history.at.length % 15 === 1)) shown = busiest(models);
  if (!shown) return;
  const text = getComputedStyle(document.body).color;
  for (const [key, id] of KINDS) {
    const box = document.getElementById(id);
    const width = Math.floor(box.clientWidth);
    const name = shown.join("\n") + width + text;
    const data = [history.at, ...shown.map((model) => history[key].get(model) ?? Array(history.at.length).fill(null))];
    if (plots[id]?.name === name) plots[id].plot.setData(data);
    else {
      plots[id]?.plot.destroy();
      plots[id] = { name, plot: new uPlot(options(key, width, text), data, box) };
    }
  }
}

function options(key, width, text) {
  const axis = { stroke: text, grid: { stroke: "#8884", width: 1 }, ticks: { stroke: "#8884" } };
  const time = (at) => clock(new Date(at * 1000));
  return {
    width, height: 220, cursor: { drag: { x: false, y: false } },
    scales: {
      // At least half a minute up to now: one point alone would otherwise stand on an axis of years.
      x: { range: () => { const end = history.at[history.at.length - 1] ?? Date.now() / 1000; return [Math.min(end - 30, history.at[0] ?? end), end]; } },
      y: key === "utilization" ? { range: [0, 100] } : { range: (_, low, high) => [0, Math.max(1, high * 1.1)] },
    },
    axes: [{ ...axis, space: 80, values: (_, at) => at.map(time), incrs: [5, 10, 15, 30, 60, 120, 300] }, { ...axis, size: 60 }],
    series: [
      { label: "Time", value: (_, at) => (at === null ? "–" : time(at)) },
      ...shown.map((label, j) => ({ label, stroke: COLORS[j % COLORS.length], width: 1.5, points: { show: false }, value: (_, value) => rounded(value) })),
    ],
  };
}

addEventListener("resize", () => draw());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
