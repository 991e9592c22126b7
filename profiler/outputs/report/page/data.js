// SPDX-License-Identifier: Apache-2.0
// The capture: columns of all exchanges, and the details of one from its compressed block.

// The result of an exchange: failed, or else the class of its status.
const CLASSES = [
  { name: "ok", label: "2xx" },
  { name: "moved", label: "3xx" },
  { name: "client", label: "4xx" },
  { name: "failed", label: "failed" },
  { name: "none", label: "no response" },
];
const OK = 0, MOVED = 1, CLIENT = 2, FAILED = 3, NONE = 4;
// Numbers of the columns `outcome` and `flags`; data.py has the same.
const OUTCOMES = ["ok", "failed", "unknown"];
const NO_REQUEST = 1, CLIENT_SEEN = 4, SERVER_SEEN = 8, TLS = 16;

function kindOf(status, outcome) {
  if (OUTCOMES[outcome] === "failed") return FAILED;
  if (!status) return NONE;
  return status < 300 ? OK : status < 400 ? MOVED : CLIENT;
}

async function inflated(element) {
  const packed = Uint8Array.from(atob(element.textContent), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Response(stream).text();
}

class Capture {
  static async read() {
    const capture = JSON.parse(await inflated(document.querySelector("script.summary")));
    return new Capture(capture);
  }

  constructor(parts) {
    Object.assign(this, parts);
    // A missing value is NaN.
    for (const name of Object.keys(this.columns)) {
      this.columns[name] = Float64Array.from(this.columns[name], (value) => value ?? NaN);
    }
    const { status, outcome } = this.columns;
    this.kind = Uint8Array.from(status, (code, row) => kindOf(code, outcome[row]));
    this.elements = [...document.querySelectorAll("script.block")];
    this.opened = new Map();
    this.everyRow = Uint32Array.from({ length: this.count }, (_, row) => row);
  }

  text(column, row) { return this.tables[column][this.columns[column][row]]; }
  node(role, row) { return this.nodes[this.columns[role][row]]; }
  isTls(row) { return Boolean(this.columns.flags[row] & TLS); }
  failed(row) { return this.kind[row] === FAILED; }
  /** What precedes the host: HTTPS has its scheme. */
  scheme(row) { return this.isTls(row) ? "https://" : ""; }
  url(row) {
    const target = this.text("target", row);
    return target === "" || target === "*" || target.startsWith("/") ? this.scheme(row) + this.text("host", row) + target : target;
  }
  clock(row) { return clock(this.start + this.columns.time[row]); }

  async linesOf(block) {
    if (!this.opened.has(block)) {
      // A few blocks suffice to step back and forth.
      if (this.opened.size > 8) this.opened.delete(this.opened.keys().next().value);
      this.opened.set(block, (await inflated(this.elements[block])).split("\n"));
    }
    return this.opened.get(block);
  }

  /** {client: [records], server: [records]} of an exchange; a `same` record repeats the client's. */
  async detail(row) {
    let block = this.blocks.length - 1;
    while (this.blocks[block] > row) block -= 1;
    return JSON.parse((await this.linesOf(block))[row - this.blocks[block]]);
  }

  /** An array with 1 for each row that matches a condition; null if `stopped`. `report` gets the progress. */
  async find(condition, report, stopped) {
    const found = new Uint8Array(this.count);
    const test = (row, details) => { found[row] = this.views(row, details).some(condition.holds); };
    if (!condition.isDetailed) {
      this.everyRow.forEach((row) => test(row));
      return found;
    }
    for (let block = 0; block < this.blocks.length; block += 1) {
      const lines = (await inflated(this.elements[block])).split("\n");
      if (stopped()) return null;
      lines.forEach((line, index) => test(this.blocks[block] + index, new Details(line)));
      report((block + 1) / this.blocks.length);
    }
    return found;
  }

  /** An exchange as each end saw it. */
  views(row, details) {
    const seen = this.columns.flags[row];
    return [seen & CLIENT_SEEN && "client", seen & SERVER_SEEN && "server"].filter(Boolean)
      .map((role) => new View(this, row, role, details));
  }
}

/** Milliseconds since 1970 as a time of day, UTC. */
function clock(time, digits = 3) {
  return new Date(time).toISOString().slice(11, 19 + (digits ? digits + 1 : 0));
}

/** The selection: the rows that pass all filters. */
class Filter {
  constructor(capture) {
    this.capture = capture;
    this.clear();
  }

  clear() {
    Object.assign(this, { found: null, classes: new Set(), node: null, endpoint: null,
      incomplete: null, time: null, slow: null, unknown: false });
  }

  rows(measure) {
    const { capture } = this;
    const tests = [];
    if (this.found) tests.push((row) => this.found[row] === 1);
    const { client, server, endpoint, incomplete, time, flags } = capture.columns;
    if (this.classes.size) tests.push((row) => this.classes.has(capture.kind[row]));
    if (this.node !== null) tests.push((row) => client[row] === this.node || server[row] === this.node);
    if (this.endpoint !== null) tests.push((row) => endpoint[row] === this.endpoint);
    if (this.incomplete !== null) {
      const named = capture.tables.incomplete.map((reasons) => this.incomplete === ""
        ? reasons !== "" : reasons.split(", ").includes(this.incomplete));
      tests.push((row) => named[incomplete[row]]);
    }
    if (this.unknown) tests.push((row) => (flags[row] & NO_REQUEST) !== 0);
    if (this.time) tests.push((row) => time[row] >= this.time[0] && time[row] < this.time[1]);
    if (this.slow) {
      const values = capture.columns[measure];
      tests.push((row) => values[row] >= this.slow[0] && values[row] < this.slow[1]);
    }
    return tests.length
      ? capture.everyRow.filter((row) => tests.every((test) => test(row))) : capture.everyRow;
  }
}
