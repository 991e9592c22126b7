// SPDX-License-Identifier: Apache-2.0
// All selected exchanges, as a grid: only the visible rows are elements.

const ROW = 30;
const GRID = [
  { label: "Time (UTC)", key: (c, row) => c.columns.time[row], text: (c, row) => c.clock(row) },
  { label: "Client", key: (c, row) => c.node("client", row).name, text: (c, row) => visible(c.node("client", row).name) },
  { label: "Server", key: (c, row) => c.node("server", row).name, text: (c, row) => visible(c.node("server", row).name) },
  { label: "Method", key: (c, row) => c.text("method", row), text: (c, row) => visible(c.text("method", row)) },
  { label: "URL", key: (c, row) => c.url(row), text: (c, row) => visible(c.url(row)) },
  { label: "Status", key: (c, row) => c.columns.status[row], text: (c, row) => String(c.columns.status[row] || "none"), number: true },
  { label: "Size", key: (c, row) => c.columns.responseBytes[row] || 0, text: (c, row) => (c.columns.status[row] ? bytes(c.columns.responseBytes[row]) : "\u2013"), number: true },
  { label: "Latency", key: (c, row, measure) => (Number.isNaN(c.columns[measure][row]) ? -1 : c.columns[measure][row]), text: (c, row, measure) => milliseconds(c.columns[measure][row]), number: true },
];

class Grid {
  constructor(capture, open) {
    Object.assign(this, { capture, open, rows: capture.everyRow, sort: { column: 0, down: false }, active: 0, measure: "latency" });
    this.body = make("div", { class: "grid-body", role: "presentation" });
    this.view = make("div", { class: "grid-view", role: "rowgroup", scroll: () => this.draw() }, this.body);
    this.head = make("div", { class: "grid-row grid-head", role: "row", "aria-rowindex": 1 });
    this.element = make("div", { class: "grid", role: "grid", "aria-labelledby": "h-exchanges", "aria-colcount": GRID.length + 1 },
      make("div", { role: "rowgroup" }, this.head), this.view);
    this.view.addEventListener("keydown", (event) => this.key(event));
    byId("table").replaceChildren(this.element);
  }

  show(rows, measure) {
    Object.assign(this, { rows, measure, active: 0 });
    this.order();
  }

  order() {
    const { key } = GRID[this.sort.column], { capture, measure } = this;
    const sign = this.sort.down ? -1 : 1;
    if (this.sort.column === 0) this.sorted = this.sort.down ? this.rows.slice().reverse() : this.rows;
    else {
      const keys = new Map(Array.from(this.rows, (row) => [row, key(capture, row, measure)]));
      this.sorted = Array.from(this.rows).sort((a, b) => {
        const one = keys.get(a), other = keys.get(b);
        return (one < other ? -sign : one > other ? sign : a - b);
      });
    }
    this.head.replaceChildren(...GRID.map((column, index) => {
      const sorted = index === this.sort.column;
      return make("div", { role: "columnheader", class: column.number ? "number" : null, "aria-sort": sorted ? (this.sort.down ? "descending" : "ascending") : "none" },
        make("button", { type: "button", click: () => this.sortBy(index) }, column.label + (sorted ? (this.sort.down ? " \u2193" : " \u2191") : "")));
    }), make("div", { role: "columnheader" }, make("span", { class: "hidden" }, "Whole")));
    this.element.setAttribute("aria-rowcount", this.sorted.length + 1);
    this.body.style.height = `${Math.max(3, this.sorted.length) * ROW}px`;
    this.view.scrollTop = 0;
    this.draw();
  }

  sortBy(column) {
    this.sort = { column, down: this.sort.column === column ? !this.sort.down : Boolean(GRID[column].number) };
    this.active = 0;
    this.order();
    this.head.children[column].firstChild.focus();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.view.scrollTop / ROW) - 8);
    const last = Math.min(this.sorted.length, first + Math.ceil(this.view.clientHeight / ROW) + 16);
    const focused = this.body.contains(document.activeElement);
    const indexes = new Set(Array.from({ length: last - first }, (_, index) => first + index));
    // The focused row stays an element, wherever the view scrolls.
    if (this.active < this.sorted.length) indexes.add(this.active);
    this.body.replaceChildren(...[...indexes].sort((a, b) => a - b).map((index) => this.row(index)));
    if (!this.sorted.length) this.body.append(make("div", { class: "empty", role: "row" }, make("div", { role: "gridcell" }, "No exchange matches.")));
    if (focused) this.body.querySelector("[tabindex='0']")?.focus({ preventScroll: true });
  }

  row(index) {
    const { capture } = this, row = this.sorted[index];
    const reasons = visible(capture.text("incomplete", row));
    const element = make("div", { class: "grid-row", role: "row", "aria-rowindex": index + 2, tabindex: index === this.active ? 0 : -1, click: () => { this.active = index; this.open(row); } },
      GRID.map((column) => {
        const text = column.text(capture, row, this.measure);
        const status = column.label === "Status" ? ` s-${CLASSES[capture.kind[row]].name}` : "";
        return make("div", { role: "gridcell", class: `${column.number ? "number" : ""}${status}`, title: column.label === "URL" ? text : null }, text);
      }),
      make("div", { role: "gridcell", class: "why", title: reasons || null }, reasons ? "\u26a0" : "", reasons ? make("span", { class: "hidden" }, reasons) : null));
    element.style.top = `${index * ROW}px`;
    return element;
  }

  key(event) {
    const page = Math.floor(this.view.clientHeight / ROW) - 1;
    const to = { ArrowDown: this.active + 1, ArrowUp: this.active - 1, PageDown: this.active + page, PageUp: this.active - page, Home: 0, End: this.sorted.length - 1 }[event.key];
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); this.open(this.sorted[this.active]); return; }
    if (to === undefined || !this.sorted.length) return;
    event.preventDefault();
    this.go(to);
    this.body.querySelector("[tabindex='0']")?.focus({ preventScroll: true });
  }

  /** Make a row active, and scroll it into view. */
  go(index) {
    this.active = Math.min(this.sorted.length - 1, Math.max(0, index));
    const top = this.active * ROW, { scrollTop, clientHeight } = this.view;
    if (top < scrollTop) this.view.scrollTop = top;
    else if (top + ROW > scrollTop + clientHeight) this.view.scrollTop = top + ROW - clientHeight;
    this.draw();
  }
}
