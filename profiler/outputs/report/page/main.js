// SPDX-License-Identifier: Apache-2.0
// Draws everything for the exchanges that pass the filter, and handles the reader's choices.

class Report {
  constructor(capture) {
    Object.assign(this, { capture, filter: new Filter(capture), measure: "latency", endpoints: { column: 1, down: true, all: false } });
    this.grid = new Grid(capture, (row) => this.detail.open(row));
    this.detail = new Detail(capture, this.grid);
    this.about();
    this.controls();
    this.update();
  }

  choose(change) {
    Object.assign(this.filter, change);
    this.update();
  }

  update() {
    const { capture, filter, measure } = this;
    const rows = filter.rows(measure);
    this.rows = rows;
    const sorted = sortedValues(rows, capture.columns[measure]);
    this.drawMatching();
    this.drawChips();
    this.drawTiles(rows, sorted);
    drawTime(capture, rows, (time) => this.choose({ time }));
    drawMap(capture, rows, filter, (node) => this.choose({ node: filter.node === node ? null : node }), measure);
    this.drawEndpoints(rows);
    drawLatency(sorted, (slow) => this.choose({ slow }));
    drawSlowest(capture, rows, (row) => this.detail.open(row));
    this.drawLost(rows);
    this.grid.show(rows, measure);
  }

  drawMatching() {
    const { rows, capture } = this;
    byId("matching").textContent = rows.length === capture.count ? many(capture.count, "exchange") : `${count(rows.length)} of ${many(capture.count, "exchange")}`;
  }

  about() {
    const { capture } = this, { time } = capture.columns;
    const span = capture.count ? time[capture.count - 1] : 0;
    const day = new Date(capture.start).toISOString().slice(0, 10);
    byId("about").textContent = capture.count
      ? `${day}, ${clock(capture.start, 0)} to ${clock(capture.start + span, 0)} UTC \u00b7 ${many(capture.count, "exchange")} in ${many(capture.lines - capture.damaged, "message")}`
      : "No messages in this capture.";
    byId("made").textContent = `Made by http-profiler ${capture.version} at ${capture.made}. ${capture.redacted
      ? "Credentials, cookies and token parameters are redacted: equal placeholders stand for equal values."
      : "Nothing is redacted: the page contains passwords and tokens as they were sent."} Bodies are cut after ${count(capture.maxBody)} characters.`;
    if (capture.damaged) {
      byId("notice").hidden = false;
      byId("notice").textContent = `${many(capture.damaged, "line")} of ${count(capture.lines)} could not be read and ${capture.damaged === 1 ? "is" : "are"} not shown: `
        + capture.damage.map(([line, why]) => `line ${count(line)} ${why}`).join(", ") + (capture.damaged > capture.damage.length ? " \u2026" : ".");
    }
  }

  controls() {
    let timer = null;
    const search = byId("search"), deep = byId("deep");
    const look = () => { clearTimeout(timer); timer = setTimeout(() => this.search(search.value, deep.checked), 120); };
    search.addEventListener("input", look);
    deep.addEventListener("change", look);
    byId("classes").append(...CLASSES.map((one, kind) => make("button", { type: "button", "aria-pressed": "false", click: (event) => {
      const { classes } = this.filter;
      if (!classes.delete(kind)) classes.add(kind);
      event.currentTarget.setAttribute("aria-pressed", String(classes.has(kind)));
      this.update();
    } }, make("i", { class: one.name }), one.label)));
    byId("measure").addEventListener("change", (event) => { this.measure = event.target.value; this.choose({ slow: null }); });
    document.addEventListener("keydown", (event) => {
      if (event.key === "/" && !event.ctrlKey && !event.metaKey && !event.altKey && !event.target.closest("input, select, dialog")) { event.preventDefault(); search.focus(); }
    });
  }

  async search(text, deep) {
    const turn = this.turn = (this.turn ?? 0) + 1;
    const condition = this.understood(text, deep);
    if (condition === undefined) return;
    const found = condition && await this.capture.find(condition, (share) => { byId("matching").textContent = `Searching: ${Math.round(100 * share)} %`; }, () => this.turn !== turn);
    if (this.turn === turn) this.choose({ found });
  }

  /** The condition of a search, null if it is empty; undefined if it is invalid, which is shown. */
  understood(text, deep) {
    let condition, mistake = "";
    try { condition = parseSearch(text, deep); } catch (error) {
      if (!(error instanceof ConditionError)) throw error;
      mistake = `Column ${error.column}: ${error.message}`;
      this.drawMatching();
    }
    byId("search").setAttribute("aria-invalid", String(Boolean(mistake)));
    byId("mistake").textContent = visible(mistake);
    return condition;
  }

  drawChips() {
    const { filter, capture } = this;
    const chips = [
      filter.node !== null && [`with ${capture.nodes[filter.node].name}`, { node: null }],
      filter.endpoint !== null && [capture.tables.endpoint[filter.endpoint], { endpoint: null }],
      filter.incomplete !== null && [filter.incomplete || "incomplete", { incomplete: null }],
      filter.unknown && ["request not seen", { unknown: false }],
      filter.time && [`${clock(capture.start + filter.time[0])} to ${clock(capture.start + filter.time[1])}`, { time: null }],
      filter.slow && [`${milliseconds(filter.slow[0])} to ${milliseconds(filter.slow[1])}`, { slow: null }],
    ].filter(Boolean);
    const had = byId("chips").contains(document.activeElement);
    byId("chips").replaceChildren(...chips.map(([words, change]) => make("button", { type: "button", "aria-label": `Remove the filter: ${visible(words)}`, click: () => this.choose(change) }, `${visible(words)} \u2715`)));
    if (had) (byId("chips").firstChild ?? byId("search")).focus();
  }

  drawTiles(rows, sorted) {
    const { capture } = this, { columns, kind } = capture;
    const seconds = rows.length ? Math.max(columns.time[rows[rows.length - 1]] - columns.time[rows[0]], 1) / 1000 : 0;
    const kinds = CLASSES.map(() => 0);
    let sent = 0, received = 0, broken = 0;
    const whole = capture.tables.incomplete.map((reasons) => reasons === "");
    for (const row of rows) {
      kinds[kind[row]] += 1;
      sent += columns.requestBytes[row] || 0; received += columns.responseBytes[row] || 0;
      if (!whole[columns.incomplete[row]]) broken += 1;
    }
    const tile = (label, value, more, bad) => make("div", { class: bad ? "bad" : null }, make("dt", {}, label), make("dd", {}, value, more ? make("small", {}, more) : null));
    byId("tiles").replaceChildren(
      tile("Exchanges", count(rows.length), rows.length > 1 ? `${figure(rows.length / seconds)}/s` : ""),
      tile("Failed", percent(kinds[FAILED], rows.length), count(kinds[FAILED]), kinds[FAILED]),
      tile("Refused (4xx)", percent(kinds[CLIENT], rows.length), count(kinds[CLIENT])),
      tile("No response", count(kinds[NONE]), "", kinds[NONE]),
      tile("p50", milliseconds(percentile(sorted, 0.5))),
      tile("p95", milliseconds(percentile(sorted, 0.95)), `p99 ${milliseconds(percentile(sorted, 0.99))}`),
      tile("Slowest", milliseconds(sorted[sorted.length - 1])),
      tile("Moved", bytes(sent + received), `${bytes(received)} back`),
      tile("Incomplete", count(broken), "", broken));
  }

  drawEndpoints(rows) {
    const { capture, measure, endpoints } = this;
    const seconds = rows.length ? Math.max(capture.columns.time[rows[rows.length - 1]] - capture.columns.time[rows[0]], 1) / 1000 : 1;
    const list = [...groups(rows, (row) => capture.columns.endpoint[row])].map(([endpoint, members]) => {
      const sorted = sortedValues(members, capture.columns[measure]);
      const failed = members.filter((row) => capture.failed(row)).length;
      return { endpoint, sorted, failed, values: [capture.tables.endpoint[endpoint], members.length, members.length / seconds, failed / members.length,
        ...[0.5, 0.9, 0.95, 0.99, 1].map((q) => percentile(sorted, q))] };
    });
    const order = (a, b) => { const one = a.values[endpoints.column], other = b.values[endpoints.column]; return (one < other ? -1 : one > other ? 1 : Number.isNaN(one) - Number.isNaN(other)) * (endpoints.down ? -1 : 1); };
    list.sort(order);
    const known = list.filter((one) => one.sorted.length);
    const low = binOf(Math.min(...known.map((one) => one.sorted[0]), Infinity)), high = binOf(Math.max(...known.map((one) => one.sorted[one.sorted.length - 1]), 0.001));
    const heads = ["Endpoint", "Requests", "Rate", "Failed", "p50", "p90", "p95", "p99", "Slowest"];
    const head = heads.map((label, column) => make("th", { class: column ? "number" : null, "aria-sort": column === endpoints.column ? (endpoints.down ? "descending" : "ascending") : "none" },
      make("button", { type: "button", click: () => {
        Object.assign(endpoints, { column, down: endpoints.column === column ? !endpoints.down : column > 0 });
        this.drawEndpoints(rows);
        byId("endpoints").querySelectorAll("th button")[column].focus();
      } }, label + (column === endpoints.column ? (endpoints.down ? " \u2193" : " \u2191") : ""))));
    const shown = endpoints.all ? list : list.slice(0, 15);
    const body = shown.map(({ endpoint, sorted, failed, values }) => make("tr", {},
      make("th", { scope: "row" }, make("button", { type: "button", class: "link code", click: () => this.choose({ endpoint }) }, visible(values[0]))),
      [count(values[1]), `${figure(values[2])}/s`, make("span", { class: failed ? "bad-text" : null }, percent(failed, values[1])), ...values.slice(4).map(milliseconds)].map((text) => make("td", { class: "number" }, text)),
      make("td", {}, sorted.length ? spark(sorted, low, high) : "")));
    byId("endpoints").replaceChildren(list.length ? make("table", {}, make("caption", { class: "hidden" }, "Endpoints"),
      make("thead", {}, make("tr", {}, head, make("th", {}, `${milliseconds(binStart(low))} \u2026 ${milliseconds(binStart(high + 1))}`))), make("tbody", {}, body)) : make("p", { class: "hint" }, "Nothing to show."),
    list.length > shown.length ? make("button", { type: "button", class: "more", click: () => { endpoints.all = true; this.drawEndpoints(rows); } }, `Show all ${count(list.length)}`) : "");
  }

  drawLost(rows) {
    const { capture } = this, { flags, incomplete } = capture.columns;
    const named = new Map();
    const reasons = capture.tables.incomplete.map((text) => text.split(", ").filter(Boolean));
    let unknown = 0, unanswered = 0;
    for (const row of rows) {
      for (const reason of reasons[incomplete[row]]) named.set(reason, (named.get(reason) ?? 0) + 1);
      if (flags[row] & NO_REQUEST) unknown += 1;
      if (capture.kind[row] === NONE) unanswered += 1;
    }
    const choose = (words, change) => make("button", { type: "button", class: "link", click: () => this.choose(change) }, words);
    const list = [...named].sort((a, b) => b[1] - a[1]).map(([reason, number]) => [choose(visible(reason), { incomplete: reason }), count(number), REASONS[reason] ?? ""]);
    if (unanswered) list.push([choose("no response", { classes: new Set([NONE]) }), count(unanswered), "none was seen before the capture ended"]);
    if (unknown) list.push([choose("request not seen", { unknown: true }), count(unknown), "the capture started in the middle of the connection"]);
    if (capture.damaged) list.push(["damaged lines", count(capture.damaged), "could not be read (in the whole file)"]);
    if (capture.cutBodies) list.push(["shortened here", count(capture.cutBodies), `exchanges with a body of more than ${count(capture.maxBody)} characters; the capture has the whole body`]);
    byId("lost").replaceChildren(list.length ? table(["What", "Exchanges", "Why"], list, [1], "Lost or incomplete") : make("p", {}, rows.length ? "Every message is whole, and every request has its response." : "Nothing to show."),
      ...accountOf(capture.counts));
    for (const [kind, button] of [...byId("classes").children].entries()) button.setAttribute("aria-pressed", String(this.filter.classes.has(kind)));
  }
}

const FATES = { seen: "seen", forwarded: "forwarded", filtered: "filtered", lost: "lost" };
function accountOf(counts) {
  if (!counts) return [make("p", { class: "hint" }, "To see what the kernel lost, use ", make("code", {}, "--stats PATH"), " both for the capture and for this report.")];
  const lost = counts.rows.some(([fate]) => fate === "lost");
  const rows = counts.rows.map(([fate, reason, ...numbers]) => [FATES[fate] + (reason ? `: ${visible(reason)}` : ""), ...numbers.map((number, at) => at % 2 ? bytes(number) : count(number))]);
  return [make("h3", {}, "The kernel\u2019s account"),
    make("p", { class: "hint" }, `For the whole capture, whatever the filter. ${lost ? "Something was lost." : "Nothing was lost."}`,
      counts.skipped ? ` The kernel skipped the probe for ${count(counts.skipped)} calls.` : "", counts.final ? "" : " The capture had not ended."),
    table(["Fate", "Calls sent", "Bytes sent", "Calls received", "Bytes received"], rows, [1, 2, 3, 4], "The kernel\u2019s account")];
}

const THEMES = ["system", "light", "dark"];
function useTheme(choice) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  document.documentElement.dataset.theme = choice === "system" ? (system.matches ? "dark" : "light") : choice;
  byId("theme").textContent = `Theme: ${choice}`;
  byId("theme").dataset.choice = choice;
}
useTheme("system");
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (byId("theme").dataset.choice === "system") useTheme("system"); });
byId("theme").addEventListener("click", () => useTheme(THEMES[(THEMES.indexOf(byId("theme").dataset.choice) + 1) % 3]));

Capture.read().then((capture) => { new Report(capture); document.documentElement.dataset.ready = "yes"; }, (error) => {
  byId("about").textContent = typeof DecompressionStream === "undefined" ? "This browser is too old for this page (it has no DecompressionStream)." : `The page is damaged: ${error.message}`;
});
