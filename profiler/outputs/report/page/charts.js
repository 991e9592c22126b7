// SPDX-License-Identifier: Apache-2.0
// Rate over time, latency, the slowest exchanges. Each function draws into its own element.

const WIDTH = 1180;

function roundUp(value) {
  const ten = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].map((one) => one * ten).find((one) => one >= value) ?? value;
}

function drawTime(capture, rows, choose) {
  const place = byId("time");
  const times = capture.columns.time;
  if (!rows.length) { place.replaceChildren(make("p", { class: "hint" }, "Nothing to show.")); byId("time-data").lastElementChild.replaceChildren(); return; }
  const from = times[rows[0]], to = Math.max(times[rows[rows.length - 1]], from + 1);
  const { step, first, size, bins } = overTime(capture, rows, from, to);
  const totals = Array.from({ length: size }, (_, bin) => bins.reduce((sum, one) => sum + one[bin], 0));
  const seconds = step / 1000;
  const top = roundUp(Math.max(...totals) / seconds);
  const left = 58, right = WIDTH - 8, height = 190, base = height - 24;
  const x = (bin) => left + ((right - left) * bin) / size;
  const y = (rate) => base - ((base - 8) * rate) / top;
  const chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img",
    "aria-label": `Requests per second over time, by status, in steps of ${milliseconds(step)}` });
  for (const share of [0, 0.5, 1]) {
    const at = y(top * share);
    chart.append(svg("line", { class: share ? "gridline" : "axis", x1: left, x2: right, y1: at, y2: at }),
      svg("text", { x: left - 8, y: at + 4, "text-anchor": "end" }, share ? `${figure(top * share)}/s` : "0"));
  }
  for (let bin = 0; bin < size; bin += 1) {
    let below = 0;
    bins.forEach((counts, kind) => {
      if (!counts[bin]) return;
      const bottom = y(below / seconds);
      below += counts[bin];
      const upper = y(below / seconds);
      chart.append(svg("rect", { class: CLASSES[kind].name, x: x(bin) + 0.6, y: upper,
        width: Math.max(1, x(bin + 1) - x(bin) - 1.2), height: Math.max(1, bottom - upper) },
        svg("title", {}, `${clock(capture.start + first + bin * step)}: ${CLASSES[kind].label} ${count(counts[bin])} of ${count(totals[bin])}`)));
    });
  }
  const labels = Math.min(6, size);
  for (let label = 0; label < labels; label += 1) {
    const bin = Math.floor((label * size) / labels);
    chart.append(svg("text", { x: x(bin), y: height - 6 }, clock(capture.start + first + bin * step, step < 1000 ? 3 : 0)));
  }
  place.replaceChildren(chart);
  brush(chart, (fraction) => first + step * size * Math.min(1, Math.max(0, (fraction * WIDTH - left) / (right - left))), choose);
  byId("time-data").lastElementChild.replaceChildren(table(
    ["From", "Requests", ...CLASSES.map((one) => one.label), ""],
    totals.map((total, bin) => [clock(capture.start + first + bin * step), count(total), ...bins.map((one) => count(one[bin])),
      make("button", { type: "button", class: "link", click: () => choose([first + bin * step, first + (bin + 1) * step]) }, "only these")])
      .filter((_, bin) => totals[bin]), [1, 2, 3, 4, 5, 6], "Requests over time"));
}

/** Dragging over a chart chooses a stretch of it. */
function brush(chart, value, choose) {
  let from = null;
  const mark = svg("rect", { class: "brush", y: 0, height: 166, width: 0 });
  const at = (event) => { const box = chart.getBoundingClientRect(); return (event.clientX - box.left) / box.width; };
  chart.addEventListener("pointerdown", (event) => { from = at(event); chart.setPointerCapture(event.pointerId); chart.append(mark); });
  chart.addEventListener("pointermove", (event) => {
    if (from === null) return;
    const to = at(event);
    mark.setAttribute("x", Math.min(from, to) * WIDTH);
    mark.setAttribute("width", Math.abs(to - from) * WIDTH);
  });
  chart.addEventListener("pointerup", (event) => {
    const range = from === null ? null : [from, at(event)].sort((a, b) => a - b);
    from = null;
    mark.remove();
    if (range && range[1] - range[0] > 0.004) choose(range.map(value));
  });
}

function drawLatency(sorted, choose) {
  const place = byId("latency"), data = byId("latency-data").lastElementChild;
  if (!sorted.length) { place.replaceChildren(make("p", { class: "hint" }, "Nothing to show.")); data.replaceChildren(); return; }
  const width = 700, height = 230, left = 46, base = height - 26, up = 26;
  const { low, bins } = distribution(sorted);
  const top = roundUp(Math.max(...bins));
  const x = (bin) => left + ((width - left - 6) * bin) / bins.length;
  const at = (value) => x(Math.min(bins.length, Math.max(0, Math.log10(Math.max(value, 0.001)) * PER_TEN - low)));
  const y = (number) => base - ((base - up) * number) / top;
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group",
    "aria-label": `Distribution of ${count(sorted.length)} latencies` });
  for (const share of [0, 0.5, 1]) {
    chart.append(svg("line", { class: share ? "gridline" : "axis", x1: left, x2: width - 6, y1: y(top * share), y2: y(top * share) }),
      svg("text", { x: left - 6, y: y(top * share) + 4, "text-anchor": "end" }, count(Math.round(top * share))));
  }
  bins.forEach((number, bin) => {
    if (!number) return;
    const range = [binStart(low + bin), binStart(low + bin + 1)];
    const words = `${milliseconds(range[0])} to ${milliseconds(range[1])}: ${count(number)}`;
    chart.append(svg("rect", { class: "bar", x: x(bin) + 0.5, width: Math.max(1, x(bin + 1) - x(bin) - 1),
      y: Math.min(y(number), base - 1.5), height: Math.max(1.5, base - y(number)), click: () => choose(range) }, svg("title", {}, words)));
  });
  for (let ten = Math.floor(low / PER_TEN); ten * PER_TEN <= low + bins.length; ten += 1) {
    for (const part of bins.length > 16 ? [1] : [1, 2, 5]) {
      const bin = (ten + Math.log10(part)) * PER_TEN - low;
      if (bin < 0 || bin > bins.length) continue;
      chart.append(svg("text", { x: x(bin), y: height - 8, "text-anchor": "middle" }, milliseconds(part * 10 ** ten)));
    }
  }
  let last = -Infinity, row = 0;
  for (const [name, q] of [["p50", 0.5], ["p95", 0.95], ["p99", 0.99]]) {
    const value = percentile(sorted, q), where = at(value);
    row = where - last < 96 ? row + 1 : 0;
    last = where;
    const anchor = where > width - 100 ? "end" : "start";
    chart.append(svg("line", { class: "mark", x1: where, x2: where, y1: 4 + row * 14, y2: base }),
      svg("text", { class: "mark-text", x: where + (anchor === "end" ? -4 : 4), y: 13 + row * 14, "text-anchor": anchor }, `${name} ${milliseconds(value)}`));
  }
  place.replaceChildren(chart);
  data.replaceChildren(table(["From", "To", "Exchanges", ""], [...bins].map((number, bin) => {
    const range = [binStart(low + bin), binStart(low + bin + 1)];
    return [milliseconds(range[0]), milliseconds(range[1]), count(number),
      make("button", { type: "button", class: "link", click: () => choose(range) }, "only these")];
  }).filter((_, bin) => bins[bin]), [0, 1, 2], "Distribution of latencies"));
}

/** Bars of the latencies of one endpoint, on a scale that all share. */
function spark(sorted, low, high) {
  const { bins } = distribution(sorted, low, high);
  const top = Math.max(...bins, 1), width = 96, height = 20;
  return svg("svg", { class: "spark", width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    [...bins].map((number, bin) => number ? svg("rect", { x: (width * bin) / bins.length, width: Math.max(1, width / bins.length - 0.5),
      y: height - Math.max(1.5, (height * number) / top), height: Math.max(1.5, (height * number) / top) }) : null));
}

const SLOWEST = 15, INNER = 8;

function drawSlowest(capture, rows, open) {
  const { duration, latency, time, serverAfter, serverDuration, clientThread, serverThread } = capture.columns;
  const slowest = slowestOf(rows, duration, SLOWEST);
  const longest = slowest.length ? duration[slowest[0]] : 1;
  const fall = (row, offset, inner) => {
    const track = make("div", { class: "track" });
    const part = (name, from, to) => {
      if (!(to > from)) return;
      const piece = make("i", { class: name });
      piece.style.left = `${(100 * (offset + from)) / longest}%`;
      piece.style.width = `${(100 * (to - from)) / longest}%`;
      track.append(piece);
    };
    if (Number.isNaN(serverDuration[row])) {
      part("wait", 0, latency[row]);
      part("receive", latency[row], duration[row]);
    } else {
      const from = Math.max(0, serverAfter[row]), to = Math.min(duration[row], from + serverDuration[row]);
      part("wait", 0, from);
      part("serve", from, to);
      part("receive", to, duration[row]);
    }
    const label = `${capture.text("method", row)} ${visible(capture.url(row))}`;
    return make("div", { class: inner ? "fall inner-call" : "fall" },
      make("div", { class: "what" },
        make("button", { type: "button", class: "link code", title: label, click: () => open(row) }, label),
        make("small", {}, visible(`${capture.node("client", row).name} \u2192 ${capture.node("server", row).name} \u00b7 ${capture.columns.status[row] || "no response"} \u00b7 ${capture.clock(row)}`))),
      track, make("span", { class: "number" }, milliseconds(duration[row])));
  };
  const asked = groups(capture.everyRow, (row) => clientThread[row]);
  const served = groups(capture.everyRow, (row) => serverThread[row]);
  /** What a thread asked while it served one request and no other: an event loop serves many at once. */
  const meanwhile = (row) => {
    if (Number.isNaN(serverThread[row]) || Number.isNaN(serverDuration[row])) return [];
    const begin = time[row] + serverAfter[row], end = begin + serverDuration[row];
    const alone = served.get(serverThread[row]).every((one) => one === row || Number.isNaN(serverDuration[one])
      || time[one] + serverAfter[one] >= end || time[one] + serverAfter[one] + serverDuration[one] <= begin);
    return alone ? (asked.get(serverThread[row]) ?? []).filter((one) => one !== row && time[one] >= begin && time[one] + (duration[one] || 0) <= end) : [];
  };
  const drawn = new Set(), falls = [];
  for (const row of slowest) {
    if (drawn.has(row)) continue;
    const inner = meanwhile(row);
    inner.forEach((one) => drawn.add(one));
    falls.push(fall(row, 0, false), ...inner.slice(0, INNER).map((one) => fall(one, time[one] - time[row], true)));
    if (inner.length > INNER) falls.push(make("p", { class: "hint" }, `\u2026 and ${many(inner.length - INNER, "call")} more`));
  }
  byId("slowest").replaceChildren(...(falls.length ? falls : [make("p", { class: "hint" }, "Nothing to show.")]));
  byId("legend").replaceChildren(...[["wait", "before the server received it, or until the first byte if only one end was seen"],
    ["serve", "at the server"], ["receive", "receiving"]].map(([name, words]) => make("span", {}, make("i", { class: name }), words)));
}

function slowestOf(rows, column, number) {
  const known = rows.filter((row) => !Number.isNaN(column[row]));
  return [...known].sort((a, b) => column[b] - column[a]).slice(0, number);
}
