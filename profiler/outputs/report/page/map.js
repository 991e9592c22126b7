// SPDX-License-Identifier: Apache-2.0
// Who calls whom: callers on the left, the programs they call to their right.

const BOX = { width: 176, height: 46, across: 330, down: 66 };
const MAP_NODES = 40;
const LABEL = 15;  // The height of a label with some space.

function drawMap(capture, rows, filter, choose, measure) {
  const size = capture.nodes.length;
  const byEdge = groups(rows, (row) => capture.columns.client[row] * size + capture.columns.server[row]);
  let edges = [...byEdge].map(([key, members]) => {
    const sorted = sortedValues(members, capture.columns[measure]);
    return { from: Math.floor(key / size), to: key % size, count: members.length,
      failed: members.filter((row) => capture.failed(row)).length, p95: percentile(sorted, 0.95) };
  }).sort((a, b) => b.count - a.count);
  const all = edges;
  const weight = new Map();
  for (const edge of edges) for (const node of [edge.from, edge.to]) weight.set(node, (weight.get(node) ?? 0) + edge.count);
  const shown = new Set([...weight].sort((a, b) => b[1] - a[1]).slice(0, MAP_NODES).map(([node]) => node));
  edges = edges.filter((edge) => shown.has(edge.from) && shown.has(edge.to));
  const place = byId("map");
  if (!edges.length) place.replaceChildren(make("p", { class: "hint" }, "Nothing to show."));
  else place.replaceChildren(picture(capture, edges, shown, filter, choose));
  if (weight.size > shown.size) place.append(make("p", { class: "hint" }, `The ${MAP_NODES} busiest of ${count(weight.size)}; the table lists all.`));
  byId("map-data").lastElementChild.replaceChildren(table(["Caller", "Called", "Requests", "Failed", "p95"],
    all.map((edge) => [nodeButton(capture, edge.from, choose), nodeButton(capture, edge.to, choose), count(edge.count), `${count(edge.failed)} (${percent(edge.failed, edge.count)})`, milliseconds(edge.p95)]), [2, 3, 4], "Who calls whom"));
}

function nodeButton(capture, node, choose) {
  return make("button", { type: "button", class: "link", click: () => choose(node) }, visible(capture.nodes[node].name));
}

/** A column for each node: one more than the longest path to it, without edges that lead back. */
function columnsOf(nodes, edges) {
  const out = new Map([...nodes].map((node) => [node, edges.filter((edge) => edge.from === node && edge.to !== node)]));
  const called = new Set(edges.filter((edge) => edge.from !== edge.to).map((edge) => edge.to));
  const state = new Map(), order = [];
  const visit = (node) => {
    state.set(node, "open");
    for (const edge of out.get(node)) {
      if (state.get(edge.to) === "open") edge.back = true;
      else if (!state.has(edge.to)) visit(edge.to);
    }
    state.set(node, "done");
    order.unshift(node);
  };
  for (const node of [...nodes].sort((a, b) => called.has(a) - called.has(b))) if (!state.has(node)) visit(node);
  const column = new Map(order.map((node) => [node, 0]));
  for (const node of order) {
    for (const edge of out.get(node)) if (!edge.back) column.set(edge.to, Math.max(column.get(edge.to), column.get(node) + 1));
  }
  return column;
}

/** Nodes by column; within a column, close to their neighbours. */
function arranged(nodes, edges, column) {
  const columns = [];
  for (const node of nodes) (columns[column.get(node)] ??= []).push(node);
  const place = new Map();
  const settle = (list) => list.forEach((node, index) => place.set(node, index - (list.length - 1) / 2));
  columns.forEach(settle);
  for (let round = 0; round < 6; round += 1) {
    for (const list of columns) {
      const wish = new Map(list.map((node) => {
        const near = edges.filter((edge) => edge.from !== edge.to && (edge.from === node || edge.to === node)).map((edge) => place.get(edge.from === node ? edge.to : edge.from));
        return [node, near.length ? near.reduce((sum, one) => sum + one, 0) / near.length : place.get(node)];
      }));
      list.sort((a, b) => wish.get(a) - wish.get(b));
      settle(list);
    }
  }
  return { columns, place };
}

function picture(capture, edges, shown, filter, choose) {
  const nodes = [...shown].filter((node) => edges.some((edge) => edge.from === node || edge.to === node));
  const column = columnsOf(nodes, edges);
  const { columns, place } = arranged(nodes, edges, column);
  const tallest = Math.max(...columns.map((list) => list.length));
  const width = (columns.length - 1) * BOX.across + BOX.width + 40;
  const height = tallest * BOX.down + 24;
  const x = (node) => 20 + column.get(node) * BOX.across;
  const y = (node) => height / 2 + place.get(node) * BOX.down;
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": `${nodes.length} programs and addresses` });
  const labels = [];
  const callers = new Map();
  for (const edge of edges) callers.set(edge.to, (callers.get(edge.to) ?? 0) + 1);
  // A label is beside the called program if only one line comes to it.
  const besideCaller = (edge) => callers.get(edge.to) > 1;
  for (const edge of edges) {
    const from = [x(edge.from) + BOX.width, y(edge.from)], to = [x(edge.to), y(edge.to)];
    let path, label;
    if (edge.from === edge.to) {
      const right = from[0];
      path = `M${right - 40},${from[1] - BOX.height / 2} c10,-26 60,-22 40,${BOX.height / 2 - 6}`;
      label = [right + 14, from[1] - BOX.height / 2 - 8, "start"];
    } else if (to[0] > from[0]) {
      // If several edges share a box, each has its own place.
      const leave = spread(edges.filter((one) => one.from === edge.from && one.to !== one.from), edge, (one) => y(one.to));
      const come = spread(edges.filter((one) => one.to === edge.to && one.to !== one.from), edge, (one) => y(one.from));
      from[1] += leave; to[1] += come;
      const bend = Math.max(50, (to[0] - from[0]) / 2);
      path = `M${from} C${from[0] + bend},${from[1]} ${to[0] - bend},${to[1]} ${to}`;
      const beside = besideCaller(edge) ? edges.filter((one) => one.from === edge.from && one.to !== one.from && besideCaller(one)) : [];
      if (beside.length > 1) {
        // A list in the order of the lines: each begins with its own line.
        label = [from[0] + 10, y(edge.from) + spread(beside, edge, (one) => y(one.to), LABEL) + 4, "start"];
      } else {
        // Above the line or below it, where the line does not go.
        const [end, other] = besideCaller(edge) ? [from, to] : [to, from];
        label = [end[0] + (besideCaller(edge) ? 10 : -10), end[1] + (other[1] < end[1] - 1 ? 16 : -7), besideCaller(edge) ? "start" : "end"];
      }
    } else {
      const low = Math.max(from[1], to[1]) + BOX.down * 0.55;
      path = `M${x(edge.from) + BOX.width / 2},${from[1] + BOX.height / 2} C${x(edge.from) + BOX.width / 2},${low + 22} ${x(edge.to) + BOX.width / 2},${low + 22} ${x(edge.to) + BOX.width / 2},${to[1] + BOX.height / 2}`;
      label = [(x(edge.from) + x(edge.to) + BOX.width) / 2, low + 10, "middle"];
    }
    const share = edge.failed / edge.count;
    const line = svg("path", { class: "edge", d: path, "stroke-width": 1.5 + Math.log10(edge.count) * 1.6 },
      svg("title", {}, `${visible(capture.nodes[edge.from].name)} \u2192 ${visible(capture.nodes[edge.to].name)}: ${many(edge.count, "request")}, ${percent(edge.failed, edge.count)} failed, p95 ${milliseconds(edge.p95)}`));
    line.style.stroke = share ? `color-mix(in oklab, var(--failed) ${Math.round(35 + 65 * Math.min(1, share * 4))}%, var(--wait))` : "var(--wait)";
    chart.append(line);
    if (edges.length <= 40) labels.push(svg("text", { class: "edge-text", x: label[0], y: label[1], "text-anchor": label[2] }, `${count(edge.count)} \u00b7 ${milliseconds(edge.p95)}`,
      edge.failed ? svg("tspan", { class: "bad-text" }, ` \u00b7 ${percent(edge.failed, edge.count)}`) : null));
  }
  chart.append(...labels);
  for (const node of columns.flat()) {
    const { name, kind, detail, processes } = capture.nodes[node];
    const sub = processes > 1 ? `${count(processes)} processes` : kind === "address" ? detail : detail.split("/").filter(Boolean).pop() ?? "";
    const press = (event) => { if (event.type === "click" || event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(node); } };
    chart.append(svg("g", { class: `node ${kind}${filter.node === node ? " chosen" : ""}`, tabindex: 0, role: "button", "aria-pressed": String(filter.node === node),
      "aria-label": `${visible(name)}: ${kind === "address" ? "address" : "program"}`, transform: `translate(${x(node)},${y(node) - BOX.height / 2})`, click: press, keydown: press },
    svg("rect", { width: BOX.width, height: BOX.height, rx: 9 }),
    svg("title", {}, visible(`${name} ${detail}`)),
    svg("svg", { width: BOX.width - 8, height: BOX.height, overflow: "hidden" },
      svg("text", { class: "name", x: 13, y: sub ? 20 : 28 }, shortened(visible(name), 21)),
      sub ? svg("text", { class: "sub", x: 13, y: 36 }, shortened(visible(sub), 27)) : null)));
  }
  return chart;
}

const shortened = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}\u2026` : text);

/** How far from the middle an edge is, where all siblings are in the order of `at`. */
function spread(siblings, edge, at, gap = Math.min(12, (BOX.height - 14) / Math.max(1, siblings.length - 1))) {
  const sorted = [...siblings].sort((a, b) => at(a) - at(b));
  return (sorted.indexOf(edge) - (sorted.length - 1) / 2) * gap;
}
