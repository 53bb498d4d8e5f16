// The live page. Everything shown comes from /v1/events; everything done goes through the same API as any client's.
import { clock, remember } from "./charts.js";

const $ = (id) => document.getElementById(id);
const rows = new Map(); // model -> its table row, cells and latest figures
let token = sessionStorage.getItem("solver-token") || "";
let latest = [];

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}
const number = (value, digits = 0) =>
  value === null || value === undefined ? "–" : value.toLocaleString("en", { maximumFractionDigits: digits });

function say(text) {
  $("message").textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { $("message").textContent = ""; }, 8000);
}

async function api(method, path, body) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const document_ = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const lines = (document_.violations || []).map((one) => one.message);
    throw new Error(lines.length ? lines.join("; ") : document_.detail || `status ${answer.status}`);
  }
  return document_;
}

// A question with an optional field; resolves to the text of the field, or null when it was cancelled.
function ask(title, text, label, value, type = "text") {
  $("dialog-title").textContent = title;
  $("dialog-text").textContent = text;
  $("dialog-label").hidden = label === null;
  $("dialog-label").firstElementChild.textContent = label || "";
  const input = $("dialog-input");
  input.type = type;
  input.value = value;
  const dialog = $("dialog");
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok" ? input.value : null), { once: true });
  });
}
$("dialog-input").addEventListener("keydown", (event) => {
  if (event.key === "Enter") { event.preventDefault(); $("dialog-ok").click(); }
});

async function act(work) {
  try { await work(); } catch (error) { say(error.message); }
}

// -- fleet

function addRow(model) {
  const row = element("tr");
  const cells = {};
  const name = Object.assign(element("th", model), { title: model });
  name.scope = "row";
  row.append(name);
  const meter = element("span", undefined, "meter");
  meter.setAttribute("aria-hidden", "true");
  meter.append(element("span"));
  const used = element("td");
  cells.used = element("span");
  cells.meter = meter;
  used.append(meter, cells.used);
  row.append(used);
  for (const key of ["queue", "p50", "p95", "p99", "price"]) row.append((cells[key] = element("td", "–", "number")));
  row.append((cells.state = element("td")));
  const actions = element("td");
  const drain = (cells.drain = element("button", "Drain"));
  const capacity = element("button", "Capacity");
  drain.type = capacity.type = "button";
  capacity.setAttribute("aria-label", `Change the capacity of ${model}`);
  drain.addEventListener("click", () => act(() => toggleDrain(model)));
  capacity.addEventListener("click", () => act(() => changeCapacity(model)));
  actions.append(drain, capacity);
  row.append(actions);
  $("models").append(row);
  $("model-names").append(Object.assign(element("option"), { value: model }));
  const entry = { row, cells, one: null, visible: false };
  rows.set(model, entry);
  entries.set(row, entry);
  seen.observe(row);
  return entry;
}

// Of hundreds of models a dozen can be seen: the others are written when they are scrolled to.
const entries = new WeakMap();
const seen = new IntersectionObserver((changes) => {
  for (const change of changes) {
    const entry = entries.get(change.target);
    entry.visible = change.isIntersecting;
    if (entry.visible && entry.one) write(entry);
  }
}, { rootMargin: "200px" });

const path = (model) => model.split("/").map(encodeURIComponent).join("/");
const isDrained = (one) => one.stops.some((stop) => stop.owner === "drain" && stop.name === "");

async function toggleDrain(model) {
  const one = latest.find((other) => other.model === model);
  if (one && isDrained(one)) {
    if ((await ask(`Let new work into ${model} again?`, "Stops of others stay.", null, "")) === null) return;
    await api("POST", `/v1/models/${path(model)}:undrain`);
    return;
  }
  const reason = await ask(`Drain ${model}?`, "Nothing new is let in; what runs goes on.", "Reason", "");
  if (reason !== null) await api("POST", `/v1/models/${path(model)}:drain`, { reason });
}

async function changeCapacity(model) {
  const now = (await api("GET", "/v1/capacity")).models.find((one) => one.model === model);
  const slots = await ask(`Capacity of ${model}`, "What runs goes on; a fleet file is not changed.", "Slots", now.max_concurrent, "number");
  if (slots === null) return;
  const usd = await ask(`Budget of ${model}`, "Empty: no budget.", "US dollars", now.budget_usd ?? "", "text");
  if (usd === null) return;
  const text = `${now.max_concurrent} → ${slots} slots, budget ${usd === "" ? "none" : usd + " USD"}`;
  if ((await ask(`Change ${model}?`, text, null, "")) === null) return;
  await api("PUT", `/v1/capacity/${path(model)}`, { max_concurrent: Number(slots), budget_usd: usd === "" ? null : Number(usd) });
}

function put(node, text) { if (node.textContent !== text) node.textContent = text; }

function write({ cells, one }) {
  const percent = Math.round(100 * one.utilization);
  cells.meter.firstElementChild.style.width = `${percent}%`;
  cells.meter.classList.toggle("hot", percent >= 95);
  put(cells.used, `${percent} % (${one.active_requests} of ${one.max_concurrent})`);
  put(cells.queue, `${one.queue_depth} of ${one.max_queue}`);
  put(cells.p50, number(one.p50_ms));
  put(cells.p95, number(one.p95_ms));
  put(cells.p99, number(one.p99_ms));
  put(cells.price, number(one.slot_price, 3));
  const full = one.active_requests >= one.max_concurrent;
  const stop = one.stops.map((s) => `${s.owner}${s.reason ? ": " + s.reason : ""}${s.ends_in_s === null ? "" : ` (${number(s.ends_in_s)} s)`}`).join("; ");
  put(cells.state, stop || (full ? "full" : "open"));
  cells.state.title = stop;
  cells.state.className = stop ? "bad" : full ? "warn" : "good";
  put(cells.drain, isDrained(one) ? "Undrain" : "Drain");
  const label = `${cells.drain.textContent} ${one.model}`;
  if (cells.drain.getAttribute("aria-label") !== label) cells.drain.setAttribute("aria-label", label);
}

function showLoad(load) {
  latest = load.models;
  const present = new Set();
  for (const one of latest) {
    present.add(one.model);
    const fresh = !rows.has(one.model);
    const entry = rows.get(one.model) || addRow(one.model);
    entry.one = one;
    if (fresh || entry.visible || latest.length <= 60) write(entry);
  }
  for (const [model, entry] of rows) if (!present.has(model)) { seen.unobserve(entry.row); entry.row.remove(); rows.delete(model); }
  showFiltered();
  const sum = (key) => latest.reduce((total, one) => total + one[key], 0);
  put($("tile-slots"), number(sum("active_requests")));
  put($("tile-slots-all"), `of ${number(sum("max_concurrent"))}`);
  put($("tile-queue"), number(sum("queue_depth")));
  put($("tile-requests"), number(sum("requests_60s")));
  const dearest = latest.reduce((best, one) => ((one.slot_price || 0) > (best?.slot_price || 0) ? one : best), null);
  put($("tile-price"), dearest ? number(dearest.slot_price, 2) : "–");
  put($("tile-price-model"), dearest ? `on ${dearest.model}` : "");
  remember(load);
}

function showFiltered() {
  const text = $("filter").value.toLowerCase();
  const show = $("show").value;
  let count = 0;
  for (const one of latest) {
    const fits = one.model.toLowerCase().includes(text) &&
      (show === "all" || (show === "full" ? !one.accepting || one.active_requests >= one.max_concurrent : one.utilization >= 0.8));
    const { row } = rows.get(one.model);
    if (row.hidden === fits) row.hidden = !fits;
    count += fits;
  }
  put($("fleet-count"), `${count} of ${latest.length} models`);
}
$("filter").addEventListener("input", showFiltered);
$("show").addEventListener("change", showFiltered);

// -- alerts, decisions, audit

const standing = new Map();
function showAlerts() {
  const list = $("alerts");
  put($("alerts-title"), standing.size ? `Alerts (${standing.size})` : "Alerts");
  list.replaceChildren();
  for (const one of standing.values()) list.append(element("li", `${one.rule}${one.model ? " · " + one.model : ""}: ${one.detail} (since ${time(one.at)})`, "bad"));
  if (!standing.size) list.append(element("li", "No alert stands.", "quiet"));
}
const time = (at) => clock(new Date(at));

function showDecisions(decisions) {
  const made = decisions.map((one) => {
    const row = element("tr");
    row.append(element("td", time(one.at)), element("td", one.agent_id || "–"), element("td", one.model || "none", one.model ? "" : "bad"),
      element("td", number(one.score, 2), "number"), element("td", number(one.price, 3), "number"), element("td", one.runner_up || "–"),
      element("td", number(one.margin, 2), "number"), element("td", one.reason));
    return row;
  });
  $("decisions").prepend(...made);
  while ($("decisions").children.length > 50) $("decisions").lastElementChild.remove();
}

function showAudit(entry) {
  $("no-audit")?.remove();
  const rest = Object.entries(entry).filter(([key, value]) => !["at", "who", "action", "what"].includes(key) && value !== "" && value !== null);
  $("audit").prepend(element("li", `${time(entry.at)} ${entry.who}: ${entry.action} ${entry.what}${rest.length ? " (" + rest.map(([k, v]) => `${k} ${v}`).join(", ") + ")" : ""}`));
  while ($("audit").children.length > 50) $("audit").lastElementChild.remove();
}

// -- the stream of events, over fetch: an EventSource cannot send a token

const on = {
  state(state) {
    $("decisions").replaceChildren();
    $("audit").replaceChildren(Object.assign(element("li", "Nothing was changed yet."), { id: "no-audit" }));
    standing.clear();
    for (const one of state.alerts) standing.set(`${one.rule} ${one.model}`, one);
    showAlerts();
    showLoad(state.load);
    showDecisions(state.decisions);
    state.audit.forEach(showAudit);
  },
  load: showLoad,
  decisions: showDecisions,
  alert(one) {
    if (one.raised) standing.set(`${one.rule} ${one.model}`, one); else standing.delete(`${one.rule} ${one.model}`);
    showAlerts();
  },
  audit: showAudit,
};

function connection(text, className) {
  put($("connection"), text);
  $("connection").className = `pill ${className}`;
}

let current = null;
async function listen() {
  for (let wait = 500; ; wait = Math.min(8000, wait * 2)) {
    try {
      current = new AbortController();
      const answer = await fetch("/v1/events", { headers: token ? { Authorization: `Bearer ${token}` } : {}, signal: current.signal });
      if (answer.status === 401) {
        connection("a token is needed", "bad");
        if (!$("dialog").open) askToken();
        return;
      }
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      connection("live", "good");
      wait = 500;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let buffer = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        buffer += value;
        const parts = buffer.split("\n\n");
        buffer = parts.pop();
        for (const part of parts) {
          const kind = /^event: (.*)$/m.exec(part)?.[1];
          const data = /^data: (.*)$/m.exec(part)?.[1];
          if (kind && data) on[kind]?.(JSON.parse(data));
        }
      }
    } catch (error) {
      if (error.name === "AbortError") return;
    }
    connection("reconnecting", "bad");
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

async function askToken() {
  const given = await ask("Bearer token", "It stays in this tab. `solver token` makes one.", "Token", "", "password");
  if (given === null) return;
  token = given.trim();
  sessionStorage.setItem("solver-token", token);
  current?.abort();
  listen();
}
$("token-button").addEventListener("click", askToken);

// -- batches and overrides

function parseCsv(text) {
  const records = [];
  let record = [""], line = 1, begun = 1, quotedAt = 0;
  const end = () => {
    if (record.some((cell) => cell.trim() !== "")) records.push({ line: begun, cells: record });
    record = [""];
    begun = line + 1;
  };
  for (let i = 0; i < text.length; i++) {
    const c = text[i], last = record.length - 1;
    if (quotedAt) {
      if (c === '"' && text[i + 1] === '"') { record[last] += '"'; i++; }
      else if (c === '"') quotedAt = 0;
      else record[last] += c;
    } else if (c === '"' && record[last].trim() === "") { record[last] = ""; quotedAt = line; }
    else if (c === ",") record.push("");
    else if (c === "\n") end();
    else if (c !== "\r") record[last] += c;
    if (c === "\n") line++;
  }
  if (quotedAt) throw new Error(`line ${quotedAt}: a quotation mark is not closed`);
  end();
  const [head, ...rest] = records;
  if (!rest.length) throw new Error("expected a line with the names of the columns, and one for each agent");
  const names = head.cells.map((name) => name.replace(/^\ufeff/, "").trim());
  const repeated = names.find((name, j) => name !== "" && names.indexOf(name) !== j);
  if (repeated !== undefined) throw new Error(`line ${head.line}: expected each column once, got ${repeated} twice`);
  return rest.map(({ line: at, cells }) => {
    if (cells.slice(names.length).some((cell) => cell.trim() !== "")) throw new Error(`line ${at}: expected ${names.length} cells, got ${cells.length}`);
    const given = cells.slice(0, names.length).map((cell, j) => [names[j], cell.trim()]).filter(([, cell]) => cell !== "");
    const nameless = given.find(([name]) => name === "");
    if (nameless) throw new Error(`line ${at}: the column of ${nameless[1]} has no name`);
    return Object.fromEntries(given);
  });
}
const NUMBERS = new Set(["priority", "input_tokens", "output_tokens", "min_context_tokens", "min_score", "copies", "count", "unassigned_penalty"]);
const FLAGS = new Set(["requires_context", "requires_tools", "requires_vision"]);
const LISTS = new Set(["required_capabilities", "preferred_capabilities", "allowed_models", "forbidden_models", "allowed_regions", "allowed_providers"]);
function agentOf(record) {
  const agent = {};
  for (const [key, text] of Object.entries(record)) {
    if (NUMBERS.has(key)) agent[key] = Number.isNaN(Number(text)) ? text : Number(text);
    else if (FLAGS.has(key)) agent[key] = /^(true|yes|1)$/i.test(text) ? true : /^(false|no|0)$/i.test(text) ? false : text;
    else if (LISTS.has(key)) agent[key] = text.split(/[;|]/).map((one) => one.trim()).filter(Boolean);
    else agent[key] = text;
  }
  return agent;
}

$("batch").addEventListener("submit", (event) => {
  event.preventDefault();
  act(async () => {
    $("batch-result").textContent = " solving …";
    try {
      const plan = await api("POST", "/v1/assign", { problem: { agents: parseCsv($("csv").value).map(agentOf) }, commit: false });
      $("batch-result").textContent = ` ${plan.status}: ${plan.assigned} of ${plan.agents} assigned, objective ${number(plan.objective, 3)}, bound ${number(plan.bound, 3)}, gap ${number(100 * plan.gap, 4)} %, ${number(plan.elapsed_ms, 1)} ms (${plan.engine})`;
      const table = element("table"), head = element("tr"), body = element("tbody");
      const columns = Object.keys(plan.assignments[0] || {});
      for (const name of columns) head.append(Object.assign(element("th", name), { scope: "col" }));
      for (const one of plan.assignments.slice(0, 500)) {
        const row = element("tr");
        for (const name of columns) row.append(element("td", typeof one[name] === "number" ? number(one[name], 3) : String(one[name] ?? "–")));
        body.append(row);
      }
      const top = element("thead");
      top.append(head);
      table.append(top, body);
      $("plan").replaceChildren(table);
      $("plan").hidden = false;
    } catch (error) {
      $("batch-result").textContent = "";
      throw error;
    }
  });
});
for (const kind of ["dragover", "drop"]) {
  $("csv").addEventListener(kind, async (event) => {
    event.preventDefault();
    const file = kind === "drop" && event.dataTransfer.files[0];
    if (file) $("csv").value = await file.text();
  });
}

$("override").addEventListener("submit", (event) => {
  event.preventDefault();
  const agent = $("override-agent").value, model = $("override-model").value, reason = $("override-reason").value;
  act(async () => {
    if ((await ask(`Assign ${agent} to ${model}?`, "A slot is reserved, and the old one given back.", null, "")) === null) return;
    await api("PUT", `/api/v1/model-router/assignments/${encodeURIComponent(agent)}`, { model_id: model, reason });
    $("override").reset();
  });
});

showAlerts();
listen();
